"""Rows of many keys at once, as they were put."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from agentpay.stores.postgres.connection import (
    TYPES,
    Connection,
    from_columns,
    to_column,
)
from agentpay.stores.rows.columns import Row
from agentpay.stores.rows.tables import Column, Columns, Table

Ordered = tuple[Table, str]
"""A table, and the order in which its rows are read."""


async def lock(
    connection: Connection, table: Table, keys: Iterable[Columns]
) -> list[tuple[Row, int]]:
    """Rows and their versions, which nobody else writes until our transaction ends."""
    rows = await connection.fetch(_lock(table), *arrays(table, list(keys)))
    return [(from_columns(row[1:], table.kinds), row[0]) for row in rows]


async def rows_of(
    connection: Connection, table: Table, keys: Sequence[Columns], *, order: str = ""
) -> dict[Columns, list[Row]]:
    """The rows that begin with each key, in the order that is asked for."""
    found: dict[Columns, list[Row]] = {key: [] for key in keys}
    width = len(keys[0])
    query = _select(table, width, order)
    for raw in await connection.fetch(query, *arrays(table, keys)):
        row = from_columns(raw, table.kinds)
        found[row[:width]].append(row)
    return found


async def rows_of_each(
    connection: Connection, tables: Sequence[Ordered], keys: Sequence[Columns]
) -> list[dict[Columns, list[Row]]]:
    """The same of several tables whose keys begin alike, in one round trip."""
    width = len(keys[0])
    found: list[dict[Columns, list[Row]]] = [{key: [] for key in keys} for _ in tables]
    query = _select_each(tuple(tables), width)
    for raw in await connection.fetch(query, *arrays(tables[0][0], keys)):
        nth, cells = int(raw[0]), raw[2:]
        table = tables[nth][0]
        start = sum(len(before.names) for before, _ in tables[:nth])
        row = from_columns(cells[start : start + len(table.names)], table.kinds)
        found[nth][row[:width]].append(row)
    return found


def arrays(table: Table, rows: Sequence[Columns]) -> list[list[Column]]:
    """Rows as one array for each column, as far as they go."""
    width = len(rows[0])
    return [
        [to_column(row[at], table.kinds[at]) for row in rows] for at in range(width)
    ]


def unnest(table: Table, width: int) -> str:
    """What makes rows again of such arrays."""
    types = [TYPES[kind] for kind in table.kinds[:width]]
    return ", ".join(f"${at}::{name}[]" for at, name in enumerate(types, start=1))


def names(table: Table, width: int | None = None) -> str:
    """The first columns of a table, quoted: `window` is a word of SQL."""
    return ", ".join(f'"{name}"' for name in table.names[:width])


@lru_cache(maxsize=256)
def _lock(table: Table) -> str:
    """In one order for everybody, so that no two wait for each other."""
    keys = names(table, table.keys)
    return (
        f"SELECT version, {names(table)} FROM {table.name}"  # noqa: S608
        f" WHERE ({keys}) IN (SELECT * FROM unnest({unnest(table, table.keys)}))"
        f" ORDER BY {keys} FOR UPDATE"
    )


@lru_cache(maxsize=256)
def _select(table: Table, width: int, order: str) -> str:
    ordered = f" ORDER BY {order}" if order else ""
    return (
        f"SELECT {names(table)} FROM {table.name}"  # noqa: S608 - our own names
        f" WHERE ({names(table, width)})"
        f" IN (SELECT * FROM unnest({unnest(table, width)})){ordered}"
    )


@lru_cache(maxsize=256)
def _select_each(tables: tuple[Ordered, ...], width: int) -> str:
    """Each table's rows in columns of its own, and nothing in those of the others."""
    parts = [
        f"SELECT {nth} AS nth, row_number() OVER (ORDER BY {order}) AS place,"  # noqa: S608
        f" {_cells(tables, nth)} FROM {table.name} WHERE ({names(table, width)})"
        f" IN (SELECT * FROM unnest({unnest(table, width)}))"
        for nth, (table, order) in enumerate(tables)
    ]
    return " UNION ALL ".join(parts) + " ORDER BY nth, place"


def _cells(tables: tuple[Ordered, ...], nth: int) -> str:
    return ", ".join(
        f'"{name}"' if at == nth else f"NULL::{TYPES[kind]}"
        for at, (table, _) in enumerate(tables)
        for name, kind in zip(table.names, table.kinds, strict=True)
    )
