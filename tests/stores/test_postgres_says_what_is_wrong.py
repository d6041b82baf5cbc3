"""What a PostgreSQL store will not open, and what it says of it."""

import asyncio
import sys
from dataclasses import replace

import pytest

from agentpay.core.budget import Hold, Reserved
from agentpay.core.payee_events import Delivered
from agentpay.errors import (
    ConfigurationError,
    InvariantViolated,
    StoreCorrupt,
    StoreInUse,
    StoreNewer,
    StoreUnavailable,
)
from agentpay.records import Owed, PayeeStep
from agentpay.stores import PostgresStore, open_store
from agentpay.stores.postgres import schema
from agentpay.stores.postgres.connection import Connection, connect
from tests.stores.store_cases import (
    ACCOUNT,
    channel,
    happens,
    is_put,
    payee_record,
    voucher,
)
from tests.stores.store_machine import payer_step


async def connected(url: str) -> Connection:
    return await connect(url, settings={"search_path": "agentpay"}, timeout=10)


async def test_a_url_of_postgresql_opens_a_database(postgres_url: str) -> None:
    for scheme in ("postgresql://", "postgres://"):
        url = postgres_url.replace("postgresql://", scheme)
        async with await open_store(url) as store:
            assert isinstance(store, PostgresStore)
            await store.payee.write_cursor("x", await store.payee.read_cursor("x") + 1)
            assert await store.payee.read_cursor("x") in (1, 2)


