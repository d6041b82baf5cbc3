"""A store is moved whole to another database; a check says whether it can be true."""

import asyncio
import json
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from agentpay.cli.app import app
from agentpay.core.budget import Hold, Reserved, Spent
from agentpay.core.payee_events import Admitted, Delivered
from agentpay.core.payer_channel import (
    DepositArrived,
    PendingDeposit,
    TicketWanted,
)
from agentpay.errors import ConfigurationError, StoreNotEmpty
from agentpay.evm import rlp
from agentpay.records import AnswerRecord, Owed, SentTransaction
from agentpay.stores import PostgresStore, SqliteStore, Store, open_store
from agentpay.stores.checking import Books
from agentpay.stores.rows import payee, payer
from agentpay.stores.rows.answers import ANSWERS
from agentpay.stores.rows.columns import Row
from agentpay.stores.rows.sending import SENT, pack
from agentpay.stores.rows.tables import Table
from agentpay.stores.rows.whole import TABLES, read_lines, write_lines
from agentpay.stores.sqlite.schema import APPLICATION_ID, MIGRATIONS, migrate
from agentpay.types import Hash32
from tests.postgres_server import PostgresServer
from tests.stores.store_cases import (
    ACCOUNT,
    CHAIN,
    budget_events,
    payer_events,
    payment,
    session_events,
    voucher,
)
from tests.stores.store_machine import numbers, payee_step, payer_step

Moves = list[tuple[int, object, object, object]]

moves = st.lists(
    st.tuples(
        numbers,
        session_events(),
        st.none() | payer_events(),
        st.none() | budget_events(),
    ),
    max_size=25,
)


def signed(*, nonce: int, data: bytes = b"claim", tip: int = 1) -> bytes:
    """A call as a transaction, by a signature that no node would take."""
    numbers = (CHAIN, nonce, tip, 9 * tip, 50_000)
    to, value, parity = ACCOUNT.to_bytes(), b"", b""
    signature: list[rlp.Item] = [parity, b"r", b"s"]
    fields = [*map(rlp.encode_uint, numbers), to, value, data, [], *signature]
    return b"\2" + rlp.encode(fields)


async def fill(store: Store, steps: Moves) -> None:
    """Something of every kind."""
    for number, event, payers, spending in steps:
        await payee_step(store, number, event)  # type: ignore[arg-type]
        await payer_step(store, number, payers, spending)  # type: ignore[arg-type]
    await store.payee.begin_payment(payment("a\0b\\c"))
    await store.payee.set_mark("ü\0", until=7)
    await store.payee.write_cursor("chain", 12)
    await store.payee.keep_sent(
        SentTransaction(
            chain=CHAIN, account=ACCOUNT, nonce=3, raws=(signed(nonce=3),), what="w"
        )
    )
    answer = AnswerRecord(key="k", request=b"r", kept_until=9, headers=((b"a", b"b"),))
    await store.payee.keep_answer(answer, durable=True)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=moves)
def test_what_is_moved_through_lines_to_postgresql_and_back_is_the_same(
    postgres_server: PostgresServer, steps: Moves
) -> None:
    async def scenario(directory: Path) -> None:
        async with await SqliteStore.open(directory / "one.db") as store:
            await fill(store, steps)
            first = await store.all_rows()
        url = postgres_server.new_database()
        async with await PostgresStore.open(url) as store:
            await store.fill(read_lines(list(write_lines(first))))
            second = await store.all_rows()
        async with await SqliteStore.open(directory / "two.db") as store:
            await store.fill(read_lines(list(write_lines(second))))
            third = await store.all_rows()

        assert list(write_lines(second)) == list(write_lines(first))
        assert list(write_lines(third)) == list(write_lines(first))
        assert Books(third).count() == Books(first).count()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(scenario(Path(directory)))


