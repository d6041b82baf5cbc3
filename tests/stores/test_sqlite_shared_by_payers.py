"""Payers in several processes share one SQLite file, and nobody else does with them."""

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentpay.core.budget import Budget, BudgetEvent
from agentpay.core.payer_channel import PayerEvent
from agentpay.errors import ConfigurationError, StoreInUse, StoreNewer, StoreUnavailable
from agentpay.records import PayerRecord, PayerStep
from agentpay.stores import MemoryStore, SqliteStore
from agentpay.stores.sqlite.shared import LINGER_SECONDS, SharedSqliteStore
from tests.stores.store_cases import ACCOUNT, budget_events, payer_events, payer_record
from tests.stores.store_machine import NUMBERS, numbers, payer_step
from tests.stores.test_sqlite_equals_memory import IN_MEMORY

CHANNEL = payer_record().channel


def begin(budget: Budget, record: PayerRecord | None) -> PayerStep[None]:
    assert record is None
    return PayerStep(budget=budget, record=payer_record(), answer=None)


def spend(budget: Budget, record: PayerRecord | None) -> PayerStep[int]:
    """Spend one; says what was spent before."""
    assert record is not None
    spent = record.ledger.spent
    after = replace(record, ledger=replace(record.ledger, spent=spent + 1))
    return PayerStep(budget=budget, record=after, answer=spent)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1]),
            st.none() | numbers,
            st.none() | payer_events(),
            st.none() | budget_events(),
            st.booleans(),
        ),
        max_size=30,
    ),
    st.sampled_from([1, 1024]),
)
def test_two_that_share_a_file_do_what_one_in_memory_does(
    steps: list[tuple[int, int | None, PayerEvent | None, BudgetEvent | None, bool]],
    cached: int,
) -> None:
    async def scenario(path: Path) -> None:
        memory = MemoryStore()
        async with (
            await SqliteStore.open_shared(path, cached=cached) as one,
            await SqliteStore.open_shared(path, cached=cached) as other,
        ):
            last = one
            for which, number, event, spending, durable in steps:
                store = (one, other)[which]
                if store is not last:  # what it told is saved now
                    await last.payer.budget(ACCOUNT)
                last = store
                found = await payer_step(
                    store, number, event, spending, durable=durable
                )
                assert found == await payer_step(memory, number, event, spending)
            for kept in (last, one, other):
                budget = await kept.payer.budget(ACCOUNT)
                assert budget == await memory.payer.budget(ACCOUNT)
                channels = await kept.payer.channels(ACCOUNT)
                assert channels == await memory.payer.channels(ACCOUNT)
                assert len(channels) <= len(NUMBERS)

    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        asyncio.run(scenario(Path(directory) / "store.db"))


async def test_several_may_make_the_file_at_once(path: Path) -> None:
    opening = (SqliteStore.open_shared(path) for _ in range(8))
    stores = await asyncio.gather(*opening)
    for store in stores:
        await store.close()

    async with await SqliteStore.open(path) as alone:
        assert await alone.payer.channels(ACCOUNT) == []


async def test_a_file_that_payers_share_has_no_payee(path: Path) -> None:
    async with await SqliteStore.open_shared(path) as store:
        with pytest.raises(ConfigurationError, match="PostgreSQL"):
            store.payee  # noqa: B018 - it raises
        with pytest.raises(StoreInUse, match=f"process {os.getpid()}"):
            await SqliteStore.open(path)


async def test_a_file_that_one_process_owns_is_not_shared(path: Path) -> None:
    async with await SqliteStore.open(path):
        with pytest.raises(StoreInUse):
            await SqliteStore.open_shared(path, lock_wait_seconds=0)


async def test_while_another_program_locks_the_file_nothing_is_saved(
    path: Path,
) -> None:
    async with await SqliteStore.open_shared(path, lock_wait_seconds=0.1) as store:
        before = await store.payer.budget(ACCOUNT)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable):
                await store.payer.budget(ACCOUNT)
            other.execute("ROLLBACK")

        assert await store.payer.budget(ACCOUNT) == before


