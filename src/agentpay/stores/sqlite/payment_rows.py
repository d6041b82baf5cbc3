"""Transfers to a payee as SQLite reads them back, and how it lists and sweeps them."""

import sqlite3

from agentpay.records import PaymentRecord
from agentpay.stores.rows.payee import PAYMENTS, to_payment
from agentpay.stores.sqlite.tables import read


def list_served(connection: sqlite3.Connection, *, limit: int) -> list[str]:
    rows = connection.execute(
        "SELECT id FROM payments WHERE status = 'served' ORDER BY started_at, id"
        " LIMIT ?",
        (limit,),
    )
    return [payment_id for (payment_id,) in rows]


def list_answering(connection: sqlite3.Connection) -> list[str]:
    """Only what is under way, or was when somebody died: all of it may be read."""
    rows = connection.execute("SELECT id FROM payments WHERE status = 'answering'")
    return [payment_id for (payment_id,) in rows]


def sweep_payments(connection: sqlite3.Connection, *, now: int) -> None:
    """One statement, which is one transaction of its own."""
    connection.execute(
        "DELETE FROM payments WHERE status IN ('delivered', 'failed')"
        " AND good_until > 0 AND good_until < ?",
        (now,),
    )


def load_payment(
    connection: sqlite3.Connection, payment_id: str
) -> PaymentRecord | None:
    """
    Raises:
        ValueError: The row is not one that we wrote.
    """
    rows = read(connection, PAYMENTS, (payment_id,))
    return to_payment(rows[0]) if rows else None
