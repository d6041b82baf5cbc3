"""Files that cannot be opened or written: what is said, and that nothing is lost."""

# ruff: noqa: ASYNC221, ASYNC240, S603, S607 - small files, and mount(8), in tests

import asyncio
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentpay.core.payee_channel import Fate
from agentpay.core.payee_events import Admitted, Delivered, Spent, VoucherPublished
from agentpay.errors import (
    ConfigurationError,
    InvariantViolated,
    StoreCorrupt,
    StoreNewer,
    StoreUnavailable,
)
from agentpay.records import PayeeRecord, PayeeStep
from agentpay.stores import SqliteStore
from agentpay.stores.sqlite.schema import MIGRATIONS, migrate
from tests.stores.store_cases import (
    ACCOUNT,
    channel,
    happens,
    is_put,
    payee_record,
    voucher,
)

WIDE = payee_record(window=64, in_flight_max=64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def fill(path: Path, vouchers: int = 3) -> None:
    async with await SqliteStore.open(path) as store:
        for cumulative in range(1, vouchers + 1):
            await store.payee.update(channel(), happens(voucher(cumulative), WIDE))
            done = Delivered(cumulative=cumulative, owner="us")
            await store.payee.update(channel(), happens(done))


def run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


# After a restart


async def test_used_vouchers_are_still_used_after_a_restart(path: Path) -> None:
    await fill(path)

    async with await SqliteStore.open(path) as store:
        answer = await store.payee.update(channel(), happens(voucher(2)))

    assert answer == Spent(fate=Fate.CHARGED, charged=1)


async def test_the_floor_and_what_fell_below_it_survive_a_restart(path: Path) -> None:
    narrow = payee_record(window=2)
    async with await SqliteStore.open(path) as store:
        for cumulative in range(1, 6):
            await store.payee.update(channel(), happens(voucher(cumulative), narrow))
            done = Delivered(cumulative=cumulative, owner="us")
            await store.payee.update(channel(), happens(done))
        before = await store.payee.read(channel())

    async with await SqliteStore.open(path) as store:
        answer = await store.payee.update(channel(), happens(voucher(3)))
        after = await store.payee.read(channel())
    assert answer == Spent(fate=Fate.OLD)
    assert after == before
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM payee_used").fetchone() == (2,)


async def test_an_untagged_floor_survives_a_restart(path: Path) -> None:
    fresh = payee_record(tagged=False)
    async with await SqliteStore.open(path) as store:
        await store.payee.update(fresh.channel, is_put(fresh))
        published = happens(VoucherPublished(amount=5))
        await store.payee.update(fresh.channel, published)

    async with await SqliteStore.open(path) as store:
        record = await store.payee.read(fresh.channel)
    assert record is not None
    assert record.ledger.floor == 5


async def test_held_vouchers_survive_a_restart(path: Path) -> None:
    await fill(path)

    async with await SqliteStore.open(path) as store:
        record = await store.payee.read(channel())

    assert record is not None
    claim = record.ledger.claim_voucher()
    assert claim is not None
    assert claim.signature == voucher(3).signature


async def test_a_reservation_of_a_dead_owner_is_loaded_as_it_was(path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        first = store.payee.owner
        event = voucher(5, owner=first)
        await store.payee.update(channel(), happens(event))

    async with await SqliteStore.open(path) as store:
        record = await store.payee.read(channel())
        assert store.payee.owner != first
    assert record is not None
    assert record.ledger.running[0].owner == first


async def test_a_step_that_is_not_durable_is_saved_by_close(path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        await store.payee.update(channel(), happens(voucher(5)), durable=False)

    async with await SqliteStore.open(path) as store:
        assert await store.payee.read(channel()) is not None


async def test_a_durable_step_is_seen_by_another_connection_at_once(
    path: Path,
) -> None:
    async with await SqliteStore.open(path) as store:
        await store.payee.update(channel(), happens(voucher(5)))
        with closing(sqlite3.connect(path)) as other:
            [row] = other.execute("SELECT fate FROM payee_used").fetchall()

    assert row == ("running",)


async def test_an_answer_that_changes_nothing_waits_for_what_it_is_based_on(
    path: Path,
) -> None:
    async with await SqliteStore.open(path) as store:
        await store.payee.update(channel(), happens(voucher(5)), durable=False)
        answer = await store.payee.update(channel(), happens(voucher(5)))
        with closing(sqlite3.connect(path)) as other:
            rows = other.execute("SELECT fate FROM payee_used").fetchall()

    assert answer == Spent(fate=Fate.RUNNING, charged=1)
    assert rows == [("running",)]


# Writes that fail


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


async def test_steps_queued_behind_a_failed_commit_fail_too(path: Path) -> None:
    store = await SqliteStore.open(path, lock_wait_seconds=0.2)
    await store.payee.update(channel(), is_put(WIDE))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        first = asyncio.create_task(store.payee.update(channel(), happens(voucher(1))))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(store.payee.update(channel(), happens(voucher(2))))
        copy = asyncio.create_task(store.payee.update(channel(), happens(voucher(1))))
        outcomes = await asyncio.gather(first, second, copy, return_exceptions=True)
        other.execute("ROLLBACK")

    assert [type(o) for o in outcomes] == [StoreUnavailable] * 3
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
        assert await store.payee.claimable(at_least=1, limit=1) == []
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
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip("mounting is for root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


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


# Cancellation


async def test_a_cancelled_caller_loses_nothing_and_corrupts_nothing(
    path: Path,
) -> None:
    async with await SqliteStore.open(path) as store:
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


# Steps that are wrong


async def test_a_step_that_hides_what_it_touched_is_refused(path: Path) -> None:
    def forget_to_touch(record: PayeeRecord | None) -> PayeeStep[None]:
        step = happens(voucher(2))(record)
        return PayeeStep(record=step.record, answer=None)

    async with await SqliteStore.open(path) as store:
        await store.payee.update(channel(), happens(voucher(1)))
        with pytest.raises(InvariantViolated, match="explains"):
            await store.payee.update(channel(), forget_to_touch)
        record = await store.payee.read(channel())

    assert record is not None
    assert record.ledger.find_used(2) is None


@pytest.mark.parametrize(
    "owner", ["\ud800", "x" * 10 + "\udfff"], ids=["surrogate", "late surrogate"]
)
async def test_what_cannot_be_stored_fails_alone(path: Path, owner: str) -> None:
    async with await SqliteStore.open(path) as store:
        outcomes = await asyncio.gather(
            store.payee.update(channel(), happens(voucher(1), WIDE)),
            store.payee.update(channel(), happens(voucher(2, owner=owner))),
            store.payee.update(channel(), happens(voucher(3))),
            return_exceptions=True,
        )

    assert [type(o) for o in outcomes] == [Admitted, InvariantViolated, Admitted]


# Files that are wrong


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        await SqliteStore.open(tmp_path / "nowhere" / "store.db")


async def test_an_empty_file_is_not_a_new_store(path: Path) -> None:
    path.touch()

    with pytest.raises(StoreCorrupt, match="empty"):
        await SqliteStore.open(path)


async def test_a_log_without_its_database_is_not_a_new_store(path: Path) -> None:
    Path(f"{path}-wal").write_bytes(b"log")

    with pytest.raises(StoreCorrupt, match="missing"):
        await SqliteStore.open(path)


async def test_a_file_that_is_not_a_database_is_corrupt(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 1000)

    with pytest.raises(StoreCorrupt):
        await SqliteStore.open(path)


async def test_another_programs_database_is_not_ours(path: Path) -> None:
    run(path, "CREATE TABLE theirs (x)")

    with pytest.raises(StoreCorrupt, match="not one of agentpay"):
        await SqliteStore.open(path)


async def test_a_newer_database_asks_for_an_upgrade(path: Path) -> None:
    await fill(path)
    run(path, "PRAGMA user_version = 999")

    with pytest.raises(StoreNewer, match="upgrade agentpay"):
        await SqliteStore.open(path)


@pytest.mark.parametrize("kept", [0.25, 0.5, 0.9])
async def test_a_truncated_database_is_corrupt(path: Path, kept: float) -> None:
    await fill(path, 20)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])

    with pytest.raises(StoreCorrupt):
        await SqliteStore.open(path)


async def test_a_damaged_page_is_corrupt(path: Path) -> None:
    await fill(path, 20)
    content = bytearray(path.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xa5" * 64
    path.write_bytes(content)

    with pytest.raises(StoreCorrupt):
        await SqliteStore.open(path)


async def test_a_damaged_row_is_corrupt_when_it_is_read(path: Path) -> None:
    await fill(path)
    run(path, "UPDATE payee_used SET charged = x'00'")

    async with await SqliteStore.open(path) as store:
        with pytest.raises(StoreCorrupt, match="damaged row"):
            await store.payee.read(channel())


async def test_a_refused_file_is_let_go(path: Path) -> None:
    await fill(path)
    run(path, "PRAGMA user_version = 999")
    with pytest.raises(StoreNewer):
        await SqliteStore.open(path)
    run(path, f"PRAGMA user_version = {len(MIGRATIONS)}")

    async with await SqliteStore.open(path) as store:
        assert await store.payee.read(channel()) is not None


def test_a_migration_is_applied_once_and_whole(path: Path) -> None:
    versions = [["CREATE TABLE a (x)"], ["ALTER TABLE a ADD COLUMN y"]]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection, versions[:1])
        migrate(connection, versions)
        migrate(connection, versions)
        columns = connection.execute("PRAGMA table_info(a)").fetchall()

        assert [column[1] for column in columns] == ["x", "y"]
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_migration_that_fails_leaves_the_version_before(path: Path) -> None:
    versions = [["CREATE TABLE a (x)"], ["CREATE TABLE b (x)", "nonsense"]]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        with pytest.raises(sqlite3.OperationalError):
            migrate(connection, versions)
        connection.rollback()
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()

        assert tables == [("a",)]
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
