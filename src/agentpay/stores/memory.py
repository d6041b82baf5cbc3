"""
Stores that forget: for tests, examples and trying things out.

They keep every promise of the ports but one: nothing survives the process. A payee that
restarts with one of these must not accept channels that are older than it is.
"""

from dataclasses import replace
from secrets import token_hex
from types import TracebackType
from typing import Self, TypeVar

from agentpay.core.budget import Budget
from agentpay.errors import InvariantViolated
from agentpay.records import (
    AnswerRecord,
    Owed,
    PayeeDecide,
    PayeeRecord,
    PayerDecide,
    PayerRecord,
    PaymentRecord,
    PaymentStatus,
    SentTransaction,
)
from agentpay.stores.steps import (
    buried,
    channel_order,
    check_payee_step,
    check_payer_step,
    finished,
    is_past,
    may_take,
)
from agentpay.types import Address, ChainId, Hash32

T = TypeVar("T")


class MemoryPayeeStore:
    """What a payee remembers, until the process ends."""

    def __init__(self) -> None:
        self._owner = token_hex(16)
        self._records: dict[Hash32, PayeeRecord] = {}
        self._payments: dict[str, PaymentRecord] = {}
        self._answers: dict[str, AnswerRecord] = {}
        self._marks: dict[str, int] = {}
        self._cursors: dict[str, int] = {}
        self._sent: dict[tuple[ChainId, Address, int], SentTransaction] = {}

    @property
    def owner(self) -> str:
        return self._owner

    async def update(
        self, channel: Hash32, decide: PayeeDecide[T], *, durable: bool = True
    ) -> T:
        """One step without an await in it, so nobody sees half of it."""
        del durable
        before = self._records.get(channel)
        step = decide(before)
        check_payee_step(channel, before, step.record)
        if step.record is not None and step.record is not before:
            self._records[channel] = step.record
            if step.kept is not None:
                self._answers[step.kept.key] = step.kept
        return step.answer

    async def read(self, channel: Hash32) -> PayeeRecord | None:
        return self._records.get(channel)

    async def claimable(
        self, *, sessions: bool, at_least: int, limit: int
    ) -> list[PayeeRecord]:
        """A channel with nothing unclaimed is never among them."""
        records = self._of_kind(sessions=sessions)
        due = [r for r in records if r.ledger.unclaimed >= max(1, at_least)]
        return sorted(due, key=lambda r: (-r.ledger.unclaimed, r.channel))[:limit]

    async def owed(self, *, limit: int) -> Owed:
        """See `PayeeStore.owed`."""
        owing = [
            record
            for sessions in (False, True)
            for record in await self.claimable(
                sessions=sessions, at_least=1, limit=limit
            )
        ]
        return Owed(
            amount=sum(record.ledger.unclaimed for record in owing),
            channels=len(owing),
            since=min((record.owing_since for record in owing), default=0),
        )

    async def closing(self, *, sessions: bool, limit: int) -> list[PayeeRecord]:
        """Those whose last voucher is the oldest first."""
        records = self._of_kind(sessions=sessions)
        asked = [r for r in records if r.ledger.is_ending]
        return sorted(asked, key=lambda r: (r.last_voucher_at, r.channel))[:limit]

    async def left_behind(self, *, limit: int) -> list[PayeeRecord]:
        """See `PayeeStore.left_behind`."""
        left = [r for r in self._records.values() if r.ledger.has_dead(self.owner)]
        return left[:limit]

    async def seen_since(self, chain: ChainId, moment: int) -> list[Hash32]:
        """See `PayeeStore.seen_since`."""
        of_chain = [r for r in self._records.values() if r.chain == chain]
        return [r.channel for r in of_chain if r.chain_seen_at >= moment]

    async def begin_payment(self, payment: PaymentRecord) -> PaymentRecord:
        """Returns `payment` itself (`is`) to the one caller whose record it became."""
        return self._payments.setdefault(payment.id, payment)

    async def find_payment(self, payment_id: str) -> PaymentRecord | None:
        """See `PayeeStore.find_payment`."""
        return self._payments.get(payment_id)

    async def finish_payment(
        self,
        payment_id: str,
        *,
        owner: str,
        status: PaymentStatus,
        transaction: str,
        charged: int,
    ) -> bool:
        payment = self._payments.get(payment_id)
        if payment is None:
            raise InvariantViolated(f"payment {payment_id} ends and never began")
        done = finished(
            payment,
            owner=owner,
            status=status,
            transaction=transaction,
            charged=charged,
        )
        if done is not None:
            self._payments[payment_id] = done
        return done is not None

    async def take_payment(self, payment_id: str, *, owner: str) -> bool:
        payment = self._payments.get(payment_id)
        if payment is None or not may_take(payment, owner):
            return False
        self._payments[payment_id] = replace(payment, owner=owner)
        return True

    async def drop_payment(self, payment_id: str, *, owner: str) -> None:
        payment = self._payments.get(payment_id)
        if payment is not None and payment.owner == owner:
            del self._payments[payment_id]

    async def served_payments(self, *, limit: int) -> list[PaymentRecord]:
        kept = self._payments.values()
        served = [p for p in kept if p.status is PaymentStatus.SERVED]
        return sorted(served, key=lambda p: (p.started_at, p.id))[:limit]

    async def bury_payments(self, *, begun_until: int) -> None:
        for payment in list(self._payments.values()):
            served = buried(payment, self.owner, begun_until)
            if served is not None:
                self._payments[payment.id] = served

    async def sweep_payments(self, *, now: int) -> None:
        self._payments = {
            key: payment
            for key, payment in self._payments.items()
            if not is_past(payment, now)
        }

    async def keep_answer(self, answer: AnswerRecord, *, durable: bool) -> None:
        del durable
        self._answers[answer.key] = answer

    async def find_answer(self, key: str) -> AnswerRecord | None:
        return self._answers.get(key)

    async def drop_answer(self, key: str) -> None:
        self._answers.pop(key, None)

    async def sweep_answers(self, *, now: int, bytes_total: int) -> None:
        """Those that would be kept the longest stay."""
        oldest_first = sorted(self._answers.values(), key=lambda a: a.kept_until)
        kept: list[AnswerRecord] = []
        for answer in reversed(oldest_first):
            bytes_total -= answer.size
            if answer.kept_until <= now or bytes_total < 0:
                break
            kept.append(answer)
        self._answers = {answer.key: answer for answer in reversed(kept)}

    async def set_mark(self, name: str, *, until: int) -> None:
        self._marks[name] = until

    async def take_mark(self, name: str, *, until: int, now: int) -> bool:
        if self._marks.get(name, 0) > now:
            return False
        self._marks[name] = until
        return True

    async def read_mark(self, name: str) -> int:
        return self._marks.get(name, 0)

    async def sweep_marks(self, *, now: int) -> None:
        self._marks = {n: until for n, until in self._marks.items() if until > now}

    async def lead(self, name: str) -> bool:
        """Nobody else is there."""
        del name
        return True

    async def read_cursor(self, name: str) -> int:
        return self._cursors.get(name, 0)

    async def write_cursor(self, name: str, position: int) -> None:
        self._cursors[name] = position

    async def keep_sent(self, sent: SentTransaction) -> None:
        self._sent[sent.chain, sent.account, sent.nonce] = sent

    async def forget_sent(
        self, chain: ChainId, account: Address, nonce: int, *, durable: bool
    ) -> None:
        del durable
        self._sent.pop((chain, account, nonce), None)

    async def list_sent(
        self, chain: ChainId, account: Address
    ) -> list[SentTransaction]:
        """All are ours: nobody else can see them."""
        kept = [s for key, s in self._sent.items() if key[:2] == (chain, account)]
        return sorted(kept, key=lambda sent: sent.nonce)

    async def close(self) -> None:
        """Nothing to release."""

    def _of_kind(self, *, sessions: bool) -> list[PayeeRecord]:
        return [r for r in self._records.values() if r.ledger.pays_whole == sessions]


