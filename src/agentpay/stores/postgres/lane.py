"""
The steps of one process on their way through its session, many in one transaction.

Whatever is asked for while a transaction is under way goes into the next one: rows are
locked and read, every step is decided on what the one before it left, and all is
written and committed together. A step whose decision raises fails alone. So does one
whose rows the server refuses, and the session goes on.

If the server is lost before a commit, nothing was saved, and the steps are decided
again on a new session. If it is lost in a commit, its steps wait until a new session
can say what became of it; others are refused meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar, cast

from agentpay.errors import (
    StoreClosed,
    StoreCorrupt,
    StoreOutcomeUnknown,
    StoreUnavailable,
)
from agentpay.stores.postgres.connection import (
    Connection,
    lost,
    may_be_repeated,
)
from agentpay.stores.postgres.session import CommitInDoubt, Session
from agentpay.stores.postgres.shelves import Loaded, Shelf
from agentpay.stores.postgres.writing import Outdated, write
from agentpay.stores.rows.tables import Batch, Change, Columns, Table

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")
T = TypeVar("T")

_STEPS_MAX: Final = 128
_ATTEMPTS_MAX: Final = 20
_POLL_SECONDS: Final = 0.2
_PING_SECONDS: Final = 2.0
"""How soon a lost connection is noticed, and with it that others think us dead."""

Need = tuple[Shelf[Any, Any], Hashable]
"""A record that a step decides on."""


class Desk:
    """The records of one transaction, and what is to be written of them."""

    def __init__(self) -> None:
        self.batch = Batch()
        self.living: frozenset[str] = frozenset()
        self._loaded: dict[Shelf[Any, Any], dict[Any, Loaded[Any]]] = {}
        self._changed: dict[Need, None] = {}

    async def load(
        self, session: Session, connection: Connection, steps: "list[Step[Any]]"
    ) -> None:
        wanted: dict[Shelf[Any, Any], dict[Any, None]] = {}
        for step in steps:
            for shelf, key in step.needs:
                wanted.setdefault(shelf, {})[key] = None
        owners: frozenset[str] = frozenset()
        for shelf in sorted(wanted, key=lambda shelf: shelf.table.name):
            found = await shelf.load(connection, wanted[shelf])
            self._loaded[shelf] = found
            owners = owners.union(*(shelf.owners(x.record) for x in found.values()))
        self.living = await session.living(connection, owners)
        for shelf, found in self._loaded.items():
            for loaded in found.values():
                loaded.record = shelf.knowing(loaded.record, self.living)

    def get(self, shelf: Shelf[K, R], key: K) -> R:
        loaded = cast("Loaded[R]", self._loaded[shelf][key])
        return loaded.record

    def put(
        self, shelf: Shelf[K, R], key: K, record: R, changes: Sequence[Change]
    ) -> None:
        """Show a record to the next step, and write what saves it."""
        self._loaded[shelf][key].record = record
        self._changed[shelf, key] = None
        self.batch.add(changes)

    def versions(self) -> dict[tuple[Table, Columns], int]:
        return {
            (shelf.table, shelf.key(key)): self._loaded[shelf][key].version
            for shelf, key in self._changed
            if shelf.versioned
        }

    def keep(self) -> None:
        """All of it is saved."""
        for shelf, key in self._changed:
            loaded = self._loaded[shelf][key]
            shelf.keep(key, Loaded(loaded.record, loaded.version + 1))


@dataclass(slots=True, eq=False)
class Step(Generic[T]):
    """A decision on some records. It may be run more than once."""

    decide: Callable[[Desk], T]
    needs: tuple[Need, ...] = ()
    done: asyncio.Future[T] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


@dataclass(slots=True, eq=False)
class Query(Generic[T]):
    """Something to ask of the server between transactions; asked again if need be."""

    ask: Callable[[Connection], Awaitable[T]]
    done: asyncio.Future[T] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


Job = Step[Any] | Query[Any]


class Lane:
    """Carries out jobs in the order in which they come."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._jobs: deque[Job] = deque()
        self._in_hand: list[Job] = []
        self._awake = asyncio.Event()
        self._closed = False
        self._task = asyncio.create_task(self._run(), name="agentpay postgres")

    def add(self, job: Step[T] | Query[T]) -> asyncio.Future[T]:
        """
        Queue a job, which is carried out whether or not anybody waits for it.

        Raises:
            StoreClosed: It is.
        """
        if self._closed:
            raise StoreClosed("the store is closed")
        job.done.add_done_callback(_hear)
        self._jobs.append(job)
        self._awake.set()
        return job.done

    async def carry_out(self, job: Step[T] | Query[T]) -> T:
        """
        Raises:
            StoreUnavailable: Nothing was saved.
        """
        return await asyncio.shield(self.add(job))

    async def close(self) -> None:
        """Carry out what is queued, and stop."""
        self._closed = True
        self._awake.set()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    async def _run(self) -> None:
        try:
            await self._carry_all()
        except asyncio.CancelledError:
            self._let_go()
            raise

    def _let_go(self) -> None:
        """All tasks are cancelled, and the event loop ends: nobody waits on."""
        self._closed = True
        over = StoreUnavailable("nothing was saved: the event loop ends")
        _fail(self._jobs, over)
        cut = [job for job in self._in_hand if not job.done.done()]
        _fail(cut, _unknown("the event loop ends", over))

    async def _carry_all(self) -> None:
        while self._jobs or not self._closed:
            self._awake.clear()
            while self._jobs:
                job = self._jobs.popleft()
                if isinstance(job, Query):
                    self._in_hand = [job]
                    await self._ask(job)
                else:
                    steps = [job, *self._more()]
                    self._in_hand = [*steps]
                    await self._decide(steps)
            if self._closed:
                return
            try:
                await asyncio.wait_for(self._awake.wait(), _PING_SECONDS)
            except TimeoutError:
                ping = Query(_ping)
                ping.done.add_done_callback(_hear)
                await self._ask(ping)

    def _more(self) -> list[Step[Any]]:
        """The steps that may go along, up to the next query."""
        steps: list[Step[Any]] = []
        while self._jobs and len(steps) < _STEPS_MAX:
            if not isinstance(self._jobs[0], Step):
                break
            steps.append(cast("Step[Any]", self._jobs.popleft()))
        return steps

    async def _ask(self, query: Query[Any]) -> None:
        why: Exception | None = None
        for _ in range(2):
            try:
                answer = await query.ask(await self._session.ready())
            except lost() as error:
                self._session.drop_unless_spared(error)
                await self._session.rollback()
                why = error
            except Exception as error:  # noqa: BLE001 - whoever asked gets it
                await self._session.rollback()
                _fail([query], error)
                return
            else:
                query.done.set_result(answer)
                return
        _fail([query], _unavailable(why))

    async def _decide(self, steps: list[Step[Any]]) -> None:
        """Carry out steps in one transaction, or say of each that nothing was saved."""
        why: Exception | None = None
        for _ in range(_ATTEMPTS_MAX):
            try:
                await self._attempt(steps)
            except (Outdated, CommitInDoubt) as error:
                why = error
            except lost() as error:
                if not may_be_repeated(error):
                    self._session.drop_unless_spared(error)
                    if why is not None:
                        await self._alone(steps, error)
                        return
                why = error
            except Exception as error:  # noqa: BLE001 - whoever waits for it gets it
                await self._alone(steps, error)
                return
            else:
                return
            await self._session.rollback()
        _fail(steps, _unavailable(why))

    async def _alone(self, steps: list[Step[Any]], error: Exception) -> None:
        """What one step does to a transaction is not done to the others."""
        await self._session.rollback()
        if len(steps) == 1 or isinstance(error, StoreUnavailable | StoreOutcomeUnknown):
            _fail(steps, error)
            return
        for step in steps:
            await self._decide([step])

    async def _attempt(self, steps: list[Step[Any]]) -> None:
        connection = await self._session.ready()
        await connection.execute("BEGIN")
        desk = Desk()
        await desk.load(self._session, connection, steps)
        outcomes = [_outcome(step, desk) for step in steps]
        if desk.batch:
            await write(connection, desk.batch, desk.versions())
            await self._commit(connection)
            desk.keep()
        else:
            await connection.execute("ROLLBACK")
        for step, (answer, error) in zip(steps, outcomes, strict=True):
            if error is not None:
                _fail([step], error)
            else:
                step.done.set_result(answer)

    async def _commit(self, connection: Connection) -> None:
        """
        Raises:
            CommitInDoubt: It was not saved.
            StoreOutcomeUnknown: Nobody can say any more.
        """
        try:
            await self._session.commit(connection)
        except CommitInDoubt as doubt:
            if not await self._was_saved(doubt.number):
                raise

    async def _was_saved(self, number: int) -> bool:
        """
        Wait for a new session, which knows it; meanwhile nothing else is done.

        Raises:
            StoreOutcomeUnknown: There will be none.
        """
        left = self._session.timeout_seconds
        while True:
            try:
                await self._session.ready()
            except StoreUnavailable as error:
                _fail(self._jobs, error)
                self._jobs.clear()
                if self._closed and left <= 0:
                    raise _unknown("the store is closed", error) from error
            except Exception as error:
                raise _unknown("the database is ours no more", error) from error
            else:
                return self._session.saved >= number
            left -= _POLL_SECONDS if self._closed else 0
            await asyncio.sleep(_POLL_SECONDS)


