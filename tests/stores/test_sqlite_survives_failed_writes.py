"""Writes that fail and callers that leave: nothing half saved, nothing lost."""

# ruff: noqa: ASYNC221, S603 - small files, and mount(8), in tests

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agentpay.core.payee_events import Admitted
from agentpay.errors import InvariantViolated, StoreUnavailable
from agentpay.records import AnswerRecord, PayeeRecord, PayeeStep
from agentpay.stores import SqliteStore
from agentpay.stores.rows.tables import Change
from tests.small_disks import small_disk_at
from tests.stores.store_cases import (
    ACCOUNT,
    WIDE,
    channel,
    fill,
    happens,
    is_put,
    payee_record,
    voucher,
)


async def test_a_failed_commit_saves_nothing_and_the_store_recovers(
    path: Path,
) -> None:
    store = await SqliteStore.open(path, lock_wait_seconds=0)
    await store.payee.update(channel(), happens(voucher(1), WIDE))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        steps = [
            store.payee.update(channel(), happens(voucher(c), WIDE))
            for c in range(2, 40)
        ]
        outcomes = await asyncio.gather(*steps, return_exceptions=True)
        other.execute("ROLLBACK")

    assert {type(o) for o in outcomes} == {StoreUnavailable}
    record = await store.payee.read(channel())
    assert record is not None
    assert [u.cumulative for u in record.ledger.used] == [1]
    answer = await store.payee.update(channel(), happens(voucher(2)))
    assert isinstance(answer, Admitted)
    await store.close()


@pytest.mark.parametrize("table", ["answers", "payee_channels"])
async def test_a_step_and_the_answer_that_it_keeps_are_saved_both_or_not_at_all(
    path: Path, table: str
) -> None:
    answer = AnswerRecord(key="a", request=b"r", kept_until=9, status=200)

    def paid(record: PayeeRecord | None) -> PayeeStep[None]:
        assert record is not None
        after = replace(record, refund_nonce=1)
        return PayeeStep(record=after, answer=None, kept=answer)

    store = await SqliteStore.open(path)
    await store.payee.update(channel(), is_put(WIDE))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for change in ("INSERT", "UPDATE"):
            other.execute(
                f"CREATE TRIGGER fail_{change} BEFORE {change} ON {table}"
                " BEGIN SELECT RAISE(ABORT, 'planted'); END"
            )
    with pytest.raises(StoreUnavailable):
        await store.payee.update(channel(), paid)

    record = await store.payee.read(channel())
    assert record is not None
    assert record.refund_nonce == 0
    assert await store.payee.find_answer("a") is None
    await store.close()


