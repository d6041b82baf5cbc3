"""
One SQLite file that payers in several processes share: one account, one budget.

Each group of steps is one transaction that keeps every other writer out from before it
reads until it is saved. What was read before is used again unless another process has
written since (SQLite counts that), so that a single payer seldom reads at all.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(slots=True, eq=False)
class _Step(Generic[T]):
    account: Address
    channel: Hash32 | None
    decide: PayerDecide[T]
    durable: bool
    done: "asyncio.Future[T]"

    @property
    def is_told(self) -> bool:
        """Whether somebody goes by what was decided."""
        return self.done.done() and self.done.exception() is None

    def tell(self, outcome: "_Outcome") -> None:
        """Whoever waits, unless they were told."""
        answer, error = outcome
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(answer)


class SharedPayerStore:
    """What payers remember, whichever process they are. Made by `SharedSqliteStore`."""

    def __init__(self, thread: DatabaseThread, *, database: Path, cached: int) -> None:
        self._thread = thread
        self._books = _Books(database, cached=cached)
        self._queued: list[_Step[Any]] = []
        self._unsaved: list[_Step[Any]] = []
        """Those that were told and then not saved: they are decided once more."""
        self._carrying: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
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
        Decide while no other process can write.

        With `durable`, it is saved before it is told. Otherwise it is told once it is
        decided, and saved before anybody decides again; if that fails, it is decided
        again, and saved, before the next one.
        """
        if self._closing is not None:
            raise StoreClosed("the store is closed")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_hear)
        self._queued.append(_Step(account, channel, decide, durable, done))
        if self._carrying is None:
            self._start()
        return await asyncio.shield(done)

    async def channels(self, account: Address) -> list[PayerRecord]:
        """In order of origin and index."""
        async with self._turn:
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

    def _start(self) -> None:
        self._carrying = asyncio.create_task(self._carry_all())
        self._carrying.add_done_callback(self._end)

    def _end(self, _: asyncio.Task[None]) -> None:
        self._carrying = None
        if self._queued:  # it was cancelled, or they came just now
            self._start()

    async def _carry_all(self) -> None:
        """Take whatever is queued, group by group; first what was told before."""
        while self._queued or self._unsaved:
            async with self._turn:
                told, self._unsaved = self._unsaved, []
                if told:
                    await self._take(told)
                steps = self._queued[:_STEPS_MAX]
                del self._queued[:_STEPS_MAX]
                if not steps:
                    return
                await self._take(steps)

    async def _take(self, steps: list[_Step[Any]]) -> None:
        """Carry steps out and tell what became of them."""
        try:
            outcomes = await self._carry(steps)
        except Exception as why:  # noqa: BLE001 - whoever waits gets it
            self._fail(steps, why)
            return
        except BaseException as why:
            self._thread.call(_roll_back)
            self._fail(steps, StoreUnavailable(f"nothing was saved: {why!r}"))
            raise
        for step, outcome in zip(steps, outcomes, strict=True):
            if outcome[1] is not None and step.is_told:
                _log.warning("a step that was told is refused now: %r", outcome[1])
            step.tell(outcome)

    def _fail(self, steps: list[_Step[Any]], why: Exception) -> None:
        """Nothing of it was saved: what was read is old, and what was told is owed."""
        self._books.forget()
        told = [step for step in steps if step.is_told]
        if told:
            _log.warning("%d steps that were told are not saved: %r", len(told), why)
        self._unsaved += told
        for step in steps:
            step.tell((None, why))

    async def _carry(self, steps: list[_Step[Any]]) -> list["_Outcome"]:
        """
        One transaction, which is open while it is decided here on the event loop. Once
        it is begun it is ended, also if all tasks are cancelled.

        Raises:
            StoreError: Nothing was saved.
        """
        keys = [(step.account, step.channel) for step in steps]
        durable = any(step.durable for step in steps)
        begin = partial(self._books.begin, keys, durable=durable)
        await _finished(self._thread.call(begin))
        batch = Batch()
        outcomes = [self._books.decide(step, batch) for step in steps]
        for step, outcome in zip(steps, outcomes, strict=True):
            if not step.durable:
                step.tell(outcome)
        await _finished(self._thread.call(partial(self._books.save, batch)))
        return outcomes


_Outcome = tuple[Any, Exception | None]


class _Books:
    """What was read, in a transaction or before it."""

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

    def begin(
        self,
        keys: Sequence[tuple[Address, Hash32 | None]],
        connection: sqlite3.Connection,
        *,
        durable: bool,
    ) -> None:
        """
        Keep all others from writing, and read what is not known as it is now.

        What nobody waits for survives the process, and a power cut from the next commit
        on that somebody does wait for: SQLite puts all on disk that came before it.

        Raises:
            StoreNewer: A newer version of this library writes the file by now.
        """
        if durable is not self._durable:
            level = "FULL" if durable else "NORMAL"
            connection.execute(f"PRAGMA synchronous = {level}")
            self._durable = durable
        connection.execute("BEGIN IMMEDIATE")
        seen: int = connection.execute("PRAGMA data_version").fetchone()[0]
        if seen != self._seen:
            self.forget()
            check_version(connection, self._database)
        elif len(self._budgets) + len(self._channels) > self._cached:
            self.forget()
        self._seen = seen
        for account, channel in keys:
            if account not in self._budgets:
                budget = payer_rows.load_budget(connection, account)
                self._budgets[account] = budget
            if channel is not None and (account, channel) not in self._channels:
                record = payer_rows.load_channel(connection, (account, channel))
                self._channels[account, channel] = record

    def save(self, batch: Batch, connection: sqlite3.Connection) -> None:
        """End the transaction; what was decided in it is true from now on."""
        write(connection, batch)
        if self._durable and self._ahead and not batch:
            # Who waits may have been told of what came before: only a change is synced.
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
        self._ahead = not self._durable and (self._ahead or bool(batch))

    def forget(self) -> None:
        self._budgets.clear()
        self._channels.clear()

    def decide(self, step: _Step[Any], batch: Batch) -> _Outcome:
        """Decide on what the step before left, and add what saves it."""
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


def _hear(done: "asyncio.Future[Any]") -> None:
    """A failure that nobody waits for is no news."""
    if not done.cancelled():
        done.exception()


def _budget_as_it_is(budget: Budget, record: PayerRecord | None) -> PayerStep[Budget]:
    return PayerStep(budget=budget, record=record, answer=budget)


def _record_as_it_is(
    budget: Budget, record: PayerRecord | None
) -> PayerStep[PayerRecord | None]:
    return PayerStep(budget=budget, record=record, answer=record)
