"""
The one thread that works with the database, and how that comes back to the event loop.

It knows nothing of what it runs. A caller that is cancelled while it waits changes
nothing: waiters shield the future, and the work goes on.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Final, TypeVar

from agentpay.errors import (
    InvariantViolated,
    StoreCorrupt,
    StoreError,
    StoreUnavailable,
)

T = TypeVar("T")

_LATE_SECONDS: Final = 0.001
_GIVEN_SECONDS: Final = 0.0001
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class DatabaseThread:
    """Runs work with the connection, one piece after another, in the order given."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        *,
        release: Callable[[], None],
    ) -> None:
        """`connect` is called when needed; `release` once, when all is over."""
        self._connect = connect
        self._release = release
        self._connection: sqlite3.Connection | None = None
        self._loop = asyncio.get_running_loop()
        self._unfinished = 0
        self._finished = 0
        self._watched = False
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, name="agentpay-sqlite", daemon=True
        )
        self._thread.start()

    def call(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """
        Run `work` in the thread. Its future fails with a `StoreError` where SQLite did.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(partial(self._work, work, future))
        self._unfinished += 1
        future.add_done_callback(self._finish)
        if not self._watched:
            self._watch()
        return future

    def peek(self, query: Callable[[sqlite3.Connection], T]) -> T | None:
        """
        What a query says that waits for nothing, asked here and now on the event loop;
        None while the thread has anything to do.
        """
        if self._unfinished or self._connection is None:
            return None
        try:
            return query(self._connection)
        except sqlite3.Error:
            return None  # whoever asks the thread is told why

    def stop(self) -> asyncio.Future[None]:
        """Close, release and end the thread, after all work given before."""
        stopped: asyncio.Future[None] = self._loop.create_future()
        self._jobs.put(partial(self._disconnect, stopped))
        self._jobs.put(None)
        return stopped

    def _finish(self, _: asyncio.Future[T]) -> None:
        self._unfinished -= 1
        self._finished += 1

    def _watch(self) -> None:
        self._watched = True
        self._loop.call_later(_LATE_SECONDS, self._give_way, self._finished)

    def _give_way(self, finished: int) -> None:
        """
        Let the thread run, if it is late because the event loop is never idle: it has
        something to do, and has `finished` nothing since.

        A loop that polls without waiting takes the interpreter's lock back before the
        thread has woken up; without this, commits were seen to take 15 seconds.
        """
        self._watched = False
        if self._unfinished:
            if self._finished == finished:
                time.sleep(_GIVEN_SECONDS)
            self._watch()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _work(
        self, work: Callable[[sqlite3.Connection], T], future: asyncio.Future[T]
    ) -> None:
        try:
            if self._connection is None:
                self._connection = self._connect()
            result = work(self._connection)
        except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it
            self._recover()
            self._post(partial(_fail, future, translate(error)))
        else:
            self._post(partial(_succeed, future, result))

    def _recover(self) -> None:
        """Leave no transaction open; a connection that cannot is replaced."""
        if self._connection is None or not self._connection.in_transaction:
            return
        try:
            self._connection.rollback()
        except sqlite3.Error:
            self._connection.close()
            self._connection = None

    def _disconnect(self, stopped: asyncio.Future[None]) -> None:
        outcome = partial(_succeed, stopped, None)
        try:
            if self._connection is not None:
                self._connection.close()
        except sqlite3.Error as error:
            outcome = partial(_fail, stopped, translate(error))
        self._release()
        self._post(outcome)

    def _post(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            return  # the event loop is closed: nobody waits any more


def translate(error: BaseException) -> BaseException:
    """Say in our words what SQLite said, or that a row is none that we wrote."""
    if isinstance(error, ValueError | InvariantViolated):
        wrong: StoreError = StoreCorrupt(f"the database holds a damaged row: {error}")
    elif isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", "") or type(error).__name__
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        kind = StoreCorrupt if code in _DAMAGED else StoreUnavailable
        wrong = kind(f"SQLite says: {error} ({name})")
    else:
        return error
    wrong.__cause__ = error
    return wrong


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