async def test_a_newer_version_that_comes_while_it_is_open_is_refused(
    path: Path,
) -> None:
    async with await SqliteStore.open_shared(path) as store:
        await store.payer.budget(ACCOUNT)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("PRAGMA user_version = 999")

        with pytest.raises(StoreNewer):
            await store.payer.budget(ACCOUNT)


async def test_a_closed_one_says_so(path: Path) -> None:
    store = await SqliteStore.open_shared(path)
    reading = asyncio.ensure_future(store.payer.budget(ACCOUNT))
    await asyncio.sleep(0)
    await store.close()
    await store.close()

    await reading
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.payer.budget(ACCOUNT)


async def test_what_is_waited_for_is_saved_before_it_is_told(path: Path) -> None:
    async with await SqliteStore.open_shared(path) as store:
        await store.payer.update(ACCOUNT, CHANNEL, begin)
        for spent in range(3):
            assert await store.payer.update(ACCOUNT, CHANNEL, spend) == spent
            assert saved_in(path) == spent + 1


async def test_what_nobody_waits_for_is_told_at_once_and_saved_with_the_next(
    path: Path,
) -> None:
    async with await SqliteStore.open_shared(path) as store:
        heard = hear(store)
        await store.payer.update(ACCOUNT, CHANNEL, begin)
        for spent in range(3):
            telling = store.payer.update(ACCOUNT, CHANNEL, spend, durable=False)
            with pytest.raises(StopIteration) as told:
                telling.send(None)
            assert told.value.value == spent
        assert saved_in(path) == 0

        assert await store.payer.update(ACCOUNT, CHANNEL, spend) == 3
        assert saved_in(path) == 4
    assert levels(heard) == ["FULL", "FULL"]


async def test_what_nobody_waits_for_is_saved_soon(path: Path) -> None:
    async with await SqliteStore.open_shared(path) as store:
        await store.payer.update(ACCOUNT, CHANNEL, begin)
        await store.payer.update(ACCOUNT, CHANNEL, spend, durable=False)
        await settled(store)

        assert saved_in(path) == 1


@pytest.mark.parametrize("durable", [True, False])
async def test_what_another_has_written_is_what_is_decided_on(
    path: Path, *, durable: bool
) -> None:
    seen: list[int] = []

    def look(budget: Budget, record: PayerRecord | None) -> PayerStep[int]:
        assert record is not None
        seen.append(record.ledger.spent)
        return spend(budget, record)

    async with (
        await SqliteStore.open_shared(path) as store,
        await SqliteStore.open_shared(path) as other,
    ):
        await store.payer.update(ACCOUNT, CHANNEL, begin)
        await store.payer.update(ACCOUNT, CHANNEL, look)
        await store.payer.update(ACCOUNT, CHANNEL, look)
        assert seen == [0, 1]  # once each

        await other.payer.update(ACCOUNT, CHANNEL, spend)
        assert await store.payer.update(ACCOUNT, CHANNEL, look, durable=durable) == 3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.booleans()), max_size=20))
def test_nothing_that_was_told_is_lost_whoever_writes_meanwhile(
    steps: list[tuple[int, bool]],
) -> None:
    async def scenario(path: Path) -> None:
        async with (
            await SqliteStore.open_shared(path) as one,
            await SqliteStore.open_shared(path) as other,
        ):
            await one.payer.update(ACCOUNT, CHANNEL, begin)
            for which, durable in steps:
                payer = (one, other)[which].payer
                await payer.update(ACCOUNT, CHANNEL, spend, durable=durable)
        assert saved_in(path) == len(steps)

    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        asyncio.run(scenario(Path(directory) / "store.db"))


