"""Two payments that share a nonce: the chain moves one, and it alone is told of."""

import asyncio
import json
from dataclasses import replace

import pytest

from agentpay import Wallet
from agentpay.records import PaymentStatus
from agentpay.stores import MemoryPayeeStore
from agentpay.testing.local_chain import LocalChain
from agentpay.wire import x402_asks as asks
from agentpay.wire.x402_facilitator import parse_request
from tests.facilitator.world import Channel, Desk, a_desk, a_transfer

THEFT = 1000


def book_of(desk: Desk) -> MemoryPayeeStore:
    assert desk.host._service is not None
    book = desk.host._service._transfers._once._book
    assert isinstance(book, MemoryPayeeStore)
    return book


async def settled_and_not_told(desk: Desk, request: bytes) -> None:
    """Whoever asked is gone when the money has moved."""
    service = await desk.host.start()
    asking = asyncio.create_task(service.settle(parse_request(request)))
    once = service._transfers._once
    while not once._running:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.001)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    while once._running:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.01)


def as_before(book: MemoryPayeeStore, status: PaymentStatus) -> None:
    """What is kept, as versions kept it that did not say what was signed."""
    for key, record in book._payments.items():
        book._payments[key] = replace(record, resource="/settle", status=status)


@pytest.mark.parametrize(
    "kept", [None, PaymentStatus.SETTLED, PaymentStatus.STARTED], ids=str
)
async def test_f5_a_payment_is_not_told_the_result_of_another_with_its_nonce(
    agentpay_shared_chain: LocalChain, kept: PaymentStatus | None
) -> None:
    """Its payer pays a shop, and with the same nonce, and sooner, itself."""
    local = agentpay_shared_chain
    thief = await local.funded_wallet("$1", ether=0)
    own, shop = Wallet.create().address, Wallet.create().address
    first = await a_transfer(local.usdc, thief, own, 1)
    other = await a_transfer(
        local.usdc, thief, shop, THEFT, nonce=first.authorization.nonce
    )
    request = asks.transfer_request(first, 1)
    async with a_desk(local, store="memory:") as desk:
        await settled_and_not_told(desk, json.dumps(request).encode())
        book = book_of(desk)
        statuses = {record.status for record in book._payments.values()}
        if kept is not None:
            as_before(book, kept)
        refused = await desk.settle(asks.transfer_request(other, THEFT))
        told = await desk.settle(request)
        late = await desk.settle(asks.transfer_request(other, THEFT))

    assert not refused["success"]
    assert refused["errorReason"] == "invalid_transaction_state"
    assert refused["transaction"] == ""
    assert statuses == {PaymentStatus.SETTLED}
    assert (told["success"], told["amount"]) == (True, "1")
    assert not late["success"]
    assert await local.balance(shop) == 0


async def test_f5_a_deposit_is_not_told_the_result_of_another_with_its_nonce(
    agentpay_shared_chain: LocalChain,
) -> None:
    local = agentpay_shared_chain
    payer = await local.funded_wallet("$1", ether=0)
    channel = Channel(local.usdc, payer, Wallet.create())
    first = await channel.deposit(2)
    unsigned = replace(first, amount=THEFT)
    signature = await payer.sign_digest(unsigned.digest(), chain=local.chain_id)
    other = replace(unsigned, signature=signature)
    request = asks.deposit_request(first, await channel.voucher(1))
    async with a_desk(local, store="memory:") as desk:
        await settled_and_not_told(desk, json.dumps(request).encode())
        refused = await desk.settle(
            asks.deposit_request(other, await channel.voucher(1))
        )
        told = await desk.settle(request)

    assert first.call() != other.call()
    assert not refused["success"]
    assert (told["success"], told["amount"]) == (True, "2")
