"""
A payee: takes payments for routes, on one chain, in one token, to one account.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.errors import (
    ChainError,
    ConfigurationError,
    FacilitatorUnavailable,
    MainnetNotEnabled,
    StoreError,
)
from agentpay.evm.batch_settlement import MAX_WITHDRAW_DELAY, MIN_WITHDRAW_DELAY
from agentpay.evm.error_names import ERROR_NAMES
from agentpay.evm.hashing import checked_address
from agentpay.evm.networks import Network, find_network
from agentpay.evm.test_keys import refuse_test_key
from agentpay.facilitator.embedded import Facilitator
from agentpay.onchain import check_asset
from agentpay.payee.answers import KEEP_ANSWERS, AnswerPolicy, Answers
from agentpay.payee.books import ChannelBooks
from agentpay.payee.channel_sales import ChannelSales
from agentpay.payee.counter import Counter
from agentpay.payee.funding import ChannelFunding
from agentpay.payee.keeper import Keeper, KeeperPolicy
from agentpay.payee.offers import (
    PayeeSettings,
    payment_required,
    unavailable,
)
from agentpay.payee.pricing import Route, Terms, base_units
from agentpay.payee.sales import Refusal, Sale
from agentpay.payee.settlement import Settlement
from agentpay.payee.sign_in import SignIns
from agentpay.payee.transfer_sales import TransferSales
from agentpay.ports import Settler, Signer
from agentpay.signers.wallet import Wallet
from agentpay.stores import Store, open_store
from agentpay.types import Address, Asset, Money
from agentpay.wire.parallel import ParallelTerms
from agentpay.wire.x402 import (
    EIP3009,
    PERMIT2,
)

_log = logging.getLogger(__name__)

WINDOW = 1024
IN_FLIGHT_MAX = 128
_DAY = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class _Works:
    """What a started payee runs on."""

    chain: RpcChain
    sender: TransactionSender
    facilitator: Settler
    store: Store
    keeper: Keeper
    settlement: Settlement
    answers: Answers
    sign_ins: SignIns


class Payee:
    """
    Takes payments for routes, on one chain, in one token, to one account.

    One payee owns its store: its ledgers are kept by this process alone.
    """

    def __init__(
        self,
        wallet: Wallet,
        *,
        pay_to: str | None = None,
        network: str | Network = "local",
        rpc_url: str | None = None,
        store: str = "memory:",
        authorizer: Signer | None = None,
        facilitator: Settler | None = None,
        withdraw_delay: int = _DAY,
        min_deposit: Money = 0,
        transfer_methods: tuple[str, ...] | None = None,
        claim_at: Money = "$1",
        claim_every_seconds: float = 3600,
        poll_seconds: float = 2,
        answers: AnswerPolicy = KEEP_ANSWERS,
        allow_mainnet: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        `wallet` pays gas, and signs claims and refunds unless `authorizer` does;
        money goes to `pay_to` (to the wallet's own account, if not given). `store` is
        `"memory:"` or a file. With `permit2` among `transfer_methods`, payers may move
        the token by Permit2; if not given, they do so where it has no EIP-3009.
        `wallet` pays gas unless `facilitator` does (`RemoteFacilitator`).
        `claim_at` and `claim_every_seconds` say when vouchers are turned into money,
        and `answers` how much of what was sold is kept to be told again to who paid
        for it.

        Raises:
            ConfigurationError: An argument cannot be used.
            MainnetNotEnabled: Real money, and `allow_mainnet` is not set.
            UnsafeKey: A publicly known test key, and the chain is not local.
        """
        place = find_network(network)
        check_network(place, allow_mainnet=allow_mainnet)
        refuse_test_key(wallet.address, place.chain)
        if not MIN_WITHDRAW_DELAY <= withdraw_delay <= MAX_WITHDRAW_DELAY:
            raise ConfigurationError(
                f"withdraw_delay is 900 s to 30 days, not {withdraw_delay} s"
            )
        self._wallet = wallet
        self._authorizer = authorizer or wallet
        self._facilitator = facilitator
        self._rpc_url = rpc_url or place.rpc_url
        if not self._rpc_url:
            raise ConfigurationError(f"network {place.name} needs an rpc_url")
        self._store_url = store
        self._clock = clock
        decimals = place.usdc.decimals
        self.settings = PayeeSettings(
            asset=place.usdc,
            pay_to=_account(pay_to) if pay_to else wallet.address,
            authorizer=self._authorizer.address,
            withdraw_delay=withdraw_delay,
            parallel=ParallelTerms(window=WINDOW, in_flight_max=IN_FLIGHT_MAX),
            min_deposit=base_units(min_deposit, decimals, "min_deposit"),
            names=answers.bytes_each > 0,
            transfer_methods=_methods(transfer_methods, place.usdc),
            facilitator=facilitator.address if facilitator else wallet.address,
        )
        self._answers = answers
        self._policy = KeeperPolicy(
            claim_at=base_units(claim_at, decimals, "claim_at"),
            claim_every_seconds=claim_every_seconds,
            settle_at=base_units(claim_at, decimals, "claim_at"),
            poll_seconds=poll_seconds,
        )
        self._works: _Works | None = None
        self._counter: Counter | None = None
        self._starting = asyncio.Lock()

    @property
    def asset(self) -> Asset:
        """The token it is paid in."""
        return self.settings.asset

    @property
    def settlement(self) -> Settlement:
        """Claims, settles and refunds at once, instead of when policy says so."""
        return self._running.settlement

    @property
    def answers(self) -> Answers:
        """What it has answered of late, to tell it again."""
        return self._running.answers

    @property
    def sign_ins(self) -> SignIns:
        """Who has paid for what, and may come back."""
        return self._running.sign_ins

    @property
    def _selling(self) -> Counter:
        if self._counter is None:
            raise ConfigurationError("the payee is not started: await payee.start()")
        return self._counter

    @property
    def _running(self) -> _Works:
        if self._works is None:
            raise ConfigurationError("the payee is not started: await payee.start()")
        return self._works

    async def start(self) -> None:
        """
        Open the store, check the chain and the token, and follow the chain from now on.

        Raises:
            ChainError: The endpoint is out of reach or serves another chain, or the
                token is not what was declared.
            StoreError: The store cannot be opened.
        """
        if self._works is not None:
            return
        async with self._starting:
            if self._works is None:
                self._works = works = await self._build()
                self._counter = self._counter_of(works)
                works.keeper.start()
                try:
                    await self._ready()
                except FacilitatorUnavailable as error:
                    _log.warning("what costs money is a 503 for now: %s", error)

    async def _ready(self) -> None:
        """Have the facilitator up, and offer `upto` in its name."""
        works = self._works
        if works is None:
            return
        await works.facilitator.start(works.chain, self.asset)
        address = works.facilitator.address
        if address != self.settings.facilitator:
            self.settings = replace(self.settings, facilitator=address)
            self._counter = self._counter_of(works)

    async def stop(self) -> None:
        """Stop following the chain, and close the store."""
        works, self._works, self._counter = self._works, None, None
        if works is None:
            return
        await works.keeper.stop()
        await works.facilitator.stop()
        await works.sender.aclose()
        await works.chain.aclose()
        await works.store.close()

    async def _build(self) -> _Works:
        chain = RpcChain(
            self._rpc_url or "", chain_id=self.asset.chain, error_names=ERROR_NAMES
        )
        sender = TransactionSender(chain, key=self._wallet.gas_key())
        try:
            await chain.check()
            await check_asset(chain, self.asset)
            store = await open_store(self._store_url)
        except BaseException:
            await sender.aclose()
            await chain.aclose()
            raise
        works = self._wire(chain, sender, store)
        try:
            await works.keeper.sync()
        except BaseException:
            await store.close()
            await sender.aclose()
            await chain.aclose()
            raise
        return works

    def _wire(self, chain: RpcChain, sender: TransactionSender, store: Store) -> _Works:
        settings, clock = self.settings, self._clock
        facilitator = self._facilitator or Facilitator(chain=chain, senders=[sender])
        settlement = Settlement(
            settings=settings,
            chain=chain,
            facilitator=facilitator,
            store=store.payee,
            authorizer=self._authorizer,
            clock=clock,
        )
        return _Works(
            chain=chain,
            sender=sender,
            facilitator=facilitator,
            store=store,
            settlement=settlement,
            keeper=Keeper(
                settings=settings,
                policy=self._policy,
                chain=chain,
                store=store.payee,
                settlement=settlement,
                clock=clock,
            ),
            answers=Answers(
                policy=self._answers,
                chain=self.asset.chain,
                store=store.payee,
                clock=clock,
            ),
            sign_ins=SignIns(chain=chain, store=store.payee, clock=clock),
        )

    def _counter_of(self, works: _Works) -> Counter:
        settings, clock, store = self.settings, self._clock, works.store.payee
        chain, facilitator = works.chain, works.facilitator
        books = ChannelBooks(settings=settings, store=store, clock=clock)
        funding = ChannelFunding(
            books=books,
            chain=chain,
            facilitator=facilitator,
            settlement=works.settlement,
        )
        return Counter(
            settings=settings,
            keeper=works.keeper,
            answers=works.answers,
            channels=ChannelSales(
                books=books,
                funding=funding,
                chain=chain,
                settlement=works.settlement,
            ),
            transfers=TransferSales(
                settings=settings,
                chain=chain,
                facilitator=facilitator,
                store=store,
                clock=clock,
            ),
        )

    def terms(
        self,
        route: Route,
        *,
        resource: str,
        url: str,
        query: str = "",
        bound: bool = False,
    ) -> Terms:
        """
        A route's terms in base units of our token.

        Raises:
            ConfigurationError: The price cannot be expressed in it.
        """
        return Terms(
            maximum=base_units(
                route.price, self.asset.decimals, f"the price of {resource}"
            ),
            metered=route.metered,
            order=route.order,
            schemes=route.schemes,
            resource=resource,
            url=url,
            query=query,
            about=route.about,
            access_seconds=route.access_seconds,
            bound=bound,
        )

    async def answer(
        self, header: str | None, terms: Terms, *, error: str = "Payment required"
    ) -> Sale | Refusal:
        """
        Decide what a request's payment header buys; None is no payment.

        What is not known is answered 503, never 402: a 402 means that nothing moved.
        """
        try:
            # While a facilitator is not up, nobody is asked to pay: a 503 says why.
            await self._ready()
        except (ChainError, StoreError) as why:
            return unavailable(why, self.asset.chain)
        if header is None:
            return payment_required(self.settings, terms, error=error)
        return await self._selling.answer(header, terms)


def check_network(network: Network, *, allow_mainnet: bool) -> None:
    """
    Raises:
        MainnetNotEnabled: Real money, and nobody said yes to that.
    """
    if network.real_money and not allow_mainnet:
        raise MainnetNotEnabled(
            f"{network.name} is real money and these contracts are not audited for it:"
            " pass allow_mainnet=True if you accept that (see SECURITY.md)"
        )


def _methods(wanted: tuple[str, ...] | None, asset: Asset) -> tuple[str, ...]:
    if wanted is None:
        return (EIP3009,) if asset.eip3009 else (PERMIT2,)
    possible = {EIP3009, PERMIT2} if asset.eip3009 else {PERMIT2}
    if not wanted or not set(wanted) <= possible:
        raise ConfigurationError(
            f"transfer_methods are some of {sorted(possible)} for this token,"
            f" not {list(wanted)}"
        )
    return wanted


def _account(text: str) -> Address:
    try:
        return checked_address(text)
    except ValueError as error:
        raise ConfigurationError(f"pay_to: {error}") from error
