"""
Group commit: what is queued while one transaction commits goes into the next.

A step that nobody waits for lingers a little for one that somebody does, so that it
costs no commit of its own and delays no other's.

A group is saved whole or not at all. If it is not, what is queued behind it fails too,
because it was decided on records that now never were; records are then read anew.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from agentpay.errors import StoreUnavailable
from agentpay.stores.rows.tables import Batch, Change
from agentpay.stores.sqlite.tables import write
from agentpay.stores.sqlite.thread import DatabaseThread

T = TypeVar("T")

_LINGER_SECONDS: Final = 0.02


@dataclass(slots=True, eq=False)
class Group:
    """Steps that are saved together."""

    done: asyncio.Future[BaseException | None]
    """Why it was not saved, once that is decided; None if it was."""
    batch: Batch = field(default_factory=Batch)
    awaited: bool = False
    """Somebody waits for it: it is saved at once."""

    @property
    def settled(self) -> bool:
        return self.done.done()


class Writer:
    """Everything that is read from or written to one database, in order."""

    def __init__(self, thread: DatabaseThread) -> None:
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._committing: Group | None = None
        self._queued: Group | None = None
        self._forget: list[Callable[[], None]] = []
        self._closed = False

    def on_failure(self, forget: Callable[[], None]) -> None:
        """Call `forget` whenever records in memory are not those on disk."""
        self._forget.append(forget)

    def submit(self, changes: Iterable[Change]) -> Group:
        """Queue one step; it is saved together with its group."""
        self._check_open()
        group = self._queued
        if group is None:
            group = self._queued = Group(done=self._loop.create_future())
            self._loop.call_later(_LINGER_SECONDS, self._commit)
        group.batch.add(changes)
        return group

    async def wait(self, group: Group | None) -> None:
        """
        Return when a group is durable. A cancelled caller does not stop it.

        Raises:
            StoreUnavailable: It was not saved.
        """
        if group is None:
            return
        self._hurry(group)
        done = group.done
        why = done.result() if done.done() else await asyncio.shield(done)
        if why is not None:
            raise StoreUnavailable(f"nothing was saved: {why}") from why

    async def flush(self) -> None:
        """
        Raises:
            StoreUnavailable: Something that was queued was not saved.
        """
        await self.wait(self._queued or self._committing)

    async def drain(self) -> None:
        """Wait until what is queued is saved, or is not; who queued it is told."""
        group = self._queued or self._committing
        if group is not None and not group.settled:
            self._hurry(group)
            await asyncio.shield(group.done)

    def read(self, query: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Read what is saved; what is only queued is not seen (see `drain`)."""
        self._check_open()
        return self._thread.call(query)

    async def close(self) -> None:
        """
        Save what is queued, then release the file whatever came of it.

        Raises:
            StoreUnavailable: What was queued was not saved.
        """
        self._closed = True
        try:
            await self.flush()
        finally:
            await asyncio.shield(self._thread.stop())

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    def _hurry(self, group: Group) -> None:
        if group.awaited:
            return
        group.awaited = True
        if group is self._queued and self._committing is None:
            # Not at once: tasks that are ready now are to be in the same group.
            self._loop.call_soon(self._commit)

    def _commit(self) -> None:
        if self._committing is not None or self._queued is None:
            return
        group, self._queued = self._queued, None
        self._committing = group
        committed = self._thread.call(partial(_save, group.batch))
        committed.add_done_callback(self._settle)

    def _settle(self, committed: asyncio.Future[None]) -> None:
        group, self._committing = self._committing, None
        why = committed.exception()
        if group is not None:
            _end(group, why)
        if why is None:
            if self._queued is not None:
                hurried = 0 if self._queued.awaited else _LINGER_SECONDS
                self._loop.call_later(hurried, self._commit)
            return
        if self._queued is not None:
            _end(self._queued, why)
            self._queued = None
        for forget in self._forget:
            forget()


def _end(group: Group, why: BaseException | None) -> None:
    group.batch = Batch()
    group.done.set_result(why)


def _save(batch: Batch, connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    write(connection, batch)
    connection.execute("COMMIT")
