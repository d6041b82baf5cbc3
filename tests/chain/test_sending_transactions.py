"""`TransactionSender` when nothing is wrong but the call itself."""

import asyncio

import pytest

from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import GAS_MAX, TransactionSender
from agentpay.errors import ConfigurationError, GasMissing, TransactionFailed, UnsafeKey
from agentpay.evm.batch_settlement_abi import ERROR_NAMES
from agentpay.evm.calls import Reverted
from agentpay.evm.hashing import keccak
from agentpay.evm.test_keys import WELL_KNOWN_ADDRESSES
from agentpay.signers.wallet import Wallet
from agentpay.testing.anvil import Anvil
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, ChainId
from tests.chain.chain_cases import (
    COUNTS,
    LOCAL,
    REVERTS_WITH_CALL_DATA,
    SUCCEEDS_ONCE,
    USES_18_MILLION_GAS,
    call_of,
    counted,
    place,
    rich_wallet,
    sending,
    until_known,
    used_nonces,
)

TEST_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
INVALID_SIGNATURE = keccak(b"InvalidSignature()")[:4]


async def test_a_sent_call_is_mined_and_has_a_receipt(
    agentpay_chain: LocalChain,
) -> None:
    node = agentpay_chain.node
    wallet, counter = await rich_wallet(node), await place(node, COUNTS)
    async with sending(node.url, wallet) as sender:
        receipt = await sender.send(call_of(counter))

    assert await counted(node, counter) == 1
    assert receipt.gas_used > 21_000
    assert receipt.gas_price > 0


async def test_f8_32_calls_at_once_use_32_nonces_without_a_gap(
    agentpay_chain: LocalChain,
) -> None:
    node = agentpay_chain.node
    wallet, counter = await rich_wallet(node), await place(node, COUNTS)
    async with sending(node.url, wallet) as sender:
        receipts = await asyncio.gather(
            *(sender.send(call_of(counter)) for _ in range(32))
        )

    assert len({receipt.transaction for receipt in receipts}) == 32
    assert await counted(node, counter) == 32
    assert await used_nonces(node, wallet.address) == (32, 32)


async def test_waiting_for_one_call_does_not_hold_up_the_next() -> None:
    async with Anvil(no_mining=True) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        async with sending(node.url, wallet) as sender:
            sends = [
                asyncio.create_task(sender.send(call_of(counter))) for _ in range(5)
            ]
            await until_known(node, wallet.address, 5)
            await node.mine()
            blocks = {receipt.block for receipt in await asyncio.gather(*sends)}

    assert blocks == {1}


async def test_f8_a_call_that_would_revert_is_not_sent_and_takes_no_nonce(
    agentpay_chain: LocalChain,
) -> None:
    node = agentpay_chain.node
    wallet, counter = await rich_wallet(node), await place(node, COUNTS)
    faulty = await place(node, REVERTS_WITH_CALL_DATA)
    async with sending(node.url, wallet, error_names=ERROR_NAMES) as sender:
        with pytest.raises(TransactionFailed, match="claim failed") as caught:
            await sender.send(call_of(faulty, INVALID_SIGNATURE, what="claim"))
        await sender.send(call_of(counter))

    assert caught.value.reason == "InvalidSignature"
    assert caught.value.transaction == ""
    assert await used_nonces(node, wallet.address) == (1, 1)


async def test_simulating_says_why_a_call_would_revert_and_sends_nothing(
    agentpay_chain: LocalChain,
) -> None:
    node = agentpay_chain.node
    wallet, counter = await rich_wallet(node), await place(node, COUNTS)
    faulty = await place(node, REVERTS_WITH_CALL_DATA)
    async with sending(node.url, wallet, error_names=ERROR_NAMES) as sender:
        await sender.simulate(call_of(counter))
        with pytest.raises(TransactionFailed) as caught:
            await sender.simulate(call_of(faulty, INVALID_SIGNATURE))

    assert caught.value.reason == "InvalidSignature"
    assert await used_nonces(node, wallet.address) == (0, 0)
    assert await counted(node, counter) == 0


