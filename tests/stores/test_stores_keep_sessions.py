"""Sessions of MPP's and channels of x402's share a store, and are never mixed up."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agentpay.core.payee_events import ChainSeen, Charged, Delivered, RefundAsked
from agentpay.core.session_rules import CloseAsked, Finalized, VoucherRaised
from agentpay.errors import ChannelUnusable, InvariantViolated
from agentpay.records import (
    PayeeRecord,
    PayeeStep,
    PayerRecord,
    PayerStep,
    channel_config,
    session_config,
)
from agentpay.stores import SqliteStore, Store
from agentpay.stores.sqlite.schema import APPLICATION_ID, MIGRATIONS, migrate
from agentpay.types import ChainId
from tests.stores.store_cases import (
    ACCOUNT,
    config,
    fill,
    happens,
    is_put,
    payee_record,
    payer_record,
    voucher,
)


async def sold(store: Store, record: PayeeRecord, amount: int, price: int) -> None:
    """A voucher for `amount` buys a request that costs `price`."""
    key = record.channel
    bought = voucher(amount, maximum=price, prepaid=False)
    await store.payee.update(key, happens(bought, record))
    charged = Charged(cumulative=amount, owner="us", charged=price)
    await store.payee.update(key, happens(charged))
    delivered = Delivered(cumulative=amount, owner="us")
    await store.payee.update(key, happens(delivered))


async def claimable(store: Store, *, sessions: bool) -> list[int]:
    records = await store.payee.claimable(sessions=sessions, at_least=1, limit=9)
    assert all(record.ledger.pays_whole == sessions for record in records)
    return [record.ledger.unclaimed for record in records]


@pytest.mark.parametrize("tagged", [True, False])
async def test_a_session_is_read_as_it_was_saved(store: Store, tagged: bool) -> None:
    record = payee_record(session=True, tagged=tagged)
    mine = payer_record(session=True, tagged=tagged)

    await store.payee.update(record.channel, is_put(record))
    await store.payer.update(
        ACCOUNT,
        mine.channel,
        lambda budget, _: PayerStep(budget=budget, record=mine, answer=None),
    )

    assert await store.payee.read(record.channel) == record
    assert await store.payer.channels(ACCOUNT) == [mine]


async def test_only_vouchers_that_are_due_whole_are_claimable_of_a_session(
    store: Store,
) -> None:
    record = payee_record(session=True)
    await sold(store, record, 20, 6)
    assert await claimable(store, sessions=True) == []

    raised = VoucherRaised(cumulative=5, signature=bytes(65))
    await store.payee.update(record.channel, happens(raised))

    assert await claimable(store, sessions=True) == [5]


async def test_neither_kind_is_claimable_as_the_other(store: Store) -> None:
    await sold(store, payee_record(1), 20, 6)
    await sold(store, payee_record(1, session=True), 7, 7)

    assert await claimable(store, sessions=False) == [6]
    assert await claimable(store, sessions=True) == [7]


async def test_neither_kind_is_closing_as_the_other(store: Store) -> None:
    channel, session = payee_record(1), payee_record(1, session=True)
    asks = RefundAsked(cumulative=4, signature=bytes(65), owner="us")
    await store.payee.update(channel.channel, happens(asks, channel))
    closes = CloseAsked(cumulative=0, signature=bytes(65), owner="us")
    await store.payee.update(session.channel, happens(closes, session))

    refunds = await store.payee.closing(sessions=False, limit=9)
    closings = await store.payee.closing(sessions=True, limit=9)
    await store.payee.update(session.channel, happens(Finalized()))

    assert [r.channel for r in refunds] == [channel.channel]
    assert [r.channel for r in closings] == [session.channel]
    assert await store.payee.closing(sessions=True, limit=9) == []


async def test_a_session_ends_for_as_long_as_its_payer_asks_the_contract(
    store: Store,
) -> None:
    record = payee_record(session=True)
    await sold(store, record, 20, 6)
    asked = ChainSeen(balance=100, claimed=0, pending_withdrawal=100)
    taken_back = replace(asked, pending_withdrawal=0)

    async def ending() -> bool:
        return bool(await store.payee.closing(sessions=True, limit=9))

    seen = []
    settled = replace(asked, claimed=6)
    for event in (asked, taken_back, asked, settled, asked, Finalized()):
        await store.payee.update(record.channel, happens(event))
        seen.append(await ending())

    assert seen == [True, False, True, False, True, False]


async def test_a_step_may_not_turn_one_kind_into_the_other(store: Store) -> None:
    record = payee_record()
    await store.payee.update(record.channel, is_put(record))
    other = replace(payee_record(session=True), channel=record.channel)

    with pytest.raises(InvariantViolated, match="terms"):
        await store.payee.update(
            record.channel, lambda _: PayeeStep(record=other, answer=None)
        )


def test_books_are_of_the_kind_that_the_terms_are() -> None:
    channel, session = payee_record(), payee_record(session=True)

    with pytest.raises(InvariantViolated, match="another kind"):
        replace(session, config=config())
    with pytest.raises(InvariantViolated, match="another kind"):
        replace(channel, ledger=session.ledger)


@pytest.mark.parametrize(
    "record", [payee_record(session=True), payer_record(session=True)]
)
def test_a_session_is_kept_on_its_own_chain(record: PayeeRecord | PayerRecord) -> None:
    with pytest.raises(InvariantViolated, match="kept on 1"):
        replace(record, chain=ChainId(1))


def test_what_is_for_one_kind_refuses_the_other() -> None:
    channel, session = payer_record(), payer_record(session=True)

    assert channel_config(channel) is channel.config
    assert session_config(session) is session.config
    with pytest.raises(ChannelUnusable, match="session of MPP"):
        channel_config(session)
    with pytest.raises(ChannelUnusable, match="one of x402"):
        session_config(channel)


async def test_a_database_from_before_sessions_is_opened_and_keeps_them(
    path: Path, tmp_path: Path
) -> None:
    await fill(path)
    async with await SqliteStore.open(path) as store:
        expected = await store.payee.read(payee_record().channel)
    old = tmp_path / "old.db"
    as_before_sessions(path, old)
    session = payee_record(session=True)

    async with await SqliteStore.open(old) as store:
        found = await store.payee.read(payee_record().channel)
        listed = await store.payee.claimable(sessions=False, at_least=1, limit=9)
        await store.payee.update(session.channel, is_put(session))
    async with await SqliteStore.open(old) as store:
        kept = await store.payee.read(session.channel)

    assert found == expected
    assert listed == [expected]
    assert kept == session


def as_before_sessions(new: Path, old: Path) -> None:
    """The same content, in a file as version 5 made it."""
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrate(connection, MIGRATIONS[:5])
        connection.execute("ATTACH ? AS new", (str(new),))
        tables = connection.execute(
            "SELECT name FROM main.sqlite_master WHERE type = 'table'"
        ).fetchall()
        for (table,) in tables:
            columns = connection.execute(f"PRAGMA main.table_info({table})").fetchall()
            names = ", ".join(column[1] for column in columns)
            connection.execute(
                f"INSERT INTO main.{table} ({names})"  # noqa: S608 - our own names
                f" SELECT {names} FROM new.{table}"
            )
