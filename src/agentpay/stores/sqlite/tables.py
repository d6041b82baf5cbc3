"""
Changed rows as SQLite's statements, and its rows as they were put.

Many rows go into one statement. Each statement gives the interpreter's lock away, and
on a busy event loop it is a while until the writer gets it back.

Amounts are 32 bytes here, big-endian, so that they sort.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from agentpay.stores.rows.columns import AMOUNT_BYTES, Row
from agentpay.stores.rows.tables import Batch, Column, Columns, Table

_ROWS_MAX: Final = 32  # of 28 columns: SQLite before 3.32 takes 999 variables


def write(connection: sqlite3.Connection, batch: Batch) -> None:
    for table, cut, put in batch.tables():
        for part in _parts(cut):
            connection.execute(_delete(table, len(part)), _flat(table, part))
        for part in _parts(put):
            connection.execute(_upsert(table, len(part)), _flat(table, part))


def read(
    connection: sqlite3.Connection,
    table: Table,
    key: Columns,
    *,
    order: str = "",
) -> list[Row]:
    """
    The rows of a table whose first columns are `key`.

    Raises:
        ValueError: A row is not one that we wrote.
    """
    given = _flat(table, [key])
    rows = connection.execute(_select(table, len(key), order), given)
    return [
        tuple([_to_value(*pair) for pair in zip(row, table.kinds, strict=True)])
        for row in rows
    ]


def to_blob(amount: int) -> bytes:
    return amount.to_bytes(AMOUNT_BYTES, "big")


def _to_value(column: Column, kind: str) -> Column:
    if kind != "amount" or column is None:
        return column
    if not isinstance(column, bytes) or len(column) != AMOUNT_BYTES:
        raise ValueError(f"no amount of {AMOUNT_BYTES} bytes: {column!r}")
    return int.from_bytes(column, "big")


def _parts(rows: Sequence[Columns]) -> Iterable[Sequence[Columns]]:
    """In powers of two, so that there are few statements to prepare."""
    at = 0
    while left := len(rows) - at:
        size = min(_ROWS_MAX, 1 << (left.bit_length() - 1))
        yield rows[at : at + size]
        at += size


def _flat(table: Table, rows: Sequence[Columns]) -> list[Column]:
    kinds = table.kinds
    return [
        to_blob(value) if kind == "amount" and isinstance(value, int) else value
        for row in rows
        for value, kind in zip(row, kinds, strict=False)
    ]


@lru_cache(maxsize=256)
def _select(table: Table, by: int, order: str) -> str:
    where = " AND ".join(f"{name} = ?" for name in table.names[:by]) or "TRUE"
    ordered = f" ORDER BY {order}" if order else ""
    return f"SELECT {table.columns} FROM {table.name} WHERE {where}{ordered}"  # noqa: S608


@lru_cache(maxsize=256)
def _upsert(table: Table, rows: int) -> str:
    """An `INSERT` that overwrites, and unlike `REPLACE` leaves a row in its place."""
    names = table.names
    row = f"({', '.join('?' * len(names))})"
    changed = ", ".join(f"{n} = excluded.{n}" for n in names[table.keys :])
    action = f"UPDATE SET {changed}" if changed else "NOTHING"
    return (
        f"INSERT INTO {table.name} ({table.columns})"  # noqa: S608 - our own names
        f" VALUES {', '.join([row] * rows)}"
        f" ON CONFLICT ({', '.join(names[: table.keys])}) DO {action}"
    )


@lru_cache(maxsize=256)
def _delete(table: Table, rows: int) -> str:
    one = " AND ".join(f"{name} = ?" for name in table.names[: table.keys])
    which = " OR ".join([f"({one})"] * rows)
    return f"DELETE FROM {table.name} WHERE {which}"  # noqa: S608 - our own names
