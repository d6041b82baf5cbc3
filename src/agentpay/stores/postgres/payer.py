"""A payer's view of a PostgreSQL store: `PayerStore` over the lane of its process."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from agentpay.core.budget import Budget
from agentpay.records import PayerDecide, PayerRecord, PayerStep
from agentpay.stores.postgres.connection import Connection
from agentpay.stores.postgres.lane import Desk, Lane, Need, Query, Step
from agentpay.stores.postgres.shelves import ACCOUNTS, AccountShelf, PayerChannelShelf
from agentpay.stores.rows.payer import save_budget, save_channel
from agentpay.stores.rows.tables import Change, Put
from agentpay.stores.steps import channel_order, check_payer_step
from agentpay.types import Address, Hash32

T = TypeVar("T")


class PostgresPayerStore:
    """What payers remember, whichever process they are. Made by `PostgresStore`."""

    def __init__(self, lane: Lane, *, close: Callable[[], Awaitable[None]]) -> None:
        self._lane = lane
        self._close = close
        self._accounts = AccountShelf()
        self._channels = PayerChannelShelf()

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
        """Decide while the account is locked: nobody spends from its budget between."""
        del durable  # what is decided is saved before it is told
        needs: list[Need] = [(self._accounts, account)]
        if channel is not None:
            needs.append((self._channels, (account, channel)))

        def step(desk: Desk) -> T:
            return self._take(desk, account, channel, decide)

        return await self._lane.carry_out(Step(step, tuple(needs)))

    def _take(
        self,
        desk: Desk,
        account: Address,
        channel: Hash32 | None,
        decide: PayerDecide[T],
    ) -> T:
        budget = desk.get(self._accounts, account)
        before = None
        if channel is not None:
            before = desk.get(self._channels, (account, channel))
        step = decide(budget, before)
        check_payer_step(channel, before, step.record)
        saving: list[Change] = []
        if step.budget is not budget:
            saving += save_budget(account, budget, step.budget)
        if step.record is not None and step.record is not before:
            saving += save_channel(account, before, step.record)
            desk.put(self._channels, (account, step.record.channel), step.record, ())
        if saving:
            row = Put(ACCOUNTS, self._accounts.key(account))
            desk.put(self._accounts, account, step.budget, [row, *saving])
        return step.answer

    async def channels(self, account: Address) -> list[PayerRecord]:
        """In order of origin and index."""

        async def find(connection: Connection) -> list[Hash32]:
            rows = await connection.fetch(
                "SELECT channel FROM payer_channels WHERE account = $1",
                account.to_bytes(),
            )
            return [Hash32.of(row[0]) for row in rows]

        found = await self._lane.carry_out(Query(find))
        needs: list[Need] = [(self._channels, (account, each)) for each in found]

        def read(desk: Desk) -> list[PayerRecord | None]:
            return [desk.get(self._channels, (account, each)) for each in found]

        records = await self._lane.carry_out(Step(read, tuple(needs)))
        return sorted((r for r in records if r is not None), key=channel_order)

    async def budget(self, account: Address) -> Budget:
        return await self.update(account, None, _budget_as_it_is)

    async def close(self) -> None:
        """Close the whole store; see `PostgresStore.close`."""
        await self._close()


def _budget_as_it_is(budget: Budget, record: PayerRecord | None) -> PayerStep[Budget]:
    return PayerStep(budget=budget, record=record, answer=budget)
