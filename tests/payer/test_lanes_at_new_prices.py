"""A strict payee whose prices change: its lanes are asked about under its new ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from agentpay import Agent, Policy
from agentpay.errors import PaymentOutcomeUnknown
from agentpay.payer.corrected import read_offered
from agentpay.payer.payment import Answer
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.headers import encode_json
from agentpay.wire.x402 import PAYMENT_REQUIRED
from tests.http.test_prices_by_query import BIG, OK, Market, bought, buying
from tests.http.world import PRICE, eventually, through
from tests.payer.books import none_open
from tests.payer.test_lanes import official
from tests.payer.test_strict_totals import asks, payload_of, put, waiting_for_a_deposit

NOBODY = "0x" + "ab" * 20
KIND = "batch-settlement"
POLICY = Policy(deposit="$0.1", low_water="$0.01", give_up_seconds=3)


def strict(market: Market) -> httpx.AsyncBaseTransport:
    """A market by x402's own server, which gives no receipt for a failed request."""
    inner = through(official(market.app))

    async def serve(request: httpx.Request) -> httpx.Response:
        answer = await inner.handle_async_request(request)
        bare = httpx.Response(answer.status_code, text="it failed")
        return bare if answer.status_code in (404, 500) else answer

    return httpx.MockTransport(serve)


def always(price: int) -> Callable[[bytes], int]:
    """This price, whatever the query is."""
    return lambda _: price


async def fail(agent: Agent, url: str) -> None:
    """A request that is paid, fails and so costs nothing."""
    failing = f"{url}{'&' if '?' in url else '?'}status=404"
    assert (await agent.get(failing)).status_code == 404


async def test_c8_a_lane_outlives_every_price_and_is_closed(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with buying(agentpay_shared_chain, KIND, policy=POLICY) as (market, agent):
        market.wire.inner = strict(market)
        told = list[int | str]()
        for price in (PRICE, PRICE + 10, PRICE - 10):
            market.price_of = always(price)
            for _ in range(2):
                told.append(await bought(agent, OK))
                await eventually(lambda: none_open(agent))
        (record,) = await agent.channels()
        closed = await agent.close_channel(record.channel)

    assert told == [200, 200, "rejected", 200, "rejected", 200]
    assert closed.spent == 4 * PRICE
    assert closed.returned == record.ledger.balance - 4 * PRICE


@pytest.mark.parametrize("url", [OK, BIG], ids=["of the bare URL", "of the query"])
async def test_c8_a_lane_whose_price_is_that_of_a_query_outlives_failures(
    agentpay_shared_chain: LocalChain, url: str
) -> None:
    """It is asked about at its URL without the query."""
    async with buying(agentpay_shared_chain, KIND, policy=POLICY) as (market, agent):
        market.wire.inner = strict(market)
        assert (await agent.get(url)).status_code == 200
        for _ in range(3):
            await fail(agent, url)
            await eventually(lambda: none_open(agent))
        assert (await agent.get(url)).status_code == 200
        (record,) = await agent.channels()
        closed = await agent.close_channel(record.channel)

    assert closed.spent == 2 * market.price_of(url.encode())


async def test_c8_a_channel_whose_payee_names_fates_is_asked_about_at_any_price(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with buying(agentpay_shared_chain, KIND, policy=POLICY) as (market, agent):
        assert (await agent.get(OK)).status_code == 200
        market.wire.lose_requests = 10**6
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.get(OK)
        market.price_of = always(2 * PRICE)
        market.wire.lose_requests = 0
        await eventually(lambda: none_open(agent))
        (record,) = await agent.channels()

    assert record.ledger.spent == PRICE


async def test_c8_a_payee_with_a_new_price_for_each_question_is_asked_for_a_while(
    agentpay_shared_chain: LocalChain,
) -> None:
    prices = iter(range(PRICE + 1, 2 * PRICE))
    policy = replace(POLICY, give_up_seconds=1)
    async with buying(agentpay_shared_chain, KIND, policy=policy) as (market, agent):
        market.wire.inner = strict(market)
        assert (await agent.get(OK)).status_code == 200
        (record,) = await agent.channels()
        market.price_of = lambda _: next(prices)
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.payer.channels.inquiry.until_final(record, 2 * PRICE)

        assert 3 <= sum(map(asks, market.wire.sent)) <= 5


@pytest.mark.parametrize("first", [True, False], ids=["first", "top-up"])
async def test_c14_a_deposit_that_goes_along_is_asked_with_under_its_own_offer_alone(
    agentpay_shared_chain: LocalChain, *, first: bool
) -> None:
    """A top-up goes along with no question."""
    async with buying(agentpay_shared_chain, KIND, policy=POLICY) as (market, agent):
        market.wire.inner = strict(market)
        assert (await agent.get(OK)).status_code == 200
        (record,) = await agent.channels()
        record = waiting_for_a_deposit(record)
        if first:
            record = replace(record, ledger=replace(record.ledger, balance=0))
        await put(agent, record)
        market.price_of = always(2 * PRICE)
        cost = await agent.payer.channels.inquiry.until_final(record, 2 * PRICE)

        questions = [q for q in market.wire.sent if asks(q)]
        assert ["deposit" in payload_of(q) for q in questions] == (
            [True] if first else [False, False]
        )
        assert cost == (None if first else 0)


@pytest.mark.parametrize(
    "other",
    [
        {"scheme": "exact"},
        {"network": "eip155:1"},
        {"asset": NOBODY},
        {"payTo": NOBODY},
        {"extra": {"receiverAuthorizer": NOBODY}},
        {"extra": {"receiverAuthorizer": None}},
        {"extra": {"withdrawDelay": 7200}},
        {"extra": {}, "maxTimeoutSeconds": "soon"},
    ],
    ids=str,
)
async def test_an_offer_for_another_channel_is_not_read_for_ours(
    agentpay_shared_chain: LocalChain, other: dict[str, Any]
) -> None:
    async with buying(agentpay_shared_chain, KIND, policy=POLICY) as (market, agent):
        market.wire.inner = strict(market)
        assert (await agent.get(OK)).status_code == 200
        (record,) = await agent.channels()

    ours = json.loads(record.offer)
    theirs = {**ours, **other, "extra": {**ours["extra"], **other.get("extra", {})}}
    dearer = {**ours, "amount": str(2 * PRICE)}
    state = {"channelState": {"chargedCumulativeAmount": "0"}}
    corrective = {**dearer, "extra": {**ours["extra"], **state}}

    assert read_offered(refusal(theirs, corrective), record) == [dearer]


def refusal(*offers: dict[str, Any]) -> Answer:
    required = encode_json({"x402Version": 2, "accepts": list(offers)})
    return Answer(status=402, headers={PAYMENT_REQUIRED.lower(): required})
