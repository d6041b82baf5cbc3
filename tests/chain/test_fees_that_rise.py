"""Transactions that blocks pass by are offered more, within what may be spent."""

import asyncio
import logging
from contextlib import AsyncExitStack

import pytest

from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.core.sending import GWEI, FeePolicy
from agentpay.errors import GasTooExpensive, TransactionOutcomeUnknown
from agentpay.evm.transaction import read_signed_call
from agentpay.records import SentTransaction
from agentpay.stores.memory import MemoryPayeeStore
from agentpay.testing.anvil import Anvil
from agentpay.testing.anvil_node import AnvilNode
from tests.chain.chain_cases import (
    COUNTS,
    LOCAL,
    call_of,
    counted,
    place,
    rich_wallet,
    until_known,
    used_nonces,
)


async def pass_by(node: AnvilNode, base_fee: int, *, blocks: int = 3) -> None:
    """Mine blocks at a base fee."""
    for _ in range(blocks):
        await node.rpc("anvil_setNextBlockBaseFeePerGas", hex(base_fee))
        await node.mine()


async def test_a_call_is_mined_though_gas_has_become_ten_times_as_dear() -> None:
    async with Anvil(no_mining=True) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        async with (
            RpcChain(node.url, chain_id=LOCAL) as chain,
            TransactionSender(
                chain, key=wallet.gas_key(), fees=FeePolicy(raise_seconds=0.5)
            ) as sender,
        ):
            send = asyncio.create_task(sender.send(call_of(counter)))
            await until_known(node, wallet.address, 1)
            async with asyncio.timeout(15):
                while not send.done():
                    await pass_by(node, 20 * GWEI, blocks=1)
                    await asyncio.sleep(0.1)
            receipt = await send

        assert receipt.gas_price >= 20 * GWEI
        assert await counted(node, counter) == 1
        assert await used_nonces(node, wallet.address) == (1, 1)


async def test_no_more_is_offered_than_the_policy_allows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Anvil(no_mining=True) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        policy = FeePolicy(fee_max=5 * GWEI, raise_seconds=0.2)
        book = MemoryPayeeStore()
        async with (
            RpcChain(node.url, chain_id=LOCAL) as chain,
            TransactionSender(
                chain,
                key=wallet.gas_key(),
                fees=policy,
                book=book,
                mined_within_seconds=4,
            ) as sender,
        ):
            send = asyncio.create_task(sender.send(call_of(counter)))
            await until_known(node, wallet.address, 1)
            while not send.done():
                await pass_by(node, 50 * GWEI, blocks=1)
                await asyncio.sleep(0.1)
            with pytest.raises(TransactionOutcomeUnknown):
                await send
            with pytest.raises(GasTooExpensive, match="5000000000"):
                await sender.send(call_of(counter, b"another"))
            [sent] = await book.list_sent(LOCAL, wallet.address)

        offered = [read_signed_call(raw).fee_max for raw in sent.raws]
        assert offered == sorted(set(offered))
        assert offered[-1] == 5 * GWEI
        assert await counted(node, counter) == 0
        assert "may not cost more" in caplog.text


async def test_a_deadline_makes_it_hurry() -> None:
    async with Anvil(no_mining=True) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        async with (
            RpcChain(node.url, chain_id=LOCAL) as chain,
            TransactionSender(
                chain, key=wallet.gas_key(), fees=FeePolicy(raise_seconds=1000)
            ) as sender,
        ):
            soon = (await chain.head()).timestamp + 8
            send = asyncio.create_task(sender.send(call_of(counter), deadline=soon))
            await until_known(node, wallet.address, 1)
            async with asyncio.timeout(15):
                while not send.done():
                    await pass_by(node, 20 * GWEI, blocks=1)
                    await asyncio.sleep(0.1)
            await send

        assert await counted(node, counter) == 1


@pytest.mark.parametrize("restarted", [False, True])
async def test_who_joins_what_others_left_has_it_hurry_to_a_deadline_of_its_own(
    restarted: bool,
) -> None:
    async with Anvil(no_mining=True) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        book, policy = MemoryPayeeStore(), FeePolicy(raise_seconds=1000)
        async with RpcChain(node.url, chain_id=LOCAL) as chain, AsyncExitStack() as run:
            sender = TransactionSender(
                chain, key=wallet.gas_key(), fees=policy, book=book
            )
            await run.enter_async_context(sender)
            leaves = asyncio.create_task(sender.send(call_of(counter)))
            await until_known(node, wallet.address, 1)
            leaves.cancel()
            await asyncio.wait([leaves])
            if restarted:
                await sender.aclose()
                sender = TransactionSender(
                    chain, key=wallet.gas_key(), fees=policy, book=book
                )
                await run.enter_async_context(sender)
            soon = (await chain.head()).timestamp + 8
            send = asyncio.create_task(sender.send(call_of(counter), deadline=soon))
            kept: list[SentTransaction] = []
            async with asyncio.timeout(15):
                while not send.done():
                    await pass_by(node, 20 * GWEI, blocks=1)
                    await asyncio.sleep(0.1)
                    kept = await book.list_sent(LOCAL, wallet.address) or kept
            await send

        assert await counted(node, counter) == 1
        assert kept[0].deadline == soon


async def test_a_chain_that_stands_still_is_not_offered_more() -> None:
    async with Anvil(no_mining=True) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        async with (
            RpcChain(node.url, chain_id=LOCAL) as chain,
            TransactionSender(
                chain, key=wallet.gas_key(), fees=FeePolicy(raise_seconds=0.1)
            ) as sender,
        ):
            send = asyncio.create_task(sender.send(call_of(counter)))
            await until_known(node, wallet.address, 1)
            first = await node.rpc("txpool_content")
            await asyncio.sleep(1.5)
            later = await node.rpc("txpool_content")
            await node.mine()
            await send

    assert first == later


async def test_an_account_that_runs_low_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Anvil() as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        async with (
            RpcChain(node.url, chain_id=LOCAL) as chain,
            TransactionSender(chain, key=wallet.gas_key()) as sender,
        ):
            with caplog.at_level(logging.WARNING):
                await sender.send(call_of(counter))
                plenty = caplog.text
                await node.set_balance(wallet.address, 10**15 // 2)
                await sender.send(call_of(counter))
                await sender.send(call_of(counter))

    assert plenty == ""
    assert caplog.text.count("send it some") == 1
    assert wallet.address in caplog.text