async def test_nothing_is_saved_of_a_transaction_that_is_broken_off(
    path: Path,
) -> None:
    """As where something that only reads finds the file damaged, and rolls back."""
    async with await SqliteStore.open_shared(path) as store:

        def is_broken_off(budget: Budget, record: PayerRecord | None) -> PayerStep[int]:
            store.payer._thread.call(lambda connection: connection.rollback())
            return spend(budget, record)

        await store.payer.update(ACCOUNT, CHANNEL, begin)
        store.payer._books.forget()
        with pytest.raises(StoreUnavailable, match="broken off"):
            await store.payer.update(ACCOUNT, CHANNEL, is_broken_off)

        assert await store.payer.update(ACCOUNT, CHANNEL, spend) == 0


@contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """A file that is read, and takes no change of a channel."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(
            "CREATE TRIGGER no BEFORE UPDATE ON payer_channels BEGIN"
            " SELECT RAISE(ABORT, 'planted'); END"
        )
        yield
        other.execute("DROP TRIGGER no")


async def test_what_was_told_and_not_saved_is_decided_again_before_the_next(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with await SqliteStore.open_shared(path) as store:
        await store.payer.update(ACCOUNT, CHANNEL, begin)
        with unwritable(path):
            assert await store.payer.update(ACCOUNT, CHANNEL, spend, durable=False) == 0
            with pytest.raises(StoreUnavailable):
                await store.payer.update(ACCOUNT, CHANNEL, spend)
            await finished(store)

        assert await store.payer.update(ACCOUNT, CHANNEL, spend) == 1
    assert "told are not saved" in caplog.text


async def test_what_was_told_and_not_saved_is_saved_at_the_end(path: Path) -> None:
    async with await SqliteStore.open_shared(path) as store:
        await store.payer.update(ACCOUNT, CHANNEL, begin)
        with unwritable(path):
            assert await store.payer.update(ACCOUNT, CHANNEL, spend, durable=False) == 0
            await finished(store)

    async with await SqliteStore.open_shared(path) as again:
        assert await again.payer.update(ACCOUNT, CHANNEL, spend) == 1


async def test_what_was_told_and_can_be_no_more_stops_nobody(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def spend_at_first(budget: Budget, record: PayerRecord | None) -> PayerStep[int]:
        if record is not None and record.ledger.spent:
            raise ValueError("planted")
        return spend(budget, record)

    async with (
        await SqliteStore.open_shared(path) as store,
        await SqliteStore.open_shared(path) as other,
    ):
        await store.payer.update(ACCOUNT, CHANNEL, begin)
        with unwritable(path):
            await store.payer.update(ACCOUNT, CHANNEL, spend_at_first, durable=False)
            await finished(store)
        await other.payer.update(ACCOUNT, CHANNEL, spend)

        assert await store.payer.update(ACCOUNT, CHANNEL, spend) == 1
    assert "refused now" in caplog.text


@pytest.mark.parametrize("turns", range(12))
async def test_the_store_goes_on_where_all_tasks_are_cancelled(
    path: Path, turns: int
) -> None:
    """As programs do that end; whoever still saves something then must be able to."""
    store = await SqliteStore.open_shared(path)
    await store.payer.update(ACCOUNT, CHANNEL, begin)
    steps = (store.payer.update(ACCOUNT, CHANNEL, spend) for _ in range(3))
    spending = [asyncio.create_task(step) for step in steps]
    await cancel_all_after(turns)
    outcomes = await asyncio.gather(*spending, return_exceptions=True)
    begun = 0 if turns == 0 else 3

    assert await store.payer.update(ACCOUNT, CHANNEL, spend) == begun
    assert {type(outcome) for outcome in outcomes} <= {int, asyncio.CancelledError}
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
    await store.close()


@pytest.mark.parametrize("turns", range(12))
async def test_a_store_closes_where_all_tasks_are_cancelled(
    path: Path, turns: int
) -> None:
    store = await SqliteStore.open_shared(path)
    await store.payer.update(ACCOUNT, CHANNEL, begin)
    spending = asyncio.create_task(store.payer.update(ACCOUNT, CHANNEL, spend))
    await asyncio.sleep(0)
    ending = asyncio.create_task(store.close())
    await cancel_all_after(turns)
    await asyncio.gather(spending, ending, return_exceptions=True)
    await store.close()

    async with await SqliteStore.open(path) as alone:
        assert await alone.payer.update(ACCOUNT, CHANNEL, spend) == 1


@pytest.mark.parametrize("turns", range(4))
async def test_a_store_closes_where_its_closing_is_cancelled(
    path: Path, turns: int
) -> None:
    store = await SqliteStore.open_shared(path)
    ending = asyncio.create_task(store.close())
    await cancel_all_after(turns)
    await asyncio.gather(ending, return_exceptions=True)
    async with asyncio.timeout(5):
        await store.close()

    async with await SqliteStore.open(path):
        pass


@pytest.mark.parametrize("known", [True, False])
async def test_a_decision_that_is_broken_off_locks_nobody_out(
    path: Path, *, known: bool
) -> None:
    def breaks_off(budget: Budget, record: PayerRecord | None) -> PayerStep[int]:
        raise asyncio.CancelledError

    async with await SqliteStore.open_shared(path) as store:
        await store.payer.update(ACCOUNT, CHANNEL, begin)
        if not known:
            store.payer._books.forget()
        outcomes = await asyncio.gather(
            *(store.payer.update(ACCOUNT, CHANNEL, d) for d in (spend, breaks_off)),
            return_exceptions=True,
        )

        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 2
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
        assert await store.payer.update(ACCOUNT, CHANNEL, spend) == 0


def saved_in(path: Path) -> int:
    """What the file says that was spent."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        ((spent,),) = other.execute("SELECT spent FROM payer_channels").fetchall()
    return int.from_bytes(spent, "big")


