"""What became of a payment is found however late somebody asks."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agentpay import Wallet
from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.facilitator.embedded import Facilitator
from agentpay.history import BLOCKS_AT_ONCE, last_block_at, logs_between
from agentpay.onchain import find_deposit, find_transfer
from agentpay.testing.anvil import Anvil
from agentpay.testing.faulty_rpc import FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from tests.chain.chain_cases import LOCAL
from tests.facilitator.world import AMOUNT, Channel, a_transfer


@asynccontextmanager
async def a_facilitator(
    chain: LocalChain,
) -> AsyncIterator[tuple[RpcChain, Facilitator]]:
    wallet = await chain.funded_wallet(0)
    async with (
        RpcChain(chain.rpc_url, chain_id=chain.chain_id) as reads,
        TransactionSender(reads, key=wallet.gas_key()) as sender,
    ):
        yield reads, Facilitator(chain=reads, senders=[sender])


async def years_pass(chain: LocalChain) -> None:
    """All that was signed expires, and many blocks come."""
    await chain.node.increase_time(400 * 24 * 3600)
    for _ in range(11):
        await chain.node.mine(100)


async def test_f1_a_transfer_is_found_by_the_time_in_which_it_was_good(
    agentpay_chain: LocalChain,
) -> None:
    chain = agentpay_chain
    payer, payee = await chain.funded_wallet(ether=0), Wallet.create().address
    transfer = await a_transfer(chain.usdc, payer, payee)
    never = await a_transfer(chain.usdc, payer, payee)
    async with a_facilitator(chain) as (reads, facilitator):
        settled = await facilitator.settle_transfer(transfer, AMOUNT)
        await years_pass(chain)
        found = await find_transfer(reads, transfer)
        nothing = await find_transfer(reads, never)

    assert found is not None
    assert found.transaction == settled.transaction
    assert nothing is None


async def test_f1_a_deposit_is_found_by_the_time_in_which_it_was_good(
    agentpay_chain: LocalChain,
) -> None:
    chain = agentpay_chain
    payer = await chain.funded_wallet(ether=0)
    channel = Channel(chain.usdc, payer, Wallet.create())
    deposit = await channel.deposit(AMOUNT)
    async with a_facilitator(chain) as (reads, facilitator):
        made = await facilitator.deposit(deposit)
        await years_pass(chain)
        found = await find_deposit(reads, deposit)

    assert found == made.transaction


async def test_nothing_is_searched_before_what_was_signed_was_good() -> None:
    async with Anvil(no_mining=True) as node:
        await node.mine(BLOCKS_AT_ONCE)
        await node.increase_time(10_000)
        now = int(time.time()) + 10_000
        async with (
            FaultyRpc(node.url) as proxy,
            RpcChain(proxy.url, chain_id=LOCAL) as chain,
        ):
            logs = logs_between(
                chain,
                address=Address("0x" + "11" * 20),
                topics=[],
                earliest=now - 60,
                latest=now + 600,
                seconds_max=3600,
            )
            found = [log async for log in logs]
        calls = [call for calls in proxy.requests for call in calls]
        asked = [c["params"][0] for c in calls if c["method"] == "eth_getLogs"]

    assert found == []
    assert [(int(a["fromBlock"], 16), int(a["toBlock"], 16)) for a in asked] == [
        (2, BLOCKS_AT_ONCE + 1)
    ]


async def test_nothing_is_searched_after_what_was_signed_had_expired() -> None:
    async with (
        Anvil(no_mining=True) as node,
        FaultyRpc(node.url) as proxy,
        RpcChain(proxy.url, chain_id=LOCAL) as chain,
    ):
        await node.mine(7)
        then = await chain.head()
        await node.increase_time(10_000)
        await node.mine(7)
        logs = logs_between(
            chain,
            address=Address("0x" + "11" * 20),
            topics=[],
            earliest=0,
            latest=then.timestamp,
            seconds_max=3600,
        )
        found = [log async for log in logs]
        calls = [call for calls in proxy.requests for call in calls]
        [asked] = [c["params"][0] for c in calls if c["method"] == "eth_getLogs"]

    assert found == []
    assert int(asked["toBlock"], 16) == then.number


@pytest.mark.parametrize("offset", [-1, 0, 1])
async def test_the_last_block_before_a_moment_is_found(offset: int) -> None:
    async with Anvil(no_mining=True) as node:
        for _ in range(20):
            await node.increase_time(10)
        async with RpcChain(node.url, chain_id=LOCAL) as chain:
            wanted = await chain.block(7)
            moment = wanted.timestamp + offset
            found = await last_block_at(chain, moment, head=await chain.head())

    assert found == (6 if offset < 0 else 7)
