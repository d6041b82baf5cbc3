"""
A durable store in a PostgreSQL database, for many processes on many hosts.

Each process has one session and one transaction at a time, which carries whatever was
asked for meanwhile. Rows are locked while they are decided on, so that of two processes
the second sees what the first saved.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from secrets import token_hex
from types import TracebackType
from typing import Self

from agentpay.errors import StoreNotEmpty
from agentpay.stores.postgres.lane import Lane, Query
from agentpay.stores.postgres.payee import PostgresPayeeStore
from agentpay.stores.postgres.payer import PostgresPayerStore
from agentpay.stores.postgres.schema import check_name
from agentpay.stores.postgres.session import Session
from agentpay.stores.postgres.whole import fill, read_all
from agentpay.stores.rows.columns import Row
from agentpay.stores.rows.tables import Put, Table

__all__ = ["PostgresPayeeStore", "PostgresPayerStore", "PostgresStore"]


class PostgresStore:
    """Both roles over one database. Open it with `await PostgresStore.open(url)`."""

    def __init__(self, session: Session, *, cached: int) -> None:
        self._session = session
        self._lane = Lane(session)
        self._closing: asyncio.Task[None] | None = None
        self.payee = PostgresPayeeStore(
            self._lane, session, cached=cached, close=self.close
        )
        self.payer = PostgresPayerStore(self._lane, close=self.close)

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        schema: str = "agentpay",
        cached: int = 1024,
        timeout_seconds: float = 10.0,
        grace_seconds: float = 5.0,
    ) -> Self:
        """
        Open a database, and make the tables if they are missing.

        No statement may take longer than `timeout_seconds`. Who held something when the
        server started has `grace_seconds` to come back to it.

        Raises:
            ConfigurationError: It is no URL of PostgreSQL, or asyncpg is missing.
            StoreNewer: A newer version of this library made the tables.
            StoreInUse: They are to be changed, and older processes use them.
            StoreUnavailable: There is no server, or it does not let us in.
        """
        session = Session(
            url,
            owner=token_hex(16),
            schema_name=check_name(schema),
            timeout_seconds=timeout_seconds,
            grace_seconds=grace_seconds,
        )
        await session.ready()
        return cls(session, cached=cached)

    async def all_rows(self) -> list[tuple[Table, Row]]:
        """
        Everything that is kept at one moment, in an order in which it can be put again.
        """
        return await self._lane.carry_out(Query(read_all))

    async def fill(self, changes: Sequence[Put]) -> None:
        """
        Put everything that another store kept.

        Raises:
            StoreNotEmpty: Something is here already, and stays.
        """
        if await self.all_rows():
            raise StoreNotEmpty("this store keeps something already: name a new one")
        await self._lane.carry_out(Query(partial(fill, changes=changes)))

    async def close(self) -> None:
        """Save what is queued and let go. Serves both views; may be repeated."""
        if self._closing is None or self._closing.cancelled():
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._lane.close()
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