async def test_a_statement_that_fails_takes_its_whole_group_back(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.payee.update(channel(), is_put(WIDE))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(
            "CREATE TRIGGER fail BEFORE INSERT ON payee_running"
            " BEGIN SELECT RAISE(ABORT, 'planted'); END"
        )
        with pytest.raises(StoreUnavailable, match="planted"):
            await store.payee.update(channel(), happens(voucher(1)))
        other.execute("DROP TRIGGER fail")

    assert await store.payee.read(channel()) == WIDE
    answer = await store.payee.update(channel(), happens(voucher(1)))
    assert isinstance(answer, Admitted)
    await store.close()


class Broken:
    """Steps of which no rows can be made, though each was checked: a bug of ours."""

    def changes(self) -> list[Change]:
        raise InvariantViolated("planted")


async def test_steps_that_make_no_rows_take_their_group_back(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.payee.update(channel(), is_put(WIDE))
    store._writer.submit_steps("broken", Broken())
    with pytest.raises(StoreUnavailable, match="planted"):
        await store.payee.update(channel(), happens(voucher(1)))

    assert await store.payee.read(channel()) == WIDE
    answer = await store.payee.update(channel(), happens(voucher(1)))
    assert isinstance(answer, Admitted)
    await store.close()


async def test_steps_queued_behind_a_failed_commit_fail_too(path: Path) -> None:
    """Though their own would succeed: they were decided on what was not saved."""
    store = await SqliteStore.open(path, lock_wait_seconds=0.2)
    await store.payee.update(channel(), is_put(WIDE))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        first = asyncio.create_task(store.payee.update(channel(), happens(voucher(1))))
        await asyncio.sleep(0.1)
        behind = [
            asyncio.create_task(store.payee.update(channel(), happens(voucher(c))))
            for c in (2, 1)
        ]
        with pytest.raises(StoreUnavailable):
            await first
        other.execute("ROLLBACK")
        outcomes = await asyncio.gather(*behind, return_exceptions=True)

    assert [type(o) for o in outcomes] == [StoreUnavailable] * 2
    assert await store.payee.read(channel()) == WIDE
    await store.close()


async def test_a_step_that_was_not_durable_and_failed_is_not_remembered(
    path: Path,
) -> None:
    store = await SqliteStore.open(path, lock_wait_seconds=0)
    await store.payee.update(channel(), is_put(WIDE))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await store.payee.update(channel(), happens(voucher(1)), durable=False)
        assert await store.payee.claimable(sessions=False, at_least=1, limit=1) == []
        other.execute("ROLLBACK")

    assert await store.payee.read(channel()) == WIDE
    await store.close()


async def test_close_says_what_it_could_not_save_and_lets_go(path: Path) -> None:
    store = await SqliteStore.open(path, lock_wait_seconds=0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await store.payee.update(channel(), happens(voucher(1)), durable=False)
        with pytest.raises(StoreUnavailable):
            await store.close()
        other.execute("ROLLBACK")

    async with await SqliteStore.open(path) as again:
        assert await again.payee.read(channel()) is None


async def test_what_comes_while_it_closes_is_not_saved_and_says_so(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.payee.update(channel(), is_put(WIDE))
    await store.payee.update(channel(), happens(voucher(1)), durable=False)
    ending = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # what is queued may still grow
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.payee.update(channel(), happens(voucher(2)))
    await ending

    async with await SqliteStore.open(path) as again:
        record = await again.payee.read(channel())
    assert record is not None
    assert [used.cumulative for used in record.ledger.used] == [1]


async def write_until_full(store: SqliteStore) -> int:
    """How many channels fit."""
    for number in range(10_000):
        try:
            fresh = payee_record(number)
            await store.payee.update(channel(number), is_put(fresh))
        except StoreUnavailable:
            return number
    raise AssertionError("it never filled up")


async def test_a_full_database_loses_nothing_and_works_again(path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        limit = store._writer.read
        await limit(lambda c: c.execute("PRAGMA max_page_count = 40").fetchall())
        fit = await write_until_full(store)
        assert fit > 0
        assert await store.payee.read(channel(fit)) is None
        assert await store.payee.read(channel(fit - 1)) == payee_record(fit - 1)
        await limit(lambda c: c.execute("PRAGMA max_page_count = 9999").fetchall())
        await store.payee.update(channel(fit), is_put(payee_record(fit)))

    async with await SqliteStore.open(path) as store:
        assert await store.payee.read(channel(fit)) == payee_record(fit)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where we may mount one."""
    with small_disk_at(tmp_path / "disk", size="1m") as disk:
        yield disk


async def test_a_full_disk_loses_nothing_and_works_again(small_disk: Path) -> None:
    path = small_disk / "store.db"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    async with await SqliteStore.open(path) as store:
        fit = await write_until_full(store)
        assert await store.payee.read(channel(fit)) is None
        assert await store.payee.read(channel(fit - 1)) == payee_record(fit - 1)
        ballast.unlink()
        await store.payee.update(channel(fit), is_put(payee_record(fit)))

    async with await SqliteStore.open(path) as store:
        for number in range(fit + 1):
            assert await store.payee.read(channel(number)) == payee_record(number)


async def test_a_read_only_disk_is_unavailable(small_disk: Path) -> None:
    await fill(small_disk / "store.db")
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)

    with pytest.raises(StoreUnavailable, match="Read-only"):
        await SqliteStore.open(small_disk / "store.db")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anything"
)
async def test_a_read_only_file_is_unavailable(path: Path) -> None:
    await fill(path)
    path.chmod(0o400)

    with pytest.raises(StoreUnavailable):
        await SqliteStore.open(path)


async def test_a_cancelled_caller_loses_nothing_and_corrupts_nothing(
    path: Path,
) -> None:
    async with await SqliteStore.open(path) as store:
        await store.payee.read(channel())  # else all may be cancelled while it loads
        for cumulative in range(1, 41):
            step = store.payee.update(channel(), happens(voucher(cumulative), WIDE))
            task = asyncio.create_task(step)
            for _ in range(cumulative % 5):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        seen = await store.payee.read(channel())

    async with await SqliteStore.open(path) as store:
        assert await store.payee.read(channel()) == seen
    assert seen is not None
    assert len(seen.ledger.used) == len(seen.ledger.running) > 0


async def test_a_cancelled_load_does_not_fail_the_others(path: Path) -> None:
    await fill(path)
    async with await SqliteStore.open(path) as store:
        reads = [asyncio.create_task(store.payee.read(channel())) for _ in range(3)]
        await asyncio.sleep(0)
        reads[0].cancel()
        outcomes = await asyncio.gather(*reads, return_exceptions=True)

    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert isinstance(outcomes[1], PayeeRecord)
    assert outcomes[1] == outcomes[2]


async def test_a_cancelled_opening_lets_go_of_the_file(path: Path) -> None:
    for yields in range(3):
        opening = asyncio.create_task(SqliteStore.open(path))
        for _ in range(yields):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)

    async with await SqliteStore.open(path) as store:
        assert await store.payer.channels(ACCOUNT) == []


async def test_a_closed_store_refuses(path: Path) -> None:
    store = await SqliteStore.open(path)
    await asyncio.gather(store.close(), store.payee.close(), store.payer.close())

    with pytest.raises(StoreUnavailable, match="closed"):
        await store.payee.update(channel(), happens(voucher(1)))
