"""Approvals that payers sign whole, at a facilitator for other people."""

import secrets
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay import Wallet
from agentpay.chain.relay import TransactionRelay
from agentpay.chain.rpc import RpcChain
from agentpay.errors import (
    AgentPayError,
    ChainUnreachable,
    GasLimitReached,
    GasMissing,
    GasTooExpensive,
    StoreOutcomeUnknown,
    StoreUnavailable,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm.approval import APPROVAL_GAS, ApprovalTransaction, SignedApproval
from agentpay.evm.calls import Call, Receipt, Standing
from agentpay.evm.permit2 import PermitTransfer
from agentpay.evm.permit2_signed import Permit2Deposit, Permit2Transfer
from agentpay.facilitator.host import FacilitatorLimits
from agentpay.facilitator.service import FacilitatorTerms
from agentpay.facilitator.sponsor import (
    FEE_TIMES,
    GAS_MAX,
    Sponsor,
    SponsorLimits,
    before_the_payment,
    fee_most,
)
from agentpay.testing.local_chain import LocalChain
from agentpay.types import ZERO_ADDRESS, Address, Asset
from agentpay.wire import x402_asks as asks
from agentpay.wire.x402_approvals import APPROVAL_KEY
from tests.facilitator.world import AMOUNT, Channel, a_desk
from tests.payee.test_sponsored_approvals import a_plain_token, mint
from tests.wallets import a_contract_wallet, deploy

CAP = 10**16


def options(asset: Asset, *, cap: int = CAP) -> dict[str, Any]:
    sponsoring = SponsorLimits(wei_each=cap, wei_per_hour=10 * cap) if cap else None
    return {
        "terms": FacilitatorTerms(assets=(asset,)),
        "limits": FacilitatorLimits(sponsoring=sponsoring),
    }


async def an_approval(
    local: LocalChain,
    asset: Asset,
    payer: Wallet,
    amount: int = AMOUNT,
    *,
    times: int = 1,
) -> SignedApproval:
    """For `times` the gas price that our payers sign."""
    async with RpcChain(local.rpc_url, chain_id=local.chain_id) as chain:
        standing = await chain.standing(payer.address)
    unsigned = ApprovalTransaction(
        chain=asset.chain,
        nonce=standing.nonce,
        tip=standing.tip,
        fee_max=times * (2 * standing.base_fee + standing.tip),
        gas=APPROVAL_GAS,
        token=asset.address,
        amount=amount,
    )
    digest = unsigned.digest()
    return unsigned.signed(await payer.sign_digest(digest, chain=asset.chain))


async def a_payment(
    asset: Asset, payer: Wallet, to: Address, approval: SignedApproval
) -> Permit2Transfer:
    unsigned = Permit2Transfer(
        asset=asset,
        transfer=PermitTransfer(
            payer=payer.address,
            token=asset.address,
            amount=AMOUNT,
            nonce=secrets.randbits(256),
            deadline=int(time.time()) + 300,
            to=to,
            valid_after=0,
            facilitator=None,
        ),
        signature=b"",
        approval=approval,
    )
    signature = await payer.sign_digest(unsigned.digest(), chain=asset.chain)
    return replace(unsigned, signature=signature)


async def test_an_approval_is_paid_for_and_the_payment_follows(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain, payee = agentpay_shared_chain, Wallet.create().address
    asset, payer = await a_plain_token(chain), Wallet.create()
    await mint(chain, asset, payer.address, AMOUNT)
    async with a_desk(chain, **options(asset)) as desk:
        approval = await an_approval(chain, asset, payer)
        payment = await a_payment(asset, payer, payee, approval)
        request = asks.transfer_request(payment, AMOUNT)
        supported = (await desk.client.get(desk.url + "/supported")).json()
        verified, settled = await desk.verify(request), await desk.settle(request)
        again = await desk.settle(request)

        assert APPROVAL_KEY in supported["extensions"]
        assert verified["isValid"], verified
        assert (settled["success"], settled["amount"]) == (True, str(AMOUNT))
        assert again["errorReason"] == "duplicate_settlement"


async def test_an_approval_comes_with_a_deposit(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    asset, payer = await a_plain_token(chain), Wallet.create()
    await mint(chain, asset, payer.address, AMOUNT)
    channel = Channel(asset, payer, Wallet.create())
    unsigned = Permit2Deposit(
        config=channel.config,
        asset=asset,
        amount=AMOUNT,
        nonce=secrets.randbits(256),
        deadline=int(time.time()) + 300,
        signature=b"",
        approval=await an_approval(chain, asset, payer),
    )
    signature = await payer.sign_digest(unsigned.digest(), chain=asset.chain)
    deposit = replace(unsigned, signature=signature)
    async with a_desk(chain, **options(asset)) as desk:
        request = asks.deposit_request(deposit, await channel.voucher(1))
        verified, settled = await desk.verify(request), await desk.settle(request)

        assert verified["isValid"], verified
        assert settled["success"], settled


@pytest.mark.parametrize("cap", [0, 1])
async def test_f7_nothing_is_paid_unless_it_was_configured_and_within_the_cap(
    agentpay_shared_chain: LocalChain, cap: int
) -> None:
    chain, payee = agentpay_shared_chain, Wallet.create().address
    asset, payer = await a_plain_token(chain), Wallet.create()
    await mint(chain, asset, payer.address, AMOUNT)
    async with a_desk(chain, **options(asset, cap=cap)) as desk:
        approval = await an_approval(chain, asset, payer)
        payment = await a_payment(asset, payer, payee, approval)
        request = asks.transfer_request(payment, AMOUNT)
        supported = (await desk.client.get(desk.url + "/supported")).json()
        verified, settled = await desk.verify(request), await desk.settle(request)
        coin = await chain.node.rpc("eth_getBalance", payer.address, "latest")

        assert (APPROVAL_KEY in supported["extensions"]) == bool(cap)
        assert not verified["isValid"]
        assert not settled["success"]
        assert coin == "0x0"


async def test_f7_an_approval_for_less_is_no_payload(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain, payee = agentpay_shared_chain, Wallet.create().address
    asset, payer = await a_plain_token(chain), Wallet.create()
    async with a_desk(chain, **options(asset)) as desk:
        approval = await an_approval(chain, asset, payer, AMOUNT - 1)
        payment = await a_payment(asset, payer, payee, approval)
        verified = await desk.verify(asks.transfer_request(payment, AMOUNT))

        assert verified["invalidReason"] == "invalid_payload"


async def test_f6_a_payer_may_not_sign_for_a_price_of_which_it_keeps_the_most(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Its approval is within the cap, and gets it many times what it costs."""
    chain, payee = agentpay_shared_chain, Wallet.create().address
    asset = await a_plain_token(chain)
    async with a_desk(chain, **options(asset)) as desk:
        poor, rich = Wallet.create(), await chain.funded_wallet(0)
        coins, answers = [], []
        for payer in (poor, rich):
            await mint(chain, asset, payer.address, AMOUNT)
            before = await chain.node.rpc("eth_getBalance", payer.address, "latest")
            approval = await an_approval(chain, asset, payer, times=5 * FEE_TIMES)
            payment = await a_payment(asset, payer, payee, approval)
            request = asks.transfer_request(payment, AMOUNT)
            verified, settled = await desk.verify(request), await desk.settle(request)
            after = await chain.node.rpc("eth_getBalance", payer.address, "latest")
            coins.append(int(after, 16) - int(before, 16))
            answers.append((verified["isValid"], settled["success"]))

            assert approval.approval.cost < CAP

        assert answers == [(False, False), (True, True)]
        assert coins[0] == 0
        assert coins[1] < 0  # it pays for itself, whatever it likes


@pytest.mark.parametrize("takes", [False, True])
async def test_f7_an_account_whose_code_refuses_its_key_is_given_nothing(
    agentpay_shared_chain: LocalChain, *, takes: bool
) -> None:
    """Permit2 asks the code, where an account has any (EIP-7702)."""
    chain, payee = agentpay_shared_chain, Wallet.create().address
    asset, payer = await a_plain_token(chain), Wallet.create()
    await mint(chain, asset, payer.address, AMOUNT)
    if takes:
        wallet = await deploy(chain, "Delegate7702")
    else:
        wallet = await a_contract_wallet(chain, ZERO_ADDRESS)
    delegation = bytes.fromhex("ef0100") + wallet.to_bytes()
    await chain.node.set_code(payer.address, delegation)
    async with a_desk(chain, **options(asset)) as desk:
        approval = await an_approval(chain, asset, payer)
        payment = await a_payment(asset, payer, payee, approval)
        request = asks.transfer_request(payment, AMOUNT)
        verified, settled = await desk.verify(request), await desk.settle(request)
        coin = int(await chain.node.rpc("eth_getBalance", payer.address, "latest"), 16)

        assert verified["isValid"] == settled["success"] == takes, settled
        assert bool(coin) == takes


@pytest.mark.parametrize(
    ("error", "another"),
    [
        (GasTooExpensive("dear"), "dear"),
        (GasMissing("poor"), "poor"),
        (StoreUnavailable("away"), "away"),
        (StoreOutcomeUnknown("perhaps kept"), "no more is paid for it in this hour"),
        (TransactionOutcomeUnknown("it", transaction=""), "no more is paid for it"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_f7_what_was_not_sent_to_a_payer_is_there_for_its_next_approval(
    agentpay_shared_chain: LocalChain, error: Exception, another: str
) -> None:
    """What may have been sent counts, whatever becomes of it."""
    local = agentpay_shared_chain
    asset, payer = await a_plain_token(local), Wallet.create()
    await mint(local, asset, payer.address, AMOUNT)
    approval = await an_approval(local, asset, payer)
    payment = await a_payment(asset, payer, Wallet.create().address, approval)
    cost = approval.approval.cost

    async def send(call: Call) -> Receipt:
        raise error

    async with RpcChain(local.rpc_url, chain_id=local.chain_id) as chain:
        sponsor = Sponsor(
            chain=chain,
            relay=TransactionRelay(chain),
            limits=SponsorLimits(wei_each=cost, wei_per_hour=cost),
            clock=time.monotonic,
        )
        with pytest.raises(AgentPayError):
            await sponsor.grant(payment, send)
        with pytest.raises(AgentPayError, match=another):
            await sponsor.grant(payment, send)


GWEI = 10**9
PRICES = st.integers(0, 10**12)


@given(base_fee=PRICES, tip=PRICES)
def test_f6_what_payers_sign_is_paid_for_and_little_more(
    base_fee: int, tip: int
) -> None:
    now = Standing(nonce=0, balance=0, base_fee=base_fee, tip=tip)
    ours = 2 * base_fee + tip
    viems = base_fee * 12 // 10 + tip
    unasked = GWEI  # `DEFAULT_MAX_FEE_PER_GAS` of the official clients
    halved = replace(now, base_fee=base_fee // 2)

    assert max(ours, viems, unasked) <= fee_most(now)
    assert max(ours, viems) <= fee_most(halved) + FEE_TIMES
    assert fee_most(now) <= max(4 * (base_fee + tip), GWEI)
    assert fee_most(replace(now, base_fee=0, tip=0)) * GAS_MAX <= 7 * 10**13


def test_k7_what_happens_before_a_payment_is_not_what_became_of_it() -> None:
    with pytest.raises(TransactionFailed) as failed, before_the_payment("approve"):
        raise TransactionFailed("it", reason="no", transaction="0x12")
    with pytest.raises(TransactionFailed), before_the_payment("approve"):
        raise GasLimitReached(who="all", limit=1)
    with pytest.raises(ChainUnreachable), before_the_payment("approve"):
        raise TransactionOutcomeUnknown("it", transaction="0x12")

    assert failed.value.transaction == ""
