"""Chains without some of x402's contracts: a call to nothing succeeds there."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from agentpay import Payee, Route, Wallet
from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.errors import TransactionFailed, UnsuitableToken
from agentpay.evm.addresses import (
    BATCH_SETTLEMENT,
    ERC3009_COLLECTOR,
    EXACT_PROXY,
    PERMIT2,
    PERMIT2_COLLECTOR,
    UPTO_PROXY,
)
from agentpay.evm.permit2_signed import Permit2Deposit
from agentpay.facilitator.embedded import Facilitator
from agentpay.facilitator.service import FacilitatorTerms
from agentpay.payee.offers import make_offers
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from agentpay.wire import x402_asks as asks
from tests.facilitator.test_permit2_for_strangers import a_permit2_transfer
from tests.facilitator.world import AMOUNT, Channel, Desk, a_desk, a_host, a_transfer
from tests.http.world import a_payee
from tests.payee.hand import terms_of

BY_PERMIT2 = ("eip3009", "permit2")
UPTO = Route(price=1000, metered=True, schemes=("upto", "batch-settlement"))


@pytest.fixture
async def chain() -> AsyncIterator[LocalChain]:
    """A chain of a test's own, from which it takes contracts away."""
    async with LocalChain() as chain:
        yield chain


async def remove(chain: LocalChain, *contracts: Address) -> None:
    for contract in contracts:
        await chain.node.rpc("anvil_setCode", contract, "0x")


async def sent(chain: LocalChain, desk: Desk) -> int:
    """How many transactions its key has paid for."""
    key = desk.host.addresses[0]
    return int(await chain.node.rpc("eth_getTransactionCount", key, "latest"), 16)


async def a_permit2_deposit(channel: Channel) -> Permit2Deposit:
    unsigned = Permit2Deposit(
        config=channel.config,
        asset=channel.asset,
        amount=AMOUNT,
        nonce=int.from_bytes(channel.config.salt.to_bytes()),
        deadline=int(time.time()) + 300,
        signature=b"",
    )
    signature = await channel.payer.sign_digest(
        unsigned.digest(), chain=channel.asset.chain
    )
    return replace(unsigned, signature=signature)


@pytest.mark.parametrize("missing", [EXACT_PROXY, PERMIT2])
async def test_f5_what_no_contract_would_move_is_neither_valid_nor_sent(
    chain: LocalChain, missing: Address
) -> None:
    await remove(chain, missing)
    payee, poor = Wallet.create().address, Wallet.create()
    rich = await chain.funded_wallet(ether=0)
    terms = FacilitatorTerms(assets=(chain.usdc,), schemes=("exact",))
    async with a_desk(chain, terms=terms) as desk:
        by_permit2 = asks.transfer_request(
            await a_permit2_transfer(chain, poor, payee), AMOUNT
        )
        verified = await desk.verify(by_permit2)
        settled = await desk.settle(by_permit2)
        paid = await sent(chain, desk)
        by_token = await a_transfer(chain.usdc, rich, payee)
        served = await desk.settle(asks.transfer_request(by_token, AMOUNT))

    assert verified["isValid"] is False
    assert verified["invalidReason"] == "unsupported_scheme"
    assert missing in verified["invalidMessage"]
    assert settled["errorReason"] == "unsupported_scheme"
    assert paid == 0
    assert served["success"], served


async def test_f5_deposits_that_their_collector_cannot_make_are_refused_by_name(
    chain: LocalChain,
) -> None:
    await remove(chain, PERMIT2_COLLECTOR)
    payer, payee = await chain.funded_wallet(ether=0), Wallet.create()
    channel = Channel(chain.usdc, payer, payee)
    voucher = await channel.voucher(1)
    async with a_desk(chain) as desk:
        deposit = await a_permit2_deposit(channel)
        request = asks.deposit_request(deposit, voucher)
        answers: list[dict[str, Any]] = [
            await desk.verify(request),
            await desk.settle(request),
        ]
        by_token = asks.deposit_request(await channel.deposit(AMOUNT), voucher)
        served = await desk.settle(by_token)

    assert answers[0]["invalidReason"] == "unsupported_scheme"
    assert answers[1]["errorReason"] == "unsupported_scheme"
    assert PERMIT2_COLLECTOR in answers[0]["invalidMessage"]
    assert served["success"], served


@pytest.mark.parametrize(
    ("missing", "scheme"),
    [
        (UPTO_PROXY, "upto"),
        (BATCH_SETTLEMENT, "batch-settlement"),
        (ERC3009_COLLECTOR, "batch-settlement"),
    ],
)
async def test_a_facilitator_says_at_the_start_which_contract_a_scheme_lacks(
    chain: LocalChain, missing: Address, scheme: str
) -> None:
    await remove(chain, missing)
    host = await a_host(chain)

    with pytest.raises(UnsuitableToken, match=f"at {missing} .* where {scheme} needs"):
        await host.start()


@pytest.mark.parametrize(
    ("missing", "scheme"),
    [(EXACT_PROXY, "exact"), (PERMIT2_COLLECTOR, "batch-settlement")],
)
async def test_a_token_without_eip3009_needs_the_contracts_of_permit2(
    chain: LocalChain, missing: Address, scheme: str
) -> None:
    await remove(chain, missing)
    terms = FacilitatorTerms(assets=(replace(chain.usdc, eip3009=False),))
    host = await a_host(chain, terms=terms)

    with pytest.raises(UnsuitableToken, match=f"at {missing} .* where {scheme} needs"):
        await host.start()


async def test_f5_a_payees_own_facilitator_moves_nothing_by_a_missing_contract(
    chain: LocalChain,
) -> None:
    await remove(chain, EXACT_PROXY, PERMIT2_COLLECTOR)
    key, poor = await chain.funded_wallet(0), Wallet.create()
    transfer = await a_permit2_transfer(chain, poor, key.address)
    deposit = await a_permit2_deposit(Channel(chain.usdc, poor, key))
    async with (
        RpcChain(chain.rpc_url, chain_id=chain.chain_id) as reads,
        TransactionSender(reads, key=key.gas_key()) as sender,
    ):
        facilitator = Facilitator(chain=reads, senders=[sender])
        for refused in (
            facilitator.verify(transfer),
            facilitator.settle_transfer(transfer, AMOUNT),
            facilitator.verify_deposit(deposit),
            facilitator.deposit(deposit),
        ):
            with pytest.raises(TransactionFailed, match="there is no contract at"):
                await refused
        standing = await reads.standing(key.address)

    assert standing.nonce == 0


@pytest.mark.parametrize("missing", [EXACT_PROXY, PERMIT2])
async def test_a_payee_that_wants_permit2_where_it_is_not_does_not_start(
    chain: LocalChain, missing: Address
) -> None:
    await remove(chain, missing)
    wallet = await chain.funded_wallet(0)
    payee = Payee(wallet, network=chain.network, transfer_methods=BY_PERMIT2)

    with pytest.raises(UnsuitableToken, match=f"at {missing} .* leave that out"):
        await payee.start()


async def test_f5_a_payee_offers_no_upto_where_its_contract_is_missing(
    chain: LocalChain,
) -> None:
    async with a_payee(chain) as payee:
        offered = make_offers(payee.settings, terms_of(payee, UPTO))
    await remove(chain, UPTO_PROXY)
    async with a_payee(chain) as payee:
        left = make_offers(payee.settings, terms_of(payee, UPTO))

    assert [offer["scheme"] for offer in offered] == ["upto", "batch-settlement"]
    assert [offer["scheme"] for offer in left] == ["batch-settlement"]
