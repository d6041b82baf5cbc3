"""
Changed rows on their way to the database: only the last word on each row is written.

Many rows go into one statement. Each statement gives the interpreter's lock away, and
on a busy event loop it is a while until the writer gets it back.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

Column = bytes | str | int | None
Columns = tuple[Column, ...]

_ROWS_MAX: Final = 32  # of 28 columns: SQLite before 3.32 takes 999 variables


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A table and its columns, of which the first `keys` are unique together."""

    name: str
    columns: str
    keys: int

    @property
    def names(self) -> list[str]:
        return [name.strip() for name in self.columns.split(",")]


@dataclass(frozen=True, slots=True)
class Put:
    """Write a row in its place, or last if there is none."""

    table: Table
    row: Columns


@dataclass(frozen=True, slots=True)
class Cut:
    """Delete a row, if it is there."""

    table: Table
    key: Columns


Change = Put | Cut


@dataclass(slots=True)
class _Pending:
    rows: dict[Columns, Columns | None] = field(
        default_factory=dict[Columns, Columns | None]
    )
    cut: set[Columns] = field(default_factory=set[Columns])


class Batch:
    """The changes of several steps, to be written as if one after another."""

    def __init__(self) -> None:
        self._tables: dict[Table, _Pending] = {}

    def add(self, changes: Iterable[Change]) -> None:
        for change in changes:
            pending = self._tables.setdefault(change.table, _Pending())
            if isinstance(change, Cut):
                pending.rows[change.key] = None
                pending.cut.add(change.key)
                continue
            key = change.row[: change.table.keys]
            if key in pending.cut and pending.rows[key] is None:
                del pending.rows[key]  # a row that comes back comes last
            pending.rows[key] = change.row

    def write(self, connection: sqlite3.Connection) -> None:
        for table, pending in self._tables.items():
            cut = list(pending.cut)
            put = [row for row in pending.rows.values() if row is not None]
            for part in _parts(cut):
                connection.execute(_delete(table, len(part)), _flat(part))
            for part in _parts(put):
                connection.execute(_upsert(table, len(part)), _flat(part))


def _parts(rows: Sequence[Columns]) -> Iterable[Sequence[Columns]]:
    """In powers of two, so that there are few statements to prepare."""
    at = 0
    while left := len(rows) - at:
        size = min(_ROWS_MAX, 1 << (left.bit_length() - 1))
        yield rows[at : at + size]
        at += size


def _flat(rows: Sequence[Columns]) -> list[Column]:
    return [column for row in rows for column in row]


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


def select(columns: str, table: Table, *, by: int, order: str = "") -> str:
    """Read `columns` of the rows whose first `by` columns are given."""
    where = " AND ".join(f"{name} = ?" for name in table.names[:by])
    ordered = f" ORDER BY {order}" if order else ""
    return f"SELECT {columns} FROM {table.name} WHERE {where}{ordered}"  # noqa: S608
