"""
Settles what was signed once, whoever asks how often, also after a crash.

A movement is recorded before it is sent. Who asks while it is under way is told that it
is pending, and who asks after its result was told is refused: a facilitator that said
yes twice would let one payment buy two answers of a payee that keeps no books. A result
that nobody was told is told, but to nobody who asks for another payment with the same
nonce: the chain moves one of them. What a reorg took back is sent again when it is
asked about, and told as pending.

What was told is forgotten a day after its signature expired. So what expired over an
hour ago and is not known is not looked for on the chain: it may have been told. What
was surely not sent is forgotten at once. So a row that stays, years if it is signed for
years, is of a transaction that somebody paid for, or of a moment at which the process
died or lost the chain: strangers cannot make more of them than gas allows.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from agentpay.errors import (
    ChainError,
    GasLimitReached,
    GasMissing,
    GasTooExpensive,
    InvariantViolated,
    StoreError,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm.calls import Receipt
from agentpay.evm.multicall3_abi import is_aggregate
from agentpay.ports import Chain
from agentpay.records import PaymentRecord, PaymentStatus, Settled
from agentpay.sending_ports import PaymentBook
from agentpay.types import Address, Hash32
from agentpay.wire.x402_facilitator import PENDING

_log = logging.getLogger(__name__)

DUPLICATE = "duplicate_settlement"
LATE_SECONDS: Final = 3600
KEPT_SECONDS: Final = 24 * LATE_SECONDS
"""Longer by far, since the clocks of processes that share a book may differ."""
_SWEEP_SECONDS: Final = 600
_LOST_SECONDS: Final = 3.0
"""One node of an endpoint may not have what another has shown."""
_SENT_AGAIN_MAX: Final = 1000
_LONGEST: Final = 2**62
"""A time that every store keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why something was not settled; `settlement_pending` if it may yet be."""

    code: str
    message: str = ""
    transaction: str = ""


_ELSEWHERE = Refused(code=PENDING, message="another process is settling it")
_ORDER: Final = "/settle"
"""Of a record: followed by what was signed, except in those of earlier versions."""
_UNTOLD = frozenset({PaymentStatus.STARTED, PaymentStatus.SETTLED})


class Movement(Protocol):
    """Money that its payer signed for, and that the chain moves once."""

    @property
    def id(self) -> str: ...

    @property
    def payer(self) -> Address: ...

    @property
    def maximum(self) -> int: ...

    @property
    def valid_before(self) -> int:
        """When what was signed expires, by the chain's clock."""
        ...

    def digest(self) -> bytes:
        """What its payer signed: another may have its id, and pay another account."""
        ...

    @property
    def failed_code(self) -> str:
        """The code for a transaction that failed."""
        ...

    async def check(self) -> Refused | None:
        """Whether it would go through now."""
        ...

    async def found(self) -> Settled | Refused | None:
        """What it moved, if the chain says that it was used; None if it was not."""
        ...

    async def send(self) -> Settled:
        """See `Settler.settle_transfer`."""
        ...

    def result(self, receipt: Receipt) -> Settled:
        """
        Raises:
            TransactionFailed: The transaction did not move what was signed for.
        """
        ...


