"""A payer's view of a SQLite store: `PayerStore` over a shared file and writer."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from agentpay.core.budget import Budget
from agentpay.records import PayerDecide, PayerRecord, PayerStep
from agentpay.stores.rows.payer import save_budget, save_channel
from agentpay.stores.rows.tables import Change
from agentpay.stores.sqlite import payer_rows
from agentpay.stores.sqlite.cache import Cache, Entry
from agentpay.stores.sqlite.writer import Writer
from agentpay.stores.steps import channel_order, check_payer_step
from agentpay.types import Address, Hash32

T = TypeVar("T")


class SqlitePayerStore:
    """What a payer remembers. Made by `SqliteStore`."""

    def __init__(
        self, writer: Writer, *, cached: int, close: Callable[[], Awaitable[None]]
    ) -> None:
        self._writer = writer
        self._close = close
        self._budgets: Cache[Address, Budget] = Cache(
            writer, payer_rows.load_budget, capacity=cached
        )
        self._channels: Cache[payer_rows.Key, PayerRecord | None] = Cache(
            writer, payer_rows.load_channel, capacity=cached
        )

    @property
    def shared(self) -> bool:
        """One process owns the file."""
        return False

    async def update(
        self,
        account: Address,
        channel: Hash32 | None,
        decide: PayerDecide[T],
        *,
        durable: bool = True,
    ) -> T:
        """
        Decide on the records in memory and queue one write of both.

        With `durable`, even an answer that changes nothing waits for what it was
        decided on.
        """
        budget, entry = await self._entries(account, channel)
        before = entry.record
        step = decide(budget.record, before)
        check_payer_step(channel, before, step.record)
        saving: list[Change] = []
        if step.budget is not budget.record:
            saving += save_budget(account, budget.record, step.budget)
        if step.record is not None and step.record is not before:
            saving += save_channel(account, before, step.record)
        if saving:
            self._budgets.save(budget, step.budget, saving)
            entry.record, entry.group = step.record, budget.group
        if durable:
            await self._writer.wait(budget.group)
            await self._writer.wait(entry.group)
        return step.answer

    async def channels(self, account: Address) -> list[PayerRecord]:
        """In order of origin and index."""
        await self._writer.drain()
        find = partial(payer_rows.list_channels, account=account)
        found = await self._writer.read(find)
        records = [await self._read(account, channel) for channel in found]
        return sorted((r for r in records if r is not None), key=channel_order)

    async def budget(self, account: Address) -> Budget:
        """What is durable; waits for a step that is being saved."""
        return await self.update(account, None, _budget_as_it_is)

    async def close(self) -> None:
        """Close the whole store; see `SqliteStore.close`."""
        await self._close()

    async def _read(self, account: Address, channel: Hash32) -> PayerRecord | None:
        return await self.update(account, channel, _record_as_it_is)

    async def _entries(
        self, account: Address, channel: Hash32 | None
    ) -> tuple[Entry[Budget], Entry[PayerRecord | None]]:
        """Both as they are at one moment; loading one may have dropped the other."""
        while True:
            budget = self._budgets.peek(account)
            if budget is None:
                await self._budgets.load(account)
                continue
            if channel is None:
                return budget, Entry(None)
            entry = self._channels.peek((account, channel))
            if entry is not None:
                return budget, entry
            await self._channels.load((account, channel))


def _budget_as_it_is(budget: Budget, record: PayerRecord | None) -> PayerStep[Budget]:
    return PayerStep(budget=budget, record=record, answer=budget)


def _record_as_it_is(
    budget: Budget, record: PayerRecord | None
) -> PayerStep[PayerRecord | None]:
    return PayerStep(budget=budget, record=record, answer=record)
