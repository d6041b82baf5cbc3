"""A payee was told yes, and then its chain took the money back."""

import asyncio

import pytest

from agentpay import Wallet
from agentpay.facilitator.batches import BatchPolicy
from agentpay.facilitator.host import FacilitatorLimits
from agentpay.facilitator.once import _LOST_SECONDS
from agentpay.testing.local_chain import LocalChain
from agentpay.wire import x402_asks as asks
from agentpay.wire.headers import JsonObject
from tests.facilitator.world import AMOUNT, Channel, Desk, a_desk, a_transfer


async def settled_and_taken_back(
    chain: LocalChain, desk: Desk, request: JsonObject
) -> None:
    before = int(await chain.node.rpc("eth_blockNumber"), 16)
    settled = await desk.settle(request)
    assert settled["success"], settled
    await chain.node.reorg(after=before)


@pytest.mark.parametrize("kind", ["transfer", "deposit"])
async def test_f9_what_a_reorg_took_back_is_sent_again_and_no_second_yes(
    kind: str,
) -> None:
    async with LocalChain() as chain:
        payer, payee = await chain.funded_wallet(ether=0), Wallet.create()
        async with a_desk(chain) as desk:
            await desk.host.start()
            if kind == "transfer":
                transfer = await a_transfer(chain.usdc, payer, payee.address)
                request = asks.transfer_request(transfer, AMOUNT)
            else:
                channel = Channel(chain.usdc, payer, payee)
                deposit = await channel.deposit(AMOUNT)
                request = asks.deposit_request(deposit, await channel.voucher(0))
            before = await chain.balance(payer.address)
            await settled_and_taken_back(chain, desk, request)
            lost = await chain.balance(payer.address)
            again, later = await desk.settle(request), await desk.settle(request)
            receipt = await chain.node.rpc(
                "eth_getTransactionReceipt", again["transaction"]
            )

        assert lost == before
        assert again["errorReason"] == "settlement_pending"
        assert later["errorReason"].endswith("duplicate_settlement")
        assert receipt["status"] == "0x1"
        assert await chain.balance(payer.address) == before - AMOUNT


async def test_f9_what_a_reorg_took_back_and_its_payer_spent_is_not_sent() -> None:
    async with LocalChain() as chain:
        payer, payee = await chain.funded_wallet("$0.001", ether=0), Wallet.create()
        first = await a_transfer(chain.usdc, payer, payee.address)
        request = asks.transfer_request(first, AMOUNT)
        other = await a_transfer(chain.usdc, payer, Wallet.create().address)
        async with a_desk(chain) as desk:
            await desk.host.start()
            await settled_and_taken_back(chain, desk, request)
            spent = await desk.settle(asks.transfer_request(other, AMOUNT))
            again = await desk.settle(request)

        assert spent["success"], spent
        assert again["errorReason"] == "duplicate_settlement"
        assert await chain.balance(payee.address) == 0


async def test_f2_one_node_that_lags_has_nothing_sent_again() -> None:
    """It is asked twice, and knows better the second time."""
    async with LocalChain() as chain:
        payer, payee = await chain.funded_wallet(ether=0), Wallet.create()
        transfer = await a_transfer(chain.usdc, payer, payee.address)
        request = asks.transfer_request(transfer, AMOUNT)
        call = transfer.call(AMOUNT)
        async with a_desk(chain) as desk:
            await desk.host.start()
            await settled_and_taken_back(chain, desk, request)
            stranger = await chain.funded_wallet(0)
            again = asyncio.create_task(desk.settle(request))
            await asyncio.sleep(_LOST_SECONDS / 2)
            await chain.node.transact(stranger.address, call.data, to=call.to)
            answer = await again
            (key,) = desk.host.addresses
            nonce = await chain.node.rpc("eth_getTransactionCount", key, "latest")

        assert answer["errorReason"] == "duplicate_settlement"
        assert int(nonce, 16) == 0
        assert await chain.balance(payee.address) == AMOUNT


async def test_f9_what_is_sent_again_and_not_mined_yet_is_not_sent_once_more() -> None:
    """Nor is it if it went along with others, of which it is no copy alone."""
    async with LocalChain() as chain:
        payer, payee = await chain.funded_wallet(ether=0), Wallet.create().address
        transfer = await a_transfer(chain.usdc, payer, payee)
        request = asks.transfer_request(transfer, AMOUNT)
        other = await a_transfer(chain.usdc, payer, payee)
        async with a_desk(
            chain,
            batch=BatchPolicy(seconds=_LOST_SECONDS + 1),
            limits=FacilitatorLimits(mined_within_seconds=1),
        ) as desk:
            await desk.host.start()
            await settled_and_taken_back(chain, desk, request)
            await chain.node.rpc("evm_setIntervalMining", 0)
            along = asyncio.create_task(
                desk.settle(asks.transfer_request(other, AMOUNT))
            )
            again = await desk.settle(request)
            await along
            later = await desk.settle(request)
            (key,) = desk.host.addresses
            sent = await chain.node.rpc("eth_getTransactionCount", key, "pending")

        assert again["errorReason"] == "settlement_pending"
        assert later["errorReason"] == "duplicate_settlement"
        assert later["transaction"] == again["transaction"]
        assert int(sent, 16) == 1