async def test_four_processes_may_make_the_tables_at_once(postgres_url: str) -> None:
    stores = await asyncio.gather(*(PostgresStore.open(postgres_url) for _ in range(4)))

    assert len({store.payee.owner for store in stores}) == 4
    for store in stores:
        await store.close()


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("postgresql://127.0.0.1:1/books", StoreUnavailable),
        ("postgresql://127.0.0.1:port/books", ConfigurationError),
    ],
)
async def test_what_cannot_be_reached_or_read_is_told(
    url: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await open_store(url)


async def test_a_database_that_is_not_there_is_named(postgres_url: str) -> None:
    with pytest.raises(StoreUnavailable, match="no_such_database"):
        await open_store(f"{postgres_url}no_such_database")


async def test_a_secret_in_the_url_is_not_told(postgres_url: str) -> None:
    url = postgres_url.replace("agentpay@", "nobody:hunter2@")

    with pytest.raises(StoreUnavailable) as refused:
        await open_store(url)

    assert "hunter2" not in str(refused.value)


async def test_without_asyncpg_it_says_what_to_install(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)

    with pytest.raises(ConfigurationError, match=r"agentpay-sdk\[postgres\]"):
        await open_store(postgres_url)


@pytest.mark.parametrize("name", ["", "Books", "books;", "b" * 64, 'b"'])
async def test_a_schema_has_a_plain_name(postgres_url: str, name: str) -> None:
    with pytest.raises(ConfigurationError, match="schema"):
        await PostgresStore.open(postgres_url, schema=name)


async def test_a_newer_schema_is_refused_and_left_as_it_is(postgres_url: str) -> None:
    await (await open_store(postgres_url)).close()
    connection = await connected(postgres_url)
    newer = len(schema.MIGRATIONS) + 1
    await connection.execute("UPDATE schema_version SET version = $1", newer)

    with pytest.raises(StoreNewer, match=f"version {newer}.*upgrade"):
        await open_store(postgres_url)

    assert await connection.fetchval("SELECT version FROM schema_version") == newer
    await connection.close(timeout=5)


LATER = (*schema.MIGRATIONS, ("CREATE TABLE later (x BIGINT)",))


async def test_an_older_schema_is_brought_forward_with_what_is_in_it(
    postgres_url: str,
) -> None:
    async with await open_store(postgres_url) as store:
        await store.payee.update(channel(), is_put(payee_record()))
    connection = await connected(postgres_url)

    await schema.bring_up(connection, "agentpay", wait_seconds=1, migrations=LATER)

    assert await connection.fetchval("SELECT count(*) FROM later") == 0
    assert await connection.fetchval("SELECT count(*) FROM payee_channels") == 1
    await connection.close(timeout=5)


UNASKED = "ALTER TABLE budget_holds DROP request, DROP presented_until"
"""Holds, before they named the request that they pay for."""


async def test_a_hold_of_an_older_schema_is_carried_on_by_no_request(
    postgres_url: str,
) -> None:
    hold = Hold(id="h", host="x", amount=7, valid_before=99, detail="{}")
    async with await open_store(postgres_url) as store:
        await payer_step(store, None, None, Reserved(hold=hold))
    connection = await connected(postgres_url)
    await connection.execute(UNASKED)
    await connection.execute("UPDATE schema_version SET version = 6")
    await connection.close(timeout=5)
    async with await open_store(postgres_url) as store:
        kept = await store.payer.budget(ACCOUNT)

    assert kept.holds == (hold,)


async def test_a_debt_of_an_older_schema_counts_from_its_last_voucher(
    postgres_url: str,
) -> None:
    async with await open_store(postgres_url) as store:
        await store.payee.update(channel(), happens(voucher(5), now=7))
        delivered = Delivered(cumulative=5, owner="us")
        await store.payee.update(channel(), happens(delivered, now=9))
        owed = await store.payee.owed(limit=9)
    connection = await connected(postgres_url)
    await connection.execute("ALTER TABLE payee_channels DROP COLUMN owing_since")
    await connection.execute(UNASKED)
    await connection.execute("UPDATE schema_version SET version = 5")
    await connection.close(timeout=5)
    async with await open_store(postgres_url) as store:
        found = await store.payee.owed(limit=9)

    assert owed == Owed(amount=1, channels=1, since=7)
    assert found == Owed(amount=1, channels=1, since=9)


PARTS = ("part_amount", "part_nonce", "part_refunded", "part_transaction")


async def test_of_an_old_withdrawal_it_is_known_that_it_began_and_not_when(
    postgres_url: str,
) -> None:
    """The tables as they were in version 3, with what was kept in them."""
    leaving, staying = payee_record(1), payee_record(2)
    leaving = replace(leaving, ledger=replace(leaving.ledger, pending_withdrawal=7))
    async with await open_store(postgres_url) as store:
        for record in (leaving, staying):
            await store.payee.update(record.channel, is_put(record))
    connection = await connected(postgres_url)
    for later in ("withdrawal_started", *PARTS, "owing_since"):
        await connection.execute(f"ALTER TABLE payee_channels DROP {later}")
    await connection.execute(UNASKED)
    await connection.execute("UPDATE schema_version SET version = 3")
    await connection.close(timeout=5)

    async with await open_store(postgres_url) as store:
        kept = [await store.payee.read(r.channel) for r in (leaving, staying)]

    assert kept == [replace(leaving, withdrawal_started=1), staying]


async def test_tables_are_not_changed_under_processes_that_use_them(
    postgres_url: str,
) -> None:
    connection = await connected(postgres_url)
    async with await open_store(postgres_url):
        with pytest.raises(StoreInUse, match="stop them"):
            await schema.bring_up(
                connection, "agentpay", wait_seconds=0.2, migrations=LATER
            )

    assert await connection.fetchval("SELECT to_regclass('later')") is None
    await connection.close(timeout=5)


async def test_a_migration_that_fails_leaves_the_version_before(
    postgres_url: str,
) -> None:
    await (await open_store(postgres_url)).close()
    connection = await connected(postgres_url)
    broken = (*LATER, ("NO SQL",))

    with pytest.raises(Exception, match="syntax"):
        await schema.bring_up(connection, "agentpay", wait_seconds=1, migrations=broken)
    await connection.close(timeout=5)

    async with await open_store(postgres_url) as store:
        assert await store.payee.read_cursor("x") == 0


async def test_a_damaged_row_is_told_and_hurts_no_other(postgres_url: str) -> None:
    async with await open_store(postgres_url) as store:
        for number in (1, 2):
            record = payee_record(number)
            await store.payee.update(record.channel, is_put(record))
    connection = await connected(postgres_url)
    await connection.execute(
        "UPDATE payee_channels SET held = '\\x00' WHERE channel = $1",
        channel(1).to_bytes(),
    )
    await connection.close(timeout=5)

    async with await open_store(postgres_url) as store:
        damaged, whole = await asyncio.gather(
            store.payee.read(channel(1)),
            store.payee.read(channel(2)),
            return_exceptions=True,
        )

    assert isinstance(damaged, StoreCorrupt)
    assert whole == payee_record(2)


async def test_an_amount_that_no_token_has_is_refused_by_itself(
    postgres_url: str,
) -> None:
    async with await open_store(postgres_url) as store:
        good = payee_record(1)
        ledger = replace(good.ledger, balance=2**256)
        steps = [
            store.payee.update(
                channel(2),
                lambda _: PayeeStep(
                    record=replace(payee_record(2), ledger=ledger), answer=None
                ),
            ),
            store.payee.update(good.channel, is_put(good)),
        ]
        refused, saved = await asyncio.gather(*steps, return_exceptions=True)

        assert isinstance(refused, InvariantViolated)
        assert saved is None
        assert await store.payee.read(channel(1)) == good
        assert await store.payee.read(channel(2)) is None


async def test_a_closed_store_says_so(postgres_url: str) -> None:
    store = await open_store(postgres_url)
    await store.close()
    await store.close()

    with pytest.raises(StoreUnavailable, match="closed"):
        await store.payee.read(channel())
