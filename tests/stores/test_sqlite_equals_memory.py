"""A SQLite store does what the memory store does, and loads what it saved."""

import asyncio
import sqlite3
import tempfile
from collections.abc import Coroutine
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from agentpay.core.budget import BudgetEvent
from agentpay.core.payee_channel import HeldVoucher
from agentpay.core.payer_session_rules import PayerSessionEvent
from agentpay.core.session_rules import SessionEvent
from agentpay.errors import (
    AgentPayError,
    InvariantViolated,
    StoreUnavailable,
)
from agentpay.records import PaymentStatus
from agentpay.stores import MemoryStore, SqliteStore, Store
from agentpay.stores.sqlite.payee_rows import pack_held, unpack_held
from agentpay.stores.sqlite.rows import changes
from agentpay.types import Hash32
from tests.stores.store_cases import (
    ACCOUNT,
    LARGE,
    LIMITS,
    books,
    budget_events,
    channel,
    happens,
    payee_record,
    payer_events,
    payer_record,
    payment,
    session_events,
)

T = TypeVar("T")

IN_MEMORY = next((d for d in ["/dev/shm"] if Path(d).is_dir()), None)  # noqa: S108
"""Thousands of commits, and none of these tests is about the disk."""

NUMBERS = range(6)
TAGGED = {number: number not in (0, 4) for number in NUMBERS}
SESSIONS = {number: number >= 4 for number in NUMBERS}
DURABLE = st.sampled_from([True, True, False])


async def outcome(step: Coroutine[object, object, T]) -> T | str:
    """What a step answered, or which error it raised."""
    try:
        return await step
    except (AgentPayError, InvariantViolated) as error:
        return type(error).__name__


async def payee_step(
    store: Store,
    number: int,
    event: SessionEvent,
    *,
    scale: int = 1,
    durable: bool = True,
) -> object:
    fresh = payee_record(
        number,
        tagged=TAGGED[number],
        session=SESSIONS[number],
        balance=40 * scale,
    )
    decide = happens(event, fresh, now=getattr(event, "cumulative", 0))
    step = store.payee.update(fresh.channel, decide, durable=durable)
    return await outcome(step)


async def payer_step(
    store: Store,
    number: int | None,
    event: PayerSessionEvent | None,
    spending: BudgetEvent | None,
    *,
    durable: bool = True,
) -> object:
    at = number or 0
    fresh = payer_record(at, tagged=TAGGED[at], session=SESSIONS[at])
    decide = books(event if number is not None else None, spending, LIMITS, fresh)
    key = None if number is None else fresh.channel
    return await outcome(store.payer.update(ACCOUNT, key, decide, durable=durable))


numbers = st.sampled_from(NUMBERS)


def id_of(number: int) -> Hash32:
    return channel(number, tagged=TAGGED[number], session=SESSIONS[number])


@settings(max_examples=50, deadline=None)
@given(
    scale=st.sampled_from([1, LARGE]),
    data=st.data(),
)
def test_a_payees_record_is_loaded_as_it_was_saved(
    scale: int, data: st.DataObject
) -> None:
    steps = st.tuples(numbers, session_events(scale), DURABLE)
    events = data.draw(st.lists(steps, max_size=40))

    async def scenario(path: Path) -> None:
        async with await SqliteStore.open(path) as store:
            for number, event, durable in events:
                await payee_step(store, number, event, scale=scale, durable=durable)
            ids = [id_of(n) for n in NUMBERS]
            saved = [await store.payee.read(i) for i in ids]
        async with await SqliteStore.open(path) as store:
            assert [await store.payee.read(i) for i in ids] == saved

    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        asyncio.run(scenario(Path(directory) / "store.db"))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.none() | numbers,
            st.none() | payer_events(),
            st.none() | budget_events(),
            DURABLE,
        ),
        max_size=40,
    )
)
def test_a_payers_records_are_loaded_as_they_were_saved(
    steps: list[tuple[int | None, PayerSessionEvent | None, BudgetEvent | None, bool]],
) -> None:
    async def scenario(path: Path) -> None:
        async with await SqliteStore.open(path) as store:
            for number, event, spending, durable in steps:
                await payer_step(store, number, event, spending, durable=durable)
            budget = await store.payer.budget(ACCOUNT)
            channels = await store.payer.channels(ACCOUNT)
        async with await SqliteStore.open(path) as store:
            assert await store.payer.budget(ACCOUNT) == budget
            assert await store.payer.channels(ACCOUNT) == channels

    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        asyncio.run(scenario(Path(directory) / "store.db"))


@given(
    st.lists(
        st.builds(
            HeldVoucher,
            amount=st.integers(0, 2**256 - 1),
            signature=st.binary(max_size=300),
        )
    )
)
def test_held_vouchers_are_unpacked_as_they_were_packed(
    held: list[HeldVoucher],
) -> None:
    assert unpack_held(pack_held(tuple(held))) == tuple(held)


rows = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 3)), unique_by=lambda r: r[0]
)


@given(rows, rows)
def test_changed_rows_keep_the_order_of_the_sequence(
    before: list[tuple[int, int]], after: list[tuple[int, int]]
) -> None:
    removed, put = changes(before, after, lambda row: row[0])
    table = dict(before)
    for row in removed:
        del table[row[0]]
    table.update(put)

    assert list(table.items()) == after


