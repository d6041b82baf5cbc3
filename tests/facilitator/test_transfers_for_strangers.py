"""`exact` for payees that ask over HTTP: verified, settled, refused, repeated."""

import asyncio
from pathlib import Path

import pytest

from agentpay import Wallet
from agentpay.evm.addresses import BATCH_SETTLEMENT
from agentpay.evm.hashing import checksummed
from agentpay.facilitator.gas import GasLimits
from agentpay.facilitator.host import FacilitatorLimits
from agentpay.facilitator.once import DUPLICATE
from agentpay.facilitator.service import FacilitatorTerms
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from agentpay.wire import x402_asks as asks
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402_facilitator import PENDING
from tests.facilitator.world import (
    AMOUNT,
    Desk,
    a_desk,
    a_host,
    a_transfer,
    edited,
)


async def parties(chain: LocalChain) -> tuple[Wallet, Address]:
    return await chain.funded_wallet(ether=0), Wallet.create().address


async def test_a_good_payment_is_valid_and_then_settled_by_its_events(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payer, payee = await parties(chain)
    request = asks.transfer_request(await a_transfer(chain.usdc, payer, payee), AMOUNT)
    async with a_desk(chain) as desk:
        verified = await desk.verify(request)
        settled = await desk.settle(request)

    assert verified == {"isValid": True, "payer": checksummed(payer.address)}
    assert settled["success"], settled
    assert settled["amount"] == str(AMOUNT)
    assert settled["network"] == f"eip155:{chain.chain_id}"
    assert await chain.balance(payee) == AMOUNT
    receipt = await chain.node.rpc("eth_getTransactionReceipt", settled["transaction"])
    assert receipt["status"] == "0x1"


async def refused(desk: Desk, request: JsonObject) -> str:
    """The reason for which both refuse; nothing is sent."""
    verified, settled = await desk.verify(request), await desk.settle(request)

    assert not verified["isValid"]
    assert not settled["success"]
    assert settled["transaction"] == ""
    assert verified["invalidReason"] == settled["errorReason"]
    return str(settled["errorReason"])


async def test_what_is_not_what_the_payee_wants_is_refused_with_its_code(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payer, payee = await parties(chain)
    stranger = Wallet.create()
    good = await a_transfer(chain.usdc, payer, payee)
    poor = await a_transfer(chain.usdc, stranger, payee)
    late = await a_transfer(chain.usdc, payer, payee, valid_before=1)
    early = await a_transfer(chain.usdc, payer, payee, valid_after=2**40)
    forged = await a_transfer(chain.usdc, stranger, payee, payer=payer.address)
    ask = asks.transfer_request
    cases = {
        "invalid_exact_evm_payload_signature": ask(forged, AMOUNT),
        "invalid_exact_evm_payload_authorization_valid_before": ask(late, AMOUNT),
        "invalid_exact_evm_payload_authorization_valid_after": ask(early, AMOUNT),
        "insufficient_funds": ask(poor, AMOUNT),
        "invalid_exact_evm_payload_authorization_value_mismatch": edited(
            ask(good, AMOUNT), amount="999"
        ),
        "invalid_exact_evm_payload_recipient_mismatch": edited(
            ask(good, AMOUNT), payTo=stranger.address
        ),
        "invalid_payment_requirements": ask(good, 999),
        "invalid_network": edited(ask(good, AMOUNT), network="eip155:1"),
        "unsupported_scheme": edited(ask(good, AMOUNT), scheme="later"),
    }
    async with a_desk(chain) as desk:
        reasons = [await refused(desk, request) for request in cases.values()]

    assert reasons == list(cases)
    assert await chain.balance(payee) == 0


async def test_f6_no_gas_is_paid_for_assets_payees_and_amounts_that_are_not_listed(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payer, payee = await parties(chain)
    terms = FacilitatorTerms(
        assets=(chain.usdc,), payees=frozenset({payee}), amount_min=10
    )
    small = await a_transfer(chain.usdc, payer, payee, 9)
    other = await a_transfer(chain.usdc, payer, payer.address)
    good = asks.transfer_request(await a_transfer(chain.usdc, payer, payee), AMOUNT)
    async with a_desk(chain, terms=terms) as desk:
        for request in (
            asks.transfer_request(small, 9),
            asks.transfer_request(other, AMOUNT),
            edited(good, asset=BATCH_SETTLEMENT),
        ):
            assert await refused(desk, request) == "invalid_payment_requirements"
        assert (await desk.settle(good))["success"]


async def test_f2_of_many_that_settle_one_payment_at_once_one_is_told_yes(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payer, payee = await parties(chain)
    request = asks.transfer_request(await a_transfer(chain.usdc, payer, payee), AMOUNT)
    async with a_desk(chain, keys=3) as desk:
        answers = await asyncio.gather(*(desk.settle(request) for _ in range(20)))
        later = await desk.settle(request)
        sent = [
            int(await chain.node.rpc("eth_getTransactionCount", who, "latest"), 16)
            for who in (await desk.host.start())._signers
        ]

    told = [answer for answer in answers if answer["success"]]
    assert len(told) == 1
    reasons = {a["errorReason"] for a in answers if not a["success"]}
    assert reasons <= {PENDING, DUPLICATE}
    assert later["errorReason"] == DUPLICATE
    assert later["transaction"] == told[0]["transaction"]
    assert sum(sent) == 1
    assert await chain.balance(payee) == AMOUNT


async def test_f2_what_is_being_settled_is_not_sent_again() -> None:
    """It was begun and sent, and is not mined yet: others ask for the same."""
    async with LocalChain(no_mining=True) as chain:
        payer, payee = await parties(chain)
        transfer = await a_transfer(chain.usdc, payer, payee)
        request = asks.transfer_request(transfer, AMOUNT)
        async with a_desk(chain, keys=3) as desk:
            first = asyncio.create_task(desk.settle(request))
            while len(await _pool(chain)) < 1:  # noqa: ASYNC110 - a chain has no event
                await asyncio.sleep(0.02)
            others = [asyncio.create_task(desk.settle(request)) for _ in range(5)]
            await asyncio.sleep(0.5)
            sent = await _pool(chain)
            await chain.node.mine()
            told = await first
            refused = await asyncio.gather(*others)

    assert len(sent) == 1
    assert told["success"]
    assert {answer["errorReason"] for answer in refused} == {PENDING}


async def _pool(chain: LocalChain) -> dict[str, object]:
    """What waits to be mined, by who sent it."""
    content = await chain.node.rpc("txpool_content")
    return dict(content["pending"])


async def test_f2_a_payment_that_another_facilitator_settled_is_not_sent_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payer, payee = await parties(chain)
    request = asks.transfer_request(await a_transfer(chain.usdc, payer, payee), AMOUNT)
    async with a_desk(chain) as one, a_desk(chain) as other:
        first = await one.settle(request)
        verified = await other.verify(request)
        second = await other.settle(request)

    assert not verified["isValid"]
    assert second["transaction"] == first["transaction"]  # F3: the payee has it
    assert await chain.balance(payee) == AMOUNT


@pytest.mark.parametrize("restarted", [False, True])
async def test_f1_what_is_not_mined_in_time_is_pending_and_then_told_once(
    restarted: bool, tmp_path: Path
) -> None:
    async with LocalChain() as chain:
        payer, payee = await parties(chain)
        transfer = await a_transfer(chain.usdc, payer, payee)
        request = asks.transfer_request(transfer, AMOUNT)
        host = await a_host(
            chain,
            store=f"{tmp_path}/book.db",
            limits=FacilitatorLimits(mined_within_seconds=0.3),
        )
        await chain.node.rpc("evm_setIntervalMining", 0)
        async with a_desk(chain, host=host) as desk:
            pending, again = await desk.settle(request), await desk.settle(request)
            if not restarted:
                await chain.node.mine()
                told = await desk.settle(request)
        await chain.node.mine()
        async with a_desk(chain, host=host) as desk:
            if restarted:
                told = await desk.settle(request)
            repeated = await desk.settle(request)

        assert pending["errorReason"] == again["errorReason"] == PENDING
        assert pending["transaction"] == again["transaction"] != ""
        assert told["success"]
        assert told["transaction"] == pending["transaction"]
        assert repeated["errorReason"] == DUPLICATE
        assert await chain.balance(payee) == AMOUNT


async def test_f8_a_node_that_fails_is_a_503_and_the_next_settlement_goes_through(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payer, payee = await parties(chain)
    request = asks.transfer_request(await a_transfer(chain.usdc, payer, payee), AMOUNT)
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_desk(chain, rpc_url=rpc.url) as desk,
    ):
        await desk.host.start()
        rpc.plan("eth_call", Fault.UNAVAILABLE)
        verified = await desk.ask("/verify", request)
        rpc.plan("eth_estimateGas", Fault.UNAVAILABLE)
        failed = await desk.ask("/settle", request)
        settled = await desk.settle(request)

    assert (verified.status_code, failed.status_code) == (503, 503)
    assert not verified.json()["isValid"]
    assert failed.json()["transaction"] == ""
    assert settled["success"]
    assert await chain.balance(payee) == AMOUNT


async def test_f11_an_hour_costs_no_more_gas_than_allowed_and_the_rest_is_a_429(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payer, payee = await parties(chain)
    limits = FacilitatorLimits(
        gas=GasLimits(transfer=200_000), gas_per_payee_hour=300_000
    )
    transfers = [await a_transfer(chain.usdc, payer, payee) for _ in range(3)]
    async with a_desk(chain, limits=limits) as desk:
        answers = [
            await desk.ask("/settle", asks.transfer_request(t, AMOUNT))
            for t in transfers
        ]
        elsewhere = await a_transfer(chain.usdc, payer, Wallet.create().address)
        other = await desk.settle(asks.transfer_request(elsewhere, AMOUNT))

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["errorReason"] == "gas_limit_reached"
    assert other["success"]


async def test_f6_the_call_that_is_sent_is_built_here_and_has_its_exact_length(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payer, payee = await parties(chain)
    request = asks.transfer_request(await a_transfer(chain.usdc, payer, payee), AMOUNT)
    payment = request["paymentPayload"]
    assert isinstance(payment, dict)
    payment["payload"] = {**payment["payload"], "data": "0x" + "ff" * 999}  # type: ignore[dict-item]
    async with a_desk(chain) as desk:
        settled = await desk.settle(request)
    sent = await chain.node.rpc("eth_getTransactionByHash", settled["transaction"])

    assert len(bytes.fromhex(sent["input"][2:])) == 4 + 9 * 32
