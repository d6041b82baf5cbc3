"""
One SQLite file that payers in several processes share: one account, one budget.

Each group of steps is one transaction that keeps every other writer out from before it
reads until it is saved. What was read before is used again unless another process has
written since (SQLite counts that), so that a single payer seldom reads at all: it has
decided before the transaction begins, and if nobody has written, that is simply saved.
Otherwise it is decided anew on what was written, while nobody else can write.

What nobody waits for is told at once if it was decided on what is true then, and goes
into the next transaction, or soon into one of its own.
"""

import asyncio
import contextlib
import logging
import sqlite3
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Never, Self, TypeVar

from agentpay.core.budget import Budget
from agentpay.errors import ConfigurationError, StoreClosed, StoreUnavailable
from agentpay.records import PayerDecide, PayerRecord, PayerStep
from agentpay.stores.sqlite import payer_rows
from agentpay.stores.sqlite.shared_books import Books, Group, Step
from agentpay.stores.sqlite.thread import DatabaseThread
from agentpay.stores.steps import channel_order
from agentpay.types import Address, Hash32

T = TypeVar("T")

_log = logging.getLogger(__name__)

_STEPS_MAX: Final = 128
LINGER_SECONDS: Final = 0.005
"""So long what was told waits for a transaction of somebody who waits."""


