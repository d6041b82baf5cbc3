"""
Group commit: what is queued while one transaction commits goes into the next.

A step that nobody waits for lingers a little for one that somebody does, so that it
costs no commit of its own and delays no other's. Steps on one record that are saved
together may be made into rows together, once their group is full.

A group is saved whole or not at all. If it is not, what is queued behind it fails too,
because it was decided on records that now never were; records are then read anew.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, TypeVar

from agentpay.errors import StoreClosed, StoreUnavailable
from agentpay.stores.rows.tables import Batch, Change
from agentpay.stores.sqlite.tables import write
from agentpay.stores.sqlite.thread import DatabaseThread

T = TypeVar("T")

_LINGER_SECONDS: Final = 0.02


class Steps(Protocol):
    """Steps on one record that are saved as one, each checked when it was added."""

    def changes(self) -> Iterable[Change]: ...


@dataclass(slots=True, eq=False)
class Group:
    """Steps that are saved together."""

    done: asyncio.Future[BaseException | None]
    """Why it was not saved, once that is decided; None if it was."""
    batch: Batch = field(default_factory=Batch)
    steps: dict[Hashable, Steps] = field(default_factory=dict[Hashable, Steps])
    """Those that are not in the batch yet, by their record."""
    waiting: list[asyncio.Future[None]] = field(
        default_factory=list[asyncio.Future[None]]
    )
    """One for each waiter, so that one who leaves cancels nothing but his own."""
    unsaved: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    """Called where it is not saved: for those who do not wait."""
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
        group = self._open_group()
        group.batch.add(changes)
        return group

    def steps(self, key: Hashable) -> Steps | None:
        """
        The steps on a record that are queued and not yet being saved.

        Raises:
            StoreClosed: Nothing may be added to them.
        """
        self._check_open()
        return self._queued.steps.get(key) if self._queued is not None else None

    def submit_steps(self, key: Hashable, steps: Steps) -> Group:
        """Queue the steps on a record, which may grow until their group is saved."""
        group = self._open_group()
        group.steps[key] = steps
        return group

    def _open_group(self) -> Group:
        self._check_open()
        group = self._queued
        if group is None:
            group = self._queued = Group(done=self._loop.create_future())
            self._loop.call_later(_LINGER_SECONDS, self._commit)
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
        if not group.settled:
            waiter: asyncio.Future[None] = self._loop.create_future()
            group.waiting.append(waiter)
            await waiter
        why = group.done.result()
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
            raise StoreClosed("the store is closed")

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
        try:
            for steps in group.steps.values():
                group.batch.add(steps.changes())
        except Exception as error:  # noqa: BLE001 - a bug of ours; who waits is told
            self._fail(group, error)
            return
        self._committing = group
        committed = self._thread.call(partial(_save, group.batch))
        committed.add_done_callback(self._settle)

    def _settle(self, committed: asyncio.Future[None]) -> None:
        group, self._committing = self._committing, None
        why = committed.exception()
        if why is not None:
            self._fail(group, why)
            return
        if group is not None:
            _end(group, None)
        if self._queued is not None:
            hurried = 0 if self._queued.awaited else _LINGER_SECONDS
            self._loop.call_later(hurried, self._commit)

    def _fail(self, group: Group | None, why: BaseException) -> None:
        """A group is not saved, and so nothing that was decided after it is."""
        behind, self._queued = self._queued, None
        lost = [each for each in (group, behind) if each is not None]
        unsaved = [tell for each in lost for tell in each.unsaved]
        for each in lost:
            _end(each, why)
        for forget in self._forget:
            forget()
        if not self._closed:  # else there is nothing that they could still do
            for tell in unsaved:
                tell()


def _end(group: Group, why: BaseException | None) -> None:
    group.batch, group.steps = Batch(), {}
    group.done.set_result(why)
    for waiter in group.waiting:
        if not waiter.done():
            waiter.set_result(None)
    group.waiting.clear()
    group.unsaved.clear()


def _save(batch: Batch, connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    write(connection, batch)
    connection.execute("COMMIT")
