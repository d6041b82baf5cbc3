"""Files that cannot be opened: what is said, and that nothing is overwritten."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agentpay.errors import (
    ConfigurationError,
    StoreCorrupt,
    StoreNewer,
)
from agentpay.stores import SqliteStore
from agentpay.stores.sqlite.schema import MIGRATIONS, migrate
from tests.stores.store_cases import (
    channel,
    fill,
)


def run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


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


async def test_a_damaged_page_is_found_at_opening(path: Path) -> None:
    await fill(path, 20)
    with closing(sqlite3.connect(path)) as connection:
        [page] = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'payee_used'"
        ).fetchone()
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 : (page - 1) * 4096 + 64] = bytes(64)
    path.write_bytes(content)

    with pytest.raises(StoreCorrupt, match="damaged"):
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


def test_an_old_transfer_is_charged_what_it_moved(path: Path) -> None:
    row = (b"id", bytes(20), bytes(31) + b"\x07", b"GET /", b"us", 1, "settled", "")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection, MIGRATIONS[:1])
        connection.execute("INSERT INTO payments VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        migrate(connection, MIGRATIONS)
        (charged,) = connection.execute("SELECT charged FROM payments").fetchone()

    assert int.from_bytes(charged, "big") == 7


def test_of_an_old_withdrawal_it_is_known_that_it_began_and_not_when(
    path: Path,
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection, MIGRATIONS[:9])
        for number, pending, escrow in ((1, 0, None), (2, 7, None), (3, 7, bytes(20))):
            row = _old_channel(number, pending=pending, escrow=escrow)
            marks = ", ".join("?" * len(row))
            connection.execute(
                f"INSERT INTO payee_channels ({', '.join(row)}) VALUES ({marks})",  # noqa: S608 - our own words
                tuple(row.values()),
            )
        migrate(connection, MIGRATIONS)
        started = connection.execute(
            "SELECT withdrawal_started FROM payee_channels ORDER BY channel"
        ).fetchall()

    assert started == [(0,), (1,), (0,)]


def _old_channel(
    number: int, *, pending: int, escrow: bytes | None
) -> dict[str, object]:
    amounts = "balance claimed charged highest floor refund_nonce unclaimed"
    hashes = "payer payer_authorizer receiver receiver_authorizer token salt held"
    numbers = "chain withdraw_delay tagged window in_flight_max last_voucher_at"
    return {
        **dict.fromkeys(amounts.split(), bytes(32)),
        **dict.fromkeys(hashes.split(), b""),
        **dict.fromkeys((*numbers.split(), "chain_seen_at"), 0),
        "channel": number.to_bytes(32, "big"),
        "status": "open",
        "pending_withdrawal": pending.to_bytes(32, "big"),
        "escrow": escrow,
    }


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