async def settled(store: SharedSqliteStore) -> None:
    """Until all that was told is saved."""
    await asyncio.sleep(2 * LINGER_SECONDS)
    await finished(store)


async def finished(store: SharedSqliteStore) -> None:
    """Until nothing is being saved, nor tried to be."""
    while (carrying := store.payer._carrying) is not None:
        await asyncio.wait([carrying])


async def cancel_all_after(turns: int) -> None:
    """Cancel whatever there is but the test, after so many turns of the loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def test_the_disk_is_waited_for_only_by_who_waits(path: Path) -> None:
    async with await SqliteStore.open_shared(path) as store:
        heard = hear(store)
        await store.payer.update(ACCOUNT, CHANNEL, begin)
        for _ in range(2):
            await store.payer.update(ACCOUNT, CHANNEL, spend, durable=False)
            await settled(store)
        await store.payer.update(ACCOUNT, CHANNEL, spend)

    assert levels(heard) == ["FULL", "NORMAL", "NORMAL", "FULL"]


async def test_who_waits_and_changes_nothing_has_what_came_before_on_disk(
    path: Path,
) -> None:
    async with await SqliteStore.open_shared(path) as store:
        heard = hear(store)
        await store.payer.update(ACCOUNT, CHANNEL, begin)
        await store.payer.update(ACCOUNT, CHANNEL, spend, durable=False)
        await settled(store)
        for _ in range(2):
            await store.payer.budget(ACCOUNT)

    written = [words for words in heard if words.startswith("PRAGMA user_version =")]
    assert levels(heard) == ["FULL", "NORMAL", "FULL", "FULL"]
    assert len(written) == 1  # SQLite syncs only what changes something


def hear(store: Any) -> list[str]:
    """All statements from now on."""
    heard: list[str] = []
    connection = store.payer._thread._connection
    store.payer._thread.call(lambda _: connection.set_trace_callback(heard.append))
    return heard


def levels(heard: list[str]) -> list[str]:
    """How safe each commit was."""
    level, found = "FULL", []
    for words in heard:
        if words.startswith("PRAGMA synchronous = "):
            level = words.rpartition(" ")[2]
        elif words == "COMMIT":
            found.append(level)
    return found
