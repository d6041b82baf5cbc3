"""
Follows the transactions of one account from "sent" to "mined", however badly it goes.

One task polls for all of them. It asks for the account's nonce, and for receipts only
of what must have been mined; what a node has lost, it sends again, byte for byte; for
what blocks pass by, it offers more. What is recorded outlives the process: it is taken
up where it was, and nobody gives it another nonce.
"""

import asyncio
import logging
import time
from typing import Any, Final

from agentpay.chain.account import GasKey
from agentpay.chain.decoding import quantity
from agentpay.chain.flight import Flight, Landed, attempt_of
from agentpay.chain.json_rpc import BATCH_MAX, NodeRefused, Rpc
from agentpay.chain.price import Price, read_price
from agentpay.chain.refusals import Refusal, refusal_of
from agentpay.core import sending as rules
from agentpay.core.sending import FeePolicy, Joined, Looked, Over, Queue, Sending
from agentpay.errors import ChainError, StoreCorrupt, StoreError
from agentpay.evm.calls import Call
from agentpay.sending_ports import SendBook

log = logging.getLogger(__name__)

_POLL_SECONDS_MIN: Final = 0.02
_POLL_SECONDS_MAX: Final = 1.0
_POLL_SECONDS_IDLE: Final = 15.0
"""The same, when nobody waits."""
_POLL_GROWTH: Final = 1.5
_STALL_SECONDS: Final = 2.0
"""Nothing was mined for so long: see whether the node still has what was sent."""
_DOUBT_SECONDS: Final = 0.25
"""The same, when it is not known whether the node ever had it."""
_REPLACED_SECONDS: Final = 3.0
"""The nonce is used, and no node of the endpoint knows a receipt for so long."""
_RAISE_CHECK_SECONDS: Final = 1.0
"""How often to look at the price of gas, while something waits for so long."""


