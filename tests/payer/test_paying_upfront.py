"""Where money moves before the request runs (`extra.paymentFlow` is `upfront`)."""

from typing import Any

import pytest

from agentpay import Agent
from agentpay.errors import NoAcceptableOffer, PaymentOutcomeUnknown
from agentpay.payee.pricing import Order
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.x402 import PAYMENT_REQUIRED, PAYMENT_RESPONSE
from tests.http.world import (
    BASE,
    PRICE,
    Wire,
    a_shop,
    an_agent,
    rewriting,
    through,
)
from tests.payee.hand import decoded
from tests.payer.test_lost_answers import HASTY

PATH = f"/exact/{Order.SETTLE_FIRST}/ok"
PAID = (PRICE * 10**12, 0)


async def spent_and_held(agent: Agent) -> tuple[int, int]:
    spending = await agent.spending()
    return spending.spent, spending.held


@pytest.mark.parametrize("lost", [0, 2])
@pytest.mark.parametrize("status", [200, 404, 500, 503])
async def test_c8_what_was_paid_upfront_is_delivered_with_its_receipt_and_paid_once(
    agentpay_shared_chain: LocalChain, status: int, lost: int
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, payee, wall):
        wire = Wire(through(wall))
        wire.lose_answers = lost
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            answer = await agent.get(f"{BASE}{PATH}?status={status}")
            books = await spent_and_held(agent)
        paid = await agentpay_shared_chain.balance(payee.settings.pay_to)

    assert (answer.status_code, answer.json()) == (status, {"answer": 42})
    assert decoded(answer.headers[PAYMENT_RESPONSE])["success"]
    assert len(wire.credentials) == lost + 1
    assert len(set(wire.credentials)) == 1
    assert (books, paid) == (PAID, PRICE)
    assert decoded(wire.credentials[0])["accepted"]["extra"]["paymentFlow"] == "upfront"


async def test_c8_what_was_paid_upfront_and_never_answered_is_found_on_the_chain(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, payee, wall):
        wire = Wire(through(wall))
        wire.lose_answers = 1000
        async with await an_agent(agentpay_shared_chain, wire, policy=HASTY) as agent:
            with pytest.raises(PaymentOutcomeUnknown):
                await agent.get(BASE + PATH)
            before = await spent_and_held(agent)
            left = await agent.payer.resolve()
            after = await spent_and_held(agent)
        paid = await agentpay_shared_chain.balance(payee.settings.pay_to)

    assert before == (0, PRICE * 10**12)
    assert (left, after, paid) == (0, PAID, PRICE)


async def test_a_flow_that_we_do_not_know_is_not_paid(
    agentpay_shared_chain: LocalChain,
) -> None:
    def escrow(message: Any) -> Any:
        for offer in message["accepts"]:
            offer["extra"]["paymentFlow"] = "escrow"
        return message

    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(rewriting(wall, PAYMENT_REQUIRED, escrow)))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            with pytest.raises(NoAcceptableOffer, match="payment flow is escrow"):
                await agent.get(BASE + PATH)

    assert not wire.credentials
