"""Threats F1 and F8: no fault of an endpoint or node wedges a wallet or pays twice."""

import asyncio
from dataclasses import dataclass

import pytest
from eth_account import Account

from agentpay.errors import (
    ChainError,
    ChainUnreachable,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm.calls import Receipt
from agentpay.signers.wallet import Wallet
from agentpay.testing.anvil import Anvil
from agentpay.testing.anvil_node import AnvilNode
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Hash32
from tests.chain.chain_cases import (
    COUNTS,
    LOCAL,
    call_of,
    counted,
    place,
    rich_wallet,
    sending,
    until_known,
    used_nonces,
)
from tests.http.world import until

METHODS = (
    "eth_estimateGas",
    "eth_getTransactionCount",
    "eth_sendRawTransaction",
    "eth_getTransactionReceipt",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of some sends, and what the chain says of them."""

    fault: Fault
    counted: int
    receipts: int
    unknown: int
    nonces: tuple[int, int]


async def send_through(
    node: AnvilNode, method: str, fault: Fault, *, times: int
) -> Outcome:
    """Send five calls at once while `method` fails, and one when all is well again."""
    wallet, counter = await rich_wallet(node), await place(node, COUNTS)
    async with (
        FaultyRpc(node.url) as proxy,
        sending(
            proxy.url, wallet, timeout_seconds=0.4, mined_within_seconds=8
        ) as sender,
    ):
        proxy.plan(method, fault, times=times)
        outcomes = await asyncio.gather(
            *(sender.send(call_of(counter)) for _ in range(5)), return_exceptions=True
        )
        proxy.heal()
        outcomes.append(await sender.send(call_of(counter)))
    for outcome in outcomes:
        if not isinstance(outcome, Receipt | ChainError):
            raise outcome
    return Outcome(
        fault=fault,
        counted=await counted(node, counter),
        receipts=sum(isinstance(outcome, Receipt) for outcome in outcomes),
        unknown=sum(isinstance(o, TransactionOutcomeUnknown) for o in outcomes),
        nonces=await used_nonces(node, wallet.address),
    )


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("method", METHODS)
async def test_f8_no_fault_at_any_call_leaves_a_gap_or_counts_wrongly(
    agentpay_chain: LocalChain, method: str, times: int
) -> None:
    outcomes = await asyncio.gather(
        *(
            send_through(agentpay_chain.node, method, fault, times=times)
            for fault in Fault
        )
    )

    for outcome in outcomes:
        mined, known = outcome.nonces
        assert mined == known == outcome.counted, outcome
        assert outcome.receipts == outcome.counted, outcome
        assert outcome.unknown == 0, outcome


async def test_f8_faults_of_the_lookup_after_a_doubtful_send_are_survived(
    agentpay_chain: LocalChain,
) -> None:
    node = agentpay_chain.node
    wallet, counter = await rich_wallet(node), await place(node, COUNTS)
    async with (
        FaultyRpc(node.url) as proxy,
        sending(proxy.url, wallet) as sender,
    ):
        for fault in (Fault.REQUEST_BROKEN, Fault.ANSWER_BROKEN, Fault.ANSWER_REFUSED):
            proxy.plan("eth_sendRawTransaction", fault)
            proxy.plan("eth_getTransactionByHash", Fault.UNAVAILABLE)
            await asyncio.gather(*(sender.send(call_of(counter)) for _ in range(3)))

    assert await counted(node, counter) == 9
    assert await used_nonces(node, wallet.address) == (9, 9)


async def test_f8_what_a_reorg_takes_back_leaves_no_gap_below_what_is_sent_after() -> (
    None
):
    """Two are lost that nobody waits for any more, while another waits."""
    async with Anvil(no_mining=True) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        before = int(await node.rpc("eth_blockNumber"), 16)
        async with sending(node.url, wallet, mined_within_seconds=20) as sender:

            async def send() -> asyncio.Task[Receipt]:
                following = len(sender._in_flight.queue.sendings)
                task = asyncio.create_task(sender.send(call_of(counter)))
                await until(lambda: len(sender._in_flight.queue.sendings) > following)
                return task

            lost = [await send(), await send()]
            await node.mine()
            await asyncio.gather(*lost)
            sent = [await send()]
            await node.reorg(after=before)
            await node.mine()  # only now it counts what is pending from there
            await until(lambda: sender._in_flight.behind_a_gap)
            sent += [await send(), await send()]
            await node.rpc("evm_setIntervalMining", 1)
            receipts = await asyncio.gather(*sent)

        assert len({receipt.transaction for receipt in receipts}) == 3
        assert await counted(node, counter) == 3
        assert await used_nonces(node, wallet.address) == (3, 3)


async def test_f1_a_call_not_mined_in_time_is_unknown_and_not_repeated() -> None:
    async with Anvil(no_mining=True) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        async with sending(node.url, wallet, mined_within_seconds=0.5) as sender:
            with pytest.raises(TransactionOutcomeUnknown) as caught:
                await sender.send(call_of(counter))
            pending = await node.rpc(
                "eth_getTransactionByHash", caught.value.transaction
            )
            late = asyncio.create_task(sender.send(call_of(counter)))
            await asyncio.sleep(0.1)
            await node.mine()
            receipt = await late

        assert pending is not None
        assert receipt.transaction == caught.value.transaction
        assert await counted(node, counter) == 1
        assert await used_nonces(node, wallet.address) == (1, 1)


async def test_f1_killing_the_node_while_a_call_waits_leaves_its_outcome_unknown() -> (
    None
):
    async with Anvil(no_mining=True) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        async with sending(
            node.url, wallet, timeout_seconds=1, mined_within_seconds=1.5
        ) as sender:
            send = asyncio.create_task(sender.send(call_of(counter)))
            await until_known(node, wallet.address, 1)
            node.kill()
            with pytest.raises(TransactionOutcomeUnknown, match="0x"):
                await send
            with pytest.raises(ChainUnreachable):
                await sender.send(call_of(counter, b"other"))


async def test_f8_a_transaction_that_the_node_lost_is_sent_again() -> None:
    async with Anvil(no_mining=True) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        async with sending(node.url, wallet) as sender:
            sends = [
                asyncio.create_task(sender.send(call_of(counter))) for _ in range(4)
            ]
            await until_known(node, wallet.address, 4)
            pool = await node.rpc("txpool_content")
            [mine] = pool["pending"].values()
            await node.rpc("anvil_dropTransaction", mine["0"]["hash"])
            await until_known(node, wallet.address, 4)
            await node.mine()
            await asyncio.gather(*sends)

        assert await counted(node, counter) == 4
        assert await used_nonces(node, wallet.address) == (4, 4)


async def test_f8_a_cancelled_send_leaves_no_gap(agentpay_chain: LocalChain) -> None:
    node = agentpay_chain.node
    for fault in (Fault.HANGS, Fault.ANSWER_HANGS):
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        async with (
            FaultyRpc(node.url) as proxy,
            sending(proxy.url, wallet) as sender,
        ):
            proxy.plan("eth_sendRawTransaction", fault)
            cancelled = asyncio.create_task(sender.send(call_of(counter)))
            while proxy.planned:  # noqa: ASYNC110 - until the fault has happened
                await asyncio.sleep(0.01)
            cancelled.cancel()
            await asyncio.gather(*(sender.send(call_of(counter)) for _ in range(5)))

        mined, known = await used_nonces(node, wallet.address)
        assert mined == known == await counted(node, counter) >= 5


async def test_f8_a_cancelled_send_that_was_lost_does_not_hold_up_those_after_it() -> (
    None
):
    async with Anvil(no_mining=True) as node, FaultyRpc(node.url) as proxy:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        async with sending(proxy.url, wallet) as sender:
            first = asyncio.create_task(sender.send(call_of(counter)))
            await until_known(node, wallet.address, 1)
            proxy.plan("eth_sendRawTransaction", Fault.HANGS)
            lost = asyncio.create_task(sender.send(call_of(counter)))
            while proxy.planned:  # noqa: ASYNC110 - until the fault has happened
                await asyncio.sleep(0.01)
            lost.cancel()
            third = asyncio.create_task(sender.send(call_of(counter, b"other")))
            await until_known(node, wallet.address, 3)
            await node.mine()
            await asyncio.gather(first, third)

        assert await counted(node, counter) == 3


async def test_f8_a_refused_send_gives_its_nonce_back_to_those_after_it() -> None:
    async with Anvil(no_mining=True) as node, FaultyRpc(node.url) as proxy:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        async with sending(proxy.url, wallet) as sender:
            first = asyncio.create_task(sender.send(call_of(counter)))
            await until_known(node, wallet.address, 1)
            proxy.plan("eth_sendRawTransaction", Fault.REQUEST_REFUSED)
            with pytest.raises(TransactionFailed, match="planned fault"):
                await sender.send(call_of(counter))
            third = asyncio.create_task(sender.send(call_of(counter)))
            await until_known(node, wallet.address, 2)
            await node.mine()
            await asyncio.gather(first, third)

        assert await counted(node, counter) == 2


async def test_f8_a_node_that_lags_is_not_taken_for_a_lost_transaction(
    agentpay_chain: LocalChain,
) -> None:
    node = agentpay_chain.node
    wallet, counter = await rich_wallet(node), await place(node, COUNTS)
    async with (
        FaultyRpc(node.url) as proxy,
        sending(proxy.url, wallet) as sender,
    ):
        proxy.lie("eth_getTransactionReceipt", None, times=6)
        await sender.send(call_of(counter))
        lied = proxy.planned
        proxy.lie("eth_getTransactionCount", "0x0", times=2)
        await sender.send(call_of(counter))

    assert lied == 0
    assert await counted(node, counter) == 2
    assert await used_nonces(node, wallet.address) == (2, 2)


async def test_f8_a_nonce_of_ours_is_not_used_twice_while_the_node_lacks_it() -> None:
    async with Anvil(no_mining=True) as node, FaultyRpc(node.url) as proxy:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        async with sending(proxy.url, wallet) as sender:
            await send_elsewhere(node, wallet, counter, nonce=1)
            # The first is lost, and resending it fails for a while.
            proxy.plan("eth_getTransactionByHash", Fault.UNAVAILABLE, times=4)
            proxy.plan("eth_sendRawTransaction", Fault.REQUEST_BROKEN)
            sends = [
                asyncio.create_task(sender.send(call_of(counter))) for _ in range(3)
            ]
            await until_known(node, wallet.address, 4)
            await node.mine()
            await asyncio.gather(*sends)

        assert await counted(node, counter) == 4
        assert await used_nonces(node, wallet.address) == (4, 4)


async def test_f8_calls_given_up_and_lost_do_not_keep_their_nonces() -> None:
    async with Anvil(no_mining=True) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        async with sending(node.url, wallet, mined_within_seconds=1.2) as sender:
            given_up = await asyncio.gather(
                *(sender.send(call_of(counter)) for _ in range(2)),
                return_exceptions=True,
            )
            await node.rpc("anvil_dropAllTransactions")
            sends = [
                asyncio.create_task(sender.send(call_of(counter))) for _ in range(2)
            ]
            await until_known(node, wallet.address, 2)
            await node.mine()
            await asyncio.gather(*sends)

        assert all(isinstance(o, TransactionOutcomeUnknown) for o in given_up)
        assert await counted(node, counter) == 2
        assert await used_nonces(node, wallet.address) == (2, 2)


async def test_f8_a_call_whose_nonce_another_program_took_is_sent_with_the_next() -> (
    None
):
    async with Anvil(no_mining=True) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        async with sending(node.url, wallet, mined_within_seconds=15) as sender:
            send = asyncio.create_task(sender.send(call_of(counter)))
            await until_known(node, wallet.address, 1)
            await send_elsewhere(node, wallet, counter, nonce=0)
            await node.mine()
            await until_known(node, wallet.address, 2)
            await node.mine()
            await send

        assert await counted(node, counter) == 2


async def test_f8_four_senders_of_one_key_send_500_calls_without_gap_or_double(
    agentpay_chain: LocalChain,
) -> None:
    node = agentpay_chain.node
    wallet, counter = await rich_wallet(node), await place(node, COUNTS)

    async def work() -> set[Hash32]:
        async with sending(node.url, wallet, mined_within_seconds=40) as sender:
            sends = (sender.send(call_of(counter)) for _ in range(125))
            receipts = await asyncio.gather(*sends)
        return {receipt.transaction for receipt in receipts}

    sent = await asyncio.gather(*(work() for _ in range(4)))

    assert len(set.union(*sent)) == 500
    assert await counted(node, counter) == 500
    assert await used_nonces(node, wallet.address) == (500, 500)


async def send_elsewhere(
    node: AnvilNode, wallet: Wallet, counter: Address, *, nonce: int
) -> None:
    """Send a call from the wallet for a high fee, as another program could."""
    fields = {
        "type": 2,
        "chainId": LOCAL,
        "nonce": nonce,
        "to": counter.to_bytes(),
        "value": 0,
        "gas": 200_000,
        "maxFeePerGas": 10**11,
        "maxPriorityFeePerGas": 10**11,
    }
    signed = Account.from_key(wallet.gas_key()).sign_transaction(fields)
    await node.rpc("eth_sendRawTransaction", "0x" + bytes(signed.raw_transaction).hex())
