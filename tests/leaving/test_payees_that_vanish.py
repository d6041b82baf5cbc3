"""Money in the channel of a payee that is gone comes back, where asked for."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import replace

import httpx
import pytest

from agentpay import Agent, ConfigurationError, Policy
from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.core.payer_channel import PayerStatus
from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.evm.batch_settlement_abi import finalize_withdraw_call
from agentpay.evm.calls import Call
from agentpay.testing.local_chain import LocalChain
from tests.keeper.test_settlement_triggers import Clock

from .world import DELAY, DEPOSIT, GRACE, World, a_session_world, a_world

DAY = 24 * 3600


def an_agent(
    world: World,
    *,
    seconds: float | None,
    clock: Clock | None = None,
    road: httpx.AsyncBaseTransport | None = None,
) -> Agent:
    policy = replace(world.policy, withdraw_when_silent_seconds=seconds)
    return world.agent(policy=policy, transport=road, clock=clock or time.time)


async def test_k5_a_payee_that_vanished_is_left_after_the_time_of_the_policy() -> None:
    async with LocalChain() as chain, AsyncExitStack() as stack:
        clock = Clock()
        async with a_world(on=chain) as world:
            agent = an_agent(world, seconds=DAY, clock=clock)
            await stack.enter_async_context(agent)
            before = await chain.balance(world.wallet.address)
            await agent.get(world.url)
            (record,) = await agent.channels()
            alive = await agent.sweep()
        # The payee is gone from here on, and never claimed.
        first = await agent.sweep()
        clock.ahead += DAY / 2
        second = await agent.sweep()
        clock.ahead += DAY / 2 - 2
        early = await agent.sweep()
        clock.ahead += 2
        (started,) = await agent.sweep()
        too_early = await agent.sweep()
        await chain.node.increase_time(DELAY + 1)
        (finished,) = await agent.sweep()
        nothing_left = await agent.sweep()
        (after,) = await agent.channels()
        spending = await agent.spending()
        back = await chain.balance(world.wallet.address)

    assert [alive, first, second, early] == [[], [], [], []]
    assert (started.channel, started.amount) == (record.channel, DEPOSIT)
    assert too_early == nothing_left == []
    assert finished.amount == DEPOSIT
    assert after.ledger.status is PayerStatus.CLOSED
    assert spending.deposited == 0
    assert back == before


async def test_k5_a_way_out_that_failed_is_tried_again_and_booked_by_later_sweeps() -> (
    None
):
    """Nothing is signed for a channel any more before its withdrawal is sent."""
    async with LocalChain() as chain, AsyncExitStack() as stack:
        clock = Clock()
        async with a_world(on=chain) as world:
            agent = an_agent(world, seconds=DAY, clock=clock)
            await stack.enter_async_context(agent)
            await agent.get(world.url)
        for _ in range(2):
            await agent.sweep()
            clock.ahead += DAY / 2
        await chain.node.set_balance(world.wallet.address, 0)
        failed = await agent.sweep()
        (stopped,) = await agent.channels()
        await chain.node.set_balance(world.wallet.address, 10**18)
        (started,) = await agent.sweep()
        await chain.node.increase_time(DELAY + 1)
        assert isinstance(stopped.config, ChannelConfig)
        await send(world, finalize_withdraw_call(stopped.config))  # and then we die
        (booked,) = await agent.sweep()
        (after,) = await agent.channels()
        spending = await agent.spending()

    assert failed == []
    assert stopped.ledger.status is PayerStatus.STOPPED
    assert started.amount == booked.amount == DEPOSIT
    assert started.transaction
    assert not booked.transaction
    assert after.ledger.status is PayerStatus.CLOSED
    assert spending.deposited == 0


async def send(world: World, call: Call) -> None:
    async with (
        RpcChain(world.chain.rpc_url, chain_id=world.chain.chain_id) as chain,
        TransactionSender(chain, key=world.wallet.gas_key()) as sender,
    ):
        await sender.send(call)


async def test_k5_a_session_of_a_payee_that_vanished_is_left_in_the_background() -> (
    None
):
    async with LocalChain() as chain, AsyncExitStack() as stack:
        async with a_session_world(on=chain) as world:
            agent = an_agent(world, seconds=0.5)
            await stack.enter_async_context(agent)
            await agent.get(world.url)
            await asyncio.sleep(1)
            (alive,) = await agent.channels()
        await _until(agent, PayerStatus.STOPPED)
        await agent.start_withdrawal(alive.channel)  # under way: until it is mined
        await chain.node.increase_time(GRACE + 1)
        await _until(agent, PayerStatus.CLOSED)
        spending = await agent.spending()

    assert alive.ledger.status is PayerStatus.OPEN
    assert spending.deposited == 0


async def _until(agent: Agent, status: PayerStatus) -> None:
    async with asyncio.timeout(20):
        while (await agent.channels())[0].ledger.status is not status:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


class Road(httpx.AsyncHTTPTransport):
    """A way to a server, which may be closed."""

    closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.closed:
            raise httpx.ConnectError("nobody is there", request=request)
        return await super().handle_async_request(request)


async def test_a_payee_that_answers_again_is_not_left() -> None:
    clock, road = Clock(), Road()
    async with (
        a_world() as world,
        an_agent(world, seconds=60, clock=clock, road=road) as agent,
    ):
        await agent.get(world.url)
        (record,) = await agent.channels()
        for closed in (True, True, False, True, True):
            road.closed = closed
            assert await agent.sweep() == []
            clock.ahead += 50
        clock.ahead -= 500  # and a clock that is set back makes no silence longer
        assert await agent.sweep() == []
        road.closed = False
        assert (await agent.get(world.url)).status_code == 200
        (after,) = await agent.channels()

    assert after.channel == record.channel
    assert after.ledger.status is PayerStatus.OPEN


async def test_without_a_policy_only_what_was_started_is_finished() -> None:
    async with LocalChain() as chain, AsyncExitStack() as stack:
        async with a_world(on=chain) as world:
            agent = an_agent(world, seconds=None)
            await stack.enter_async_context(agent)
            await agent.get(world.url)
            (record,) = await agent.channels()
        for _ in range(5):
            assert await agent.sweep() == []
        await agent.start_withdrawal(record.channel)
        await chain.node.increase_time(DELAY + 1)
        (finished,) = await agent.sweep()

    assert finished.amount == DEPOSIT


def test_a_silence_of_no_time_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="withdraw_when_silent_seconds"):
        Policy(withdraw_when_silent_seconds=0).check(6)