class StoresAgree(RuleBasedStateMachine):
    """The same steps on a memory store and on a SQLite store that is often reopened."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory(dir=IN_MEMORY)
        self.path = Path(self.directory.name) / "store.db"
        self.memory = MemoryStore()
        self.cached = 2

    def run(self, step: Coroutine[object, object, T]) -> T:
        return self.loop.run_until_complete(step)

    @initialize(cached=st.sampled_from([1, 2, 100]))
    def open(self, cached: int) -> None:
        self.cached = cached
        opening = SqliteStore.open(self.path, cached=cached, lock_wait_seconds=0)
        self.sqlite = self.run(opening)

    @rule()
    def reopen(self) -> None:
        self.run(self.sqlite.close())
        self.open(self.cached)

    @rule(number=numbers, event=session_events(), durable=DURABLE)
    def payee(self, number: int, event: SessionEvent, durable: bool) -> None:
        expected = self.run(payee_step(self.memory, number, event))
        found = self.run(payee_step(self.sqlite, number, event, durable=durable))
        assert found == expected

    @rule(steps=st.lists(st.tuples(numbers, session_events(), DURABLE), max_size=12))
    def payee_at_once(self, steps: list[tuple[int, SessionEvent, bool]]) -> None:
        """Each channel at most once, so that the order does not matter."""
        once = {number: (event, durable) for number, event, durable in steps}

        async def all_at_once(store: Store) -> list[object]:
            return await asyncio.gather(
                *(payee_step(store, n, e, durable=d) for n, (e, d) in once.items())
            )

        expected = self.run(all_at_once(self.memory))
        assert self.run(all_at_once(self.sqlite)) == expected

    @rule(number=numbers, event=session_events())
    def payee_while_locked(self, number: int, event: SessionEvent) -> None:
        """Another program holds the database: a step that changes something fails."""
        self.run(self.sqlite._writer.drain())
        key = id_of(number)
        before = self.run(self.sqlite.payee.read(key))
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            found = self.run(payee_step(self.sqlite, number, event))
            other.execute("ROLLBACK")
        if found != StoreUnavailable.__name__:
            assert self.run(payee_step(self.memory, number, event)) == found
        assert self.run(self.sqlite.payee.read(key)) == before

    @rule(
        number=st.none() | numbers,
        event=st.none() | payer_events(),
        spending=st.none() | budget_events(),
        durable=DURABLE,
    )
    def payer(
        self,
        number: int | None,
        event: PayerSessionEvent | None,
        spending: BudgetEvent | None,
        durable: bool,
    ) -> None:
        expected = self.run(payer_step(self.memory, number, event, spending))
        step = payer_step(self.sqlite, number, event, spending, durable=durable)
        assert self.run(step) == expected

    @rule(payment_id=st.sampled_from("abc"), owner=st.sampled_from(["us", "them"]))
    def begin(self, payment_id: str, owner: str) -> None:
        one = payment(payment_id, owner=owner)
        expected = self.run(self.memory.payee.begin_payment(one))
        found = self.run(self.sqlite.payee.begin_payment(one))
        assert found == expected
        assert (found is one) == (expected is one)

    @rule(
        payment_id=st.sampled_from("abc"), status=st.sampled_from(list(PaymentStatus))
    )
    def finish(self, payment_id: str, status: PaymentStatus) -> None:
        outcomes = [
            self.run(
                outcome(
                    store.payee.finish_payment(
                        payment_id, status=status, transaction="0x1", charged=7
                    )
                )
            )
            for store in (self.memory, self.sqlite)
        ]
        assert outcomes[0] == outcomes[1]

    @rule(payment_id=st.sampled_from("abc"), owner=st.sampled_from(["us", "them"]))
    def take(self, payment_id: str, owner: str) -> None:
        expected = self.run(self.memory.payee.take_payment(payment_id, owner=owner))
        found = self.run(self.sqlite.payee.take_payment(payment_id, owner=owner))
        assert found == expected

    @rule(name=st.sampled_from("xy"), position=st.integers(0, 2**40))
    def move_cursor(self, name: str, position: int) -> None:
        for store in (self.memory, self.sqlite):
            self.run(store.payee.write_cursor(name, position))

    @rule(at_least=st.integers(0, 20), limit=st.integers(0, 5), sessions=st.booleans())
    def claimable(self, at_least: int, limit: int, sessions: bool) -> None:
        found, expected = (
            self.run(
                store.payee.claimable(sessions=sessions, at_least=at_least, limit=limit)
            )
            for store in (self.sqlite, self.memory)
        )
        assert found == expected
        assert all(record.ledger.pays_whole == sessions for record in found)

    @rule(limit=st.integers(0, 5), sessions=st.booleans())
    def closing(self, limit: int, sessions: bool) -> None:
        found, expected = (
            self.run(store.payee.closing(sessions=sessions, limit=limit))
            for store in (self.sqlite, self.memory)
        )
        assert found == expected
        assert all(record.ledger.pays_whole == sessions for record in found)

    @rule(name=st.sampled_from("xy"))
    def read_cursor(self, name: str) -> None:
        expected = self.run(self.memory.payee.read_cursor(name))
        assert self.run(self.sqlite.payee.read_cursor(name)) == expected

    @rule()
    def read_payer(self) -> None:
        for name in ("budget", "channels"):
            expected = self.run(getattr(self.memory.payer, name)(ACCOUNT))
            assert self.run(getattr(self.sqlite.payer, name)(ACCOUNT)) == expected

    @invariant()
    def channels_are_the_same(self) -> None:
        if not hasattr(self, "sqlite"):
            return
        for number in NUMBERS:
            key = id_of(number)
            expected = self.run(self.memory.payee.read(key))
            assert self.run(self.sqlite.payee.read(key)) == expected

    def teardown(self) -> None:
        if hasattr(self, "sqlite"):
            self.run(self.sqlite.close())
        self.loop.close()
        self.directory.cleanup()


TestStoresAgree = StoresAgree.TestCase
TestStoresAgree.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
