"""
An endpoint that is slow, wrong or silent while a keeper runs: it goes on by itself.

No claim is lost, and none is made twice.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentpay.records import PayerRecord
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from tests.http.world import called, until
from tests.keeper.test_bad_days_of_a_store import (
    claimed_once,
    claims,
    failed_rounds,
    goes_on,
    sold,
)
from tests.keeper.test_settlement_triggers import PRICE, Clock, World, a_world

pytestmark = pytest.mark.timeout(110)

SEND = "eth_sendRawTransaction"
Shop = tuple[World, FaultyRpc, PayerRecord]


@asynccontextmanager
async def a_shop(chain: LocalChain, **options: Any) -> AsyncIterator[Shop]:
    """What was sold twice on one channel, through an endpoint that may fail."""
    terms: dict[str, Any] = {"claim_at": "$1000", "withdraw_delay": 900}
    terms |= options
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_world(chain, rpc_url=rpc.url, **terms) as world,
    ):
        yield world, rpc, await sold(world, 2)


@pytest.mark.parametrize(
    "outage",
    [
        Fault.REQUEST_DROPPED,
        Fault.REQUEST_REFUSED,
        Fault.UNAVAILABLE,
        Fault.NOT_JSON,
        Fault.HANGS,
    ],
)
async def test_an_endpoint_that_is_away_ends_no_keeper_and_doubles_no_claim(
    agentpay_chain: LocalChain, caplog: pytest.LogCaptureFixture, outage: Fault
) -> None:
    async with a_shop(agentpay_chain) as (world, rpc, record):
        caplog.clear()
        rpc.outage = outage
        await world.agent.start_withdrawal(record.channel)
        await until(lambda: failed_rounds(caplog) > 0, seconds=30)
        rpc.heal()
        await claimed_once(world, record, amount=2 * PRICE)
        await goes_on(world)


async def test_a_slow_endpoint_is_waited_for(agentpay_chain: LocalChain) -> None:
    async with a_shop(agentpay_chain) as (world, rpc, record):
        rpc.delay_seconds = 0.3
        await world.agent.start_withdrawal(record.channel)
        await claimed_once(world, record, amount=2 * PRICE)
        rpc.heal()
        await goes_on(world)


@pytest.mark.parametrize(
    ("method", "lie"),
    [
        ("eth_getLogs", "nonsense"),
        ("eth_getLogs", []),  # what it leaves out is found again
        ("eth_getLogs", [{"address": "0x"}]),
        ("eth_getBlockByNumber", None),
        ("eth_getBlockByNumber", {"number": "0x0", "timestamp": "soon"}),
        ("eth_call", "0x"),
        ("eth_call", "0x" + "00" * 32),
        ("eth_estimateGas", "nothing"),
        ("eth_getTransactionCount", None),
        ("eth_getTransactionReceipt", {"status": "well"}),
        (SEND, "0x" + "00" * 32),
    ],
)
async def test_an_endpoint_that_is_wrong_ends_no_keeper_and_doubles_no_claim(
    agentpay_chain: LocalChain, method: str, lie: object
) -> None:
    async with a_shop(agentpay_chain) as (world, rpc, record):
        before = called(rpc, method)
        rpc.lie(method, lie, times=10**6)
        await world.agent.start_withdrawal(record.channel)
        await until(lambda: called(rpc, method) > before, seconds=20)
        await asyncio.sleep(1)
        rpc.heal()
        await claimed_once(world, record, amount=2 * PRICE)
        await goes_on(world)


@pytest.mark.parametrize(
    "fault",
    [
        Fault.ANSWER_DROPPED,
        Fault.ANSWER_BROKEN,
        Fault.ANSWER_REFUSED,
        Fault.ANSWER_HANGS,
        Fault.REQUEST_DROPPED,
        Fault.REQUEST_BROKEN,
    ],
)
async def test_a_claim_whose_sending_fails_in_any_way_is_made_once(
    agentpay_chain: LocalChain, fault: Fault
) -> None:
    async with a_shop(agentpay_chain) as (world, rpc, record):
        rpc.plan(SEND, fault, times=2)
        await world.agent.start_withdrawal(record.channel)
        await claimed_once(world, record, amount=2 * PRICE)
        rpc.heal()
        await goes_on(world)

        assert await claims(world, record) == 1


async def test_a_claim_that_a_node_refuses_is_tried_again_in_time(
    agentpay_chain: LocalChain, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    async with a_shop(agentpay_chain, clock=clock) as (world, rpc, record):
        rpc.plan(SEND, Fault.REQUEST_REFUSED)
        await world.agent.start_withdrawal(record.channel)
        await until(lambda: "cannot be claimed" in caplog.text, seconds=20)
        clock.ahead = 301  # a third of the withdraw delay
        await claimed_once(world, record, amount=2 * PRICE)
