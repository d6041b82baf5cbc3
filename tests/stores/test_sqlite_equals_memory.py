"""A SQLite store does what the memory store does, and loads what it saved."""

import asyncio
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from agentpay.core.budget import BudgetEvent
from agentpay.core.payee_channel import HeldVoucher
from agentpay.core.payer_session_rules import PayerSessionEvent
from agentpay.core.session_rules import SessionEvent
from agentpay.errors import StoreUnavailable
from agentpay.stores import SqliteStore
from agentpay.stores.rows.columns import changes
from agentpay.stores.rows.payee import pack_held, unpack_held
from tests.stores.store_cases import (
    ACCOUNT,
    LARGE,
    budget_events,
    payer_events,
    session_events,
)
from tests.stores.store_machine import (
    DURABLE,
    NUMBERS,
    StoresAgree,
    id_of,
    numbers,
    payee_step,
    payer_step,
)

IN_MEMORY = next((d for d in ["/dev/shm"] if Path(d).is_dir()), None)  # noqa: S108
"""Thousands of commits, and none of these tests is about the disk."""


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


class SqliteAgrees(StoresAgree):
    """A SQLite store whose cache is often too small, and whose file others lock."""

    kept: SqliteStore

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(dir=IN_MEMORY)
        self.path = Path(self.directory.name) / "store.db"

    async def opening(self, cached: int) -> SqliteStore:
        return await SqliteStore.open(self.path, cached=cached, lock_wait_seconds=0)

    @rule(number=numbers, event=session_events())
    def payee_while_locked(self, number: int, event: SessionEvent) -> None:
        """Another program holds the database: a step that changes something fails."""
        self.run(self.kept._writer.drain())
        key = id_of(number)
        before = self.run(self.kept.payee.read(key))
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            found = self.run(payee_step(self.kept, number, event))
            other.execute("ROLLBACK")
        if found != StoreUnavailable.__name__:
            assert self.run(payee_step(self.memory, number, event)) == found
        assert self.run(self.kept.payee.read(key)) == before

    def teardown(self) -> None:
        super().teardown()
        self.directory.cleanup()


TestSqliteAgrees = SqliteAgrees.TestCase
TestSqliteAgrees.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
