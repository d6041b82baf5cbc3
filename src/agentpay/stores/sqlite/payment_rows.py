"""
Transfers to a payee as rows: what each signature bought, and when it may be forgotten.
"""

import sqlite3
from typing import Final

from agentpay.records import PaymentRecord, PaymentStatus
from agentpay.stores.sqlite.rows import (
    Row,
    amount,
    integer,
    text,
    to_address,
    to_int,
)
from agentpay.stores.sqlite.tables import Change, Cut, Put, Table, select

_PAYMENTS: Final = Table(
    "payments",
    "id, payer, amount, resource, owner, started_at, status, transaction_hash,"
    " charged, good_until, request",
    keys=1,
)
_GET_PAYMENT: Final = select(_PAYMENTS.columns, _PAYMENTS, by=1)


def save_payment(payment: PaymentRecord) -> list[Change]:
    columns = (
        text(payment.id),
        payment.payer.to_bytes(),
        amount(payment.amount),
        text(payment.resource),
        text(payment.owner),
        integer(payment.started_at),
        payment.status.value,
        text(payment.transaction),
        amount(payment.charged),
        integer(payment.good_until),
        text(payment.request),
    )
    return [Put(_PAYMENTS, columns)]


def forget_payment(payment_id: str) -> list[Change]:
    return [Cut(_PAYMENTS, (text(payment_id),))]


def list_served(connection: sqlite3.Connection, *, limit: int) -> list[str]:
    rows = connection.execute(
        "SELECT id FROM payments WHERE status = 'served' ORDER BY started_at, id"
        " LIMIT ?",
        (limit,),
    )
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
    row: Row | None = connection.execute(_GET_PAYMENT, (payment_id,)).fetchone()
    if row is None:
        return None
    _, payer, paid, resource, owner, started_at, status, transaction, *rest = row
    charged, good_until, request = rest
    return PaymentRecord(
        id=payment_id,
        payer=to_address(payer),
        amount=to_int(paid),
        resource=resource,
        owner=owner,
        started_at=started_at,
        status=PaymentStatus(status),
        transaction=transaction,
        charged=to_int(charged),
        good_until=good_until,
        request=request,
    )
