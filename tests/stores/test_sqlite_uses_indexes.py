"""Nothing is scanned, however many channels there are."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count

import pytest

from agentpay.stores.rows import payee, payer
from agentpay.stores.rows.tables import Batch
from agentpay.stores.sqlite import payee_rows, payer_rows, payment_rows
from agentpay.stores.sqlite.schema import MIGRATIONS, migrate
from agentpay.stores.sqlite.tables import write
from agentpay.types import ChainId
from tests.stores.store_cases import ACCOUNT, channel, payee_record, payer_record

LOCAL = ChainId(31337)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as opened:
        migrate(opened, MIGRATIONS)
        yield opened


def plans(
    connection: sqlite3.Connection, query: Callable[[sqlite3.Connection], object]
) -> list[str]:
    """How SQLite goes about the statements of a query."""
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    query(connection)
    connection.set_trace_callback(None)
    steps = [
        step[3]
        for statement in statements
        for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
    ]
    assert steps
    return steps


KINDS = pytest.mark.parametrize(
    ("sessions", "table"), [(False, "payee_channels"), (True, "payee_sessions")]
)


@KINDS
def test_claimable_reads_only_what_it_returns(
    connection: sqlite3.Connection, sessions: bool, table: str
) -> None:
    query = partial(payee_rows.list_claimable, sessions=sessions, at_least=5, limit=9)

    [plan] = plans(connection, query)

    assert plan.startswith("SEARCH")
    assert f"INDEX {table}_claimable" in plan


@KINDS
def test_what_is_too_little_to_claim_is_not_read(
    connection: sqlite3.Connection, sessions: bool, table: str
) -> None:
    del table
    batch = Batch()
    for number in range(500):
        record = payee_record(number, session=sessions)
        ledger = replace(record.ledger, charged=5, highest=5)
        batch.add(payee.save_channel(None, replace(record, ledger=ledger), ()))
    write(connection, batch)
    steps = count()
    connection.set_progress_handler(lambda: next(steps) < 0, 1)

    found = payee_rows.list_claimable(
        connection, sessions=sessions, at_least=6, limit=9
    )

    assert not found
    assert next(steps) < 200  # of SQLite's machine: a row takes several


@KINDS
def test_closing_reads_only_closing_channels(
    connection: sqlite3.Connection, sessions: bool, table: str
) -> None:
    query = partial(payee_rows.list_closing, sessions=sessions, limit=9)

    [plan] = plans(connection, query)

    assert f"USING INDEX {table}_closing" in plan


def test_what_was_seen_of_late_is_found_among_all_others(
    connection: sqlite3.Connection,
) -> None:
    query = partial(payee_rows.list_seen, chain=LOCAL, moment=9)

    [plan] = plans(connection, query)

    assert "USING INDEX payee_channels_seen (chain_seen_at>?)" in plan


@KINDS
def test_what_is_owed_is_added_up_in_the_order_of_an_index(
    connection: sqlite3.Connection, sessions: bool, table: str
) -> None:
    del sessions
    steps = plans(connection, partial(payee_rows.add_up_owed, limit=9))

    assert len(steps) == 2
    assert any(f"USING INDEX {table}_claimable" in step for step in steps)


def test_loading_a_record_never_scans(connection: sqlite3.Connection) -> None:
    batch = Batch()
    batch.add(payee.save_channel(None, payee_record(), ()))
    batch.add(payer.save_channel(ACCOUNT, None, payer_record()))
    write(connection, batch)

    def load_all(database: sqlite3.Connection) -> None:
        payee_rows.load_channel(database, channel())
        payment_rows.load_payment(database, "id")
        payee_rows.load_cursor(database, "name")
        payee_rows.load_answer(database, "key")
        payee_rows.load_sent(database, LOCAL, ACCOUNT)
        payer_rows.load_channel(database, (ACCOUNT, channel()))
        payer_rows.load_budget(database, ACCOUNT)
        payer_rows.list_channels(database, ACCOUNT)

    steps = plans(connection, load_all)
    assert not [step for step in steps if step.startswith("SCAN")]


def test_served_payments_are_found_among_many_others(
    connection: sqlite3.Connection,
) -> None:
    [plan] = plans(connection, partial(payment_rows.list_served, limit=5))

    assert "USING INDEX payments_served" in plan


def test_what_is_being_answered_is_found_among_many_others(
    connection: sqlite3.Connection,
) -> None:
    [plan] = plans(connection, payment_rows.list_answering)

    assert "INDEX payments_answering" in plan


def test_sweeping_reads_no_bodies(connection: sqlite3.Connection) -> None:
    steps = plans(connection, partial(payee_rows.sweep_answers, now=1, bytes_total=1))

    scans = [step for step in steps if "answers" in step and step.startswith("SCAN")]
    assert scans
    assert all("COVERING INDEX answers_by_age" in step for step in scans)
