"""`exact`, `upto` and deposits by Permit2, asked for over HTTP."""

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from agentpay import Route, Wallet
from agentpay.errors import FacilitatorUnavailable
from agentpay.evm import allowance_abi
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.eip2612 import Permit, SignedPermit, permit_digest
from agentpay.evm.permit2 import PermitTransfer
from agentpay.evm.permit2_signed import Permit2Deposit, Permit2Transfer
from agentpay.facilitator.service import FacilitatorTerms
from agentpay.http.facilitator_client import RemoteFacilitator
from agentpay.payee.sales import Refusal
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from agentpay.wire import x402_asks as asks
from tests.facilitator.test_remote_facilitators import a_client, a_front
from tests.facilitator.world import AMOUNT, Channel, Desk, a_desk
from tests.http.world import a_payee
from tests.payee.hand import HandPayer, refused, terms_of


@pytest.fixture
async def payer(agentpay_shared_chain: LocalChain) -> Wallet:
    """Has approved Permit2 for what these tests pay."""
    wallet = await agentpay_shared_chain.funded_wallet()
    await allow(agentpay_shared_chain, wallet.address)
    return wallet


async def allow(chain: LocalChain, owner: Address) -> None:
    call = allowance_abi.approve_call(
        chain.usdc.address, spender=PERMIT2, amount=10 * AMOUNT
    )
    await chain.node.set_balance(owner, 10**18)
    await chain.node.transact(owner, call.data, to=call.to)


@pytest.fixture
async def desk(agentpay_shared_chain: LocalChain) -> AsyncIterator[Desk]:
    async with a_desk(agentpay_shared_chain, keys=3) as desk:
        yield desk


async def a_permit2_transfer(
    chain: LocalChain,
    signer: Wallet,
    to: Address,
    *,
    amount: int = AMOUNT,
    facilitator: Address | None = None,
    permit: SignedPermit | None = None,
) -> Permit2Transfer:
    """`upto` if it is bound to a facilitator, `exact` if not."""
    unsigned = Permit2Transfer(
        asset=chain.usdc,
        transfer=PermitTransfer(
            payer=signer.address,
            token=chain.usdc.address,
            amount=amount,
            nonce=secrets.randbits(256),
            deadline=int(time.time()) + 300,
            to=to,
            valid_after=0,
            facilitator=facilitator,
        ),
        signature=b"",
        permit=permit,
    )
    signature = await signer.sign_digest(unsigned.digest(), chain=chain.chain_id)
    return replace(unsigned, signature=signature)


async def test_exact_by_permit2_is_settled_by_whichever_key_is_free(
    agentpay_shared_chain: LocalChain, payer: Wallet, desk: Desk
) -> None:
    chain, payee = agentpay_shared_chain, Wallet.create().address
    transfer = await a_permit2_transfer(chain, payer, payee)
    request = asks.transfer_request(transfer, AMOUNT)
    verified, settled = await desk.verify(request), await desk.settle(request)
    again = await desk.settle(request)

    assert verified["isValid"], verified
    assert (settled["success"], settled["amount"]) == (True, str(AMOUNT))
    assert again["errorReason"] == "duplicate_settlement"
    assert await chain.balance(payee) == AMOUNT


async def test_upto_moves_what_is_due_and_its_own_key_sends_it(
    agentpay_shared_chain: LocalChain, payer: Wallet, desk: Desk
) -> None:
    chain, payee = agentpay_shared_chain, Wallet.create().address
    keys = [wallet.address for wallet in desk.host._wallets]
    for key in keys:
        transfer = await a_permit2_transfer(chain, payer, payee, facilitator=key)
        verified = await desk.verify(asks.transfer_request(transfer, AMOUNT))
        settled = await desk.settle(asks.transfer_request(transfer, 300))
        sent = await chain.node.rpc("eth_getTransactionByHash", settled["transaction"])

        assert verified["isValid"], verified
        assert (settled["success"], settled["amount"]) == (True, "300")
        assert sent["from"] == key
    assert await chain.balance(payee) == 900


async def test_f6_no_gas_is_paid_for_an_upto_that_allows_too_little(
    agentpay_shared_chain: LocalChain, payer: Wallet
) -> None:
    chain, payee = agentpay_shared_chain, Wallet.create().address
    terms = FacilitatorTerms(assets=(chain.usdc,), amount_min=10)
    async with a_desk(chain, terms=terms) as desk:
        key = desk.host._wallets[0].address
        small = await a_permit2_transfer(chain, payer, payee, amount=9, facilitator=key)
        enough = await a_permit2_transfer(
            chain, payer, payee, amount=10, facilitator=key
        )
        refused = await desk.settle(asks.transfer_request(small, 9))
        settled = await desk.settle(asks.transfer_request(enough, 3))

    assert refused["errorReason"] == "invalid_payment_requirements"
    assert (settled["success"], settled["amount"]) == (True, "3")
    assert await chain.balance(payee) == 3


