"""A cell of the peer matrix passes on evidence only, and on evidence of its own."""

from dataclasses import replace

import pytest
from peer_evidence import (
    BODY,
    CHANNEL,
    CHARGE,
    PERMIT,
    Evidence,
    Expected,
    Variant,
    doubt,
)
from peer_one_route import OneRoute, Visit

from agentpay import Wallet
from agentpay.evm.batch_settlement import voucher_digest
from agentpay.evm.hashing import address_word, keccak, uint_word
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Hash32

PRICE = 1000
EXACT = ("exact", "eip3009")
VOUCHER = (CHANNEL, "voucher")
CHANNEL_ID = Hash32("0x" + "11" * 32)


def expected(payer: Address, *senders: Address) -> Expected:
    return Expected(
        payer=payer, voucher_signer=payer, price=PRICE, senders={payer, *senders}
    )


async def a_transfer(chain: LocalChain, payer: Wallet, amount: int = PRICE) -> str:
    to = address_word(Wallet.create().address)
    data = keccak(b"transfer(address,uint256)")[:4] + to + uint_word(amount)
    return await chain.node.transact(payer.address, data, to=chain.usdc.address)


async def a_voucher(chain: LocalChain, signer: Wallet) -> dict[str, str]:
    digest = voucher_digest(CHANNEL_ID, PRICE, chain.chain_id)
    signature = await signer.sign_digest(digest, chain=chain.chain_id)
    return {
        "channelId": CHANNEL_ID,
        "maxClaimableAmount": str(PRICE),
        "signature": "0x" + signature.hex(),
    }


async def test_the_payers_transfer_of_the_price_convinces(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payer = await chain.funded_wallet()
    seen = Evidence(status=200, transaction=await a_transfer(chain, payer))

    assert not await doubt(chain, seen, EXACT, expected(payer.address))


async def test_the_payers_voucher_convinces(agentpay_shared_chain: LocalChain) -> None:
    chain, payer = agentpay_shared_chain, Wallet.create()
    seen = Evidence(status=200, voucher=await a_voucher(chain, payer))

    assert not await doubt(chain, seen, VOUCHER, expected(payer.address))


async def test_a_charge_for_a_body_needs_a_challenge_for_that_body(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payer = await chain.funded_wallet()
    seen = Evidence(status=200, transaction=await a_transfer(chain, payer), bound=True)
    unbound = replace(seen, bound=False)

    wanted = expected(payer.address)
    assert not await doubt(chain, seen, (CHARGE, BODY), wanted)
    assert await doubt(chain, unbound, (CHARGE, BODY), wanted)
    assert not await doubt(chain, unbound, (CHARGE, "authorization"), wanted)


VISIT = Visit(client="one", protocol="MPP", status=200, receipt=True, spent=PRICE)
IN_CHANNELS = replace(VISIT, spent=10 * PRICE)
SERVED = OneRoute(
    visits=[VISIT, IN_CHANNELS], received=2 * PRICE, in_channels=9 * PRICE
)


def test_one_route_is_paid_if_all_are_served_and_nothing_is_lost() -> None:
    assert SERVED.passed
    assert not replace(SERVED, visits=[replace(VISIT, status=402), IN_CHANNELS]).passed
    assert not replace(SERVED, visits=[replace(VISIT, receipt=False), VISIT]).passed
    assert not replace(SERVED, in_channels=9 * PRICE - 1).passed
    assert not replace(SERVED, received=PRICE, in_channels=10 * PRICE).passed
    assert not replace(SERVED, visits=[replace(VISIT, spent=0), IN_CHANNELS]).passed


@pytest.mark.parametrize("transaction", ["", "0x" + "22" * 32])
async def test_no_transaction_and_one_that_nobody_mined_are_doubted(
    agentpay_shared_chain: LocalChain, transaction: str
) -> None:
    seen = Evidence(status=200, transaction=transaction)
    payer = Wallet.create().address

    assert await doubt(agentpay_shared_chain, seen, EXACT, expected(payer))


@pytest.mark.parametrize("variant", [EXACT, (CHANNEL, "deposit"), (CHANNEL, "settle")])
async def test_a_transaction_of_something_else_is_doubted(
    agentpay_shared_chain: LocalChain, variant: Variant
) -> None:
    chain = agentpay_shared_chain
    payer, another = await chain.funded_wallet(), await chain.funded_wallet()
    seen = Evidence(
        status=200,
        transaction=await a_transfer(chain, another),
        voucher=await a_voucher(chain, payer),
    )

    wanted = expected(payer.address, another.address)
    assert await doubt(chain, seen, variant, wanted)


async def test_a_transfer_of_another_amount_is_doubted(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payer = await chain.funded_wallet()
    seen = Evidence(status=200, transaction=await a_transfer(chain, payer, PRICE - 1))

    assert await doubt(chain, seen, EXACT, expected(payer.address))


async def test_a_voucher_of_another_or_of_nobody_is_doubted(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain, payer = agentpay_shared_chain, Wallet.create()
    forged = await a_voucher(chain, Wallet.create())
    for voucher in (forged, {}, {**forged, "signature": "0x"}):
        seen = Evidence(status=200, voucher=voucher)
        assert await doubt(chain, seen, VOUCHER, expected(payer.address))


async def test_a_status_that_is_not_200_is_doubted(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain, payer = agentpay_shared_chain, Wallet.create()
    good = Evidence(status=200, voucher=await a_voucher(chain, payer))
    for status in (0, 402, 500):
        seen = replace(good, status=status)
        assert await doubt(chain, seen, VOUCHER, expected(payer.address))


async def test_a_transfer_sent_by_another_than_who_settles_is_doubted(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payer = await chain.funded_wallet()
    seen = Evidence(status=200, transaction=await a_transfer(chain, payer))
    wanted = replace(expected(payer.address), senders={Wallet.create().address})

    assert "was sent by" in await doubt(chain, seen, EXACT, wanted)


async def test_a_voucher_that_its_facilitator_never_saw_is_doubted_where_it_must(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain, payer = agentpay_shared_chain, Wallet.create()
    unseen = Evidence(status=200, voucher=await a_voucher(chain, payer))
    wanted = replace(expected(payer.address), verified=True)

    assert await doubt(chain, unseen, VOUCHER, wanted)
    assert not await doubt(chain, replace(unseen, verified=True), VOUCHER, wanted)


async def test_a_payers_voucher_key_has_to_sign_where_there_is_one(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain, payer, hot = agentpay_shared_chain, Wallet.create(), Wallet.create()
    wanted = replace(expected(payer.address), voucher_signer=hot.address)
    variant = (CHANNEL, "voucher-key")
    for signer, good in ((hot, True), (payer, False)):
        seen = Evidence(status=200, voucher=await a_voucher(chain, signer))
        assert (not await doubt(chain, seen, variant, wanted)) is good


async def test_a_transfer_without_an_approval_in_it_is_no_payment_by_permit(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payer = await chain.funded_wallet()
    seen = Evidence(status=200, transaction=await a_transfer(chain, payer))
    wanted = expected(payer.address)

    assert "approval" in await doubt(chain, seen, ("exact", PERMIT), wanted)
    assert not await doubt(chain, seen, ("exact", "permit2"), wanted)