class SharedPayerStore:
    """What payers remember, whichever process they are. Made by `SharedSqliteStore`."""

    def __init__(self, thread: DatabaseThread, *, database: Path, cached: int) -> None:
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._books = Books(database, cached=cached)
        self._queued: list[Step[Any]] = []
        self._told = Group([])
        """What was told and is not saved yet, or could not be: then it is undecided."""
        self._lingering: asyncio.TimerHandle | None = None
        self._carrying: asyncio.Future[None] | None = None
        """Until nothing is being saved, nor tried to be."""
        self._closing: asyncio.Task[None] | None = None

    @property
    def shared(self) -> bool:
        return True

    async def update(
        self,
        account: Address,
        channel: Hash32 | None,
        decide: PayerDecide[T],
        *,
        durable: bool = True,
    ) -> T:
        """
        Decide on what is true while no other process can write, perhaps after deciding
        on what was true before.

        With `durable` it is on the disk before it is told. Otherwise it may be told
        first, and what could not be saved then is decided again, and saved, before
        anybody here decides on anything else. Other processes see it once it is saved.
        """
        if self._closing is not None:
            raise StoreClosed("the store is closed")
        done: asyncio.Future[T] = self._loop.create_future()
        step = Step(account, channel, decide, durable, done)
        if durable or not self._tell_at_once(step):
            self._queued.append(step)
            if self._carrying is None:
                self._start()
        return await done

    async def channels(self, account: Address) -> list[PayerRecord]:
        """In order of origin and index."""
        await self.budget(account)  # with it, what was told is saved
        listing = partial(payer_rows.list_channels, account=account)
        found = await asyncio.shield(self._thread.call(listing))
        reading = (self.update(account, each, _record_as_it_is) for each in found)
        records = await asyncio.gather(*reading)
        return sorted((r for r in records if r is not None), key=channel_order)

    async def budget(self, account: Address) -> Budget:
        return await self.update(account, None, _budget_as_it_is)

    async def close(self) -> None:
        """Save what is queued and let go of the file. May be repeated."""
        if self._closing is None or self._closing.cancelled():  # before it began
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._save_told()
        while self._carrying is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([self._carrying])
        await _finished(self._thread.stop())

    # Group by group. No task carries them, which could be cancelled: what is begun is
    # ended by callbacks.

    def _tell_at_once(self, step: Step[Any]) -> bool:
        """Whether it could be decided on what is true now."""
        told = self._told
        idle = self._carrying is None and told.is_decided
        if not idle or not self._books.know(step):
            return False
        if not self._thread.peek(self._books.is_current):
            return False
        outcome = self._books.outcome(step, told.batch)
        step.tell(outcome)
        if told.batch and step.is_told:
            told.steps.append(step)
            told.outcomes.append(outcome)
            if self._lingering is None:
                later = self._loop.call_later(LINGER_SECONDS, self._save_told)
                self._lingering = later
        return True

    def _save_told(self) -> None:
        """Unless that has begun."""
        self._lingering = None
        if self._carrying is None and self._told.steps:
            self._start()

    def _start(self) -> None:
        self._carrying = self._loop.create_future()
        # Not at once: tasks that are ready now are to be in the same group.
        self._loop.call_soon(self._carry)

    def _carry(self) -> None:
        """Take what is queued; first what was told before."""
        group, self._told = self._told, Group([])
        group.steps += self._queued[:_STEPS_MAX]
        del self._queued[:_STEPS_MAX]
        if not self._decide(group):
            return
        work = self._thread.call(partial(self._books.begin, group))
        work.add_done_callback(partial(self._go_on, group))

    def _go_on(self, group: Group, work: "asyncio.Future[bool]") -> None:
        """It was saved; or others have written, and it is decided on that."""
        why = work.exception()
        if why is not None:
            self._fail(group, why)
        elif work.result():
            self._tell(group)
        elif self._decide(group):
            saved = self._thread.call(partial(self._books.save, group))
            saved.add_done_callback(partial(self._go_on, group))

    def _decide(self, group: Group) -> bool:
        """Whether it could be; what breaks it off leaves no transaction open."""
        try:
            self._books.decide(group)
        except BaseException as why:
            self._thread.call(_roll_back)
            self._fail(group, why)
            raise
        return True

    def _tell(self, group: Group) -> None:
        for step, outcome in zip(group.steps, group.outcomes, strict=True):
            if outcome[1] is not None and step.is_told:
                _log.warning("a step that was told is refused now: %r", outcome[1])
            step.tell(outcome)
        self._end()

    def _fail(self, group: Group, why: BaseException) -> None:
        """Nothing of it was saved: what was read is old, and what was told is owed."""
        self._books.forget()
        if not isinstance(why, Exception):
            why = StoreUnavailable(f"nothing was saved: {why!r}")
        if group.is_alone:
            for step, outcome in zip(group.steps, group.outcomes, strict=True):
                if not step.durable:
                    step.tell(outcome)
        told = [step for step in group.steps if step.is_told]
        if told:
            _log.warning("%d steps that were told are not saved: %r", len(told), why)
        self._told = Group(told)
        for step in group.steps:
            step.tell((None, why))
        self._end()

    def _end(self) -> None:
        """Of a group; the next one begins at once."""
        if self._queued:
            self._loop.call_soon(self._carry)
        elif self._carrying is not None:
            self._carrying.set_result(None)
            self._carrying = None


class SharedSqliteStore:
    """A payer's role over a file that others use too. See `SqliteStore.open_shared`."""

    def __init__(self, thread: DatabaseThread, *, database: Path, cached: int) -> None:
        self._database = database
        self.payer = SharedPayerStore(thread, database=database, cached=cached)

    @property
    def payee(self) -> Never:
        """
        Raises:
            ConfigurationError: Always: a payee has its file for itself.
        """
        raise ConfigurationError(
            f"{self._database} is opened to be shared by payers: a payee needs a file"
            " of its own, or PostgreSQL"
        )

    async def close(self) -> None:
        """Save what is queued and let go of the file. May be repeated."""
        await self.payer.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


async def _finished(work: asyncio.Future[T]) -> T:
    """Work of the thread goes on if this is cancelled, and so it is waited for."""
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(work)
    return work.result()


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.rollback()


def _budget_as_it_is(budget: Budget, record: PayerRecord | None) -> PayerStep[Budget]:
    return PayerStep(budget=budget, record=record, answer=budget)


def _record_as_it_is(
    budget: Budget, record: PayerRecord | None
) -> PayerStep[PayerRecord | None]:
    return PayerStep(budget=budget, record=record, answer=record)
