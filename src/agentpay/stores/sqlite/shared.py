"""
One SQLite file that payers in several processes share: one account, one budget.

Each group of steps is one transaction that keeps every other writer out from before it
reads until it is saved. What was read before is used again unless another process has
written since (SQLite counts that), so that a single payer seldom reads at all: it has
decided before the transaction begins, and if nobody has written, that is simply saved.
Otherwise it is decided anew on what was written, while nobody else can write.
"""

import asyncio
import contextlib
import logging
import sqlite3
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, Never, Self, TypeVar

from agentpay.core.budget import Budget
from agentpay.errors import ConfigurationError, StoreClosed, StoreUnavailable
from agentpay.records import PayerDecide, PayerRecord, PayerStep
from agentpay.stores.rows.payer import save_budget, save_channel
from agentpay.stores.rows.tables import Batch, Change
from agentpay.stores.sqlite import payer_rows
from agentpay.stores.sqlite.schema import MIGRATIONS, check_version
from agentpay.stores.sqlite.tables import write
from agentpay.stores.sqlite.thread import DatabaseThread
from agentpay.stores.steps import channel_order, check_payer_step
from agentpay.types import Address, Hash32

T = TypeVar("T")

_log = logging.getLogger(__name__)

_STEPS_MAX: Final = 128

_Outcome = tuple[Any, Exception | None]


@dataclass(slots=True, eq=False)
class _Step(Generic[T]):
    account: Address
    channel: Hash32 | None
    decide: PayerDecide[T]
    durable: bool
    done: "asyncio.Future[T]"
    """Of who waits: to cancel it cancels nothing of the step."""
    is_told: bool = False
    """Whether somebody goes by what was decided."""

    def tell(self, outcome: _Outcome) -> None:
        """Whoever waits, unless they were told or left."""
        answer, error = outcome
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(answer)
            self.is_told = True


@dataclass(slots=True, eq=False)
class _Group:
    """Steps that are saved together."""

    steps: list[_Step[Any]]
    outcomes: list[_Outcome] = field(default_factory=list[_Outcome])
    """What was decided; nothing yet where a record is not known."""
    batch: Batch = field(default_factory=Batch)
    is_alone: bool = False
    """Whether it was decided on what is true, and nobody else has written since."""

    @property
    def durable(self) -> bool:
        return any(step.durable for step in self.steps)


