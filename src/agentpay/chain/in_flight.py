"""
Follows the transactions of one account from "sent" to "mined", however badly it goes.

One task polls for all of them. It asks for the account's nonce, and for receipts only
of what must have been mined; what a node has lost, it sends again, byte for byte.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

from agentpay.chain.decoding import quantity
from agentpay.chain.json_rpc import BATCH_MAX, JsonRpc, NodeRefused
from agentpay.errors import ChainError
from agentpay.types import Address, Hash32

_POLL_SECONDS_MIN: Final = 0.02
_POLL_SECONDS_MAX: Final = 1.0
_POLL_GROWTH: Final = 1.5
_STALL_SECONDS: Final = 2.0
"""Nothing was mined for so long: see whether the node still has what was sent."""
_DOUBT_SECONDS: Final = 0.25
"""The same, when it is not known whether the node ever had it."""
_REPLACED_SECONDS: Final = 3.0
"""The nonce is used, and no node of the endpoint knows a receipt for so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedTransaction:
    """Bytes that move money when mined; they can be sent any number of times."""

    nonce: int
    hash: Hash32
    raw: str


class Flight:
    """
    A sent transaction. `landed` becomes its receipt, as the node's JSON.

    It becomes None if another transaction used the nonce, so that this one never can be
    mined. Whoever stops waiting cancels it.
    """

    def __init__(self, signed: SignedTransaction, *, doubtful: bool) -> None:
        self.signed = signed
        self.doubtful = doubtful
        self.landed: asyncio.Future[dict[str, Any] | None] = (
            asyncio.get_running_loop().create_future()
        )
        self.missing_since: float | None = None

    @property
    def awaited(self) -> bool:
        """Whether somebody still waits for it."""
        return not self.landed.done()


class InFlight:
    """All flights of one account, by nonce. Belongs to one event loop."""

    def __init__(self, rpc: JsonRpc, account: Address) -> None:
        self._rpc = rpc
        self._account = account
        self._flights: dict[int, Flight] = {}
        self._watch_task: asyncio.Task[None] | None = None
        self._added = asyncio.Event()
        self._progress_at = 0.0

    def __contains__(self, nonce: int) -> bool:
        return nonce in self._flights

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for any of them."""
        return any(flight.awaited for flight in self._flights.values())

    def add(self, signed: SignedTransaction, *, doubtful: bool) -> Flight:
        """Follow a transaction from now on; `doubtful` if it may not have arrived."""
        flight = Flight(signed, doubtful=doubtful)
        if not self._flights:
            self._progress_at = time.monotonic()
        self._flights[signed.nonce] = flight
        self._added.set()
        if self._watch_task is None or self._watch_task.done():
            self._watch_task = asyncio.create_task(self._watch())
        return flight

    def forget_abandoned(self) -> None:
        """
        Stop resending what nobody waits for.

        Its nonce may then be used again if the node does not have it: of two
        transactions with one nonce, the chain takes at most one.
        """
        for nonce, flight in list(self._flights.items()):
            if not flight.awaited:
                del self._flights[nonce]

    async def resend_missing(self) -> None:
        """
        Send again whatever the node does not have.

        Raises:
            ChainUnreachable: No answer.
        """
        flights = [self._flights[nonce] for nonce in sorted(self._flights)][:BATCH_MAX]
        found = await self._rpc.batch(
            [("eth_getTransactionByHash", (f.signed.hash,)) for f in flights]
        )
        for flight, answer in zip(flights, found, strict=True):
            flight.doubtful = not isinstance(answer, dict)
        # Refusals are of no interest: either the node has it, or the next look tells.
        await self._rpc.batch(
            [("eth_sendRawTransaction", (f.signed.raw,)) for f in flights if f.doubtful]
        )

    async def aclose(self) -> None:
        """Stop following; whoever still waits will time out."""
        task, self._watch_task = self._watch_task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _watch(self) -> None:
        pause = _POLL_SECONDS_MIN
        while self.awaited:
            if await self._added_within(pause):
                pause = _POLL_SECONDS_MIN
            try:
                landed = await self._look()
                if not landed and self._stalled():
                    self._progress_at = time.monotonic()
                    await self.resend_missing()
            except ChainError:
                # Faults pass, or they do not: each waiter has its own deadline.
                landed = False
            pause = min(pause * _POLL_GROWTH, _POLL_SECONDS_MAX)
            if landed:
                pause, self._progress_at = _POLL_SECONDS_MIN, time.monotonic()

    async def _added_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._added.wait()
        except TimeoutError:
            return False
        self._added.clear()
        # Many are added at once: one look for all of them.
        await asyncio.sleep(_POLL_SECONDS_MIN)
        return True

    def _stalled(self) -> bool:
        doubtful = any(flight.doubtful for flight in self._flights.values())
        allowed = _DOUBT_SECONDS if doubtful else _STALL_SECONDS
        return time.monotonic() - self._progress_at > allowed

    async def _look(self) -> bool:
        answer = await self._rpc.call(
            "eth_getTransactionCount", self._account, "latest"
        )
        with self._rpc.reading("eth_getTransactionCount"):
            used = quantity(answer)
        flights = [self._flights[n] for n in sorted(self._flights) if n < used]
        flights = flights[:BATCH_MAX]
        receipts = await self._rpc.batch(
            [("eth_getTransactionReceipt", (f.signed.hash,)) for f in flights]
        )
        landed = [
            self._land(flight, receipt)
            for flight, receipt in zip(flights, receipts, strict=True)
            if not isinstance(receipt, NodeRefused)
        ]
        return any(landed)

    def _land(self, flight: Flight, receipt: dict[str, Any] | None) -> bool:
        if receipt is None and not self._surely_replaced(flight):
            return False
        del self._flights[flight.signed.nonce]
        if flight.awaited:
            flight.landed.set_result(receipt)
        return True

    def _surely_replaced(self, flight: Flight) -> bool:
        """
        Whether the nonce was used by another transaction.

        An endpoint may be many nodes, and one may not have the block yet in which the
        other saw the nonce used: only time tells a lost transaction from a late answer.
        """
        now = time.monotonic()
        if flight.missing_since is None:
            flight.missing_since = now
        return now - flight.missing_since > _REPLACED_SECONDS
