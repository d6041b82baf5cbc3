"""`RpcChain` against a real Anvil, with real faults in between."""

import asyncio
import subprocess
import sys
import traceback

import pytest

from agentpay.chain.rpc import RpcChain
from agentpay.errors import (
    ChainUnreachable,
    ConfigurationError,
    TransactionFailed,
    WrongChain,
)
from agentpay.evm.batch_settlement_abi import ERROR_NAMES
from agentpay.evm.eip3009_abi import TRANSFER
from agentpay.evm.hashing import address_word, keccak, uint_word
from agentpay.testing.anvil import Anvil
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, ChainId, Hash32
from tests.chain.chain_cases import (
    LOCAL,
    RETURNS_BLOCK_NUMBER,
    RETURNS_CALL_DATA,
    REVERTS_WITH_CALL_DATA,
    call_of,
    place,
    rich_wallet,
    sender_of,
)

NOBODY = Address("0x" + "77" * 20)


def test_importing_the_adapter_does_not_load_web3() -> None:
    code = (
        "import sys, agentpay.chain.rpc, agentpay.chain.sender\n"
        "sys.exit(bool({'web3', 'aiohttp', 'eth_account'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)  # noqa: S603

    assert done.returncode == 0


async def test_check_accepts_the_expected_chain(agentpay_chain: LocalChain) -> None:
    async with RpcChain(agentpay_chain.rpc_url, chain_id=LOCAL) as chain:
        await chain.check()


async def test_a_wrong_chain_is_named_with_both_ids(agentpay_chain: LocalChain) -> None:
    async with RpcChain(agentpay_chain.rpc_url, chain_id=ChainId(8453)) as chain:
        with pytest.raises(WrongChain, match=r"31337.*8453"):
            await chain.check()


async def test_head_is_the_latest_block(agentpay_chain: LocalChain) -> None:
    async with RpcChain(agentpay_chain.rpc_url, chain_id=LOCAL) as chain:
        before = await chain.head()
        await agentpay_chain.node.mine(3)
        after = await chain.head()

    assert after.number >= before.number + 3
    assert after.timestamp >= before.timestamp


async def test_a_block_that_a_node_has_not_got_is_waited_for_and_named(
    agentpay_chain: LocalChain,
) -> None:
    async with RpcChain(agentpay_chain.rpc_url, chain_id=LOCAL) as chain:
        head = await chain.head()
        asking = asyncio.create_task(chain.block(head.number + 50))
        await agentpay_chain.node.mine(60)
        with pytest.raises(ChainUnreachable, match="no block 1000000000:"):
            await chain.block(10**9)

        assert (await asking).number == head.number + 50


async def test_answers_come_in_the_order_of_the_calls(
    agentpay_chain: LocalChain,
) -> None:
    echo = await place(agentpay_chain.node, RETURNS_CALL_DATA)
    words = [uint_word(number) for number in range(250)]
    async with RpcChain(agentpay_chain.rpc_url, chain_id=LOCAL) as chain:
        answers = await chain.read([call_of(echo, word) for word in words])

    assert answers == words


async def test_no_calls_need_no_answer(agentpay_chain: LocalChain) -> None:
    async with RpcChain(agentpay_chain.rpc_url, chain_id=LOCAL) as chain:
        assert await chain.read([]) == []


async def test_all_calls_are_asked_at_one_block_and_never_at_latest(
    agentpay_chain: LocalChain,
) -> None:
    # By what is asked: Anvil answers a call at its last block from the next one if that
    # is mined meanwhile.
    echo = await place(agentpay_chain.node, RETURNS_CALL_DATA)
    async with (
        FaultyRpc(agentpay_chain.rpc_url) as proxy,
        RpcChain(proxy.url, chain_id=LOCAL) as chain,
    ):
        for _ in range(10):
            proxy.requests.clear()
            await chain.read([call_of(echo)] * 150)
            await asyncio.sleep(0.03)
            asked = [
                {call["params"][1] for call in request if call["method"] == "eth_call"}
                for request in proxy.requests
            ]

            assert all(block.startswith("0x") for blocks in asked for block in blocks)
            # The first may have been a guess that another block has overtaken.
            assert len(set.union(*asked[-2:])) == 1


async def test_calls_are_answered_at_the_block_asked_for(
    agentpay_chain: LocalChain,
) -> None:
    number = await place(agentpay_chain.node, RETURNS_BLOCK_NUMBER)
    await agentpay_chain.node.mine(5)
    async with RpcChain(agentpay_chain.rpc_url, chain_id=LOCAL) as chain:
        block = (await chain.head()).number - 2
        answers = await chain.read([call_of(number)] * 3, block=block)

    assert answers == [uint_word(block)] * 3


async def test_a_read_at_an_unchanged_head_takes_one_round_trip() -> None:
    async with Anvil(no_mining=True) as node, FaultyRpc(node.url) as proxy:
        await node.mine()
        number = await place(node, RETURNS_BLOCK_NUMBER)
        async with RpcChain(proxy.url, chain_id=LOCAL) as chain:
            await chain.read([call_of(number)])
            proxy.requests.clear()
            first = await chain.read([call_of(number)] * 20)
            trips = len(proxy.requests)
            await node.mine()
            second = await chain.read([call_of(number)] * 20)

    assert trips == 1
    assert (first[0], second[0]) == (uint_word(1), uint_word(2))


async def test_a_chain_that_was_turned_back_is_read_at_its_new_head() -> None:
    async with Anvil(no_mining=True) as node:
        number = await place(node, RETURNS_BLOCK_NUMBER)
        async with RpcChain(node.url, chain_id=LOCAL) as chain:
            snapshot = await node.snapshot()
            await node.mine(5)
            await chain.read([call_of(number)])
            await node.revert(snapshot)
            [answer] = await chain.read([call_of(number)])

    assert answer == uint_word(1)


async def test_a_revert_carries_what_was_called_and_why(
    agentpay_chain: LocalChain,
) -> None:
    faulty = await place(agentpay_chain.node, REVERTS_WITH_CALL_DATA)
    echo = await place(agentpay_chain.node, RETURNS_CALL_DATA)
    selector = keccak(b"InvalidSignature()")[:4]
    calls = [call_of(echo), call_of(faulty, selector, what="claim 2 channels")]
    async with RpcChain(
        agentpay_chain.rpc_url, chain_id=LOCAL, error_names=ERROR_NAMES
    ) as chain:
        with pytest.raises(TransactionFailed, match="claim 2 channels") as caught:
            await chain.read(calls)

    assert caught.value.reason == "InvalidSignature"


async def test_code_is_empty_where_there_is_no_contract(
    agentpay_chain: LocalChain,
) -> None:
    echo = await place(agentpay_chain.node, RETURNS_CALL_DATA)
    async with RpcChain(agentpay_chain.rpc_url, chain_id=LOCAL) as chain:
        assert await chain.code(echo) == RETURNS_CALL_DATA
        assert await chain.code(NOBODY) == b""


async def test_logs_come_oldest_first_and_match_their_topics(
    agentpay_chain: LocalChain,
) -> None:
    async with RpcChain(agentpay_chain.rpc_url, chain_id=LOCAL) as chain:
        first = (await chain.head()).number
        for amount in (3, 1, 2):
            await agentpay_chain.fund(NOBODY, amount)
        logs = await chain.logs(
            address=agentpay_chain.usdc.address,
            topics=(TRANSFER, None, Hash32.of(address_word(NOBODY))),
            first_block=first,
            last_block=(await chain.head()).number,
        )

    assert [int.from_bytes(log.data, "big") for log in logs] == [3, 1, 2]
    assert logs == sorted(logs, key=lambda log: (log.block, log.index))


async def test_a_transaction_that_is_not_mined_has_no_receipt(
    agentpay_chain: LocalChain,
) -> None:
    async with RpcChain(agentpay_chain.rpc_url, chain_id=LOCAL) as chain:
        assert await chain.receipt(Hash32("0x" + "ab" * 32)) is None


async def test_a_mined_transaction_has_a_receipt(agentpay_chain: LocalChain) -> None:
    node = agentpay_chain.node
    wallet = await rich_wallet(node)
    echo = await place(node, RETURNS_CALL_DATA)
    async with (
        RpcChain(node.url, chain_id=LOCAL) as chain,
        sender_of(chain, wallet) as sender,
    ):
        sent = await sender.send(call_of(echo))
        assert await chain.receipt(sent.transaction) == sent


async def test_the_receipt_of_a_reverted_transaction_is_a_failure(
    agentpay_chain: LocalChain,
) -> None:
    node = agentpay_chain.node
    faulty = await place(node, REVERTS_WITH_CALL_DATA)
    wallet = await rich_wallet(node)
    await node.rpc("anvil_impersonateAccount", wallet.address)
    fields = {"from": wallet.address, "to": faulty, "gas": "0x10000"}
    sent = Hash32(await node.rpc("eth_sendTransaction", fields))
    await node.mine()
    async with RpcChain(node.url, chain_id=LOCAL) as chain:
        with pytest.raises(TransactionFailed) as caught:
            await chain.receipt(sent)

    assert caught.value.transaction == sent


@pytest.mark.parametrize("url", ["", "localhost:8545", "ws://h:1", "http://[::1"])
def test_an_endpoint_that_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="http"):
        RpcChain(url, chain_id=LOCAL)