def _outcome(step: Step[Any], desk: Desk) -> tuple[Any, Exception | None]:
    try:
        return step.decide(desk), None
    except Exception as error:  # noqa: BLE001 - whoever decided gets it
        return None, error


def _fail(jobs: Iterable[Job], error: Exception) -> None:
    for job in jobs:
        job.done.set_exception(_in_our_words(error))


def _in_our_words(error: Exception) -> Exception:
    """A row that none of ours wrote is found when it is read."""
    if isinstance(error, lost()):
        return _unavailable(error)
    if isinstance(error, ValueError):
        return StoreCorrupt(f"the database holds a damaged row: {error}")
    return error


def _unavailable(why: Exception | None) -> StoreUnavailable:
    unavailable = StoreUnavailable(f"nothing was saved, PostgreSQL says: {why!r}")
    unavailable.__cause__ = why
    return unavailable


def _unknown(what: str, why: Exception) -> StoreOutcomeUnknown:
    return StoreOutcomeUnknown(
        f"{what} before it is known whether its last steps were saved: {why}"
    )


def _hear(done: asyncio.Future[Any]) -> None:
    """A failure that nobody waits for is no news."""
    if not done.cancelled():
        done.exception()


async def _ping(connection: Connection) -> None:
    await connection.execute("SELECT 1")
