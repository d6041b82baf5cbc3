"""An application's own 400, 402, 409 or 503 is its caller's; a paywall's is ours."""

import pytest
from httpx import AsyncBaseTransport, ConnectTimeout, MockTransport, Request, Response

from agentpay import AnswerLost, Policy
from agentpay.errors import PaymentOutcomeUnknown, PaymentRejected
from agentpay.payee.pricing import Order
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.types import format_money
from agentpay.wire.headers import encode_json
from agentpay.wire.x402 import (
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    PAYMENT_SIGNATURE,
)
from tests.http.world import BASE, PRICE, Wire, a_shop, an_agent, eventually, through
from tests.payee.hand import decoded
from tests.payer.books import at_rest, charged, spent
from tests.payer.test_lanes import EXACTLESS, official
from tests.payer.test_lost_answers import HASTY

STATUSES = (400, 402, 404, 409, 500, 503)
EXACT = BASE + f"/exact/{Order.RESERVE}/ok"
SETTLED = BASE + f"/exact/{Order.SETTLE_FIRST}/ok"


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("order", list(Order))
async def test_an_applications_own_status_is_delivered_after_a_transfer(
    agentpay_shared_chain: LocalChain, order: Order, status: int
) -> None:
    path = f"/exact/{order}/ok"
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            answer = await agent.get(f"{BASE}{path}?status={status}")
            spending = await agent.spending()

        assert answer.status_code == status
        assert answer.json() == {"answer": 42}
        assert shop.begun[path] == 1
        assert len(wire.credentials) == 1
        paid = await agentpay_shared_chain.balance(payee.settings.pay_to)
        assert paid == (PRICE if order is Order.SETTLE_FIRST else 0)
        # Its signature is still out, unless it has moved the money.
        assert (spending.spent, spending.held) == (
            (PRICE * 10**12, 0) if paid else (0, PRICE * 10**12)
        )


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("strict", [False, True])
async def test_an_applications_own_status_is_delivered_on_a_channel(
    agentpay_shared_chain: LocalChain, strict: bool, status: int
) -> None:
    url = EXACTLESS if strict else BASE + "/ok"
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        wire = Wire(through(official(wall) if strict else wall))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            await agent.get(url)
            begun = sum(shop.begun.values())
            answer = await agent.get(f"{url}?status={status}")

            assert answer.status_code == status
            assert sum(shop.begun.values()) == begun + 1
            await eventually(lambda: at_rest(agent))
            assert await spent(agent) == await charged(payee, agent) == PRICE


def bare(inner: AsyncBaseTransport, status: int) -> MockTransport:
    """A server whose own errors carry no receipt, as the official one's."""

    async def answer(request: Request) -> Response:
        answer = await inner.handle_async_request(request)
        if answer.status_code == status and PAYMENT_RESPONSE in answer.headers:
            del answer.headers[PAYMENT_RESPONSE]
        return answer

    return MockTransport(answer)


def refusing(inner: AsyncBaseTransport, status: int, error: str) -> MockTransport:
    """A server that takes no payment, and says so in the offer, as official ones."""
    offered: list[str] = []

    async def answer(request: Request) -> Response:
        if PAYMENT_SIGNATURE not in request.headers:
            answer = await inner.handle_async_request(request)
            offered.append(answer.headers[PAYMENT_REQUIRED])
            return answer
        message = {**decoded(offered[-1]), "error": error}
        headers = {PAYMENT_REQUIRED: encode_json(message)}
        return Response(status, headers=headers, json={})

    return MockTransport(answer)


@pytest.mark.parametrize("status", [402, 412])
async def test_a_refusal_without_a_receipt_is_one_and_says_why(
    agentpay_shared_chain: LocalChain, status: int
) -> None:
    why = "permit2_allowance_required"
    async with a_shop(agentpay_shared_chain) as (shop, _, wall):
        server = refusing(through(wall), status, why)
        async with await an_agent(agentpay_shared_chain, server) as agent:
            with pytest.raises(PaymentRejected, match=why) as refused:
                await agent.get(EXACT)

    assert refused.value.status == status
    assert not shop.begun