async def test_a_call_that_reverts_only_when_mined_has_failed_and_is_named() -> None:
    async with Anvil(no_mining=True) as node:
        wallet, once = await rich_wallet(node), await place(node, SUCCEEDS_ONCE)
        async with sending(node.url, wallet) as sender:
            sends = [asyncio.create_task(sender.send(call_of(once))) for _ in range(2)]
            await until_known(node, wallet.address, 2)
            await node.mine()
            outcomes = await asyncio.gather(*sends, return_exceptions=True)
            [failure] = [o for o in outcomes if isinstance(o, Reverted)]
            mined = await node.rpc("eth_getTransactionReceipt", failure.transaction)

    assert failure.transaction.startswith("0x")
    assert failure.transaction in str(failure)
    assert failure.receipt.gas_used == int(mined["gasUsed"], 16)
    assert failure.receipt.gas_price == int(mined["effectiveGasPrice"], 16)


async def test_an_account_without_coin_is_told_so(agentpay_chain: LocalChain) -> None:
    node = agentpay_chain.node
    wallet, counter = Wallet.create(), await place(node, COUNTS)
    async with sending(node.url, wallet) as sender:
        with pytest.raises(GasMissing, match=wallet.address):
            await sender.send(call_of(counter))
        await node.set_balance(wallet.address, 10**18)
        await sender.send(call_of(counter))


async def test_a_call_above_the_gas_cap_of_a_transaction_is_refused(
    agentpay_chain: LocalChain,
) -> None:
    node = agentpay_chain.node
    wallet, costly = await rich_wallet(node), await place(node, USES_18_MILLION_GAS)
    async with sending(node.url, wallet) as sender:
        with pytest.raises(TransactionFailed, match=str(GAS_MAX)):
            await sender.send(call_of(costly))

    assert await used_nonces(node, wallet.address) == (0, 0)


async def test_a_chain_that_was_turned_back_does_not_leave_a_gap() -> None:
    async with Anvil(block_seconds=0.05) as node:
        wallet, counter = await rich_wallet(node), await place(node, COUNTS)
        async with sending(node.url, wallet) as sender:
            snapshot = await node.snapshot()
            await asyncio.gather(*(sender.send(call_of(counter)) for _ in range(3)))
            await node.revert(snapshot)
            await sender.send(call_of(counter))

        assert await used_nonces(node, wallet.address) == (1, 1)


def test_a_public_test_key_is_refused_where_money_is_real() -> None:
    chain = RpcChain("http://127.0.0.1:9", chain_id=ChainId(8453))
    with pytest.raises(UnsafeKey, match="8453"):
        TransactionSender(chain, key=TEST_KEY)


def test_a_public_test_key_may_be_used_on_a_local_chain() -> None:
    chain = RpcChain("http://127.0.0.1:9", chain_id=LOCAL)

    assert TransactionSender(chain, key=TEST_KEY).address in WELL_KNOWN_ADDRESSES


async def test_every_account_that_anvil_unlocks_is_known_as_a_test_account(
    agentpay_chain: LocalChain,
) -> None:
    accounts = await agentpay_chain.node.rpc("eth_accounts")

    assert frozenset(map(Address, accounts)) >= WELL_KNOWN_ADDRESSES
    assert len(WELL_KNOWN_ADDRESSES) == 10


@pytest.mark.parametrize("key", ["", "0x12", "sesame" * 11, b"\x01" * 31, b"\x00" * 32])
def test_what_is_no_key_is_refused_and_not_repeated(key: str | bytes) -> None:
    chain = RpcChain("http://127.0.0.1:9", chain_id=LOCAL)
    with pytest.raises(ConfigurationError) as caught:
        TransactionSender(chain, key=key)

    assert "sesame" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_sender_does_not_show_its_key() -> None:
    chain = RpcChain("http://127.0.0.1:9", chain_id=LOCAL)
    shown = repr(TransactionSender(chain, key=TEST_KEY))

    assert TEST_KEY[2:] not in shown
    assert "0xf39fd6" in shown