class InFlight:
    """All flights of one account, by nonce. Belongs to one event loop."""

    def __init__(
        self, rpc: Rpc, key: GasKey, *, fees: FeePolicy, book: SendBook | None
    ) -> None:
        self._rpc = rpc
        self._key = key
        self._fees = fees
        self._book = book
        self.queue = Queue()
        self.launching = asyncio.Lock()
        """Held while a call is given a nonce, recorded and sent."""
        self._flights: dict[int, Flight] = {}
        self._watch_task: asyncio.Task[None] | None = None
        self._added = asyncio.Event()
        self._resuming = asyncio.Lock()
        self._resumed = False
        self._closed = False
        self._forgetting: set[asyncio.Task[None]] = set()
        self._used = 0
        """The nonces below it were mined, when the chain was asked last."""
        self._progress_at = 0.0
        self._priced_at = 0.0

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for any of them."""
        return any(flight.awaited for flight in self._flights.values())

    @property
    def behind_a_gap(self) -> bool:
        """Whether the chain waits for a nonce below all of ours, as after a reorg."""
        return bool(self._flights) and self._used < min(self._flights)

    async def resume(self) -> None:
        """
        Take up what was recorded before this process began. Cheap once it is done.

        Raises:
            StoreError: It could not be read.
        """
        if self._book is None:
            return
        async with self._resuming:
            if self._resumed:
                return
            await self._take_up(self._book)
            self._resumed = True

    async def _take_up(self, book: SendBook) -> None:
        """Follow what is recorded and is not followed: what dead owners left."""
        for sent in await book.list_sent(self._key.chain, self._key.address):
            if sent.nonce in self._flights:
                continue
            try:
                flight = Flight.of(sent)
            except ValueError as error:
                raise StoreCorrupt(f"a sent transaction: {error}") from error
            log.info("%s: nonce %d is still open", sent.what, sent.nonce)
            self.add(flight, doubtful=True)

    async def _take_up_the_dead(self) -> None:
        """Whoever died since we began may have left what holds up ours."""
        if self._book is None or self.launching.locked():
            return
        async with self.launching:  # what is recorded and not followed yet is ours
            await asyncio.gather(*self._forgetting)
            await self._take_up(self._book)

    def find(self, call: Call) -> Flight | None:
        """The flight of this very call that nobody waits for, if there is one."""
        flights = self._flights.values()
        return next(
            (f for f in flights if f.last.carries(call) and not f.awaited), None
        )

    async def record(self, flight: Flight) -> None:
        """
        Keep what is about to be sent.

        Raises:
            StoreUnavailable: Nothing was saved; it must not be sent.
        """
        if self._book is not None:
            await self._book.keep_sent(flight.record(self._key.address))

    async def unrecord(self, flight: Flight) -> None:
        """
        It surely was not taken: its nonce is free.

        Raises:
            StoreUnavailable: It is still kept, and would be sent after a restart.
        """
        if self._book is not None:
            key = self._key
            await self._book.forget_sent(
                key.chain, key.address, flight.nonce, durable=True
            )

    def add(self, flight: Flight, *, doubtful: bool, block: int = 0) -> None:
        """Follow a recorded flight; `doubtful` if it may not have arrived."""
        if not self._flights:
            self._progress_at = time.monotonic()
        sending = Sending(
            nonce=flight.nonce,
            gas=flight.gas,
            attempts=tuple(attempt_of(signed) for signed in flight.attempts),
            at=time.monotonic(),
            block=block,
            deadline=flight.deadline,
            doubtful=doubtful,
        )
        self.queue = rules.apply(self.queue, rules.Launched(sending=sending))
        self._flights[flight.nonce] = flight
        self._look_soon()

    def join(self, flight: Flight, *, deadline: int) -> Landed:
        """
        Wait for a flight that others left; the node may have lost it since.

        With a `deadline` before theirs, more is paid sooner from now on. It is kept
        with the next attempt; until then a restart forgets it, and whoever has it
        joins again.
        """
        for event in (
            Looked(nonce=flight.nonce, found=False),
            Joined(nonce=flight.nonce, deadline=deadline),
        ):
            self.queue = rules.apply(self.queue, event)
        self._look_soon()
        return flight.landed()

    def _look_soon(self) -> None:
        self._added.set()
        if self._closed:
            return
        if self._watch_task is None or self._watch_task.done():
            self._watch_task = asyncio.create_task(self._watch())

    async def resend_missing(self) -> None:
        """
        Send again whatever the node does not have.

        Raises:
            ChainUnreachable: No answer.
        """
        flights = [self._flights[nonce] for nonce in sorted(self._flights)][:BATCH_MAX]
        found = await self._rpc.batch(
            [("eth_getTransactionByHash", (f.hash,)) for f in flights]
        )
        missing: list[Flight] = []
        for flight, answer in zip(flights, found, strict=True):
            if flight.nonce not in self._flights:
                continue
            has = isinstance(answer, dict)
            event = Looked(nonce=flight.nonce, found=has)
            self.queue = rules.apply(self.queue, event)
            if not has:
                missing.append(flight)
        answers = await self._rpc.batch(
            [("eth_sendRawTransaction", (flight.raw,)) for flight in missing]
        )
        for flight, answer in zip(missing, answers, strict=True):
            await self._hear(flight, answer)

    async def aclose(self) -> None:
        """Stop following; whoever still waits will time out."""
        self._closed = True
        task, self._watch_task = self._watch_task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await asyncio.gather(*self._forgetting)

    async def _hear(self, flight: Flight, answer: Any | NodeRefused) -> None:
        """
        What a node says to bytes that it did not have.

        Refusals are of no interest while somebody waits: the next look tells more. What
        nobody waits for, and no node takes, would hold up all that is sent after it.
        Its nonce may be used again: the chain takes one transaction of it at most.
        """
        if flight.awaited or not isinstance(answer, NodeRefused):
            return
        if refusal_of(answer) is Refusal.FINAL and len(flight.attempts) == 1:
            log.warning("%s is given up: %s", flight.call.what, answer.message)
            await self.unrecord(flight)
            self._end(flight, None)

    async def _watch(self) -> None:
        pause = _POLL_SECONDS_MIN
        while self._flights:
            if await self._added_within(pause):
                pause = _POLL_SECONDS_MIN
            try:
                landed = await self._look()
                if not landed and self._stalled():
                    self._progress_at = time.monotonic()
                    await self.resend_missing()
                    await self._take_up_the_dead()
                await self._raise_late()
            except (ChainError, StoreError) as error:
                # Faults pass, or they do not: each waiter has its own deadline.
                log.debug("%s: %s", self._key.address, error)
                landed = False
            most = _POLL_SECONDS_MAX if self.awaited else _POLL_SECONDS_IDLE
            pause = min(pause * _POLL_GROWTH, most)
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
        doubtful = any(sending.doubtful for sending in self.queue.sendings)
        allowed = _DOUBT_SECONDS if doubtful else _STALL_SECONDS
        return time.monotonic() - self._progress_at > allowed

    async def _look(self) -> bool:
        answer = await self._rpc.call(
            "eth_getTransactionCount", self._key.address, "latest"
        )
        with self._rpc.reading("eth_getTransactionCount"):
            used = self._used = quantity(answer)
        sent = [
            (self._flights[nonce], attempt.hash)
            for nonce in sorted(self._flights)
            if nonce < used
            for attempt in self._flights[nonce].attempts
        ][:BATCH_MAX]
        receipts = await self._rpc.batch(
            [("eth_getTransactionReceipt", (hash_,)) for _, hash_ in sent]
        )
        found: dict[Flight, dict[str, Any] | None] = {}
        for (flight, _), receipt in zip(sent, receipts, strict=True):
            if not isinstance(receipt, NodeRefused):
                found[flight] = found.get(flight) or receipt
        landed = [self._land(flight, receipt) for flight, receipt in found.items()]
        return any(landed)

    def _land(self, flight: Flight, receipt: dict[str, Any] | None) -> bool:
        if receipt is None and not self._surely_replaced(flight):
            return False
        self._end(flight, receipt)
        return True

    def _end(self, flight: Flight, receipt: dict[str, Any] | None) -> None:
        del self._flights[flight.nonce]
        self.queue = rules.apply(self.queue, Over(nonce=flight.nonce))
        flight.land(receipt)
        task = asyncio.create_task(self._forget(flight.nonce), name="forget a nonce")
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)

    async def _forget(self, nonce: int) -> None:
        """If it stays in the book, a restart finds out again that it is over."""
        if self._book is None:
            return
        key = self._key
        try:
            await self._book.forget_sent(key.chain, key.address, nonce, durable=False)
        except StoreError as error:
            log.debug("nonce %d of %s stays in the book: %s", nonce, key.address, error)

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

    async def _raise_late(self) -> None:
        """Offer more for what blocks passed by, as far as the policy goes."""
        now = time.monotonic()
        oldest = min((s.at for s in self.queue.sendings), default=now)
        if now - max(oldest, self._priced_at) < _RAISE_CHECK_SECONDS:
            return
        self._priced_at = now
        price = await read_price(self._rpc)
        for sending in self.queue.sendings:
            if sending.nonce in self._flights and rules.wants_more(
                sending,
                now=now,
                block=price.block,
                chain_time=price.chain_time,
                policy=self._fees,
            ):
                flight = self._flights[sending.nonce]
                await self._raise(flight, price, deadline=sending.deadline)

    async def _raise(self, flight: Flight, price: Price, *, deadline: int) -> None:
        fees = rules.higher_fees(
            attempt_of(flight.last).fees,
            price.market,
            gas=flight.gas,
            policy=self._fees,
        )
        if fees is None:
            if not flight.warned:
                flight.warned = True
                log.warning(
                    "%s (transaction %s) waits, and may not cost more than it offers",
                    flight.call.what,
                    flight.hash,
                )
            return
        signed = self._key.sign(
            flight.call, nonce=flight.nonce, gas=flight.gas, fees=fees
        )
        raised = Flight(flight.call, [*flight.attempts, signed], deadline=deadline)
        await self.record(raised)
        if self._flights.get(flight.nonce) is not flight:
            await self._forget(flight.nonce)  # it was mined meanwhile
            return
        flight.attempts.append(signed)
        self.queue = rules.apply(
            self.queue,
            rules.Raised(
                nonce=flight.nonce,
                attempt=attempt_of(signed),
                at=time.monotonic(),
                block=price.block,
            ),
        )
        log.info(
            "%s: offers %d wei for each gas in transaction %s",
            flight.call.what,
            fees.most,
            signed.hash,
        )
        try:
            await self._rpc.call("eth_sendRawTransaction", flight.raw)
        except NodeRefused as refusal:
            log.debug("%s: %s", flight.call.what, refusal)