@pytest.mark.parametrize("status", [402, 409, 503])
async def test_a_lane_delivers_an_error_without_a_receipt_and_asks_later(
    agentpay_shared_chain: LocalChain, status: int
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        inner = through(official(wall))
        async with await an_agent(agentpay_shared_chain, bare(inner, status)) as agent:
            await agent.get(EXACTLESS)
            before = shop.begun.total()
            answer = await agent.get(f"{EXACTLESS}?status={status}")

            assert answer.status_code == status
            assert shop.begun.total() == before + 1
            await eventually(lambda: at_rest(agent))
            assert await spent(agent) == await charged(payee, agent) == PRICE


@pytest.mark.parametrize("path", ["/ok", f"/exact/{Order.RESERVE}/ok"])
async def test_a_paywalls_own_503_is_sent_again(
    agentpay_shared_chain: LocalChain, path: str
) -> None:
    chain = agentpay_shared_chain
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_shop(chain, rpc_url=rpc.url) as (shop, _, wall),
    ):
        wire = Wire(through(wall))
        async with await an_agent(chain, wire) as agent:
            rpc.plan("eth_call", Fault.UNAVAILABLE, times=3)
            answer = await agent.get(BASE + path)

        assert answer.status_code == 200
        assert shop.begun[path] == 1
        assert len(wire.credentials) > 1
        assert len(set(wire.credentials)) == 1


@pytest.mark.parametrize("reason", ["settlement_pending", "unexpected_settle_error"])
@pytest.mark.parametrize("status", [402, 503])
async def test_f1_a_settlement_that_is_not_known_is_unknown_and_not_refused(
    agentpay_shared_chain: LocalChain, status: int, reason: str
) -> None:
    receipt = encode_json({"success": False, "errorReason": reason})
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        inner = through(wall)

        async def doubtful(request: Request) -> Response:
            if "payment-signature" not in request.headers:
                return await inner.handle_async_request(request)
            return Response(status, headers={PAYMENT_RESPONSE: receipt})

        async with await an_agent(
            agentpay_shared_chain, MockTransport(doubtful), policy=HASTY
        ) as agent:
            with pytest.raises(PaymentOutcomeUnknown):
                await agent.get(EXACT)
            held = (await agent.spending()).held

    assert format_money(held, 18) == "$0.001"


@pytest.mark.parametrize("moved", [True, False])
async def test_c8_a_resent_transfer_that_is_refused_is_looked_up_on_the_chain(
    agentpay_shared_chain: LocalChain, moved: bool
) -> None:
    """An official server refuses a nonce it has settled: that is not a rejection."""
    receipt = encode_json(
        {"success": False, "errorReason": "invalid_transaction_state"}
    )
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        inner, attempts = through(wall), 0

        async def forgetful(request: Request) -> Response:
            nonlocal attempts
            if "payment-signature" not in request.headers:
                return await inner.handle_async_request(request)
            attempts += 1
            if attempts == 1:
                if moved:
                    await (await inner.handle_async_request(request)).aclose()
                raise ConnectTimeout("planned", request=request)
            return Response(402, headers={PAYMENT_RESPONSE: receipt})

        async with await an_agent(
            agentpay_shared_chain, MockTransport(forgetful), policy=HASTY
        ) as agent:
            with pytest.raises(AnswerLost if moved else PaymentRejected):
                await agent.get(EXACT)
            spending = str(await agent.spending())

    if moved:
        assert spending == "$0.001 spent, $0 deposited, $0 held"
    else:
        assert spending == "$0 spent, $0 deposited, $0.001 held"


async def test_a_chain_that_cannot_be_asked_leaves_a_refused_resend_unknown(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    receipt = encode_json(
        {"success": False, "errorReason": "invalid_transaction_state"}
    )
    async with FaultyRpc(chain.rpc_url) as rpc, a_shop(chain) as (_, _, wall):
        inner, attempts = through(wall), 0

        async def forgetful(request: Request) -> Response:
            nonlocal attempts
            if "payment-signature" not in request.headers:
                return await inner.handle_async_request(request)
            attempts += 1
            if attempts == 1:
                rpc.plan("eth_call", Fault.UNAVAILABLE, times=10**6)
                raise ConnectTimeout("planned", request=request)
            return Response(402, headers={PAYMENT_RESPONSE: receipt})

        async with await an_agent(
            chain,
            MockTransport(forgetful),
            rpc_url=rpc.url,
            policy=Policy(give_up_seconds=0.5),
        ) as agent:
            with pytest.raises(PaymentOutcomeUnknown):
                await agent.get(EXACT)