class SettledOnce:
    """All movements of one facilitator, and its book of them."""

    def __init__(
        self, *, chain: Chain, book: PaymentBook, clock: Callable[[], float]
    ) -> None:
        self._chain = chain
        self._book = book
        self._clock = clock
        self._running: dict[str, asyncio.Task[Settled | Refused]] = {}
        self._sent_again: dict[str, str] = {}
        """The last transaction of what was taken back: a row that was told stays so."""
        self._swept_at = 0.0

    async def settle(self, movement: Movement) -> Settled | Refused:
        """
        Move the money, or say why not. A caller that leaves does not stop it.

        Raises:
            ChainError: Nothing was sent; ask again.
            StoreUnavailable: Nothing was sent, or its result could not be kept; ask
                again.
        """
        if movement.id in self._running:
            return Refused(code=PENDING, message="it is being settled now")
        task = asyncio.create_task(self._settle(movement), name="settle a payment")
        self._running[movement.id] = task
        try:
            outcome = await asyncio.shield(task)
            if isinstance(outcome, Settled):
                told = await self._save(movement, PaymentStatus.DELIVERED, outcome)
                return outcome if told else _ELSEWHERE
            return outcome
        finally:
            if task.done():
                self._running.pop(movement.id, None)
            else:  # the caller left
                task.add_done_callback(lambda done: self._forget(movement.id, done))

    async def _sweep(self) -> None:
        """Forget what was told long ago, now and then."""
        now = self._clock()
        if now - self._swept_at >= _SWEEP_SECONDS:
            self._swept_at = now
            await self._book.sweep_payments(now=int(now) - KEPT_SECONDS)

    def _forget(self, key: str, done: asyncio.Task[Settled | Refused]) -> None:
        self._running.pop(key, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            _log.warning("%s is not settled, and nobody waits for it: %s", key, error)

    async def _settle(self, movement: Movement) -> Settled | Refused:
        await self._sweep()
        known = await self._book.find_payment(movement.id)
        if known is not None:
            if not await self._is_ours(known):
                return _ELSEWHERE
            told = await self._recall(movement, known)
            if told is not None:
                return told
        refused = await movement.check()
        if refused is not None:
            if known is not None:
                return await self._not_now(movement, known, refused)
            if movement.valid_before + LATE_SECONDS < self._clock():
                return refused  # and may have been told
            # Somebody else may have sent it, to the right account (F3).
            found = await movement.found()
            if not isinstance(found, Settled):
                return refused
            if not await self._begin(movement):
                return _ELSEWHERE
            return await self._finish(movement, found)
        if known is None and not await self._begin(movement):
            return _ELSEWHERE
        return await self._send(movement, began=known is None)

    async def _not_now(
        self, movement: Movement, known: PaymentRecord, refused: Refused
    ) -> Refused:
        """What began may be in a pool, and be mined, until its signature expires."""
        sent = known.transaction
        if movement.valid_before <= self._clock() or await self._is_mined(sent):
            return refused
        return Refused(code=PENDING, message=f"now: {refused.code}", transaction=sent)

    async def _is_ours(self, known: PaymentRecord) -> bool:
        """Whether no other process, which lives, is at it or about to tell of it."""
        if known.owner == self._book.owner or known.status not in _UNTOLD:
            return True
        return await self._book.take_payment(known.id, owner=self._book.owner)

    async def _recall(
        self, movement: Movement, known: PaymentRecord
    ) -> Settled | Refused | None:
        """What is known of a movement that was asked for before; None is nothing."""
        if known.resource not in (_ORDER, _order(movement)):
            return _another(movement)
        match known.status:
            case (
                PaymentStatus.DELIVERED | PaymentStatus.SERVED | PaymentStatus.ANSWERING
            ):
                return await self._told(movement, known)
            case PaymentStatus.FAILED:
                return await self._sent_since(movement, known)
            case PaymentStatus.SETTLED:
                if known.resource == _ORDER:
                    return await self._check(movement)
                return Settled(transaction=known.transaction, amount=known.charged)
            case PaymentStatus.STARTED:
                return await self._resume(movement, known)
        raise InvariantViolated(f"no such status: {known.status}")

    async def _check(self, movement: Movement) -> Settled | Refused:
        """A record that does not say of what it is: the chain says (F5)."""
        found = await movement.found()
        return found if isinstance(found, Settled) else _another(movement)

    async def _told(self, movement: Movement, known: PaymentRecord) -> Refused:
        """No second yes; but what a reorg took back is sent again (F9)."""
        last = self._sent_again.get(movement.id, known.transaction)
        told = Refused(
            code=DUPLICATE,
            message="it was settled, and its payee was told",
            transaction=last,
        )
        try:
            if known.resource == _ORDER or not await self._is_lost(movement, last):
                return told
            _log.warning("%s was taken back by its chain: sent again", movement.id)
            transaction = (await movement.send()).transaction
        except TransactionOutcomeUnknown as error:
            transaction = error.transaction
        except ChainError:  # it moved nothing
            return told
        self._sent_again[movement.id] = transaction or last
        if len(self._sent_again) > _SENT_AGAIN_MAX:
            del self._sent_again[next(iter(self._sent_again))]
        return Refused(
            code=PENDING,
            message="its chain took it back, and it was sent again",
            transaction=transaction,
        )

    async def _is_lost(self, movement: Movement, sent: str) -> bool:
        """Whether no node has what was sent, and it would go through once more."""
        for pause in (0.0, _LOST_SECONDS):
            await asyncio.sleep(pause)
            if await movement.check() is not None or await self._is_mined(sent):
                return False
            if await self._chain.input(Hash32(sent)):
                return False
        return True

    async def _is_mined(self, sent: str) -> bool:
        try:
            return sent != "" and await self._chain.receipt(Hash32(sent)) is not None
        except TransactionFailed:
            return True

    async def _sent_since(
        self, movement: Movement, known: PaymentRecord
    ) -> Settled | Refused:
        """Ours failed, and who has what was signed may have sent it since (F3)."""
        found = await movement.found()
        if not isinstance(found, Settled):
            return Refused(
                code=movement.failed_code,
                message="it was sent before, and failed",
                transaction=known.transaction,
            )
        # Of the owner that it has: what is settled and not told is taken from the dead.
        settled = replace(known, status=PaymentStatus.SETTLED)
        saved = await self._save(movement, settled.status, found, owner=known.owner)
        return found if saved and await self._is_ours(settled) else _ELSEWHERE

    async def _resume(
        self, movement: Movement, known: PaymentRecord
    ) -> Settled | Refused | None:
        """It may have been sent: the chain says, and a new transaction only if not."""
        if known.transaction:
            transaction = Hash32(known.transaction)
            try:
                receipt = await self._chain.receipt(transaction)
                if receipt is not None:
                    return await self._finish(movement, movement.result(receipt))
            except TransactionFailed as error:
                found = await movement.found()  # another may have sent it (F3)
                if isinstance(found, Settled):
                    return await self._finish(movement, found)
                if found is None and is_aggregate(await self._chain.input(transaction)):
                    return None  # it failed with others, or for them: once more
                if known.resource == _ORDER:  # perhaps it was for another
                    return Refused(code=movement.failed_code, message=error.reason)
                return await self._failed(movement, error)
            if await self._chain.input(transaction):
                return Refused(code=PENDING, transaction=transaction)
        found = await movement.found()
        if isinstance(found, Settled):
            return await self._finish(movement, found)
        return found

    async def _send(self, movement: Movement, *, began: bool) -> Settled | Refused:
        """If it `began` now, no row stays of what was not sent."""
        try:
            settled = await movement.send()
        except TransactionFailed as error:
            found = await movement.found()  # another's, or ours from before a crash
            if not isinstance(found, Settled):
                if began and not error.transaction:
                    await self._drop(movement)
                return await self._failed(movement, error)
            settled = found
        except (GasLimitReached, GasMissing, GasTooExpensive):
            if began:
                await self._drop(movement)
            raise
        except TransactionOutcomeUnknown as error:
            sent = Settled(transaction=error.transaction, amount=0)
            await self._save(movement, PaymentStatus.STARTED, sent)
            return Refused(
                code=PENDING, message=str(error), transaction=error.transaction
            )
        return await self._finish(movement, settled)

    async def _begin(self, movement: Movement) -> bool:
        """Record it; False if another process was quicker."""
        record = PaymentRecord(
            id=movement.id,
            payer=movement.payer,
            amount=movement.maximum,
            resource=_order(movement),
            owner=self._book.owner,
            started_at=int(self._clock()),
            good_until=min(movement.valid_before, _LONGEST),
        )
        return await self._book.begin_payment(record) is record

    async def _drop(self, movement: Movement) -> None:
        # What cannot be forgotten now stays, as after a crash, and does no harm.
        with contextlib.suppress(StoreError):
            await self._book.drop_payment(movement.id, owner=self._book.owner)

    async def _finish(self, movement: Movement, settled: Settled) -> Settled | Refused:
        ours = await self._save(movement, PaymentStatus.SETTLED, settled)
        return settled if ours else _ELSEWHERE

    async def _save(
        self,
        movement: Movement,
        status: PaymentStatus,
        settled: Settled,
        *,
        owner: str = "",
    ) -> bool:
        """Say how far it is; False if another process has taken it over."""
        return await self._book.finish_payment(
            movement.id,
            owner=owner or self._book.owner,
            status=status,
            transaction=settled.transaction,
            charged=settled.amount,
        )

    async def _failed(self, movement: Movement, error: TransactionFailed) -> Refused:
        # What was refused before it was sent may go through another time.
        if error.transaction:
            sent = Settled(transaction=error.transaction, amount=0)
            await self._save(movement, PaymentStatus.FAILED, sent)
        return Refused(
            code=movement.failed_code,
            message=error.reason,
            transaction=error.transaction,
        )


def _order(movement: Movement) -> str:
    return f"{_ORDER} {movement.digest().hex()}"


def _another(movement: Movement) -> Refused:
    message = "another payment was signed with its nonce, and was taken first"
    return Refused(code=movement.failed_code, message=message)