async def test_f8_an_endpoint_that_is_not_there_is_named_without_its_secrets() -> None:
    url = "http://user:sesame@127.0.0.1:9/v2/SECRET?key=HIDDEN"
    async with RpcChain(url, chain_id=LOCAL) as chain:
        with pytest.raises(ChainUnreachable, match=r"http://127\.0\.0\.1:9") as caught:
            await chain.head()
    shown = "".join(traceback.format_exception(caught.value))

    assert not any(secret in shown for secret in ("sesame", "SECRET", "HIDDEN"))
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "fault",
    [
        Fault.HANGS,
        Fault.NOT_JSON,
        Fault.UNAVAILABLE,
        Fault.REQUEST_REFUSED,
        Fault.REQUEST_DROPPED,
        Fault.ANSWER_DROPPED,
    ],
)
async def test_f8_every_fault_of_an_endpoint_is_unreachable_and_passes(
    agentpay_chain: LocalChain, fault: Fault
) -> None:
    async with (
        FaultyRpc(agentpay_chain.rpc_url) as proxy,
        RpcChain(proxy.url + "/SECRET", chain_id=LOCAL, timeout_seconds=0.5) as chain,
    ):
        await chain.check()
        # Twice, because a connection that was dropped once is opened again.
        proxy.plan("eth_chainId", fault, times=2)
        with pytest.raises(ChainUnreachable, match=r"127\.0\.0\.1") as caught:
            await chain.check()
        shown = "".join(traceback.format_exception(caught.value))
        proxy.heal()
        await chain.check()

    assert "SECRET" not in shown


async def test_f8_a_kept_connection_that_was_closed_is_opened_again(
    agentpay_chain: LocalChain,
) -> None:
    async with (
        FaultyRpc(agentpay_chain.rpc_url) as proxy,
        RpcChain(proxy.url, chain_id=LOCAL) as chain,
    ):
        proxy.plan("eth_chainId", Fault.REQUEST_DROPPED)
        await chain.check()

    assert proxy.planned == 0


async def test_f8_cancelled_reads_do_not_hold_up_later_ones(
    agentpay_chain: LocalChain,
) -> None:
    async with RpcChain(agentpay_chain.rpc_url, chain_id=LOCAL) as chain:
        for delay in (0, 0, 0.0005, 0.001, 0.002):
            reads = [asyncio.create_task(chain.head()) for _ in range(40)]
            await asyncio.sleep(delay)
            for read in reads:
                read.cancel()
            await asyncio.gather(*reads, return_exceptions=True)
        async with asyncio.timeout(15):
            await chain.check()
