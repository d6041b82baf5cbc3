"""A payer can always leave: its payee claims in time, or is silent, or forgot it."""

import asyncio

import pytest

from agentpay import PaymentOutcomeUnknown, PaymentRejected
from agentpay.errors import ChainError, ChannelUnusable, TransactionFailed
from agentpay.testing.local_chain import LocalChain
from tests.http.world import BASE, Wire, a_shop, an_agent, through

from .world import DELAY, DEPOSIT, PRICE, a_world


async def test_k5_a_withdrawal_leaves_the_payee_what_it_earned() -> None:
    async with a_world() as world, world.agent() as agent:
        before = await world.chain.balance(world.wallet.address)
        for _ in range(3):
            assert (await agent.get(world.url)).status_code == 200
        (record,) = await agent.channels()

        started = await agent.start_withdrawal(record.channel)
        await world.until_paid(3 * PRICE)
        await world.chain.node.increase_time(DELAY + 1)
        finished = await agent.finish_withdrawal(record.channel)

        assert started.amount == DEPOSIT
        assert finished.amount == DEPOSIT - 3 * PRICE
        lost = before - await world.chain.balance(world.wallet.address)
        assert lost == 3 * PRICE
        spending = await agent.spending()
        assert spending.deposited == 0
        assert spending.spent == 3 * PRICE * 10**12


@pytest.mark.parametrize("claimed", [False, True], ids=["", "claimed"])
async def test_k5_a_deposit_whose_answer_was_lost_comes_back_to_the_budget(
    *, claimed: bool
) -> None:
    """But for what its payee claims, which is spent."""
    async with LocalChain() as chain, a_shop(chain, withdraw_delay=DELAY) as shop:
        wire = Wire(through(shop[2]))
        wallet = await chain.funded_wallet("$10", ether=1)
        before = await chain.balance(wallet.address)
        async with await an_agent(chain, wire, wallet=wallet) as agent:
            wire.lose_answers = 10**6
            with pytest.raises(PaymentOutcomeUnknown):
                await agent.get(f"{BASE}/ok")
            (record,) = await agent.channels()
            pending = record.ledger.deposit
            if claimed:
                await shop[1].settlement.claim()
            await agent.start_withdrawal(record.channel)
            await chain.node.increase_time(DELAY + 1)
            finished = await agent.finish_withdrawal(record.channel)
            spending = await agent.spending()
        paid = before - await chain.balance(wallet.address)

    assert pending is not None
    assert finished.amount == pending.amount - paid
    assert (spending.deposited, spending.spent) == (0, paid * 10**12)
    assert paid == PRICE or (paid == 0 and not claimed)


async def test_a_withdrawal_waits_for_its_delay() -> None:
    async with a_world() as world, world.agent() as agent:
        await agent.get(world.url)
        (record,) = await agent.channels()
        await agent.start_withdrawal(record.channel)

        with pytest.raises(TransactionFailed, match="WithdrawDelayNotElapsed"):
            await agent.finish_withdrawal(record.channel)


async def test_a_withdrawal_is_started_once_however_often_it_is_asked_for() -> None:
    async with a_world() as world, world.agent() as agent:
        await agent.get(world.url)
        (record,) = await agent.channels()
        first = await agent.start_withdrawal(record.channel)
        again = await agent.start_withdrawal(record.channel)

        assert again.ready_at == first.ready_at
        assert again.transaction == ""


async def test_a_wallet_without_gas_is_told_so() -> None:
    async with a_world(ether=0) as world, world.agent() as agent:
        await agent.get(world.url)
        (record,) = await agent.channels()

        with pytest.raises(ChainError):
            await agent.start_withdrawal(record.channel)


async def test_nothing_is_signed_on_a_channel_that_is_left() -> None:
    async with a_world() as world, world.agent() as agent:
        await agent.get(world.url)
        (record,) = await agent.channels()
        await agent.start_withdrawal(record.channel)
        await agent.get(world.url)
        opened = {r.channel: r.ledger.spent for r in await agent.channels()}

        assert opened.pop(record.channel) == PRICE
        assert list(opened.values()) == [PRICE]


async def test_a_channel_that_is_left_is_not_closed_a_second_way() -> None:
    async with a_world() as world, world.agent() as agent:
        await agent.get(world.url)
        (record,) = await agent.channels()
        await agent.start_withdrawal(record.channel)
        await world.until_paid(PRICE)

        with pytest.raises((ChannelUnusable, PaymentRejected)):
            await agent.close_channel(record.channel)


async def test_a_channel_whose_store_was_lost_is_found_and_emptied() -> None:
    async with a_world() as world:
        async with world.agent() as agent:
            await agent.get(world.url)
            (record,) = await agent.channels()
        async with world.agent() as amnesiac:
            found = await amnesiac.find_lost_channels(world.url)
            assert found == [record.channel]
            await amnesiac.start_withdrawal(found[0])
            await world.until_paid(PRICE)
            await world.chain.node.increase_time(DELAY + 1)
            finished = await amnesiac.finish_withdrawal(found[0])

            assert finished.amount == DEPOSIT - PRICE
            assert await amnesiac.find_lost_channels(world.url) == []


async def test_an_agent_that_lost_its_store_opens_another_channel() -> None:
    async with a_world() as world:
        async with world.agent() as agent:
            await agent.get(world.url)
            (first,) = await agent.channels()
        async with world.agent() as amnesiac:
            assert (await amnesiac.get(world.url)).status_code == 200
            (second,) = await amnesiac.channels()

        assert second.channel != first.channel


async def test_c9_a_withdrawal_that_is_finished_twice_at_once_comes_back_once() -> None:
    async with a_world() as world, world.agent() as agent:
        await agent.get(world.url)
        (record,) = await agent.channels()
        await agent.start_withdrawal(record.channel)
        await world.until_paid(PRICE)
        await world.chain.node.increase_time(DELAY + 1)

        async def finish_after(seconds: float) -> None:
            await asyncio.sleep(seconds)
            await agent.finish_withdrawal(record.channel)

        finishing = [finish_after(number / 500) for number in range(100)]
        await asyncio.gather(*finishing, return_exceptions=True)
        spending = await agent.spending()

        assert spending.spent == PRICE * 10**12
        assert spending.deposited == spending.held == 0