async def test_a_store_that_was_filled_goes_on(postgres_url: str, path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        await payee_step(store, 1, voucher(5))
        rows = await store.all_rows()
    async with await PostgresStore.open(postgres_url, grace_seconds=0) as moved:
        await moved.fill(read_lines(list(write_lines(rows))))
        again = await payee_step(moved, 1, voucher(5))
        other = await payee_step(moved, 1, voucher(6))

        assert "Spent" in repr(again)
        assert "Admitted" in repr(other)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_what_keeps_something_is_not_overwritten(
    request: pytest.FixtureRequest, path: Path, kind: str
) -> None:
    place = str(path)
    if kind == "postgres":
        place = str(request.getfixturevalue("postgres_url"))
    async with await open_store(place) as store:
        assert isinstance(store, SqliteStore | PostgresStore)
        await store.payee.write_cursor("x", 1)
        rows = await store.all_rows()

        with pytest.raises(StoreNotEmpty):
            await store.fill(read_lines(list(write_lines(rows))))
        assert await store.all_rows() == rows


HEAD = json.dumps({"agentpay": "store", "version": 1})


@pytest.mark.parametrize(
    "lines",
    [
        ["{"],
        [json.dumps({"agentpay": "store", "version": 2})],
        [HEAD, json.dumps({"table": "cursors", "name": "x"})],
        [HEAD, json.dumps({"table": "cursors", "name": "x", "position": "1"})],
        [HEAD, json.dumps({"table": "cursors", "name": "x", "position": 2**63})],
        [HEAD, json.dumps({"table": "users", "name": "x"})],
        [HEAD, "[]"],
    ],
)
def test_a_line_that_is_none_of_ours_is_named(lines: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=f"line {len(lines)} "):
        read_lines(lines)


async def rows_of_a_store(path: Path) -> list[tuple[Table, Sequence[object]]]:
    async with await SqliteStore.open(path) as store:
        for amount in (5, 6, 7):
            await payee_step(store, 1, voucher(amount))
        await payee_step(store, 5, voucher(9))
        await payers_rows(store)
        await fill(store, [])
    async with await SqliteStore.open(path) as store:
        return [(table, row) for table, row in await store.all_rows()]


async def payers_rows(store: Store) -> None:
    """A channel that holds a deposit, and one whose deposit is on its way."""
    for number, salt in ((1, Hash32.of(b"\1" * 32)), (5, Hash32.of(b"\5" * 32))):
        deposit = PendingDeposit(amount=9, salt=salt, valid_before=99)
        wants = TicketWanted(maximum=3, deposit=deposit, low_water=0)
        units = 9 * 10**12
        hold = Hold(
            id=f"deposit {salt}",
            host="api.example",
            amount=units,
            valid_before=99,
            detail="",
        )
        await payer_step(store, number, wants, Reserved(hold=hold))
        if number == 1:
            spent = Spent(id=hold.id, amount=units)
            await payer_step(store, number, DepositArrived(salt=salt), spent)


async def test_all_is_well_with_what_the_rules_made(path: Path) -> None:
    rows = await rows_of_a_store(path)

    assert Books(rows).check() == []  # type: ignore[arg-type]


CHARGED = payee.CHANNELS.names.index("charged")
TWO_CALLS = pack((signed(nonce=3), signed(nonce=3, data=b"settle", tip=2)))


@pytest.mark.parametrize(
    ("table", "column", "value", "finding"),
    [
        (payee.CHANNELS, "charged", 10**6, "never exceed what was authorized"),
        (payee.CHANNELS, "salt", b"\1" * 32, "hash of its terms"),
        (payee.CHANNELS, "status", "lost", "cannot be read"),
        (payee.CHANNELS, "held", b"\1", "cannot be read"),
        (payee.CHANNELS, "unclaimed", 77, "what may be claimed"),
        (payee.CHANNELS, "floor", 10**9, "above the floor"),
        (payee.CHANNELS, "channel", b"\2" * 32, "no such channel"),
        (payee.USED, "cumulative", 8, "what runs is remembered"),
        (payee.PAYMENTS, "charged", 10**9, "no more than was signed"),
        (payee.PAYMENTS, "status", "gone", "cannot be read"),
        (payee.CURSORS, "position", -1, "not negative"),
        (payer.CHANNELS, "salt", b"\1" * 32, "hash of its terms"),
        (payer.CHANNELS, "account", b"\1" * 20, "the account's own"),
        (payer.CHANNELS, "balance", 10**6, "was counted as spent"),
        (payer.SIGNED, "cumulative", 7, "what is open was signed"),
        (payer.SPENT, "amount", 1, "was counted as spent"),
        (payer.HOLDS, "id", "deposit of nothing", "signed deposits are held"),
        (ANSWERS, "size", 10**6, "its size is its own"),
        (SENT, "nonce", 4, "for its chain and nonce"),
        (SENT, "chain", 1, "for its chain and nonce"),
        (SENT, "raws", pack((b"x",)), "cannot be read"),
        (SENT, "raws", TWO_CALLS, "all attempts are of one call"),
    ],
)
async def test_what_cannot_be_true_is_found(
    path: Path, table: Table, column: str, value: object, finding: str
) -> None:
    rows = await rows_of_a_store(path)
    at, column_at = [t for t, _ in rows].index(table), table.names.index(column)
    row = list(rows[at][1])
    row[column_at] = value
    rows[at] = (table, tuple(row))

    found = Books(rows).check()  # type: ignore[arg-type]

    assert any(finding in sentence for sentence in found), found


async def test_a_debt_without_a_beginning_is_found(path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        await payee_step(store, 1, voucher(5))
        await payee_step(store, 1, Delivered(cumulative=5, owner="us"))
        rows = await store.all_rows()
    since = payee.CHANNELS.names.index("owing_since")
    ((table, row), *_) = [each for each in rows if each[0] is payee.CHANNELS]

    found = Books([(table, (*row[:since], 0, *row[since + 1 :]))]).check()

    assert any("since some moment" in sentence for sentence in found), found


def test_every_table_is_moved() -> None:
    modules = (payee, payer)
    ours = {t for m in modules for t in vars(m).values() if isinstance(t, Table)}
    assert ours <= set(TABLES)


# The command.


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_command_checks_exports_and_imports(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    run = CliRunner().invoke
    first, lines = str(tmp_path / "one.db"), str(tmp_path / "lines")
    second = str(tmp_path / "two.db")
    if kind == "postgres":
        second = str(request.getfixturevalue("postgres_url"))

    async def begin() -> None:
        async with await SqliteStore.open(first) as store:
            await fill(store, [(1, voucher(5), None, None)])

    asyncio.run(begin())
    exported = run(app, ["store", "export", first, lines])
    again = run(app, ["store", "export", first, lines])
    imported = run(app, ["store", "import", second, lines])
    repeated = run(app, ["store", "import", second, lines])
    checked = run(app, ["store", "check", second])

    assert (exported.exit_code, exported.output) == (0, "8 rows\n")
    assert again.exit_code == 1
    assert (imported.exit_code, imported.output) == (0, "8 rows\n")
    assert repeated.exit_code == 1
    assert checked.exit_code == 0
    assert "payee_channels: 1" in checked.output
    assert "all is well" in checked.output


def test_the_command_ends_with_1_if_something_cannot_be_true(tmp_path: Path) -> None:
    place = tmp_path / "one.db"

    async def spoil() -> None:
        async with await SqliteStore.open(place) as store:
            await payee_step(store, 1, voucher(5))
            rows = await store.all_rows()
        place.unlink()
        spoiled = [
            (t, (*r[:CHARGED], 10**6, *r[CHARGED + 1 :]) if t is payee.CHANNELS else r)
            for t, r in rows
        ]
        async with await SqliteStore.open(place) as store:
            await store.fill(read_lines(list(write_lines(spoiled))))

    asyncio.run(spoil())
    checked = CliRunner().invoke(app, ["store", "check", str(place)])

    assert checked.exit_code == 1
    assert "never exceed" in checked.output


@pytest.mark.parametrize("command", ["check", "export"])
def test_a_store_that_is_not_there_is_named_and_not_made(
    tmp_path: Path, command: str
) -> None:
    """An empty one made for a misspelled name would be well."""
    place, lines = tmp_path / "misspelled.db", tmp_path / "lines"
    more = [str(lines)] if command == "export" else []
    told = CliRunner().invoke(app, ["store", command, f"sqlite:///{place}", *more])

    assert told.exit_code == 1
    assert "there is no store" in told.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_a_file_of_any_version_is_opened_with_all_that_is_in_it(
    tmp_path: Path, version: int
) -> None:
    new, old = tmp_path / "new.db", tmp_path / "old.db"
    async with await SqliteStore.open(new) as store:
        for amount in (5, 6):
            await payee_step(store, 1, voucher(amount))
        deposit = PendingDeposit(amount=9, salt=Hash32.of(bytes(32)), valid_before=99)
        wants = TicketWanted(maximum=3, deposit=deposit, low_water=0)
        hold = Hold(id="h", host="x", amount=7, valid_before=99, detail="{}")
        await payer_step(store, 1, wants, Reserved(hold=hold))
        await fill(store, [])
        expected = await store.all_rows()
    names = as_of_version(version, new, old)
    async with await SqliteStore.open(old) as store:
        found = await store.all_rows()
        sold_on = await payee_step(store, 1, voucher(7))
    kept = [of_columns(table, row, names[table.name]) for table, row in found]

    assert kept == [
        of_columns(table, row, names[table.name])
        for table, row in expected
        if table.name in names
    ]
    assert {table.name for table, _ in found} >= {"payer_tickets", "budget_holds"}
    assert isinstance(sold_on, Admitted)


async def test_a_debt_of_an_older_file_counts_from_its_last_voucher(
    tmp_path: Path,
) -> None:
    new, old = tmp_path / "new.db", tmp_path / "old.db"
    async with await SqliteStore.open(new) as store:
        for amount in (5, 6):
            await payee_step(store, 1, voucher(amount))
            await payee_step(store, 1, Delivered(cumulative=amount, owner="us"))
        owed = await store.payee.owed(limit=9)
    as_of_version(11, new, old)
    async with await SqliteStore.open(old) as store:
        found = await store.payee.owed(limit=9)

    assert owed == Owed(amount=2, channels=1, since=5)
    assert found == Owed(amount=2, channels=1, since=6)


def as_of_version(version: int, new: Path, old: Path) -> dict[str, set[str]]:
    """The same content as an older library kept it; which columns that has."""
    names: dict[str, set[str]] = {}
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrate(connection, MIGRATIONS[:version])
        connection.execute("ATTACH ? AS new", (str(new),))
        tables = connection.execute(
            "SELECT name FROM main.sqlite_master WHERE type = 'table'"
        ).fetchall()
        for (table,) in tables:
            columns = connection.execute(f"PRAGMA main.table_info({table})").fetchall()
            names[table] = {column[1] for column in columns}
            listed = ", ".join(f'"{name}"' for name in sorted(names[table]))
            connection.execute(
                f"INSERT INTO main.{table} ({listed})"  # noqa: S608 - our own names
                f" SELECT {listed} FROM new.{table}"
            )
    return names


def of_columns(table: Table, row: Row, names: set[str]) -> dict[str, object]:
    return {n: value for n, value in zip(table.names, row, strict=True) if n in names}
