"""
The front for people: an HTTP client that pays, within a budget.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx

from agentpay.chain.relay import TransactionRelay
from agentpay.chain.rpc import RpcChain
from agentpay.errors import AgentPayError, ConfigurationError
from agentpay.evm.error_names import ERROR_NAMES
from agentpay.evm.networks import Network, find_network
from agentpay.evm.test_keys import refuse_test_key
from agentpay.http.paid_stream import COUNT, Count, PaidStream
from agentpay.http.pools import LentTransport, PooledTransport
from agentpay.http.transport import PaymentTransport
from agentpay.payee.arguments import check_network
from agentpay.payer.allowance import approve_permit2
from agentpay.payer.closing import Closed, close_channel
from agentpay.payer.exit import Exit, Withdrawal
from agentpay.payer.keys import PayerKeys
from agentpay.payer.payer import Payer
from agentpay.payer.policy import Budget, Policy
from agentpay.payer.receipts import KeepReceipt
from agentpay.payer.silence import Sweeper
from agentpay.payer.spending import Spending, spending_of
from agentpay.ports import Signer
from agentpay.records import PayerRecord
from agentpay.stores import Store, open_store
from agentpay.types import Hash32, Money, to_base_units

if TYPE_CHECKING:
    from agentpay.http.httpx2 import Httpx2Transport

_log = logging.getLogger(__name__)

HTTP_ERRORS = (httpx.HTTPError, httpx.InvalidURL)
"""What a request raises that never had an answer, for who does not know httpx."""

_SWEEP_SECONDS_MAX = 300.0
"""How seldom an agent at most asks whether its payees still answer."""

_DEPARTURE_SECONDS = 10.0
"""How long an agent that ends waits for a withdrawal that it is sending."""


class Agent(httpx.AsyncClient):
    """An `httpx.AsyncClient` that pays for what costs money. Use it in `async with`."""

    def __init__(
        self,
        wallet: Signer,
        *,
        budget: Budget,
        voucher_key: Signer | None = None,
        network: str | Network = "local",
        rpc_url: str | None = None,
        store: str = "memory:",
        policy: Policy | None = None,
        allow_mainnet: bool = False,
        allow_private_networks: bool = False,
        timeout: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
        follow_redirects: bool = False,
        on_receipt: KeepReceipt | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        `wallet` signs deposits and transfers, and `voucher_key`, if given, the vouchers
        of channels that are opened from now on: it can spend what they hold and nothing
        else. With a `WatchedWallet`, an agent spends stored channels by that key alone.
        `store` is `"memory:"`, or a file or a PostgreSQL database in which budget and
        channels survive; agents in other processes may share it, and one budget.
        `transport` is what requests go through, httpx's own if not given. `on_receipt`
        is told of each receipt that a payee signed.

        Raises:
            ConfigurationError: An argument cannot be used.
            MainnetNotEnabled: Real money, and `allow_mainnet` is not set.
            UnsafeKey: A publicly known test key, and the chain is not local.
        """
        place = find_network(network)
        check_network(place, allow_mainnet=allow_mainnet)
        for signer in (wallet, voucher_key or wallet):
            refuse_test_key(signer.address, place.chain)
        budget.limits(place.usdc.decimals)
        (policy or Policy()).check(place.usdc.decimals)
        url = rpc_url or place.rpc_url
        if not url:
            raise ConfigurationError(f"network {place.name} needs an rpc_url")
        self._payments = PaymentTransport(
            transport or PooledTransport(),
            allow_private_networks=allow_private_networks,
            on_receipt=on_receipt,
        )
        super().__init__(
            transport=self._payments,
            timeout=timeout,
            follow_redirects=follow_redirects,
        )
        self._keys = PayerKeys(wallet=wallet, voucher=voucher_key or wallet)
        self._budget = budget
        self._policy = policy or Policy()
        self._asset = place.usdc
        self._chain = RpcChain(url, chain_id=place.chain, error_names=ERROR_NAMES)
        self._store_url = store
        self._store: Store | None = None
        self._payer: Payer | None = None
        self._exit: Exit | None = None
        self._departures: dict[Hash32, asyncio.Task[None]] = {}
        self._sweeper: Sweeper | None = None
        self._sweep_lock = asyncio.Lock()
        self._sweeping: asyncio.Task[None] | None = None
        self._clock = clock

    async def __aenter__(self) -> Self:
        """
        Raises:
            StoreError: The store cannot be opened.
        """
        await super().__aenter__()
        try:
            self._store = await open_store(self._store_url, shared=True)
        except BaseException as error:  # also when cancelled
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        self._payer = Payer(
            keys=self._keys,
            budget=self._budget,
            policy=self._policy,
            assets=(self._asset,),
            chains={self._asset.chain: self._chain},
            store=self._store.payer,
            ask=self._payments.ask,
            relays={self._asset.chain: TransactionRelay(self._chain)},
            clock=self._clock,
            cheated=self._leave_a_cheat,
        )
        self._payments.bind(self._payer)
        silent = self._policy.withdraw_when_silent_seconds
        if silent is not None:
            work = self._keep_sweeping(silent)
            self._sweeping = asyncio.create_task(work, name="agentpay sweep")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        async with AsyncExitStack() as last:  # also when cancelled, in reverse order
            if self._store is not None:
                last.push_async_callback(self._store.close)
            last.push_async_callback(self._chain.aclose)
            last.push_async_callback(super().__aexit__, exc_type, exc_value, traceback)
            if self._payer is not None:
                last.push_async_callback(self._payer.aclose)
            await self._end_departures()

    async def _end_departures(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
        departures = list(self._departures.values())
        try:
            if departures:
                await asyncio.wait(departures, timeout=_DEPARTURE_SECONDS)
        finally:
            for departure in departures:
                departure.cancel()
            if self._exit is not None:
                await self._exit.aclose()

    @property
    def payer(self) -> Payer:
        """
        Raises:
            ConfigurationError: Outside of `async with`.
        """
        if self._payer is None:
            raise ConfigurationError(
                "use the agent in `async with Agent(...) as agent`"
            )
        return self._payer

    @property
    def round_trips(self) -> int:
        """HTTP requests sent so far, of every kind."""
        return self._payments.round_trips

    def transport(self) -> httpx.AsyncBaseTransport:
        """
        What another `httpx.AsyncClient` sends through to pay as this agent does, while
        this agent is open. Closing that client leaves the agent as it is.
        """
        return LentTransport(self._payments)

    def httpx2_transport(self) -> "Httpx2Transport":
        """
        The same for an `httpx2.AsyncClient`.

        Raises:
            ConfigurationError: httpx2 is not installed.
        """
        try:
            from agentpay.http.httpx2 import Httpx2Transport
        except ImportError as error:
            raise ConfigurationError(
                "a transport for httpx2 needs it: pip install 'agentpay-sdk[httpx2]'"
            ) from error
        return Httpx2Transport(self.transport())

    @asynccontextmanager
    async def stream_paid(
        self, method: str, url: str, *, count: Count | None = None, **options: Any
    ) -> AsyncGenerator[PaidStream, None]:
        """
        The events of an answer that is paid as it flows; the rest is as in `stream`.

        A little is signed ahead of what came in (`Policy.ahead`). `count` says how many
        units an event is worth, one if not given; then an answer that cost more than
        was counted raises `PayeeMisbehaved` at its end.
        """
        extensions = {**options.pop("extensions", {}), COUNT: count}
        async with self.stream(method, url, extensions=extensions, **options) as answer:
            yield PaidStream(answer)

    async def spending(self) -> Spending:
        """Where the money is now."""
        return await spending_of(self.payer.ledger)

    async def approve_permit2(self, amount: Money) -> None:
        """
        Let Permit2 move `amount` of the agent's token, instead of what it may now.

        The wallet pays gas. Each payment is still signed by itself, within the budget.

        Raises:
            ConfigurationError: The amount cannot be read.
            KeyElsewhere: We do not hold the wallet's key.
            ChainError: A transaction was not sent, or is not known to be mined.
        """
        try:
            units = to_base_units(amount, self._asset.decimals)
        except ValueError as error:
            raise ConfigurationError(f"approve_permit2: {error}") from error
        await approve_permit2(
            units, asset=self._asset, keys=self._keys, chain=self._chain
        )

    async def start_withdrawal(self, channel: Hash32) -> Withdrawal:
        """
        Leave a channel without its payee; `finish_withdrawal` after the delay.

        The wallet pays gas for both, or the channel's voucher key where the wallet is
        elsewhere. Safe to call again.

        Raises:
            KeyElsewhere: We hold neither key.
            ChannelUnusable: There is no such channel, or nothing is left in it.
            ChainError: The transaction was not sent, or is not known to be mined.
        """
        return await self._leaving().start(channel)

    async def finish_withdrawal(self, channel: Hash32) -> Withdrawal:
        """
        Take what was left in a channel, once its withdraw delay is over.

        Raises:
            TransactionFailed: It is too early, or no withdrawal was started.
            ChainError: The transaction was not sent, or is not known to be mined.
        """
        return await self._leaving().finish(channel)

    async def find_lost_channels(self, url: str) -> list[Hash32]:
        """
        Find channels to a URL's payee that the chain holds and our store lost.

        Raises:
            NoAcceptableOffer: The URL offers nothing we would pay.
            ChainError: The chain could not be read.
        """
        offers, target = await self._payments.look_up(url)
        found: list[Hash32] = []
        for offer in offers:
            channels = self.payer.channels_for(offer)
            if channels is not None:
                found += await channels.find_lost(offer, target)
        return found

    async def sweep(self) -> list[Withdrawal]:
        """
        Finish withdrawals whose delay is over, and start those of payees that are gone.

        Gone is who has not answered three sweeps and
        `Policy.withdraw_when_silent_seconds`. With that set, an agent sweeps in the
        background; what cannot be done is logged, and tried again by the next sweep.
        So is leaving a payee that contradicted our signatures, where that failed or was
        cut short, with `Policy.withdraw_when_cheated`.
        """
        if self._sweeper is None:
            self._sweeper = Sweeper(
                exit=self._leaving(),
                ledger=self.payer.ledger,
                ask=self._payments.ask,
                chain=self._asset.chain,
                after_seconds=self._policy.withdraw_when_silent_seconds,
                leaves_stopped=self._policy.withdraw_when_cheated,
                clock=self._clock,
            )
        async with self._sweep_lock:
            if self._departures:  # what is being sent is not sent twice
                await asyncio.wait(self._departures.values())
            return await self._sweeper.sweep()

    async def _keep_sweeping(self, silent_seconds: float) -> None:
        while True:
            await asyncio.sleep(min(_SWEEP_SECONDS_MAX, silent_seconds / 5))
            try:
                await self.sweep()
            except AgentPayError as error:
                _log.warning("channels could not be looked after: %s", error)

    def _leave_a_cheat(self, channel: Hash32) -> None:
        """Rule 16: stop and withdraw. In the background: the request has its error."""
        if not self._policy.withdraw_when_cheated:
            _log.warning(
                "the payee of channel %s contradicted our signatures: to get the rest"
                " back, call start_withdrawal",
                channel,
            )
            return
        if channel not in self._departures:
            departure = asyncio.create_task(self._depart(channel))
            self._departures[channel] = departure

    async def _depart(self, channel: Hash32) -> None:
        try:
            leaving = await self._leaving().start(channel)
        except AgentPayError as error:
            _log.warning(
                "the payee of channel %s contradicted our signatures, and leaving it"
                " failed (%s): give a key of ours gas and call start_withdrawal, or"
                " sweep",
                channel,
                error,
            )
        else:
            _log.info(
                "leaving channel %s, whose payee contradicted our signatures: %d comes"
                " back by finish_withdrawal after %d (Unix time), transaction %s",
                channel,
                leaving.amount,
                leaving.ready_at,
                leaving.transaction,
            )

    def _leaving(self) -> Exit:
        if self._exit is None:
            self._exit = Exit(
                keys=self._keys,
                chain=self._chain,
                ledger=self.payer.ledger,
                resolve=self.payer.channels.inquiry.resolve_deposit,
            )
        return self._exit

    async def channels(self) -> list[PayerRecord]:
        """Every channel this wallet has in its store."""
        ledger = self.payer.ledger
        return await ledger.store.channels(ledger.account)

    async def close_channel(self, channel: Hash32) -> Closed:
        """
        Ask the payee to give back what is left; what comes back is read on chain.

        Raises:
            PaymentRejected: The payee refuses: withdraw by time instead.
            PaymentOutcomeUnknown: It does not answer; asking again is safe.
            ChannelUnusable: Requests are still in flight.
        """
        return await close_channel(
            channel,
            payer=self.payer,
            chain=self._chain,
            ask=self._payments.ask,
        )