class MemoryPayerStore:
    """What a payer remembers, until the process ends."""

    def __init__(self) -> None:
        self._budgets: dict[Address, Budget] = {}
        self._records: dict[tuple[Address, Hash32], PayerRecord] = {}

    @property
    def shared(self) -> bool:
        return False

    async def update(
        self,
        account: Address,
        channel: Hash32 | None,
        decide: PayerDecide[T],
        *,
        durable: bool = True,
    ) -> T:
        """One step without an await in it, so nobody sees half of it."""
        del durable
        budget = self._budgets.get(account, Budget())
        before = self._records.get((account, channel)) if channel else None
        step = decide(budget, before)
        check_payer_step(channel, before, step.record)
        self._budgets[account] = step.budget
        if channel is not None and step.record is not None:
            self._records[account, channel] = step.record
        return step.answer

    async def channels(self, account: Address) -> list[PayerRecord]:
        """In order of origin and index."""
        records = [r for key, r in self._records.items() if key[0] == account]
        return sorted(records, key=channel_order)

    async def budget(self, account: Address) -> Budget:
        return self._budgets.get(account, Budget())

    async def close(self) -> None:
        """Nothing to release."""


class MemoryStore:
    """Both roles, until the process ends."""

    def __init__(self) -> None:
        self.payee = MemoryPayeeStore()
        self.payer = MemoryPayerStore()

    async def close(self) -> None:
        """Nothing to release."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
