"""
Sends transactions from one gas-paying key: the adapter behind `ports.Sender`.

A nonce is taken last, when everything else about the transaction is known, and what is
signed is recorded before it is sent. A nonce is never lost: it is given back when the
transaction surely was not taken, and otherwise the call keeps it, for more and more gas
if need be, until it, or another transaction with that nonce, is mined. So no fault of
an endpoint leaves a gap that would hold up all later transactions, and no restart sends
a call twice.
"""

import asyncio
import logging
from types import TracebackType
from typing import Any, Final, Self

from agentpay.chain.account import GasKey
from agentpay.chain.decoding import quantity, receipt_of
from agentpay.chain.flight import Flight, Landed
from agentpay.chain.in_flight import InFlight
from agentpay.chain.json_rpc import NodeRefused, RequestNotSent
from agentpay.chain.price import Pricing, Terms, call_fields, too_much_gas
from agentpay.chain.refusals import Refusal, is_poor, refusal_of, wants_more_gas
from agentpay.chain.rpc import RpcChain, quantity_or_unreachable
from agentpay.core import sending as rules
from agentpay.core.sending import FeePolicy
from agentpay.errors import (
    ChainError,
    ChainUnreachable,
    StoreError,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm.calls import Call, Receipt, Reverted
from agentpay.sending_ports import SendBook
from agentpay.types import Address, Hash32

log = logging.getLogger(__name__)

GAS_MAX: Final = 2**24
"""The most gas that a transaction may ask for (EIP-7825)."""

_NONCE_PAUSE_SECONDS = 0.002
_EARLIER_PAUSE_SECONDS = 0.2
_NOT_OURS = frozenset({Refusal.NONCE_AHEAD, Refusal.NONCE_PENDING})
"""Refusals that a node cannot give to a transaction which it has."""
_WILL_NOT = frozenset({Refusal.FINAL, Refusal.CHEAP})


class TransactionSender:
    """One key that sends transactions. Implements `ports.Sender`."""

    def __init__(
        self,
        chain: RpcChain,
        *,
        key: bytes | str,
        mined_within_seconds: float = 60,
        fees: FeePolicy | None = None,
        book: SendBook | None = None,
    ) -> None:
        """
        Several senders may share a key, also in several processes.

        With a `book`, what is in flight outlives the process: give one book to one
        sender of a key at a time. Without, a crash leaves to the chain what was sent:
        see `wait_for_earlier`.

        Raises:
            ConfigurationError: `key` is not a private key.
            UnsafeKey: A publicly known test key, and the chain is not local.
        """
        self._key = GasKey(key, chain=chain.chain_id)
        self._address = self._key.address
        self._chain = chain
        self._rpc = chain.rpc
        self._mined_within_seconds = mined_within_seconds
        policy = fees or FeePolicy()
        self._pricing = Pricing(chain, self._address, policy)
        self._in_flight = InFlight(chain.rpc, self._key, fees=policy, book=book)
        self._next_nonce = 0

    @property
    def address(self) -> Address:
        """The account that pays the gas."""
        return self._address

    def __repr__(self) -> str:
        return f"TransactionSender({self._address}, chain {self._chain.chain_id})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop following what is in flight; the chain stays open."""
        await self._in_flight.aclose()

    async def simulate(self, call: Call, *, gas_max: int | None = None) -> None:
        """See `ports.Sender.simulate`."""
        try:
            await self._rpc.call(
                "eth_call", call_fields(self._address, call, gas_max), "latest"
            )
        except NodeRefused as refusal:
            if gas_max is not None and wants_more_gas(refusal, gas_max):
                raise too_much_gas(call, gas_max) from refusal
            raise self._chain.failure(refusal, call.what) from refusal

    async def resume(self) -> None:
        """See `ports.Sender.resume`."""
        await self._in_flight.resume()

    def carries(self, call: Call) -> bool:
        """See `ports.Sender.carries`."""
        return self._in_flight.find(call) is not None

    async def wait_for_earlier(self, what: str) -> None:
        """
        Wait until all that this key has sent is mined, whichever process sent it.

        For who has no book: what a process that died sent shows in no simulation until
        then, so that the same would be sent again, behind it and in vain.

        Raises:
            TransactionOutcomeUnknown: It is not mined in time, and may be `what`.
            ChainUnreachable: The chain could not be asked.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._mined_within_seconds
        sent = await self._nonce("pending")
        # What a node has dropped since need not be waited for.
        while await self._nonce("latest") < min(sent, await self._nonce("pending")):
            if loop.time() > until:
                raise TransactionOutcomeUnknown(what, transaction="")
            await asyncio.sleep(_EARLIER_PAUSE_SECONDS)

    async def send(
        self, call: Call, *, gas_max: int | None = None, deadline: int = 0
    ) -> Receipt:
        """See `ports.Sender.send`."""
        await self.resume()
        cap = GAS_MAX if gas_max is None else min(gas_max, GAS_MAX)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._mined_within_seconds
        while True:
            # What was sent before, by us or by a process that died, is not sent again.
            flight = self._in_flight.find(call)
            if flight is not None:
                landed = self._in_flight.join(flight, deadline=deadline)
            else:
                capped = gas_max is not None
                terms = await self._pricing.terms(call, cap, capped=capped)
                flight = await self._launch(call, terms, until, deadline=deadline)
                landed = flight.landed()
            receipt = await self._wait(flight, landed, until)
            if receipt is not None:
                return await self._judge(receipt, call)
            # Another sender's transaction has this nonce, so ours can never be mined.
            # The new simulation says whether the call still makes sense.
            log.debug("%s: transaction %s was replaced", call.what, flight.hash)

    async def _launch(
        self, call: Call, terms: Terms, until: float, *, deadline: int
    ) -> Flight:
        loop = asyncio.get_running_loop()
        async with self._in_flight.launching:
            nonce = await self._first_nonce()
            taken: set[int] = set()
            # Each refused nonce is a transaction of another sender that got through, so
            # somebody always makes progress, and we do before long.
            while loop.time() < until:
                signed = self._key.sign(
                    call, nonce=nonce, gas=terms.gas, fees=terms.fees
                )
                flight = Flight(call, [signed], deadline=deadline)
                refusal = await self._send_recorded(flight, block=terms.block)
                if refusal is None:
                    return flight
                if refusal is not Refusal.NONCE_AHEAD:
                    taken.add(nonce)
                nonce = await self._free_nonce(refusal, taken)
                await asyncio.sleep(_NONCE_PAUSE_SECONDS)
        raise ChainUnreachable(
            f"{call.what} was not sent: {self._address} got no nonce in time"
            f" ({len(taken)} were taken); do other programs send from it without pause?"
        )

    async def _send_recorded(self, flight: Flight, *, block: int) -> Refusal | None:
        """
        Record it, then send it. None: it is followed from now on, and may be there.

        Raises:
            StoreUnavailable: It could not be recorded, and was not sent.
            ChainError: It surely was not taken, and is not recorded any more.
        """
        try:
            await self._in_flight.record(flight)
            refusal = await self._broadcast(flight)
        except asyncio.CancelledError:
            # It may have arrived: remembered, its nonce cannot be a gap.
            self._follow(flight, doubtful=True, block=block)
            raise
        except ChainError:
            await self._take_back(flight, block=block)
            raise
        if refusal is None or refusal is Refusal.BUSY:
            self._follow(flight, doubtful=refusal is Refusal.BUSY, block=block)
            return None
        await self._take_back(flight, block=block)
        return refusal

    def _follow(self, flight: Flight, *, doubtful: bool, block: int) -> None:
        self._in_flight.add(flight, doubtful=doubtful, block=block)
        self._next_nonce = flight.nonce + 1

    async def _take_back(self, flight: Flight, *, block: int) -> None:
        try:
            await self._in_flight.unrecord(flight)
        except (StoreError, asyncio.CancelledError) as error:
            # A restart would send it, so we do: "failed" would not be true for long.
            self._follow(flight, doubtful=True, block=block)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise TransactionOutcomeUnknown(
                flight.call.what, transaction=flight.hash
            ) from error

    async def _broadcast(self, flight: Flight) -> Refusal | None:
        """
        Send it once. None: the node has it. `BUSY`: nobody knows.

        Raises:
            ChainUnreachable: It surely did not arrive.
            TransactionFailed: The node will not have it.
            GasMissing: Our key cannot pay for it.
        """
        call = flight.call
        try:
            await self._rpc.call("eth_sendRawTransaction", flight.raw)
        except RequestNotSent:
            raise
        except NodeRefused as refusal:
            meaning = refusal_of(refusal)
            if meaning is Refusal.KNOWN:
                return None
            if meaning in _NOT_OURS:
                return meaning
            known = await self._knows(flight.hash)
            if known is None:
                return Refusal.BUSY
            if not known and meaning in _WILL_NOT:
                if is_poor(refusal):
                    raise self._pricing.poor(call) from refusal
                reason = f"{refusal.message} (sent from {self._address})"
                raise TransactionFailed(call.what, reason=reason) from refusal
            return None if known else meaning
        except ChainUnreachable:
            return None if await self._knows(flight.hash) else Refusal.BUSY
        log.debug("%s: sent transaction %s", call.what, flight.hash)
        return None

    async def _knows(self, transaction: Hash32) -> bool | None:
        try:
            found = await self._rpc.call("eth_getTransactionByHash", transaction)
        except ChainError:
            return None
        return found is not None

    async def _first_nonce(self) -> int:
        # With nothing awaited the chain knows best: another sender may have used the
        # key, or a test may have turned the chain back. What a reorg took back, and
        # nobody follows any more, left a nonce free that all others wait for.
        first = self._next_nonce
        if not self._in_flight.awaited or self._in_flight.behind_a_gap:
            first = await self._nonce("pending")
        return rules.free_nonce(self._in_flight.queue, first)

    async def _free_nonce(self, refusal: Refusal, taken: set[int]) -> int:
        """The first nonce that neither the node, nor we, nor a refusal says is used."""
        if refusal is Refusal.NONCE_AHEAD:
            await self._in_flight.resend_missing()
        pending = await self._nonce("pending")
        return rules.free_nonce(self._in_flight.queue, pending, taken)

    async def _nonce(self, block: str) -> int:
        """The next one, after what is mined (`latest`) or sent as well (`pending`)."""
        method = "eth_getTransactionCount"
        try:
            answer = await self._rpc.call(method, self._address, block)
        except NodeRefused as refusal:
            raise self._chain.failure(refusal, method) from refusal
        return quantity_or_unreachable(self._rpc, answer)

    async def _wait(
        self, flight: Flight, landed: Landed, until: float
    ) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout_at(until):
                return await landed
        except TimeoutError:
            raise TransactionOutcomeUnknown(
                flight.call.what, transaction=flight.hash
            ) from None

    async def _judge(self, fields: dict[str, Any], call: Call) -> Receipt:
        with self._rpc.reading("eth_getTransactionReceipt"):
            receipt = receipt_of(fields)
            succeeded = quantity(fields["status"]) == 1
        if succeeded:
            return receipt
        reason = await self._why(call, receipt)
        raise Reverted(call.what, reason=reason, receipt=receipt)

    async def _why(self, call: Call, receipt: Receipt) -> str:
        """Run a reverted call again on the block before, where it may say why."""
        try:
            before = hex(receipt.block - 1)
            await self._rpc.call("eth_call", call_fields(self._address, call), before)
        except NodeRefused as refusal:
            failure = self._chain.failure(refusal, call.what)
            if isinstance(failure, TransactionFailed):
                return failure.reason
        except ChainUnreachable:
            pass  # it is known to have failed; only the reason is lost
        return "it was mined and reverted"
