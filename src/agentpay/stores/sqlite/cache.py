"""
Current records in memory, so that a step need not wait for the disk to be decided.

Bounded: the least recently used is dropped first, and never one with unsaved steps.
Whoever holds an entry uses it before the next `await`, or looks it up again.
"""

import asyncio
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

from agentpay.stores.rows.tables import Change
from agentpay.stores.sqlite.writer import Group, Steps, Writer

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Entry(Generic[R]):
    """A record as the next step is to see it, and the group that will save it."""

    record: R
    group: Group | None = None

    @property
    def saved(self) -> bool:
        return self.group is None or self.group.settled


class Cache(Generic[K, R]):
    """Records of one kind, read from the database when first asked for."""

    def __init__(
        self,
        writer: Writer,
        load: Callable[[sqlite3.Connection, K], R],
        *,
        capacity: int,
    ) -> None:
        self._writer = writer
        self._load = load
        self._capacity = capacity
        self._entries: OrderedDict[K, Entry[R]] = OrderedDict()
        self._loading: dict[K, asyncio.Future[R]] = {}
        writer.on_failure(self._entries.clear)

    async def entry(self, key: K) -> Entry[R]:
        """Of concurrent calls for one key, one reads and all get the same entry."""
        while (entry := self.peek(key)) is None:
            await self.load(key)
        return entry

    def peek(self, key: K) -> Entry[R] | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    async def load(self, key: K) -> None:
        loading = self._loading.get(key)
        if loading is None:
            loading = self._writer.read(lambda connection: self._load(connection, key))
            self._loading[key] = loading
            loading.add_done_callback(partial(self._keep, key))
        if loading.done():
            # Waiting for it would not let its callback run, and the caller looks again.
            await asyncio.sleep(0)
            return
        await asyncio.shield(loading)

    def save(self, entry: Entry[R], record: R, changes: Iterable[Change]) -> None:
        """Show a record to the next step at once, and queue what saves it."""
        entry.group = self._writer.submit(changes)
        entry.record = record

    def save_steps(self, key: K, entry: Entry[R], record: R, steps: Steps) -> Group:
        """The same, where the steps on one record are saved as one."""
        entry.group = group = self._writer.submit_steps(key, steps)
        entry.record = record
        return group

    def _keep(self, key: K, loaded: asyncio.Future[R]) -> None:
        del self._loading[key]
        if loaded.exception() is None:
            self._entries[key] = Entry(loaded.result())
            self._trim(newest=key)

    def _trim(self, *, newest: K) -> None:
        """Keep the newest: who asked for it has not seen it yet."""
        surplus = max(0, len(self._entries) - self._capacity)
        old = (k for k, e in self._entries.items() if e.saved and k != newest)
        for key in list(islice(old, surplus)):
            del self._entries[key]
