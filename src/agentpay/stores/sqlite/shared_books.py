"""
What payers that share a SQLite file have read, and what is decided and saved of it.

The event loop decides on what was read, and the thread of the database saves that where
nobody else has written since. One group of steps at a time goes from the one to the
other.
"""

import asyncio
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from agentpay.core.budget import Budget
from agentpay.errors import StoreUnavailable
from agentpay.records import PayerDecide, PayerRecord, PayerStep
from agentpay.stores.rows.payer import save_budget, save_channel
from agentpay.stores.rows.tables import Batch, Change
from agentpay.stores.sqlite import payer_rows
from agentpay.stores.sqlite.schema import MIGRATIONS, check_version
from agentpay.stores.sqlite.tables import write
from agentpay.stores.steps import check_payer_step
from agentpay.types import Address, Hash32

T = TypeVar("T")

Outcome = tuple[Any, Exception | None]


@dataclass(slots=True, eq=False)
class Step(Generic[T]):
    """What somebody wants decided, and waits for."""

    account: Address
    channel: Hash32 | None
    decide: PayerDecide[T]
    durable: bool
    done: "asyncio.Future[T]"
    """Of who waits: to cancel it cancels nothing of the step."""
    is_told: bool = False
    """Whether somebody goes by what was decided."""

    def tell(self, outcome: Outcome) -> None:
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
class Group:
    """Steps that are saved together."""

    steps: list[Step[Any]]
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    """What was decided, of the first steps: all, where every record is known."""
    batch: Batch = field(default_factory=Batch)
    is_alone: bool = False
    """Whether it was decided on what is true, and nobody else has written since."""

    @property
    def durable(self) -> bool:
        return any(step.durable for step in self.steps)

    @property
    def is_decided(self) -> bool:
        return len(self.outcomes) == len(self.steps)


class Books:
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

    def know(self, step: Step[Any]) -> bool:
        """Whether all that it is about was read, which may be old."""
        channel = step.channel
        return step.account in self._budgets and (
            channel is None or (step.account, channel) in self._channels
        )

    def is_current(self, connection: sqlite3.Connection) -> bool:
        """Whether nobody else has written until now; they may, from now on."""
        return _version(connection) == self._seen

    def begin(self, group: Group, connection: sqlite3.Connection) -> bool:
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
        seen = _version(connection)
        if seen == self._seen and group.is_decided:
            return self.save(group, connection)
        if seen != self._seen:
            self.forget()
            check_version(connection, self._database)
            self._seen = seen
            group.outcomes, group.batch = [], Batch()
        for step in group.steps:
            self._read(step, connection)
        return False

    def _read(self, step: Step[Any], connection: sqlite3.Connection) -> None:
        account, key = step.account, step.channel
        if account not in self._budgets:
            self._budgets[account] = payer_rows.load_budget(connection, account)
        if key is not None and (account, key) not in self._channels:
            record = payer_rows.load_channel(connection, (account, key))
            self._channels[account, key] = record

    def save(self, group: Group, connection: sqlite3.Connection) -> bool:
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
        if len(self._budgets) + len(self._channels) > self._cached:
            self.forget()
        return True

    def forget(self) -> None:
        self._budgets.clear()
        self._channels.clear()

    def decide(self, group: Group) -> None:
        """Each on what the step before left, up to one whose records are not known."""
        for step in group.steps[len(group.outcomes) :]:
            if not self.know(step):
                return
            group.outcomes.append(self.outcome(step, group.batch))

    def outcome(self, step: Step[Any], batch: Batch) -> Outcome:
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


def _version(connection: sqlite3.Connection) -> int:
    """It changes with what others write, as this connection sees it."""
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version
