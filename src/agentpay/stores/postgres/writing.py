"""
Changed rows as statements: one for what is deleted of a table, one for what is put.

A row that is decided on says which version it was read at. If another process has
written it since, nothing of the transaction may stay.
"""

from collections.abc import Mapping
from functools import lru_cache

from agentpay.stores.postgres.connection import Connection
from agentpay.stores.postgres.reading import arrays, names, unnest
from agentpay.stores.rows.tables import Batch, Columns, Table

Versions = Mapping[tuple[Table, Columns], int]
"""At which version rows were read; a table that has none here has no versions."""


class Outdated(Exception):
    """A row was written by somebody else after it was read."""


async def write(connection: Connection, batch: Batch, versions: Versions) -> None:
    """
    Write a batch, in the order of its tables' names.

    Raises:
        Outdated: Nothing may be committed; read and decide again.
    """
    versioned = {table for table, _ in versions}
    by_name = sorted(batch.tables(), key=lambda changes: changes[0].name)
    for table, cut, put in by_name:
        if cut:
            await connection.execute(_delete(table), *arrays(table, cut))
        if not put:
            continue
        if table not in versioned:
            await connection.execute(_upsert(table), *arrays(table, put))
            continue
        keyed = sorted(put, key=lambda row: repr(row[: table.keys]))
        after = [versions[table, row[: table.keys]] + 1 for row in keyed]
        done = await connection.execute(_upsert_at(table), *arrays(table, keyed), after)
        if done != f"INSERT 0 {len(keyed)}":
            raise Outdated(f"{table.name}: {done} of {len(keyed)}")


def _changed(table: Table) -> str:
    rest = table.names[table.keys :]
    return ", ".join(f'"{name}" = excluded."{name}"' for name in rest)


@lru_cache(maxsize=256)
def _delete(table: Table) -> str:
    given = unnest(table, table.keys)
    return (
        f"DELETE FROM {table.name} WHERE ({names(table, table.keys)})"  # noqa: S608 - our own names
        f" IN (SELECT * FROM unnest({given}))"
    )


@lru_cache(maxsize=256)
def _upsert(table: Table) -> str:
    """New rows come last, in their order: what numbers them is a sequence."""
    columns, changed = names(table), _changed(table)
    action = f"UPDATE SET {changed}" if changed else "NOTHING"
    given = unnest(table, len(table.names))
    return (
        f"INSERT INTO {table.name} ({columns})"  # noqa: S608 - our own names
        f" SELECT {columns} FROM unnest({given})"
        f" WITH ORDINALITY AS given ({columns}, nth) ORDER BY nth"
        f" ON CONFLICT ({names(table, table.keys)}) DO {action}"
    )


@lru_cache(maxsize=256)
def _upsert_at(table: Table) -> str:
    columns, changed = names(table), _changed(table)
    changes = ", ".join(filter(None, [changed, "version = excluded.version"]))
    width = len(table.names)
    given = f"{unnest(table, width)}, ${width + 1}::bigint[]"
    return (
        f"INSERT INTO {table.name} AS kept ({columns}, version)"  # noqa: S608
        f" SELECT {columns}, version FROM unnest({given})"
        f" WITH ORDINALITY AS given ({columns}, version, nth) ORDER BY nth"
        f" ON CONFLICT ({names(table, table.keys)}) DO UPDATE SET {changes}"
        " WHERE kept.version = excluded.version - 1"
    )