class SharedPayerStore:
    """What payers remember, whichever process they are. Made by `SharedSqliteStore`."""

    def __init__(self, thread: DatabaseThread, *, database: Path, cached: int) -> None:
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._books = _Books(database, cached=cached)
        self._queued: list[_Step[Any]] = []
        self._unsaved: list[_Step[Any]] = []
        """Those that were told and then not saved: they are decided once more."""
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

        It is saved before it is told: with `durable` on the disk, otherwise for all
        processes. If that fails, `durable` raises; otherwise it is told all the same,
        and decided again, and saved, before anybody decides on anything else.
        """
        if self._closing is not None:
            raise StoreClosed("the store is closed")
        done: asyncio.Future[T] = self._loop.create_future()
        self._queued.append(_Step(account, channel, decide, durable, done))
        if self._carrying is None:
            self._start()
        return await done

    async def channels(self, account: Address) -> list[PayerRecord]:
        """In order of origin and index."""
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
        if self._carrying is None and self._unsaved:
            self._start()
        while self._carrying is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([self._carrying])
        await _finished(self._thread.stop())

    # Group by group. No task carries them, which could be cancelled: what is begun is
    # ended by callbacks.

    def _start(self) -> None:
        self._carrying = self._loop.create_future()
        # Not at once: tasks that are ready now are to be in the same group.
        self._loop.call_soon(self._carry)

    def _carry(self) -> None:
        """Take what is queued; first what was told before."""
        group = _Group([*self._unsaved, *self._queued[:_STEPS_MAX]])
        self._unsaved = []
        del self._queued[:_STEPS_MAX]
        if self._books.know(group) and not self._decide(group):
            return
        work = self._thread.call(partial(self._books.begin, group))
        work.add_done_callback(partial(self._go_on, group))

    def _go_on(self, group: _Group, work: "asyncio.Future[bool]") -> None:
        """It was saved; or others have written, and it is decided on that."""
        why = work.exception()
        if why is not None:
            self._fail(group, why)
        elif work.result():
            self._tell(group)
        elif self._decide(group):
            saved = self._thread.call(partial(self._books.save, group))
            saved.add_done_callback(partial(self._go_on, group))

    def _decide(self, group: _Group) -> bool:
        """Whether it could be; what breaks it off leaves no transaction open."""
        try:
            self._books.decide(group)
        except BaseException as why:
            self._thread.call(_roll_back)
            self._fail(group, why)
            raise
        return True

    def _tell(self, group: _Group) -> None:
        for step, outcome in zip(group.steps, group.outcomes, strict=True):
            if outcome[1] is not None and step.is_told:
                _log.warning("a step that was told is refused now: %r", outcome[1])
            step.tell(outcome)
        self._end()

    def _fail(self, group: _Group, why: BaseException) -> None:
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
        self._unsaved += told
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


class _Books:
    """
    What was read, in a transaction or before it. A group at a time is decided by the
    event loop, and saved by the thread.
    """

    def __init__(self, database: Path, *, cached: int) -> None:
        self._database = database
        self._cached = cached
        self._seen = 0
        self._durable = True
        """Whether a commit is on disk once it is done: as connections begin."""
        self._ahead = False
        """Whether there are commits that need not be on disk yet."""
        self._budgets: dict[Address, Budget] = {}
        self._channels: dict[payer_rows.Key, PayerRecord | None] = {}

    def know(self, group: _Group) -> bool:
        """Whether all that it is about was read, which may be old."""
        if len(self._budgets) + len(self._channels) > self._cached:
            self.forget()
        return all(
            step.account in self._budgets
            and (step.channel is None or (step.account, step.channel) in self._channels)
            for step in group.steps
        )

    def begin(self, group: _Group, connection: sqlite3.Connection) -> bool:
        """
        Keep all others from writing, and save what was decided on what is still true.

        False if others have written, or nothing is decided yet: what it is about is
        read, and the transaction stays open until it is saved.

        What nobody waits for survives the process, and a power cut from the next commit
        on that somebody does wait for: SQLite puts all on disk that came before it.

        Raises:
            StoreNewer: A newer version of this library writes the file by now.
        """
        if group.durable is not self._durable:
            self._durable = group.durable
            level = "FULL" if self._durable else "NORMAL"
            connection.execute(f"PRAGMA synchronous = {level}")
        connection.execute("BEGIN IMMEDIATE")
        seen: int = connection.execute("PRAGMA data_version").fetchone()[0]
        if seen == self._seen and group.outcomes:
            return self.save(group, connection)
        if seen != self._seen:
            self.forget()
            check_version(connection, self._database)
            self._seen = seen
        for step in group.steps:
            self._read(step, connection)
        return False

    def _read(self, step: _Step[Any], connection: sqlite3.Connection) -> None:
        account, key = step.account, step.channel
        if account not in self._budgets:
            self._budgets[account] = payer_rows.load_budget(connection, account)
        if key is not None and (account, key) not in self._channels:
            record = payer_rows.load_channel(connection, (account, key))
            self._channels[account, key] = record

    def save(self, group: _Group, connection: sqlite3.Connection) -> bool:
        """
        End the transaction: what was decided is true from now on.

        Raises:
            StoreUnavailable: Something else has ended it.
        """
        if not connection.in_transaction:
            raise StoreUnavailable("nothing was saved: the transaction was broken off")
        group.is_alone = True
        write(connection, group.batch)
        if self._durable and self._ahead and not group.batch:
            # Who waits may have been told of what came before: only a change is synced.
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
        self._ahead = not self._durable and (self._ahead or bool(group.batch))
        return True

    def forget(self) -> None:
        self._budgets.clear()
        self._channels.clear()

    def decide(self, group: _Group) -> None:
        """Each on what the step before left, with what saves them all."""
        group.batch, group.outcomes = Batch(), []
        for step in group.steps:
            group.outcomes.append(self._outcome(step, group.batch))

    def _outcome(self, step: _Step[Any], batch: Batch) -> _Outcome:
        account, channel = step.account, step.channel
        budget = self._budgets[account]
        before = self._channels[account, channel] if channel is not None else None
        changes: list[Change] = []
        try:
            decided: PayerStep[Any] = step.decide(budget, before)
            check_payer_step(channel, before, decided.record)
            if decided.budget is not budget:
                changes += save_budget(account, budget, decided.budget)
            if decided.record is not None and decided.record is not before:
                changes += save_channel(account, before, decided.record)
        except Exception as error:  # noqa: BLE001 - whoever decided gets it
            return None, error
        batch.add(changes)
        self._budgets[account] = decided.budget
        if channel is not None:
            self._channels[account, channel] = decided.record
        return decided.answer, None


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
