"""A process that died on its way out of a channel has sent what the next one awaits."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from agentpay import Agent
from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.errors import TransactionOutcomeUnknown
from agentpay.payer.exit import Withdrawal
from agentpay.testing.faulty_rpc import FaultyRpc
from agentpay.types import Hash32
from tests.chain.chain_cases import until_known, used_nonces
from tests.http.world import called, until

from .world import DELAY, DEPOSIT, PRICE, World, a_world

Step = Callable[[Agent, Hash32], Awaitable[Withdrawal]]


async def sent_by_wallet(world: World) -> int:
    """Transactions of the wallet's, mined or not."""
    return (await used_nonces(world.chain.node, world.wallet.address))[1]


async def crashes_after_sending(
    world: World, store: str, step: Step, channel: Hash32
) -> int:
    """
    The first process: it sends, and ends before that is mined.

    From here on, blocks are mined when a test says so. Returns how many transactions
    there were before.
    """
    await world.chain.node.rpc("evm_setIntervalMining", 0)
    before = await sent_by_wallet(world)
    async with world.agent(store) as agent:
        leaving = asyncio.ensure_future(step(agent, channel))
        await until_known(world.chain.node, world.wallet.address, before + 1)
        leaving.cancel()
        await asyncio.wait([leaving])
    return before


async def goes_on(world: World, store: str, step: Step, channel: Hash32) -> Withdrawal:
    """The next process, which asks for the same while nothing is mined."""
    async with (
        FaultyRpc(world.chain.rpc_url) as rpc,
        world.agent(store, rpc_url=rpc.url) as agent,
    ):
        leaving = asyncio.ensure_future(step(agent, channel))
        # Nobody announces that it waits; only who does asks so often.
        polls = partial(called, rpc, "eth_getTransactionCount")
        await until(lambda: polls() > 6)
        await world.chain.node.mine(1)
        return await leaving


async def bought(world: World, store: str) -> Hash32:
    """The channel that an agent has paid one request on."""
    async with world.agent(store) as agent:
        await agent.get(world.url)
        (record,) = await agent.channels()
    return record.channel


async def test_c8_a_withdrawal_under_way_when_we_crashed_is_not_started_twice(
    tmp_path: Path,
) -> None:
    store = str(tmp_path / "agent.db")
    async with a_world() as world:
        channel = await bought(world, store)
        step = Agent.start_withdrawal
        before = await crashes_after_sending(world, store, step, channel)
        started = await goes_on(world, store, step, channel)

        assert started.amount == DEPOSIT
        assert await sent_by_wallet(world) == before + 1


async def test_c8_a_withdrawal_that_we_finished_and_crashed_is_booked_by_the_next(
    tmp_path: Path,
) -> None:
    store = str(tmp_path / "agent.db")
    async with a_world() as world:
        channel = await bought(world, store)
        async with world.agent(store) as agent:
            await agent.start_withdrawal(channel)
        await world.until_paid(PRICE)
        await world.chain.node.increase_time(DELAY + 1)
        step = Agent.finish_withdrawal
        before = await crashes_after_sending(world, store, step, channel)
        finished = await goes_on(world, store, step, channel)

        assert finished.amount == DEPOSIT - PRICE
        assert await sent_by_wallet(world) == before + 1


async def test_c8_a_withdrawal_that_was_sent_and_dropped_is_started_again(
    tmp_path: Path,
) -> None:
    store = str(tmp_path / "agent.db")
    async with a_world() as world:
        channel = await bought(world, store)
        step = Agent.start_withdrawal
        before = await crashes_after_sending(world, store, step, channel)
        await world.chain.node.rpc("anvil_removePoolTransactions", world.wallet.address)
        started = await goes_on(world, store, step, channel)

        assert started.amount == DEPOSIT
        assert started.transaction
        assert await sent_by_wallet(world) == before + 1


async def test_c8_what_was_sent_and_is_not_mined_in_time_is_not_called_failed(
    tmp_path: Path,
) -> None:
    store = str(tmp_path / "agent.db")
    async with a_world() as world:
        channel = await bought(world, store)
        step = Agent.start_withdrawal
        await crashes_after_sending(world, store, step, channel)
        network = world.chain.network
        async with RpcChain(world.chain.rpc_url, chain_id=network.chain) as chain:
            key = world.wallet.gas_key()
            sender = TransactionSender(chain, key=key, mined_within_seconds=0.3)
            with pytest.raises(TransactionOutcomeUnknown, match="withdraw"):
                await sender.wait_for_earlier("withdraw")
