"""Threats F1 and F8: a process that dies while it sends neither loses nor repeats."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.core.sending import FeePolicy
from agentpay.errors import (
    ChainUnreachable,
    StoreUnavailable,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm.calls import Receipt
from agentpay.records import SentTransaction
from agentpay.signers.wallet import Wallet
from agentpay.stores import PostgresStore
from agentpay.stores.memory import MemoryPayeeStore
from agentpay.testing.anvil import Anvil
from agentpay.testing.anvil_node import AnvilNode
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.types import Address, ChainId
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


@asynccontextmanager
async def process(
    url: str, wallet: Wallet, book: MemoryPayeeStore, *, seconds: float = 15
) -> AsyncIterator[TransactionSender]:
    """One life of a program that sends; leaving it is as good as a crash."""
    async with (
        RpcChain(url, chain_id=LOCAL, timeout_seconds=1) as chain,
        TransactionSender(
            chain, key=wallet.gas_key(), book=book, mined_within_seconds=seconds
        ) as sender,
    ):
        yield sender


async def kept(book: MemoryPayeeStore, wallet: Wallet) -> list[SentTransaction]:
    return await book.list_sent(LOCAL, wallet.address)


async def die(task: "asyncio.Task[Receipt]") -> None:
    task.cancel()
    await asyncio.wait([task])


async def crash_while_it_waits(
    node: AnvilNode, url: str, wallet: Wallet, book: MemoryPayeeStore, counter: Address
) -> None:
    async with process(url, wallet, book) as sender:
        dying = asyncio.create_task(sender.send(call_of(counter)))
        await until_known(node, wallet.address, 1)
        await die(dying)


async def test_f8_what_was_in_flight_at_a_crash_is_waited_for_and_not_sent_again() -> (
    None
):
    async with Anvil(no_mining=True) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        book = MemoryPayeeStore()
        await crash_while_it_waits(node, node.url, wallet, book, counter)
        [before] = await kept(book, wallet)
        async with process(node.url, wallet, book) as sender:
            again = asyncio.create_task(sender.send(call_of(counter)))
            await asyncio.sleep(0.3)
            await node.mine()
            receipt = await again
        after = await kept(book, wallet)

        assert await counted(node, counter) == 1
        assert await used_nonces(node, wallet.address) == (1, 1)
        assert before.nonce == 0
        assert receipt.gas_used > 21_000
        assert after == []


async def test_f8_what_was_mined_while_nobody_ran_is_recognised() -> None:
    async with Anvil(no_mining=True) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        book = MemoryPayeeStore()
        await crash_while_it_waits(node, node.url, wallet, book, counter)
        await node.mine()
        async with process(node.url, wallet, book) as sender:
            receipt = await sender.send(call_of(counter))

        assert receipt.block == 1
        assert await counted(node, counter) == 1
        assert await kept(book, wallet) == []


async def test_f8_what_the_node_lost_meanwhile_is_sent_again_with_its_nonce() -> None:
    async with Anvil(no_mining=True) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        book = MemoryPayeeStore()
        await crash_while_it_waits(node, node.url, wallet, book, counter)
        await node.rpc("anvil_dropAllTransactions")
        async with process(node.url, wallet, book) as sender:
            await sender.resume()
            await until_known(node, wallet.address, 1)
            other = asyncio.create_task(sender.send(call_of(counter, b"other")))
            await until_known(node, wallet.address, 2)
            await node.mine()
            await other

        assert await counted(node, counter) == 2
        assert await used_nonces(node, wallet.address) == (2, 2)


@pytest.mark.parametrize("fault", [Fault.HANGS, Fault.ANSWER_HANGS])
async def test_f8_a_crash_in_the_middle_of_a_send_leaves_one_transaction(
    fault: Fault,
) -> None:
    async with Anvil(no_mining=True) as node, FaultyRpc(node.url) as proxy:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        book = MemoryPayeeStore()
        async with process(proxy.url, wallet, book) as sender:
            proxy.plan("eth_sendRawTransaction", fault)
            dying = asyncio.create_task(sender.send(call_of(counter)))
            while proxy.planned:  # noqa: ASYNC110 - until the fault has happened
                await asyncio.sleep(0.01)
            recorded = await kept(book, wallet)
            await die(dying)
        async with process(node.url, wallet, book) as sender:
            again = asyncio.create_task(sender.send(call_of(counter)))
            await until_known(node, wallet.address, 1)
            await node.mine()
            await again

        assert len(recorded) == 1
        assert await counted(node, counter) == 1
        assert await used_nonces(node, wallet.address) == (1, 1)


async def test_f8_what_was_raised_before_a_crash_is_known_by_every_attempt() -> None:
    async with Anvil(no_mining=True) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        book = MemoryPayeeStore()
        fees = FeePolicy(raise_seconds=0.5)
        async with (
            RpcChain(node.url, chain_id=LOCAL) as chain,
            TransactionSender(
                chain, key=wallet.gas_key(), book=book, fees=fees
            ) as sender,
        ):
            dying = asyncio.create_task(sender.send(call_of(counter)))
            await until_known(node, wallet.address, 1)
            await pass_by(node, blocks=3)
            while len((await kept(book, wallet))[0].raws) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await die(dying)
        async with process(node.url, wallet, book) as sender:
            again = asyncio.create_task(sender.send(call_of(counter)))
            await until_known(node, wallet.address, 1)
            await node.rpc("anvil_setNextBlockBaseFeePerGas", hex(10**9))
            await node.mine()
            await again

        assert await counted(node, counter) == 1
        assert await used_nonces(node, wallet.address) == (1, 1)


async def test_f8_what_another_worker_left_when_it_died_holds_up_nobody(
    postgres_url: str,
) -> None:
    fees = FeePolicy(raise_seconds=0.5)
    async with (
        Anvil(no_mining=True) as node,
        RpcChain(node.url, chain_id=LOCAL) as chain,
        await PostgresStore.open(postgres_url, grace_seconds=0) as store,
    ):
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        another = await PostgresStore.open(postgres_url)
        async with TransactionSender(
            chain, key=wallet.gas_key(), fees=fees, book=store.payee
        ) as sender:
            await sender.resume()
            async with TransactionSender(
                chain, key=wallet.gas_key(), book=another.payee
            ) as dying:
                left = asyncio.create_task(dying.send(call_of(counter)))
                await until_known(node, wallet.address, 1)
                await die(left)
            await another.close()
            ours = asyncio.create_task(sender.send(call_of(counter)))
            await until_known(node, wallet.address, 2)
            async with asyncio.timeout(20):
                while not ours.done():
                    await pass_by(node, blocks=1)
                    await asyncio.sleep(0.1)
            await ours

        assert await counted(node, counter) == 2
        assert await used_nonces(node, wallet.address) == (2, 2)


async def test_a_call_that_cannot_be_recorded_is_not_sent() -> None:
    class Full(MemoryPayeeStore):
        async def keep_sent(self, sent: SentTransaction) -> None:
            raise StoreUnavailable(f"nothing was saved of {sent.what}")

    async with Anvil() as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        async with process(node.url, wallet, Full()) as sender:
            with pytest.raises(StoreUnavailable):
                await sender.send(call_of(counter))

        assert await used_nonces(node, wallet.address) == (0, 0)


async def test_a_call_that_was_refused_is_not_recorded_any_more() -> None:
    async with Anvil() as node, FaultyRpc(node.url) as proxy:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        book = MemoryPayeeStore()
        async with process(proxy.url, wallet, book) as sender:
            proxy.plan("eth_sendRawTransaction", Fault.REQUEST_REFUSED)
            with pytest.raises(TransactionFailed, match="planned fault"):
                await sender.send(call_of(counter))
            after = await kept(book, wallet)

        assert after == []


async def test_a_refusal_that_cannot_be_recorded_is_not_called_a_failure() -> None:
    class Stuck(MemoryPayeeStore):
        async def forget_sent(
            self, chain: ChainId, account: Address, nonce: int, *, durable: bool
        ) -> None:
            if durable:
                raise StoreUnavailable("nothing was saved")
            await super().forget_sent(chain, account, nonce, durable=durable)

    async with Anvil() as node, FaultyRpc(node.url) as proxy:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        book = Stuck()
        async with process(proxy.url, wallet, book) as sender:
            proxy.plan("eth_sendRawTransaction", Fault.REQUEST_REFUSED)
            with pytest.raises(TransactionOutcomeUnknown):
                await sender.send(call_of(counter))
            await sender.send(call_of(counter))

        assert await counted(node, counter) == 1


async def test_a_node_that_is_gone_keeps_no_nonce_from_those_after_it() -> None:
    async with Anvil() as node, FaultyRpc(node.url) as proxy:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        book = MemoryPayeeStore()
        async with process(proxy.url, wallet, book) as sender:
            proxy.plan("eth_estimateGas", Fault.UNAVAILABLE)
            with pytest.raises(ChainUnreachable):
                await sender.send(call_of(counter))
            nothing = await kept(book, wallet)
            await sender.send(call_of(counter))

        assert nothing == []
        assert await used_nonces(node, wallet.address) == (1, 1)


async def pass_by(node: AnvilNode, *, blocks: int) -> None:
    """Mine blocks that are too dear for what waits."""
    for _ in range(blocks):
        await node.rpc("anvil_setNextBlockBaseFeePerGas", hex(2 * 10**10))
        await node.mine()
