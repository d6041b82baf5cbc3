"""All rows of a PostgreSQL store: read at one moment, or put into an empty one."""

from collections.abc import Sequence

from agentpay.stores.postgres.connection import Connection, from_columns
from agentpay.stores.postgres.reading import names
from agentpay.stores.postgres.shelves import ACCOUNTS
from agentpay.stores.postgres.writing import write
from agentpay.stores.rows import payee, payer
from agentpay.stores.rows.columns import Row
from agentpay.stores.rows.tables import Batch, Columns, Put, Table
from agentpay.stores.rows.whole import TABLES

_VERSIONED = (payee.CHANNELS, payee.PAYMENTS, payee.MARKS, payee.CURSORS, ACCOUNTS)
_OF_ACCOUNTS = (payer.CHANNELS, payer.SPENT, payer.HOLDS, payer.LAPSES)


async def read_all(connection: Connection) -> list[tuple[Table, Row]]:
    """Every row, whatever others write meanwhile."""
    rows: list[tuple[Table, Row]] = []
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    for table, order in TABLES.items():
        found = await connection.fetch(
            f"SELECT {names(table)} FROM {table.name} ORDER BY {order}"  # noqa: S608
        )
        rows += [(table, from_columns(row, table.kinds)) for row in found]
    await connection.execute("COMMIT")
    return rows


async def fill(connection: Connection, *, changes: Sequence[Put]) -> None:
    """
    Put rows where there are none.

    Raises:
        Outdated: Somebody else put some of them first; nothing was put.
    """
    accounts = {c.row[:1] for c in changes if c.table in _OF_ACCOUNTS}
    everything = [*changes, *(Put(ACCOUNTS, account) for account in sorted(accounts))]
    batch = Batch()
    batch.add(everything)
    versions: dict[tuple[Table, Columns], int] = {
        (put.table, put.row[: put.table.keys]): 0
        for put in everything
        if put.table in _VERSIONED
    }
    await connection.execute("BEGIN")
    await write(connection, batch, versions)
    await connection.execute("COMMIT")
