"""What was signed is sent by others as well: theirs may be mined, and ours revert."""

import asyncio
from dataclasses import replace

import pytest

from agentpay import Wallet
from agentpay.chain.sender import TransactionSender
from agentpay.evm.calls import Call
from agentpay.facilitator.batches import BatchPolicy
from agentpay.facilitator.host import FacilitatorLimits
from agentpay.records import PaymentRecord, PaymentStatus
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from agentpay.wire import x402_asks as asks
from tests.facilitator.test_one_nonce_signed_twice import book_of
from tests.facilitator.world import AMOUNT, Channel, Desk, a_desk, a_transfer
from tests.http.world import eventually

SOON = FacilitatorLimits(mined_within_seconds=0.5)
_GWEI = 10**9


async def mine_first(chain: LocalChain, sender: Address, call: Call) -> None:
    """Have a stranger's call mined before all that waits, and then the rest."""
    node = chain.node
    await node.rpc("anvil_impersonateAccount", sender)
    fields = {
        "from": sender,
        "to": call.to,
        "data": "0x" + call.data.hex(),
        "gas": hex(400_000),
        "maxPriorityFeePerGas": hex(50 * _GWEI),
        "maxFeePerGas": hex(100 * _GWEI),
    }
    sent = await node.rpc("eth_sendTransaction", fields)
    await node.mine(2)
    assert (await node.rpc("eth_getTransactionReceipt", sent))["status"] == "0x1"


async def none_is_followed(desk: Desk) -> None:
    """Wait until what it sent is known to be over."""
    service = await desk.host.start()
    (key,) = service._transfers._facilitator._senders._senders.values()
    assert isinstance(key, TransactionSender)

    async def over() -> bool:
        return not key._in_flight._flights

    await eventually(over)


async def test_f3_a_transfer_that_a_stranger_had_mined_first_is_settled() -> None:
    async with LocalChain(no_mining=True) as chain:
        payer, payee = await chain.funded_wallet(ether=0), Wallet.create().address
        stranger = await chain.funded_wallet(0)
        transfer = await a_transfer(chain.usdc, payer, payee)
        request = asks.transfer_request(transfer, AMOUNT)
        async with a_desk(chain, limits=SOON) as desk:
            pending = await desk.settle(request)
            await mine_first(chain, stranger.address, transfer.call(AMOUNT))
            await none_is_followed(desk)
            told, again = await desk.settle(request), await desk.settle(request)

        assert pending["errorReason"] == "settlement_pending"
        assert (told["success"], told["amount"]) == (True, str(AMOUNT))
        assert told["transaction"] != pending["transaction"]
        assert again["errorReason"] == "duplicate_settlement"
        assert await chain.balance(payee) == AMOUNT


async def test_f3_a_deposit_that_a_stranger_had_mined_first_is_made() -> None:
    async with LocalChain(no_mining=True) as chain:
        payer, stranger = await chain.funded_wallet(), await chain.funded_wallet(0)
        channel = Channel(chain.usdc, payer, Wallet.create())
        deposit = await channel.deposit(AMOUNT)
        request = asks.deposit_request(deposit, await channel.voucher(0))
        async with a_desk(chain, limits=SOON) as desk:
            pending = await desk.settle(request)
            await mine_first(chain, stranger.address, deposit.call())
            await none_is_followed(desk)
            told = await desk.settle(request)

        assert pending["errorReason"] == "settlement_pending"
        assert (told["success"], told["amount"]) == (True, str(AMOUNT))


async def test_f3_one_of_a_batch_that_a_stranger_had_mined_first_is_settled() -> None:
    async with LocalChain(no_mining=True) as chain:
        payer, payee = await chain.funded_wallet(ether=0), Wallet.create().address
        stranger = await chain.funded_wallet(0)
        transfers = [await a_transfer(chain.usdc, payer, payee) for _ in range(3)]
        requests = [asks.transfer_request(t, AMOUNT) for t in transfers]
        batch = BatchPolicy(seconds=0.2)
        async with a_desk(chain, limits=SOON, batch=batch) as desk:
            pending = await asyncio.gather(*map(desk.settle, requests))
            await mine_first(chain, stranger.address, transfers[1].call(AMOUNT))
            await none_is_followed(desk)
            told = await asyncio.gather(*map(desk.settle, requests))

        assert {answer["errorReason"] for answer in pending} == {"settlement_pending"}
        assert [answer["success"] for answer in told] == [True] * 3
        assert told[0]["transaction"] == told[2]["transaction"]
        assert told[1]["transaction"] != told[0]["transaction"]
        assert await chain.balance(payee) == 3 * AMOUNT


async def test_f3_what_failed_within_a_batch_and_is_still_good_is_sent_again() -> None:
    """Another payment took its payer's money first; then it has more."""
    async with LocalChain(no_mining=True) as chain:
        poor, payer = await chain.funded_wallet("$0.001"), await chain.funded_wallet()
        payee, stranger = Wallet.create().address, await chain.funded_wallet(0)
        transfers = [await a_transfer(chain.usdc, w, payee) for w in (poor, payer)]
        requests = [asks.transfer_request(t, AMOUNT) for t in transfers]
        other = await a_transfer(chain.usdc, poor, stranger.address)
        batch = BatchPolicy(seconds=0.2)
        async with a_desk(chain, limits=SOON, batch=batch) as desk:
            pending = await asyncio.gather(*map(desk.settle, requests))
            await mine_first(chain, stranger.address, other.call(AMOUNT))
            await none_is_followed(desk)
            refused = await desk.settle(requests[0])
            await chain.fund(poor.address, "$0.001")
            sent = await desk.settle(requests[0])
            await chain.node.mine(2)
            await none_is_followed(desk)
            told = await desk.settle(requests[0])

        assert {answer["errorReason"] for answer in pending} == {"settlement_pending"}
        assert refused["errorReason"] == "insufficient_funds"
        assert sent["errorReason"] == "settlement_pending"
        assert told["success"], told


@pytest.mark.parametrize("owner", ["", "the dead"])
async def test_f3_what_failed_here_and_is_sent_by_another_later_is_settled_once(
    agentpay_shared_chain: LocalChain, owner: str
) -> None:
    chain = agentpay_shared_chain
    payer, payee = await chain.funded_wallet(ether=0), Wallet.create().address
    stranger = await chain.funded_wallet(0)
    transfer = await a_transfer(chain.usdc, payer, payee)
    request = asks.transfer_request(transfer, AMOUNT)
    async with a_desk(chain, store="memory:") as desk:
        await desk.host.start()
        book = book_of(desk)
        book._payments[transfer.id] = PaymentRecord(
            id=transfer.id,
            payer=payer.address,
            amount=AMOUNT,
            resource=f"/settle {transfer.digest().hex()}",
            owner=owner or book.owner,
            status=PaymentStatus.FAILED,
            started_at=1,
            transaction="0x" + "ab" * 32,
        )
        failed = await desk.settle(request)
        call = transfer.call(AMOUNT)
        await chain.node.transact(stranger.address, call.data, to=call.to)
        told, again = await desk.settle(request), await desk.settle(request)
        kept = book._payments[transfer.id]

    assert failed["errorReason"] == "invalid_transaction_state"
    assert failed["errorMessage"] == "it was sent before, and failed"
    assert (told["success"], told["amount"]) == (True, str(AMOUNT))
    assert again["errorReason"] == "duplicate_settlement"
    assert kept == replace(
        kept, owner=book.owner, status=PaymentStatus.DELIVERED, charged=AMOUNT
    )
