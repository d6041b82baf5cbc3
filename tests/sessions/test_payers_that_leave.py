"""What a payer owes that leaves by the contract is had in time, and not much more."""

import asyncio
from pathlib import Path
from typing import ClassVar

import pytest

from agentpay.chain.sender import TransactionSender
from agentpay.core.payee_channel import Status
from agentpay.core.payee_events import (
    CLOSING,
    EXCEEDS_BALANCE,
    Admitted,
    Refused,
)
from agentpay.evm import session_escrow_abi as escrows
from agentpay.evm.calls import Call, Receipt
from agentpay.evm.session_escrow import SessionConfig
from agentpay.evm.session_escrow_abi import SessionOnChain
from agentpay.facilitator.session_desk import EscrowDesk
from agentpay.payee.session_settlement import SessionSettlement
from agentpay.stores import SqliteStore
from agentpay.testing.local_chain import LocalChain
from tests.sessions.till import a_till, a_till_at


async def test_k5_what_is_due_is_settled_as_soon_as_a_payer_leaves(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        config = await till.opened(100)
        await till.sells(config, 50, 30)
        await till.table.leaves(config)
        await till.keeper.sync()
        state = await till.table.state(config)

    # The smallest voucher that covers it: there is no other (rule 23).
    assert state.settled == 50
    assert not state.finalized


class Hasty(TransactionSender):
    """Remembers by when things were to be mined."""

    deadlines: ClassVar[list[int]] = []

    async def send(
        self, call: Call, *, gas_max: int | None = None, deadline: int = 0
    ) -> Receipt:
        self.deadlines.append(deadline)
        return await super().send(call, gas_max=gas_max, deadline=deadline)


async def test_k5_what_is_due_is_to_be_mined_before_the_payer_can_withdraw(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        config, table = await till.opened(100), till.table
        await till.sells(config, 50, 30)
        async with Hasty(table.chain, key=table.payee.gas_key()) as sender:
            desk = table.desk(senders=[sender])
            await desk.start()
            sessions = SessionSettlement(desk=desk, store=till.store, clock=till.clock)
            await table.leaves(config)
            await sessions.leave(config.channel)
        state = await table.state(config)

    assert state.settled == 50
    assert sender.deadlines == [state.close_requested_at + 900]


async def test_k5_of_several_vouchers_the_smallest_that_covers_is_taken(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        config = await till.opened(100)
        await till.sells(config, 20, 20)
        await till.raises(config, 31)
        await till.sells(config, 70, 10)
        await till.table.leaves(config)
        await till.keeper.sync()
        state = await till.table.state(config)

    assert state.settled == 31


async def test_nothing_is_sold_on_a_session_that_its_payer_leaves(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        config = await till.opened(100)
        await till.sells(config, 30, 30)
        await till.table.leaves(config)
        await till.keeper.sync()
        refused = await till.begins(config, 60, 10)
        await till.table.tops_up(config, 5)
        await till.keeper.sync()
        admitted = await till.begins(config, 60, 10)

    assert refused == Refused(reason=EXCEEDS_BALANCE, burnt=False)
    assert isinstance(admitted, Admitted)


async def test_k5_what_runs_when_a_payer_leaves_is_paid_too(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        config = await till.opened(100)
        await till.sells(config, 20, 20)
        await till.begins(config, 60, 40)
        await till.uses(config, 60, 5)
        await till.table.leaves(config)
        await till.keeper.tick()
        first = await till.earned()
        await till.uses(config, 60, 30)
        await till.keeper.tick()
        await till.ends(config, 60, 35)
        await till.keeper.tick()

    assert first == 60  # of the request that runs, whose voucher alone covers it
    assert await till.earned() == 60


async def test_what_ends_one_by_one_is_not_settled_for_in_every_round(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Its payer leaves while requests run: a few settles within the grace period."""
    async with a_till(agentpay_shared_chain) as till:
        config = await till.opened(100, tagged=True)
        await till.sells(config, 1, 1)
        for cumulative in (10, 20, 30, 40):
            await till.begins(config, cumulative, 9)
        await till.table.leaves(config)
        await till.keeper.tick()
        seen = []
        for cumulative in (10, 20, 30):
            await till.ends(config, cumulative, 4)
            await till.keeper.tick()
            seen.append((await till.ledger(config)).claimed)
        till.clock.ahead += 181
        await till.keeper.tick()
        later = (await till.ledger(config)).claimed

    assert len(set(seen)) == 1
    assert later >= 13


async def test_k5_a_leaving_payer_is_remembered_over_a_restart(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path)
    async with a_till(agentpay_shared_chain, store=store.payee) as till:
        config = await till.opened(100)
        await till.begins(config, 60, 40)
        await till.table.leaves(config)
        await till.keeper.tick()
        await till.uses(config, 60, 40, more=False)
        await till.table.local.node.mine(70)
        await till.keeper.sync()  # its event is not read again
        await store.close()
        async with await SqliteStore.open(path) as opened:
            reborn = a_till_at(till.table, store=opened.payee)
            await reborn.desk.start()
            await reborn.keeper.tick()
            state = await till.table.state(config)

    assert state.settled == 60


async def test_a_session_that_is_over_on_the_chain_is_closed_here_too(
    agentpay_chain: LocalChain,
) -> None:
    async with a_till(agentpay_chain) as till:
        config = await till.opened(100)
        await till.table.leaves(config)
        await till.table.local.node.increase_time(901)
        call = escrows.withdraw_call(config.channel, config.escrow)
        await till.table.send(till.table.payer, call)
        await till.keeper.tick()
        ledger = await till.ledger(config)
        refused = await till.begins(config, 10, 10)

    assert (ledger.status, ledger.balance) == (Status.CLOSED, 0)
    assert refused == Refused(reason=CLOSING, burnt=False)


class SlowDesk(EscrowDesk):
    """Holds back the first answer until it is let go."""

    def hold(self) -> asyncio.Event:
        self.held, self.let_go = asyncio.Event(), asyncio.Event()
        return self.held

    async def read(
        self, config: SessionConfig, *, block: int | None = None
    ) -> SessionOnChain:
        state = await super().read(config, block=block)
        if not self.held.is_set():
            self.held.set()
            await self.let_go.wait()
        return state


@pytest.mark.parametrize("of_another", [False, True])
async def test_k13_an_older_look_never_hides_that_a_payer_leaves(
    agentpay_shared_chain: LocalChain, *, of_another: bool
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        config = await till.opened(100)
        table = till.table
        desk = SlowDesk(
            chain=table.chain,
            senders=[table.sender],
            payee=table.payee,
            asset=table.asset,
            escrow=table.escrow,
        )
        sessions = SessionSettlement(desk=desk, store=till.store, clock=till.clock)
        held = desk.hold()
        older = asyncio.create_task(sessions.see_chain(config.channel))
        await held.wait()
        await table.leaves(config)
        # Of the same process, or of another one over the same store.
        for newer in (sessions, till.sessions)[of_another:]:
            await newer.see_chain(config.channel)
        desk.let_go.set()
        await older

        assert (await till.ledger(config)).spendable == 0
