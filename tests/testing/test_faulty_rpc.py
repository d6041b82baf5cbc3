"""The failing endpoint that users test with: it is slow, away, or behind, as told."""

import asyncio
import time

import pytest

from agentpay.chain.rpc import RpcChain
from agentpay.errors import ChainError, ChainUnreachable
from agentpay.evm.calls import Call
from agentpay.testing.anvil import Anvil
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.types import Hash32
from tests.chain.chain_cases import (
    COUNTS,
    LOCAL,
    call_of,
    place,
    rich_wallet,
    sender_of,
    until_known,
)
from tests.chain.chain_cases import RETURNS_BLOCK_NUMBER as NUMBER


async def test_a_frozen_endpoint_knows_nothing_of_later_blocks() -> None:
    async with (
        Anvil(no_mining=True) as node,
        FaultyRpc(node.url) as rpc,
        RpcChain(node.url, chain_id=LOCAL) as direct,
    ):
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        number = await place(node, NUMBER)
        await node.mine(3)
        frozen = await rpc.freeze()
        async with sender_of(direct, wallet) as sender:
            sending = asyncio.create_task(sender.send(call_of(counter)))
            await until_known(node, wallet.address, 1)
            await node.mine(2)
            receipt = await sending
        async with RpcChain(rpc.url, chain_id=LOCAL) as behind:
            head = await behind.head()
            (seen,) = await behind.read([Call(to=number, data=b"", what="number")])
            unknown = await behind.receipt(Hash32(receipt.transaction))
            rpc.heal()
            now = await behind.head()
            known = await behind.receipt(Hash32(receipt.transaction))

    assert head.number == frozen == int.from_bytes(seen, "big")
    assert unknown is None
    assert now.number == frozen + 2
    assert known is not None


@pytest.mark.parametrize("fault", [Fault.REQUEST_DROPPED, Fault.NOT_JSON])
async def test_in_an_outage_everything_fails_until_it_is_over(fault: Fault) -> None:
    async with (
        Anvil(no_mining=True) as node,
        FaultyRpc(node.url) as rpc,
        RpcChain(rpc.url, chain_id=LOCAL) as chain,
    ):
        rpc.outage = fault
        for ask in (chain.head, chain.check):
            with pytest.raises(ChainUnreachable):
                await ask()
        rpc.heal()
        await chain.check()


async def test_a_planned_fault_says_when_it_happened_and_only_then() -> None:
    async with (
        Anvil(no_mining=True) as node,
        FaultyRpc(node.url) as rpc,
        RpcChain(rpc.url, chain_id=LOCAL) as chain,
    ):
        refused = rpc.plan("eth_getBlockByNumber", Fault.REQUEST_REFUSED)
        waiting = rpc.plan("eth_getLogs", Fault.REQUEST_REFUSED)
        before = time.time()
        with pytest.raises(ChainError):
            await chain.head()
        await chain.head()

    assert [before <= moment <= time.time() for moment in refused] == [True]
    assert (waiting, rpc.planned) == ([], 1)


async def test_a_slow_endpoint_answers_late() -> None:
    async with (
        Anvil(no_mining=True) as node,
        FaultyRpc(node.url) as rpc,
        RpcChain(rpc.url, chain_id=LOCAL) as chain,
    ):
        rpc.delay_seconds = 0.3
        started = time.monotonic()
        await chain.head()

    assert time.monotonic() - started >= 0.3


async def test_a_reorg_replaces_the_last_blocks_by_empty_ones() -> None:
    async with (
        Anvil(no_mining=True) as node,
        RpcChain(node.url, chain_id=LOCAL) as chain,
    ):
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        await node.mine()
        async with sender_of(chain, wallet) as sender:
            sending = asyncio.create_task(sender.send(call_of(counter)))
            await until_known(node, wallet.address, 1)
            await node.mine()
            receipt = await sending
        before = await chain.head()
        await node.reorg(after=before.number - 1)
        after = await chain.head()

        assert await chain.receipt(Hash32(receipt.transaction)) is None
        assert after.number == before.number
