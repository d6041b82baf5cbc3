"""A payee's view of a SQLite store: `PayeeStore` over a shared file and writer."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from secrets import token_hex
from typing import TypeVar

from agentpay.errors import InvariantViolated
from agentpay.records import (
    AnswerRecord,
    Owed,
    PayeeDecide,
    PayeeRecord,
    PayeeStep,
    PaymentRecord,
    PaymentStatus,
    SentTransaction,
)
from agentpay.stores.rows.answers import forget_answer, save_answer
from agentpay.stores.rows.channel_steps import ChannelSteps
from agentpay.stores.rows.payee import (
    forget_payment,
    save_cursor,
    save_mark,
    save_payment,
)
from agentpay.stores.rows.sending import forget_sent, save_sent, take_over
from agentpay.stores.sqlite import payee_rows, payment_rows
from agentpay.stores.sqlite.cache import Cache, Entry
from agentpay.stores.sqlite.writer import Writer
from agentpay.stores.steps import buried, check_payee_step, finished, may_take
from agentpay.types import Address, ChainId, Hash32

T = TypeVar("T")


class SqlitePayeeStore:
    """What a payee remembers. Made by `SqliteStore`."""

    def __init__(
        self, writer: Writer, *, cached: int, close: Callable[[], Awaitable[None]]
    ) -> None:
        self._owner = token_hex(16)
        self._writer = writer
        self._close = close
        self._channels: Cache[Hash32, PayeeRecord | None] = Cache(
            writer, payee_rows.load_channel, capacity=cached
        )
        self._payments: Cache[str, PaymentRecord | None] = Cache(
            writer, payment_rows.load_payment, capacity=cached
        )
        self._cursors: Cache[str, int] = Cache(
            writer, payee_rows.load_cursor, capacity=cached
        )
        self._marks: Cache[str, int] = Cache(
            writer, payee_rows.load_mark, capacity=cached
        )

    @property
    def owner(self) -> str:
        return self._owner

    async def update(
        self, channel: Hash32, decide: PayeeDecide[T], *, durable: bool = True
    ) -> T:
        """
        Decide on the record in memory and queue the write; no other step comes between.

        With `durable`, even an answer that changes nothing waits for what it was
        decided on: that must not be undone by a crash either.
        """
        entry = self._channels.peek(channel) or await self._channels.entry(channel)
        before = entry.record
        step = decide(before)
        check_payee_step(channel, before, step.record)
        if step.record is not None and step.record is not before:
            steps = self._writer.steps(channel)
            if not isinstance(steps, ChannelSteps):
                steps = ChannelSteps(before)
            steps.add(before, step.record, step.touched)
            group = self._channels.save_steps(channel, entry, step.record, steps)
            if step.kept is not None:
                group.batch.add(save_answer(step.kept))
            if step.unsaved is not None and not durable:
                group.unsaved.append(step.unsaved)
        if durable:
            await self._writer.wait(entry.group)
        return step.answer

    async def read(self, channel: Hash32) -> PayeeRecord | None:
        """What is durable; waits for a step that is being saved."""
        return await self.update(channel, _as_it_is)

    async def claimable(
        self, *, sessions: bool, at_least: int, limit: int
    ) -> list[PayeeRecord]:
        """A channel with nothing unclaimed is never among them."""
        await self._writer.drain()
        wanted = max(1, at_least)
        found = await self._writer.read(
            partial(
                payee_rows.list_claimable,
                sessions=sessions,
                at_least=wanted,
                limit=limit,
            )
        )
        records = [
            r for r in await self._read_all(found) if r.ledger.unclaimed >= wanted
        ]
        return sorted(records, key=lambda r: (-r.ledger.unclaimed, r.channel))

    async def owed(self, *, limit: int) -> Owed:
        """Rows are added up, and no record of a channel is made for it."""
        await self._writer.drain()
        return await self._writer.read(partial(payee_rows.add_up_owed, limit=limit))

    async def closing(self, *, sessions: bool, limit: int) -> list[PayeeRecord]:
        """Those whose last voucher is the oldest first."""
        await self._writer.drain()
        found = await self._writer.read(
            partial(payee_rows.list_closing, sessions=sessions, limit=limit)
        )
        records = await self._read_all(found)
        return [r for r in records if r.ledger.is_ending]

    async def left_behind(self, *, limit: int) -> list[PayeeRecord]:
        """See `PayeeStore.left_behind`."""
        await self._writer.drain()
        found = await self._writer.read(
            partial(payee_rows.list_left_behind, owner=self.owner, limit=limit)
        )
        records = await self._read_all(found)
        return [r for r in records if r.ledger.has_dead(self.owner)]

    async def seen_since(self, chain: ChainId, moment: int) -> list[Hash32]:
        """See `PayeeStore.seen_since`."""
        await self._writer.drain()
        return await self._writer.read(
            partial(payee_rows.list_seen, chain=chain, moment=moment)
        )

    async def begin_payment(self, payment: PaymentRecord) -> PaymentRecord:
        """Returns `payment` itself (`is`) to the one caller whose record it became."""
        entry = await self._payments.entry(payment.id)
        recorded = entry.record
        if recorded is None:
            recorded = payment
            self._save_payment(entry, payment)
        await self._writer.wait(entry.group)
        return recorded

    async def find_payment(self, payment_id: str) -> PaymentRecord | None:
        """See `PayeeStore.find_payment`."""
        entry = await self._payments.entry(payment_id)
        await self._writer.wait(entry.group)
        return entry.record

    async def finish_payment(
        self,
        payment_id: str,
        *,
        owner: str,
        status: PaymentStatus,
        transaction: str,
        charged: int,
    ) -> bool:
        entry = await self._payments.entry(payment_id)
        if entry.record is None:
            raise InvariantViolated(f"payment {payment_id} ends and never began")
        done = finished(
            entry.record,
            owner=owner,
            status=status,
            transaction=transaction,
            charged=charged,
        )
        if done is not None:
            self._save_payment(entry, done)
        await self._writer.wait(entry.group)
        return done is not None

    async def take_payment(self, payment_id: str, *, owner: str) -> bool:
        entry = await self._payments.entry(payment_id)
        payment = entry.record
        taken = payment is not None and may_take(payment, owner)
        if payment is not None and taken:
            self._save_payment(entry, replace(payment, owner=owner))
        await self._writer.wait(entry.group)
        return taken

    async def drop_payment(self, payment_id: str, *, owner: str) -> None:
        entry = await self._payments.entry(payment_id)
        if entry.record is not None and entry.record.owner == owner:
            self._payments.save(entry, None, forget_payment(payment_id))

    async def served_payments(self, *, limit: int) -> list[PaymentRecord]:
        await self._writer.drain()
        found = await self._writer.read(partial(payment_rows.list_served, limit=limit))
        records = [await self.find_payment(payment_id) for payment_id in found]
        return [r for r in records if r and r.status is PaymentStatus.SERVED]

    async def bury_payments(self, *, begun_until: int) -> None:
        await self._writer.drain()
        for payment_id in await self._writer.read(payment_rows.list_answering):
            entry = await self._payments.entry(payment_id)
            payment = entry.record
            served = payment and buried(payment, self.owner, begun_until)
            if served:
                self._save_payment(entry, served)
                await self._writer.wait(entry.group)

    async def sweep_payments(self, *, now: int) -> None:
        """What is past is not asked for: stale copies in memory do no harm."""
        await self._writer.drain()
        await self._writer.read(partial(payment_rows.sweep_payments, now=now))

    async def keep_answer(self, answer: AnswerRecord, *, durable: bool) -> None:
        group = self._writer.submit(save_answer(answer))
        if durable:
            await self._writer.wait(group)

    async def find_answer(self, key: str) -> AnswerRecord | None:
        await self._writer.drain()
        return await self._writer.read(partial(payee_rows.load_answer, key=key))

    async def drop_answer(self, key: str) -> None:
        self._writer.submit(forget_answer(key))

    async def sweep_answers(self, *, now: int, bytes_total: int) -> None:
        """Those that would be kept the longest stay."""
        await self._writer.drain()
        await self._writer.read(
            partial(payee_rows.sweep_answers, now=now, bytes_total=bytes_total)
        )

    async def set_mark(self, name: str, *, until: int) -> None:
        entry = await self._marks.entry(name)
        self._marks.save(entry, until, save_mark(name, until))
        await self._writer.wait(entry.group)

    async def take_mark(self, name: str, *, until: int, now: int) -> bool:
        entry = await self._marks.entry(name)
        free = entry.record <= now
        if free:
            self._marks.save(entry, until, save_mark(name, until))
        await self._writer.wait(entry.group)
        return free

    async def read_mark(self, name: str) -> int:
        entry = await self._marks.entry(name)
        until = entry.record
        await self._writer.wait(entry.group)
        return until

    async def sweep_marks(self, *, now: int) -> None:
        """What is past counts as forgotten: stale copies in memory do no harm."""
        await self._writer.drain()
        await self._writer.read(partial(payee_rows.sweep_marks, now=now))

    async def lead(self, name: str) -> bool:
        """One process owns the file."""
        del name
        return True

    async def read_cursor(self, name: str) -> int:
        entry = await self._cursors.entry(name)
        position = entry.record
        await self._writer.wait(entry.group)
        return position

    async def write_cursor(self, name: str, position: int) -> None:
        entry = await self._cursors.entry(name)
        self._cursors.save(entry, position, save_cursor(name, position))
        await self._writer.wait(entry.group)

    async def keep_sent(self, sent: SentTransaction) -> None:
        changes = save_sent(sent, self._owner)
        await self._writer.wait(self._writer.submit(changes))

    async def forget_sent(
        self, chain: ChainId, account: Address, nonce: int, *, durable: bool
    ) -> None:
        changes = forget_sent(chain, account, nonce, self._owner)
        group = self._writer.submit(changes)
        if durable:
            await self._writer.wait(group)

    async def list_sent(
        self, chain: ChainId, account: Address
    ) -> list[SentTransaction]:
        """One process owns the file: whoever else wrote into it is dead."""
        await self._writer.drain()
        find = partial(payee_rows.load_sent, chain=chain, account=account)
        sent, changes = take_over(await self._writer.read(find), self._owner)
        if changes:
            await self._writer.wait(self._writer.submit(changes))
        return sent

    async def close(self) -> None:
        """Close the whole store; see `SqliteStore.close`."""
        await self._close()

    def _save_payment(
        self, entry: Entry[PaymentRecord | None], payment: PaymentRecord
    ) -> None:
        self._payments.save(entry, payment, save_payment(payment))

    async def _read_all(self, channels: list[Hash32]) -> list[PayeeRecord]:
        records = [await self.read(channel) for channel in channels]
        return [record for record in records if record is not None]


def _as_it_is(record: PayeeRecord | None) -> PayeeStep[PayeeRecord | None]:
    return PayeeStep(record=record, answer=record)
