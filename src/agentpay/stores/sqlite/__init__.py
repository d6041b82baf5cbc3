"""
A durable store in one SQLite file: steps are decided in memory and committed in groups.

One process per file, one thread on the file, one transaction for whatever was queued
while the last one committed. Payers may share a file among processes (`shared`). Made
for one machine; it does not coordinate several.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from agentpay.errors import ConfigurationError, StoreInUse, StoreNotEmpty
from agentpay.stores.rows.columns import Row
from agentpay.stores.rows.tables import Put, Table
from agentpay.stores.rows.whole import TABLES
from agentpay.stores.sqlite.lock import lock
from agentpay.stores.sqlite.payee import SqlitePayeeStore
from agentpay.stores.sqlite.payer import SqlitePayerStore
from agentpay.stores.sqlite.schema import (
    MIGRATIONS,
    check,
    connect,
    create_if_missing,
    migrate,
)
from agentpay.stores.sqlite.shared import SharedSqliteStore
from agentpay.stores.sqlite.tables import read
from agentpay.stores.sqlite.thread import DatabaseThread
from agentpay.stores.sqlite.writer import Writer

__all__ = [
    "SharedSqliteStore",
    "SqlitePayeeStore",
    "SqlitePayerStore",
    "SqliteStore",
]

_AGAIN_SECONDS = 0.02


class SqliteStore:
    """Both roles over one file. Open it with `await SqliteStore.open(path)`."""

    def __init__(self, thread: DatabaseThread, *, cached: int) -> None:
        self._writer = Writer(thread)
        self._closing: asyncio.Task[None] | None = None
        self.payee = SqlitePayeeStore(self._writer, cached=cached, close=self.close)
        self.payer = SqlitePayerStore(self._writer, cached=cached, close=self.close)

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        cached: int = 1024,
        lock_wait_seconds: float = 5.0,
    ) -> Self:
        """
        Open a file, or make it. `cached` records of each kind stay in memory.

        Raises:
            ConfigurationError: Its directory does not exist.
            StoreInUse: Another process holds it.
            StoreCorrupt: It is not one of ours, or damaged.
            StoreNewer: A newer version of this library wrote it.
            StoreUnavailable: It cannot be read or written now.
        """
        database = _find(path)
        held = _hold(database)
        thread = await _start(database, held, lock_wait_seconds=lock_wait_seconds)
        return cls(thread, cached=cached)

    @staticmethod
    async def open_shared(
        path: str | os.PathLike[str],
        *,
        cached: int = 1024,
        lock_wait_seconds: float = 5.0,
    ) -> SharedSqliteStore:
        """
        Open a file for a payer, beside other processes that do the same.

        Raises: as `open` does.
        """
        database = _find(path)
        held = await asyncio.to_thread(_hold_shared, database, lock_wait_seconds)
        thread = await _start(database, held, lock_wait_seconds=lock_wait_seconds)
        return SharedSqliteStore(thread, database=database, cached=cached)

    async def all_rows(self) -> list[tuple[Table, Row]]:
        """
        Everything that is kept, in an order in which it can be put again.

        Raises:
            StoreCorrupt: A row is not one that we wrote.
        """
        await self._writer.drain()
        return await self._writer.read(_all_rows)

    async def fill(self, changes: Sequence[Put]) -> None:
        """
        Put everything that another store kept.

        Raises:
            StoreNotEmpty: Something is here already, and stays.
        """
        await self._writer.drain()
        if await self._writer.read(_all_rows):
            raise StoreNotEmpty("this store keeps something already: name a new one")
        await self._writer.wait(self._writer.submit(changes))

    async def close(self) -> None:
        """
        Save what is queued and let go of the file. Serves both views; may be repeated.

        Raises:
            StoreUnavailable: What was queued was not saved.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._writer.close())
        await asyncio.shield(self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def _find(path: str | os.PathLike[str]) -> Path:
    """The file behind any links."""
    database = Path(path).resolve()
    if not database.parent.is_dir():
        raise ConfigurationError(f"there is no directory {database.parent}: make it")
    return database


def _hold(database: Path, *, shared: bool = False) -> int:
    """The lock on a file, which is made if it was missing."""
    held = lock(database, shared=shared)
    try:
        create_if_missing(database)
    except BaseException:
        os.close(held)
        raise
    return held


def _hold_shared(database: Path, wait_seconds: float) -> int:
    """The same with others; whoever makes the file does it alone."""
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            if not database.exists():
                os.close(_hold(database))
            return _hold(database, shared=True)
        except StoreInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(_AGAIN_SECONDS)


async def _start(
    database: Path, held: int, *, lock_wait_seconds: float
) -> DatabaseThread:
    thread = DatabaseThread(
        partial(connect, database, lock_wait_seconds=lock_wait_seconds),
        release=partial(os.close, held),
    )
    try:
        await asyncio.shield(thread.call(partial(_bring_up, database=database)))
    except BaseException:
        await asyncio.shield(thread.stop())
        raise
    return thread


def _all_rows(connection: sqlite3.Connection) -> list[tuple[Table, Row]]:
    return [
        (table, row)
        for table, order in TABLES.items()
        for row in read(connection, table, (), order=order)
    ]


def _bring_up(connection: sqlite3.Connection, *, database: Path) -> None:
    check(connection, database)
    migrate(connection, MIGRATIONS)