async def test_upto_that_allows_nothing_is_answered_and_moves_nothing(
    agentpay_shared_chain: LocalChain, payer: Wallet, desk: Desk
) -> None:
    chain, payee = agentpay_shared_chain, Wallet.create().address
    key = desk.host._wallets[0].address
    transfer = await a_permit2_transfer(chain, payer, payee, amount=0, facilitator=key)
    request = asks.transfer_request(transfer, 0)
    verified, settled = await desk.verify(request), await desk.settle(request)
    sent = await chain.node.rpc("eth_getTransactionCount", key, "latest")

    assert verified["invalidReason"] == "invalid_transaction_state", verified
    assert (settled["amount"], settled["transaction"]) == ("0", "")
    assert int(sent, 16) == 0


async def test_what_is_missing_is_said_leave_to_move_it_before_money(
    agentpay_shared_chain: LocalChain, payer: Wallet, desk: Desk
) -> None:
    """In the order of x402's `exact` on EVM, "Verification Logic"."""
    chain, payee = agentpay_shared_chain, Wallet.create().address
    rich, poor, willing = await chain.funded_wallet(), Wallet.create(), Wallet.create()
    await allow(chain, willing.address)
    reasons = []
    for signer in (rich, poor, willing):
        transfer = await a_permit2_transfer(chain, signer, payee)
        refused = await desk.settle(asks.transfer_request(transfer, AMOUNT))
        reasons.append(refused["errorReason"])
    dear = await a_permit2_transfer(chain, payer, payee, amount=10 * AMOUNT + 1)
    verified = await desk.verify(asks.transfer_request(dear, 10 * AMOUNT + 1))

    assert reasons == [*["permit2_allowance_required"] * 2, "insufficient_funds"]
    assert verified["invalidReason"] == "permit2_allowance_required"
    assert not await chain.balance(payee)


async def test_upto_of_nothing_needs_no_transaction(
    agentpay_shared_chain: LocalChain, payer: Wallet, desk: Desk
) -> None:
    chain, payee = agentpay_shared_chain, Wallet.create().address
    key = desk.host._wallets[0].address
    transfer = await a_permit2_transfer(chain, payer, payee, facilitator=key)
    settled = await desk.settle(asks.transfer_request(transfer, 0))

    assert settled["success"]
    assert (settled["transaction"], settled["amount"]) == ("", "0")


async def test_upto_is_refused_above_its_maximum_and_for_other_facilitators(
    agentpay_shared_chain: LocalChain, payer: Wallet, desk: Desk
) -> None:
    chain, payee = agentpay_shared_chain, Wallet.create().address
    key = desk.host._wallets[0].address
    bound = await a_permit2_transfer(chain, payer, payee, facilitator=key)
    other = await a_permit2_transfer(chain, payer, payee, facilitator=payee)
    above = await desk.settle(asks.transfer_request(bound, AMOUNT + 1))
    less = await desk.verify(asks.transfer_request(bound, AMOUNT - 1))
    elsewhere = await desk.settle(asks.transfer_request(other, 1))

    assert above["errorReason"] == "invalid_upto_evm_payload_settlement_exceeds_amount"
    assert less["invalidReason"] == "permit2_amount_mismatch"
    assert elsewhere["errorReason"] == "upto_facilitator_mismatch"
    assert await chain.balance(payee) == 0


async def test_an_approval_that_comes_along_is_sent_first(
    agentpay_shared_chain: LocalChain, desk: Desk
) -> None:
    chain, payee = agentpay_shared_chain, Wallet.create().address
    wallet = await chain.funded_wallet(ether=0)
    permit = Permit(
        owner=wallet.address,
        spender=PERMIT2,
        value=AMOUNT,
        nonce=0,
        deadline=int(time.time()) + 300,
    )
    signature = await wallet.sign_digest(
        permit_digest(permit, chain.usdc), chain=chain.chain_id
    )
    signed = SignedPermit(permit=permit, signature=signature)
    transfer = await a_permit2_transfer(chain, wallet, payee, permit=signed)
    settled = await desk.settle(asks.transfer_request(transfer, AMOUNT))

    assert settled["success"], settled
    assert await chain.balance(payee) == AMOUNT


async def test_a_payer_that_approved_nothing_is_refused(
    agentpay_shared_chain: LocalChain, desk: Desk
) -> None:
    chain, payee = agentpay_shared_chain, Wallet.create().address
    wallet = await chain.funded_wallet(ether=0)
    transfer = await a_permit2_transfer(chain, wallet, payee)
    request = asks.transfer_request(transfer, AMOUNT)
    verified, settled = await desk.verify(request), await desk.settle(request)

    assert not verified["isValid"]
    assert not settled["success"]
    assert settled["transaction"] == ""


