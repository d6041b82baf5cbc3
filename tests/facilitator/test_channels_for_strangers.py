"""`batch-settlement` for payees that ask over HTTP, from deposit to refund."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from agentpay import Wallet
from agentpay.core.payee_channel import HeldVoucher
from agentpay.errors import ConfigurationError, UnsafeKey
from agentpay.evm.addresses import BATCH_SETTLEMENT
from agentpay.evm.batch_settlement import REFUND_ALL
from agentpay.evm.networks import NETWORKS
from agentpay.facilitator.embedded import CLAIMS_MAX
from agentpay.facilitator.gas import GasLimits
from agentpay.facilitator.host import FacilitatorHost, FacilitatorLimits
from agentpay.http.facilitator_app import FacilitatorApp
from agentpay.testing.local_chain import LocalChain
from agentpay.wire import x402_asks as asks
from agentpay.wire import x402_write as write
from agentpay.wire.headers import JsonObject
from tests.facilitator.world import Channel, Desk, a_desk, a_host, edited

PREFIX = "invalid_batch_settlement_evm_"
DEPOSIT = 10_000
PUBLIC = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"


@pytest.fixture
async def channel(agentpay_shared_chain: LocalChain) -> Channel:
    payer = await agentpay_shared_chain.funded_wallet(ether=0)
    return Channel(agentpay_shared_chain.usdc, payer, Wallet.create())


@pytest.fixture
async def desk(agentpay_shared_chain: LocalChain) -> AsyncIterator[Desk]:
    async with a_desk(agentpay_shared_chain) as desk:
        yield desk


async def funding(channel: Channel, amount: int = DEPOSIT) -> JsonObject:
    return asks.deposit_request(
        await channel.deposit(amount), await channel.voucher(1000)
    )


def voucher_request(
    request: JsonObject, channel: Channel, voucher: HeldVoucher, kind: str = "voucher"
) -> JsonObject:
    """The same, with a voucher alone."""
    payload = write.voucher_payload(
        kind, channel.config, channel.id, voucher.amount, voucher.signature
    )
    payment = request["paymentPayload"]
    assert isinstance(payment, dict)
    return {**request, "paymentPayload": {**payment, "payload": payload}}


async def test_a_channel_lives_from_its_deposit_to_its_refund(
    agentpay_shared_chain: LocalChain, channel: Channel, desk: Desk
) -> None:
    chain, request = agentpay_shared_chain, await funding(channel)
    before = await chain.balance(channel.payer.address)
    verified = await desk.verify(request)
    deposited = await desk.settle(request)
    one = voucher_request(request, channel, await channel.voucher(3000))
    told = await desk.verify(one)
    claim = await channel.claim(3000)
    signature = await channel.authorize(claim)
    claimed = await desk.settle(asks.claim_request([claim], signature, channel.asset))
    settle = asks.settle_request(channel.payee.address, channel.asset)
    settled = await desk.settle(settle)
    refund = await channel.refund(REFUND_ALL, 0)
    refunded = await desk.settle(asks.refund_request(refund, channel.asset))

    assert verified["isValid"], verified
    assert verified["extra"]["balance"] == "0"
    assert deposited["success"], deposited
    assert deposited["amount"] == str(DEPOSIT)
    assert deposited["extra"]["channelState"]["balance"] == str(DEPOSIT)
    assert told["extra"] == {
        "channelId": channel.id,
        "balance": str(DEPOSIT),
        "totalClaimed": "0",
        "withdrawRequestedAt": 0,
        "refundNonce": "0",
    }
    assert (claimed["success"], claimed["amount"]) == (True, "")
    assert (settled["success"], settled["amount"]) == (True, "3000")
    assert (refunded["success"], refunded["amount"]) == (True, "7000")
    state = refunded["extra"]["channelState"]
    assert (state["balance"], state["refundNonce"]) == ("3000", "1")
    assert await chain.balance(channel.payee.address) == 3000
    assert await chain.balance(channel.payer.address) == before - 3000


async def test_a_claim_of_as_many_as_fit_a_transaction_is_within_its_payees_hour(
    channel: Channel, desk: Desk
) -> None:
    await desk.settle(await funding(channel))
    claims = [await channel.claim(1000)] * CLAIMS_MAX
    signature = await channel.authorize(*claims)
    answer = await desk.ask(
        "/settle", asks.claim_request(claims, signature, channel.asset)
    )

    assert answer.json()["success"], answer.text
    assert GasLimits().claims(CLAIMS_MAX) > FacilitatorLimits().gas_per_payee_hour


async def test_a_refund_claims_what_is_due_first(
    agentpay_shared_chain: LocalChain, channel: Channel, desk: Desk
) -> None:
    await desk.settle(await funding(channel))
    claim = await channel.claim(4000)
    refund = await channel.refund(REFUND_ALL, 0, claim)
    answer = await desk.settle(asks.refund_request(refund, channel.asset))

    assert (answer["success"], answer["amount"]) == (True, "6000")
    assert answer["extra"]["channelState"]["totalClaimed"] == "4000"


async def test_a_voucher_is_refused_with_its_code_and_nothing_is_told_of_the_channel(
    channel: Channel, desk: Desk
) -> None:
    request = await funding(channel)
    before = voucher_request(request, channel, await channel.voucher(1))
    absent = await desk.verify(before)
    await desk.settle(request)
    claim = await channel.claim(2000)
    signature = await channel.authorize(claim)
    await desk.settle(asks.claim_request([claim], signature, channel.asset))
    good = await channel.voucher(3000)
    extra = {
        "receiverAuthorizer": channel.payee.address,
        "withdrawDelay": 3600,
        "name": "USDC",
        "version": "2",
    }
    ask = voucher_request(request, channel, good)
    forged = replace(good, signature=bytes(64) + b"\x1b")
    stranger = Wallet.create().address
    cases = {
        "voucher_signature": voucher_request(request, channel, forged),
        "cumulative_exceeds_balance": voucher_request(
            request, channel, await channel.voucher(DEPOSIT + 1)
        ),
        "cumulative_below_claimed": voucher_request(
            request, channel, await channel.voucher(2000)
        ),
        "receiver_mismatch": edited(ask, payTo=stranger),
        "receiver_authorizer_mismatch": edited(
            ask, extra={**extra, "receiverAuthorizer": stranger}
        ),
        "withdraw_delay_mismatch": edited(ask, extra={**extra, "withdrawDelay": 900}),
    }
    for code, case in cases.items():
        answer = await desk.verify(case)

        assert answer["invalidReason"] == PREFIX + code
        assert "extra" not in answer
    assert absent["invalidReason"] == PREFIX + "channel_not_found"
    assert (await desk.verify(ask))["isValid"]
    zero_charge = voucher_request(
        request, channel, await channel.voucher(2000), kind="refund"
    )
    assert (await desk.verify(zero_charge))["isValid"]
    for kind in (ask, zero_charge):
        settled = await desk.settle(kind)
        assert settled["errorReason"] == PREFIX + "payload_type"


async def test_f2_a_deposit_is_made_once_however_often_it_is_asked_for(
    agentpay_shared_chain: LocalChain, channel: Channel, desk: Desk
) -> None:
    request = await funding(channel)
    answers = await asyncio.gather(*(desk.settle(request) for _ in range(8)))

    assert sum(answer["success"] for answer in answers) == 1
    held = await desk.verify(
        voucher_request(request, channel, await channel.voucher(1))
    )
    assert held["extra"]["balance"] == str(DEPOSIT)


async def test_f2_a_deposit_that_another_made_at_the_same_time_is_made() -> None:
    async with LocalChain() as chain, a_desk(chain) as one, a_desk(chain) as other:
        payer = await chain.funded_wallet(ether=0)
        request = await funding(Channel(chain.usdc, payer, Wallet.create()))
        await asyncio.gather(*(desk.verify(request) for desk in (one, other)))
        await chain.node.rpc("evm_setIntervalMining", 0)
        settling = [asyncio.create_task(d.settle(request)) for d in (one, other)]
        await in_the_pool(chain, 2)
        await chain.node.mine()
        answers = await asyncio.gather(*settling)

    assert [answer["success"] for answer in answers] == [True, True]
    assert len({answer["transaction"] for answer in answers}) == 1


async def test_f1_an_order_that_is_under_way_is_pending_to_who_asks_again() -> None:
    async with LocalChain() as chain, a_desk(chain) as desk:
        payee = Wallet.create()
        channel = Channel(chain.usdc, await chain.funded_wallet(ether=0), payee)
        await desk.settle(await funding(channel))
        claims = [await channel.claim(400)]
        signature = await channel.authorize(*claims)
        claim = asks.claim_request(claims, signature, chain.usdc)
        payout = asks.settle_request(payee.address, chain.usdc)
        for request in (claim, payout):
            await chain.node.rpc("evm_setIntervalMining", 0)
            first = asyncio.create_task(desk.settle(request))
            await in_the_pool(chain, 1)
            again = await desk.settle(request)
            await chain.node.mine()
            await chain.node.rpc("evm_setIntervalMining", 1)

            assert again["errorReason"] == "settlement_pending"
            assert (await first)["success"]


async def in_the_pool(chain: LocalChain, count: int) -> None:
    """Wait until so many transactions were sent and are not mined."""
    async with asyncio.timeout(20):
        sent = 0
        while sent < count:
            await asyncio.sleep(0.02)
            pool = await chain.node.rpc("txpool_status")
            sent = int(pool["pending"], 16)


async def mined_together(
    chain: LocalChain, *settling: Coroutine[Any, Any, dict[str, Any]]
) -> list[dict[str, Any]]:
    """What is answered to requests whose transactions come into one block."""
    tasks = [asyncio.create_task(one) for one in settling]
    await in_the_pool(chain, len(tasks))
    await chain.node.mine()
    return await asyncio.gather(*tasks)


async def test_f2_an_order_that_two_processes_take_at_once_is_done_once() -> None:
    """They keep no book of orders together: the contract does, and it costs gas."""
    async with LocalChain(no_mining=True) as chain:
        payer = await chain.funded_wallet(ether=0)
        channel = Channel(chain.usdc, payer, Wallet.create())
        before, payee = await chain.balance(payer.address), channel.payee.address
        claim = await channel.claim(3000)
        signature = await channel.authorize(claim)
        refund = await channel.refund(REFUND_ALL, 0)
        orders = {
            "claim": asks.claim_request([claim], signature, channel.asset),
            "settle": asks.settle_request(payee, channel.asset),
            "refund": asks.refund_request(refund, channel.asset),
        }
        async with a_desk(chain) as one, a_desk(chain) as other:
            (opened,) = await mined_together(chain, one.settle(await funding(channel)))
            assert opened["success"]
            for order, request in orders.items():
                answers = await mined_together(
                    chain, one.settle(request), other.settle(request)
                )

                assert sorted(a["success"] for a in answers) == [False, True]
                (failed,) = [a for a in answers if not a["success"]]
                assert failed["errorReason"] == f"{PREFIX}{order}_transaction_failed"

        assert await chain.balance(payee) == 3000
        assert await chain.balance(payer.address) == before - 3000


async def test_a_deposit_that_cannot_be_made_is_refused_before_it_is_sent(
    agentpay_shared_chain: LocalChain, channel: Channel, desk: Desk
) -> None:
    too_much = await funding(channel, 10**12)
    late = asks.deposit_request(
        await channel.deposit(DEPOSIT, seconds=-1), await channel.voucher(1)
    )
    deposit = await channel.deposit(DEPOSIT)
    forged = asks.deposit_request(
        replace(deposit, amount=DEPOSIT + 1), await channel.voucher(1)
    )
    cases = {
        "insufficient_balance": too_much,
        "payload_authorization_valid_before": late,
        "receive_authorization_signature": forged,
    }
    for code, request in cases.items():
        verified, settled = await desk.verify(request), await desk.settle(request)

        assert verified["invalidReason"] == PREFIX + code
        assert settled["errorReason"] == PREFIX + code
        assert settled["transaction"] == ""


async def test_f5_what_changes_nothing_is_no_success_and_costs_no_gas(
    agentpay_shared_chain: LocalChain, channel: Channel, desk: Desk
) -> None:
    chain, asset = agentpay_shared_chain, channel.asset
    await desk.settle(await funding(channel))
    claim = await channel.claim(DEPOSIT)
    request = asks.claim_request([claim], await channel.authorize(claim), asset)
    first, again = await desk.settle(request), await desk.settle(request)
    refund = await channel.refund(REFUND_ALL, 0)
    empty = await desk.settle(asks.refund_request(refund, asset))
    settle = asks.settle_request(channel.payee.address, asset)
    await desk.settle(settle)
    nothing = await desk.settle(settle)
    key = desk.host._wallets[0].address
    sent = await chain.node.rpc("eth_getTransactionCount", key, "latest")

    assert first["success"]
    assert again["errorReason"] == PREFIX + "claim_simulation_failed"
    assert empty["errorReason"] == PREFIX + "refund_no_balance"
    assert nothing["errorReason"] == PREFIX + "nothing_to_settle"
    assert int(sent, 16) == 3  # the deposit, the claim, the settlement


async def test_f5_a_contract_that_says_nothing_of_a_claim_has_not_claimed(
    agentpay_chain: LocalChain, channel: Channel
) -> None:
    """Its status is 1, and there is no event."""
    chain = agentpay_chain
    async with a_desk(chain) as desk:
        await desk.settle(await funding(channel))
        claim = await channel.claim(1000)
        signature = await channel.authorize(claim)
        silent = bytes.fromhex("620186a05f5260405ff3")  # answers (100000, 0) to all
        await chain.node.set_code(BATCH_SETTLEMENT, silent)
        claimed = await desk.settle(
            asks.claim_request([claim], signature, channel.asset)
        )

    assert not claimed["success"]
    assert claimed["errorReason"] == PREFIX + "claim_transaction_failed"
    assert claimed["errorMessage"] == "it left no Claimed event"
    assert claimed["transaction"] != ""


async def test_p12_a_refund_needs_the_authorizer_of_the_channel(
    agentpay_shared_chain: LocalChain, channel: Channel, desk: Desk
) -> None:
    await desk.settle(await funding(channel))
    refund = await channel.refund(REFUND_ALL, 0)
    forged = replace(refund, signature=(await channel.voucher(7)).signature)
    stale = await channel.refund(REFUND_ALL, 5)
    for wrong in (forged, stale):
        answer = await desk.settle(asks.refund_request(wrong, channel.asset))
        assert answer["errorReason"] == PREFIX + "refund_simulation_failed"
    request = asks.refund_request(refund, channel.asset)
    payment = request["paymentPayload"]
    assert isinstance(payment, dict)
    payload = payment["payload"]
    assert isinstance(payload, dict)
    del payload["refundAuthorizerSignature"]
    unsigned = await desk.settle(request)

    assert unsigned["errorReason"] == PREFIX + "authorizer_not_configured"


async def test_a_payee_may_leave_its_signatures_to_a_facilitator_that_knows_it(
    agentpay_shared_chain: LocalChain, channel: Channel
) -> None:
    chain, authorizer = agentpay_shared_chain, Wallet.create()
    host = await a_host(chain, authorizer=authorizer)
    with pytest.raises(ConfigurationError, match="token"):
        FacilitatorApp(host)
    channel.config = replace(channel.config, receiver_authorizer=authorizer.address)
    token = {"authorization": "Bearer secret"}
    async with a_desk(chain, host=host, app={"tokens": ["secret"]}) as desk:
        await desk.ask("/settle", await funding(channel), **token)
        claim = await channel.claim(2500)
        request = asks.claim_request([claim], b"", channel.asset)
        payment = request["paymentPayload"]
        assert isinstance(payment, dict)
        payload = payment["payload"]
        assert isinstance(payload, dict)
        del payload["claimAuthorizerSignature"]
        stranger = await desk.ask("/settle", request)
        claimed = await desk.ask("/settle", request, **token)
        supported = (await desk.client.get(desk.url + "/supported")).json()

    assert stranger.status_code == 401
    assert claimed.json()["success"], claimed.text
    extras = {kind["scheme"]: kind.get("extra", {}) for kind in supported["kinds"]}
    assert (
        extras["batch-settlement"]["receiverAuthorizer"].lower() == authorizer.address
    )


def test_f11_a_public_key_pays_and_signs_for_nobody_where_money_is_real() -> None:
    public, own = Wallet.from_key(PUBLIC), Wallet.create()
    place = next(n for n in NETWORKS if NETWORKS[n].real_money)
    options: dict[str, Any] = {"network": place, "allow_mainnet": True}
    with pytest.raises(UnsafeKey):
        FacilitatorHost([public], **options)
    with pytest.raises(UnsafeKey):
        FacilitatorHost([own], authorizer=public, **options)
    FacilitatorHost([own], authorizer=own, rpc_url="http://127.0.0.1:9", **options)
