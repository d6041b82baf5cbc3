"""A payee's view of a PostgreSQL store: `PayeeStore` over the lane of its process."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
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
from agentpay.stores.postgres import listing
from agentpay.stores.postgres.connection import Connection, from_columns
from agentpay.stores.postgres.lane import Desk, Lane, Query, Step
from agentpay.stores.postgres.reading import rows_of
from agentpay.stores.postgres.session import Session
from agentpay.stores.postgres.shelves import (
    ChannelShelf,
    NumberShelf,
    PaymentShelf,
    SentKey,
    SentShelf,
)
from agentpay.stores.rows import payee as rows
from agentpay.stores.rows.answers import (
    ANSWERS,
    forget_answer,
    save_answer,
    to_answer,
)
from agentpay.stores.rows.columns import Row
from agentpay.stores.rows.sending import changed, forget_sent, save_sent, take_over
from agentpay.stores.rows.tables import Change
from agentpay.stores.steps import buried, check_payee_step, finished, may_take
from agentpay.types import Address, ChainId, Hash32

T = TypeVar("T")


class PostgresPayeeStore:
    """What payees remember, whichever process they are. Made by `PostgresStore`."""

    def __init__(
        self,
        lane: Lane,
        session: Session,
        *,
        cached: int,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._lane = lane
        self._session = session
        self._close = close
        self._channels = ChannelShelf(cached=cached)
        self._payments = PaymentShelf()
        self._marks = NumberShelf(rows.MARKS)
        self._cursors = NumberShelf(rows.CURSORS)
        self._sent = SentShelf()

    @property
    def owner(self) -> str:
        return self._session.owner

    async def update(
        self, channel: Hash32, decide: PayeeDecide[T], *, durable: bool = True
    ) -> T:
        """Decide while the channel is locked; no step of any process comes between."""
        del durable  # what is decided is saved before it is told

        def step(desk: Desk) -> T:
            before = desk.get(self._channels, channel)
            decided = decide(before)
            after = decided.record
            check_payee_step(channel, before, after)
            if after is not None and after is not before:
                saved = rows.save_channel(before, after, decided.touched)
                if decided.kept is not None:
                    saved += save_answer(decided.kept)
                desk.put(self._channels, channel, after, saved)
            return decided.answer

        return await self._lane.carry_out(Step(step, ((self._channels, channel),)))

    async def read(self, channel: Hash32) -> PayeeRecord | None:
        return await self.update(channel, _as_it_is)

    async def claimable(
        self, *, sessions: bool, at_least: int, limit: int
    ) -> list[PayeeRecord]:
        """A channel with nothing unclaimed is never among them."""
        wanted = max(1, at_least)
        found = await self._find(listing.claimable(sessions=sessions), wanted, limit)
        records = [r for r in found if r.ledger.unclaimed >= wanted]
        return sorted(records, key=lambda r: (-r.ledger.unclaimed, r.channel))

    async def owed(self, *, limit: int) -> Owed:
        """Nothing is locked for it."""

        async def find(connection: Connection) -> Owed:
            (amount, channels, since), *_ = await connection.fetch(listing.OWED, limit)
            return Owed(amount=amount, channels=channels, since=since)

        return await self._lane.carry_out(Query(find))

    async def closing(self, *, sessions: bool, limit: int) -> list[PayeeRecord]:
        """Those whose last voucher is the oldest first."""
        found = await self._find(listing.closing(sessions=sessions), limit)
        return [r for r in found if r.ledger.is_ending]

    async def left_behind(self, *, limit: int) -> list[PayeeRecord]:
        """See `PayeeStore.left_behind`; what the living are at is passed over."""
        found = await self._find(
            "SELECT DISTINCT channel FROM payee_running WHERE owner <> $1", self.owner
        )
        return [r for r in found if r.ledger.has_dead(self.owner)][:limit]

    async def seen_since(self, chain: ChainId, moment: int) -> list[Hash32]:
        """See `PayeeStore.seen_since`."""
        return await self._find_channels(
            "SELECT channel FROM payee_channels WHERE chain = $1"
            " AND chain_seen_at >= $2",
            chain,
            moment,
        )

    async def begin_payment(self, payment: PaymentRecord) -> PaymentRecord:
        """Returns `payment` itself (`is`) to the one caller whose record it became."""

        def begin(desk: Desk) -> PaymentRecord:
            recorded = desk.get(self._payments, payment.id)
            if recorded is not None:
                return recorded
            desk.put(self._payments, payment.id, payment, rows.save_payment(payment))
            return payment

        return await self._on_payment(payment.id, begin)

    async def find_payment(self, payment_id: str) -> PaymentRecord | None:
        """See `PayeeStore.find_payment`."""
        return await self._on_payment(
            payment_id, lambda desk: desk.get(self._payments, payment_id)
        )

    async def finish_payment(
        self,
        payment_id: str,
        *,
        owner: str,
        status: PaymentStatus,
        transaction: str,
        charged: int,
    ) -> bool:
        def finish(desk: Desk) -> bool:
            payment = desk.get(self._payments, payment_id)
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
                desk.put(self._payments, payment_id, done, rows.save_payment(done))
            return done is not None

        return await self._on_payment(payment_id, finish)

    async def take_payment(self, payment_id: str, *, owner: str) -> bool:
        """False also while its owner lives."""

        def take(desk: Desk) -> bool:
            payment = desk.get(self._payments, payment_id)
            if payment is None or not may_take(payment, owner, desk.living):
                return False
            taken = replace(payment, owner=owner)
            desk.put(self._payments, payment_id, taken, rows.save_payment(taken))
            return True

        return await self._on_payment(payment_id, take)

    async def drop_payment(self, payment_id: str, *, owner: str) -> None:
        def drop(desk: Desk) -> None:
            payment = desk.get(self._payments, payment_id)
            if payment is not None and payment.owner == owner:
                changes = rows.forget_payment(payment_id)
                desk.put(self._payments, payment_id, None, changes)

        self._lane.add(Step(drop, ((self._payments, payment_id),)))

    async def served_payments(self, *, limit: int) -> list[PaymentRecord]:
        found = await self._find_payments(
            "SELECT id FROM payments WHERE status = 'served'"
            " ORDER BY started_at, id LIMIT $1",
            limit,
        )
        records = await asyncio.gather(*map(self.find_payment, found))
        return [r for r in records if r and r.status is PaymentStatus.SERVED]

    async def bury_payments(self, *, begun_until: int) -> None:
        """What the living are at is passed over."""

        def bury(desk: Desk, payment_id: str) -> None:
            payment = desk.get(self._payments, payment_id)
            served = payment and buried(payment, self.owner, begun_until, desk.living)
            if served:
                desk.put(self._payments, payment_id, served, rows.save_payment(served))

        found = await self._find_payments(
            "SELECT id FROM payments WHERE status = 'answering' AND owner <> $1",
            self.owner,
        )
        steps = (
            self._on_payment(each, partial(bury, payment_id=each)) for each in found
        )
        await asyncio.gather(*steps)

    async def sweep_payments(self, *, now: int) -> None:
        await self._execute(
            "DELETE FROM payments WHERE status IN ('delivered', 'failed')"
            " AND good_until > 0 AND good_until < $1",
            now,
        )

    async def keep_answer(self, answer: AnswerRecord, *, durable: bool) -> None:
        saved = self._lane.add(_writes(save_answer(answer)))
        if durable:
            await asyncio.shield(saved)

    async def find_answer(self, key: str) -> AnswerRecord | None:
        async def find(connection: Connection) -> list[Row]:
            return (await rows_of(connection, ANSWERS, [(key,)]))[key,]

        found = await self._lane.carry_out(Query(find))
        return to_answer(found[0]) if found else None

    async def drop_answer(self, key: str) -> None:
        self._lane.add(_writes(forget_answer(key)))

    async def sweep_answers(self, *, now: int, bytes_total: int) -> None:
        """Those that would be kept the longest stay."""
        await self._execute(
            "DELETE FROM answers WHERE key IN (SELECT key FROM"
            " (SELECT key, kept_until, sum(size) OVER"
            " (ORDER BY kept_until DESC, position DESC ROWS UNBOUNDED PRECEDING)"
            " AS kept FROM answers) AS aged"
            " WHERE kept_until <= $1 OR kept > $2)",
            now,
            bytes_total,
        )

    async def set_mark(self, name: str, *, until: int) -> None:
        saving = rows.save_mark(name, until)
        await self._write_number(self._marks, name, until, saving)

    async def take_mark(self, name: str, *, until: int, now: int) -> bool:
        def take(desk: Desk) -> bool:
            if desk.get(self._marks, name) > now:
                return False
            desk.put(self._marks, name, until, rows.save_mark(name, until))
            return True

        return await self._lane.carry_out(Step(take, ((self._marks, name),)))

    async def read_mark(self, name: str) -> int:
        return await self._read_number(self._marks, name)

    async def sweep_marks(self, *, now: int) -> None:
        """What is past counts as forgotten."""
        await self._execute("DELETE FROM marks WHERE until <= $1", now)

    async def lead(self, name: str) -> bool:
        """Its session holds an advisory lock, so that another can when it is gone."""

        async def lead(connection: Connection) -> bool:
            return await self._session.lead(connection, name)

        return await self._lane.carry_out(Query(lead))

    async def read_cursor(self, name: str) -> int:
        return await self._read_number(self._cursors, name)

    async def write_cursor(self, name: str, position: int) -> None:
        await self._write_number(
            self._cursors, name, position, rows.save_cursor(name, position)
        )

    async def keep_sent(self, sent: SentTransaction) -> None:
        step = self._sends((sent.chain, sent.account), save_sent(sent, self.owner))
        await self._lane.carry_out(step)

    async def forget_sent(
        self, chain: ChainId, account: Address, nonce: int, *, durable: bool
    ) -> None:
        changes = forget_sent(chain, account, nonce, self.owner)
        forgotten = self._lane.add(self._sends((chain, account), changes))
        if durable:
            await asyncio.shield(forgotten)

    async def list_sent(
        self, chain: ChainId, account: Address
    ) -> list[SentTransaction]:
        """What a living owner sent is its own."""
        key = chain, account

        def take(desk: Desk) -> list[SentTransaction]:
            found = desk.get(self._sent, key)
            sent, changes = take_over(found, self.owner, desk.living)
            desk.put(self._sent, key, changed(found, changes), changes)
            return sent

        return await self._lane.carry_out(Step(take, ((self._sent, key),)))

    async def close(self) -> None:
        """Close the whole store; see `PostgresStore.close`."""
        await self._close()

    def _sends(self, key: SentKey, changes: list[Change]) -> Step[None]:
        """A step on what is in flight, which the next one sees."""

        def send(desk: Desk) -> None:
            before: tuple[Row, ...] = desk.get(self._sent, key)
            desk.put(self._sent, key, changed(before, changes), changes)

        return Step(send, ((self._sent, key),))

    async def _on_payment(self, payment_id: str, decide: Callable[[Desk], T]) -> T:
        needs = ((self._payments, payment_id),)
        return await self._lane.carry_out(Step(decide, needs))

    async def _find_payments(self, query: str, *arguments: object) -> list[str]:
        async def find(connection: Connection) -> list[str]:
            found = await connection.fetch(query, *arguments)
            return [str(from_columns(row, ("text",))[0]) for row in found]

        return await self._lane.carry_out(Query(find))

    async def _read_number(self, shelf: NumberShelf, name: str) -> int:
        step = Step(lambda desk: desk.get(shelf, name), ((shelf, name),))
        return await self._lane.carry_out(step)

    async def _write_number(
        self, shelf: NumberShelf, name: str, number: int, saving: list[Change]
    ) -> None:
        step = Step(
            lambda desk: desk.put(shelf, name, number, saving), ((shelf, name),)
        )
        await self._lane.carry_out(step)

    async def _execute(self, query: str, *arguments: object) -> None:
        async def execute(connection: Connection) -> None:
            await connection.execute(query, *arguments)

        await self._lane.carry_out(Query(execute))

    async def _find(self, query: str, *arguments: object) -> list[PayeeRecord]:
        """The channels that a query names, in its order, as they are by then."""
        channels = await self._find_channels(query, *arguments)
        records = await asyncio.gather(*map(self.read, channels))
        return [record for record in records if record is not None]

    async def _find_channels(self, query: str, *arguments: object) -> list[Hash32]:
        async def find(connection: Connection) -> list[Hash32]:
            return [Hash32.of(r[0]) for r in await connection.fetch(query, *arguments)]

        return await self._lane.carry_out(Query(find))


def _writes(changes: Iterable[Change]) -> Step[None]:
    """A step that decides nothing."""
    return Step(lambda desk: desk.batch.add(changes))


def _as_it_is(record: PayeeRecord | None) -> PayeeStep[PayeeRecord | None]:
    return PayeeStep(record=record, answer=record)