async def test_a_deposit_by_permit2_funds_a_channel(
    agentpay_shared_chain: LocalChain, payer: Wallet, desk: Desk
) -> None:
    chain = agentpay_shared_chain
    channel = Channel(chain.usdc, payer, Wallet.create())
    request = asks.deposit_request(
        await a_permit2_deposit(channel, 5 * AMOUNT), await channel.voucher(1)
    )
    verified, settled = await desk.verify(request), await desk.settle(request)

    assert verified["isValid"], verified
    assert settled["success"], settled
    assert settled["extra"]["channelState"]["balance"] == str(5 * AMOUNT)


async def test_of_a_deposit_too_it_is_said_what_is_missing(
    agentpay_shared_chain: LocalChain, payer: Wallet, desk: Desk
) -> None:
    """As the official SDKs say it: the same two codes behind the scheme's prefix."""
    chain = agentpay_shared_chain
    poor = Wallet.create()
    await allow(chain, poor.address)
    reasons: list[Any] = []
    for signer, amount in ((payer, 10 * AMOUNT + 1), (poor, AMOUNT)):
        channel = Channel(chain.usdc, signer, Wallet.create())
        request = asks.deposit_request(
            await a_permit2_deposit(channel, amount), await channel.voucher(1)
        )
        verified, settled = await desk.verify(request), await desk.settle(request)
        reasons += [verified["invalidReason"], settled["errorReason"]]

    prefix = "invalid_batch_settlement_evm_"
    assert reasons == [
        *[f"{prefix}permit2_allowance_required"] * 2,
        *[f"{prefix}insufficient_balance"] * 2,
    ]


async def a_permit2_deposit(channel: Channel, amount: int) -> Permit2Deposit:
    unsigned = Permit2Deposit(
        config=channel.config,
        asset=channel.asset,
        amount=amount,
        nonce=secrets.randbits(256),
        deadline=int(time.time()) + 300,
        signature=b"",
    )
    signature = await channel.payer.sign_digest(
        unsigned.digest(), chain=channel.asset.chain
    )
    return replace(unsigned, signature=signature)


async def test_a_remote_facilitator_settles_by_permit_what_is_bound_to_it(
    agentpay_shared_chain: LocalChain, payer: Wallet
) -> None:
    chain, payee = agentpay_shared_chain, Wallet.create().address
    async with (
        a_front(chain) as (one, first),
        a_front(chain) as (two, second),
        a_client(chain, one, two) as client,
        a_client(chain, two, one) as other,
    ):
        mine = await a_permit2_transfer(chain, payer, payee, facilitator=other.address)
        await client.verify(mine)
        settled = await client.settle_transfer(mine, 400)
        channel = Channel(chain.usdc, payer, Wallet.create())
        deposit = await a_permit2_deposit(channel, AMOUNT)
        held = await client.deposit(deposit, await channel.voucher(1))
        nobody = await a_permit2_transfer(chain, payer, payee, facilitator=payee)
        with pytest.raises(FacilitatorUnavailable):
            await client.settle_transfer(nobody, 1)

    assert (settled.amount, held.amount) == (400, AMOUNT)
    assert second.asked["/settle"] == 1
    assert first.asked["/settle"] == 1  # the deposit, which anybody may send


NO: dict[str, Any] = {"isValid": False, "invalidReason": "permit2_allowance_required"}


@pytest.mark.parametrize("said", [None, NO, (412, NO)])
async def test_a_payee_says_what_its_payer_lacks_whoever_settles_for_it(
    agentpay_shared_chain: LocalChain, payer: Wallet, said: Any
) -> None:
    """A facilitator's word for it is not believed: the chain's allowance is."""
    chain = agentpay_shared_chain
    route = Route(price=AMOUNT, schemes=("exact",))
    async with (
        a_front(chain) as (url, front),
        a_payee(
            chain,
            wallet=Wallet.create(),
            facilitator=RemoteFacilitator([url]),
            transfer_methods=("permit2",),
        ) as payee,
    ):
        terms = terms_of(payee, route)
        lacking = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
        allowed = HandPayer(payer, payee.settings)
        if said is not None:
            front.instead["/verify"] = said
        outcomes = [
            await payee.answer(await who.permit2(terms), terms)
            for who in (lacking, allowed)
        ]

    assert refused(outcomes[0]).status == 412
    if said is None:
        assert not isinstance(outcomes[1], Refusal)
    else:
        assert refused(outcomes[1]).status == 402
