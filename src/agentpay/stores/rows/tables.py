"""
Tables, and changed rows on their way to a database: the last word on each row counts.

What a column holds is said here once; each database has its own way to keep it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

Column = bytes | str | int | None
Columns = tuple[Column, ...]

KINDS: Final = frozenset({"bytes", "amount", "integer", "text", "flag"})
"""An amount is an `int` of up to 256 bits, an integer one of 64 with its sign."""


class Table:
    """A table and its columns, of which the first `keys` are unique together."""

    __slots__ = ("keys", "kinds", "name", "names")

    def __init__(self, name: str, columns: str, *, keys: int) -> None:
        """`columns` are names and kinds, such as `"channel bytes, charged amount"`."""
        pairs = [column.split() for column in columns.split(",")]
        self.name = name
        self.names = tuple(pair[0] for pair in pairs)
        self.kinds = tuple(pair[1] for pair in pairs)
        self.keys = keys
        if not KINDS.issuperset(self.kinds):
            raise ValueError(f"table {name} has columns of no known kind")

    @property
    def columns(self) -> str:
        return ", ".join(self.names)


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

    def __bool__(self) -> bool:
        return bool(self._tables)

    def add(self, changes: Iterable[Change]) -> None:
        for change in changes:
            pending = self._tables.get(change.table)
            if pending is None:
                pending = self._tables[change.table] = _Pending()
            if isinstance(change, Cut):
                pending.rows[change.key] = None
                pending.cut.add(change.key)
                continue
            key = change.row[: change.table.keys]
            if key in pending.cut and pending.rows[key] is None:
                del pending.rows[key]  # a row that comes back comes last
            pending.rows[key] = change.row

    def tables(self) -> Iterator[tuple[Table, list[Columns], list[Columns]]]:
        """Of each table, the keys to delete first and then the rows to put."""
        for table, pending in self._tables.items():
            put = [row for row in pending.rows.values() if row is not None]
            yield table, list(pending.cut), put
