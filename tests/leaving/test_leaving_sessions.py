"""A payer can always leave a session of MPP, whatever its payee does about it."""

import shutil
from pathlib import Path

import pytest

from agentpay.core.payer_channel import PayerStatus
from agentpay.errors import ChannelUnusable, PaymentRejected, TransactionFailed

from .world import DEPOSIT, GRACE, PRICE, a_session_world


async def test_k5_a_forced_close_leaves_the_payee_what_it_earned() -> None:
    async with a_session_world() as world, world.agent() as agent:
        before = await world.chain.balance(world.wallet.address)
        for _ in range(3):
            assert (await agent.get(world.url)).status_code == 200
        (record,) = await agent.channels()

        started = await agent.start_withdrawal(record.channel)
        again = await agent.start_withdrawal(record.channel)
        with pytest.raises(TransactionFailed, match="CloseNotReady"):
            await agent.finish_withdrawal(record.channel)
        await world.until_paid(3 * PRICE)
        await world.chain.node.increase_time(GRACE + 1)
        finished = await agent.finish_withdrawal(record.channel)
        spending = await agent.spending()
        (left,) = await agent.channels()

        assert started.amount == DEPOSIT
        assert (again.ready_at, again.transaction) == (started.ready_at, "")
        assert finished.amount == DEPOSIT - 3 * PRICE
        lost = before - await world.chain.balance(world.wallet.address)
        assert lost == 3 * PRICE
        assert left.ledger.status is PayerStatus.CLOSED
        assert spending.deposited == 0
        assert spending.spent == 3 * PRICE * 10**12


async def test_nothing_is_signed_on_a_session_that_is_left() -> None:
    async with a_session_world() as world, world.agent() as agent:
        await agent.get(world.url)
        (record,) = await agent.channels()
        await agent.start_withdrawal(record.channel)
        assert (await agent.get(world.url)).status_code == 200
        opened = {r.channel: r.ledger.spent for r in await agent.channels()}
        with pytest.raises((ChannelUnusable, PaymentRejected)):
            await agent.close_channel(record.channel)

        assert opened.pop(record.channel) == PRICE
        assert list(opened.values()) == [PRICE]


async def test_a_session_whose_store_was_lost_is_found_and_emptied() -> None:
    async with a_session_world() as world:
        async with world.agent() as agent:
            await agent.get(world.url)
            (record,) = await agent.channels()
        async with world.agent() as amnesiac:
            assert (await amnesiac.get(world.url)).status_code == 200
            (fresh,) = await amnesiac.channels()
            found = await amnesiac.find_lost_channels(world.url)
            assert found == [record.channel]
            assert fresh.index == 1
            held = await amnesiac.spending()
            await amnesiac.start_withdrawal(found[0])
            await world.until_paid(PRICE)
            await world.chain.node.increase_time(GRACE + 1)
            finished = await amnesiac.finish_withdrawal(found[0])
            assert await amnesiac.find_lost_channels(world.url) == []

        assert fresh.channel != record.channel
        assert held.deposited + held.spent == 2 * DEPOSIT * 10**12
        assert finished.amount == DEPOSIT - PRICE


async def test_a_session_that_was_closed_meanwhile_is_booked_as_over(
    tmp_path: Path,
) -> None:
    """Our books are from before: what came back is read from the chain."""
    file, backup = tmp_path / "agent.db", tmp_path / "backup.db"
    async with a_session_world() as world:
        async with world.agent(str(file)) as agent:
            await agent.get(world.url)
            (record,) = await agent.channels()
        shutil.copy(file, backup)
        async with world.agent(str(file)) as agent:
            await agent.close_channel(record.channel)
        shutil.copy(backup, file)
        async with world.agent(str(file)) as agent:
            with pytest.raises(ChannelUnusable, match="nothing left"):
                await agent.start_withdrawal(record.channel)
            finished = await agent.finish_withdrawal(record.channel)
            again = await agent.finish_withdrawal(record.channel)
            spending = await agent.spending()

        assert (finished.amount, finished.transaction) == (DEPOSIT - PRICE, "")
        assert (again.amount, again.transaction) == (0, "")
        assert (spending.deposited, spending.held) == (0, 0)
        assert spending.spent == PRICE * 10**12
