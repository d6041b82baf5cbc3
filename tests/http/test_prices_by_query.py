"""Routes whose price depends on the query, as an agent learns and remembers them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import httpx
import pytest

from agentpay import Agent, Budget, Payee, Paywall, Policy, Route
from agentpay.errors import BudgetExceeded, PaymentRejected, PriceRose
from agentpay.http.memory import Memory
from agentpay.http.paywall import Receive, Scope, Send
from agentpay.payer.payment import Target
from agentpay.payer.policy import scale
from agentpay.testing.local_chain import LocalChain
from tests.http.world import PRICE, QUICK, Shop, Wire, a_payee, an_agent, through
from tests.payee.mpp_hand import MPP
from tests.payer.test_lanes import official

OK = "https://shop.example/ok"
BIG = f"{OK}?big=1"
SCHEMES = {"session": ("batch-settlement",), "charge": ("exact",)}
"""What sells by the intents of MPP."""
VOUCHERS = ["batch-settlement", "session"]
KINDS = ["exact", *VOUCHERS, "charge"]


class Market:
    """A shop whose `/ok` costs so much by its query; one that takes both protocols."""

    def __init__(self, payee: Payee, kind: str) -> None:
        self._payee = payee
        self._schemes = SCHEMES.get(kind, (kind,))
        self.shop = Shop()
        self.price_of: Callable[[bytes], int] = big_is_dear
        self.wire = Wire(through(self.app))

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        price = self.price_of(scope.get("query_string", b""))
        route = Route(price=price, schemes=self._schemes)
        wall = Paywall(self.shop, payee=self._payee, routes={"/ok": route})
        await wall(scope, receive, send)


def big_is_dear(query: bytes) -> int:
    return PRICE * 2 if b"big" in query else PRICE


@contextlib.asynccontextmanager
async def buying(
    chain: LocalChain,
    kind: str,
    *,
    policy: Policy = QUICK,
    per_request: str = "$0.10",
) -> AsyncIterator[tuple[Market, Agent]]:
    """A market, and an agent that pays there by one kind."""
    budget = Budget(total="$5", per_request=per_request)
    policy = replace(policy, prefer=(kind,))
    async with a_payee(chain, mpp=MPP) as payee:
        market = Market(payee, kind)
        async with await an_agent(
            chain, market.wire, policy=policy, budget=budget
        ) as agent:
            yield market, agent


async def bought(agent: Agent, url: str) -> int | str:
    """The status of an answer, or why it was rejected."""
    try:
        return (await agent.get(url)).status_code
    except PaymentRejected:
        return "rejected"


async def trips(agent: Agent, *urls: str) -> list[int]:
    """How many round trips each of these purchases costs."""
    counts = []
    for url in urls:
        before = agent.round_trips
        assert (await agent.get(url)).status_code == 200
        counts.append(agent.round_trips - before)
    return counts


async def totals(agent: Agent) -> tuple[int, int]:
    """What was spent and what is held, in base units."""
    spending = await agent.spending()
    return spending.spent // scale(1, 6), spending.held // scale(1, 6)


def target(url: str, method: str = "GET") -> Target:
    return Target(method=method, url=url, origin="https://a", host="a")


@pytest.mark.parametrize("urls", [(OK, BIG), (BIG, OK)], ids=["dearer", "cheaper"])
@pytest.mark.parametrize("kind", [*VOUCHERS, "charge"])
async def test_prices_by_query_are_all_paid_and_then_remembered(
    agentpay_shared_chain: LocalChain, kind: str, urls: tuple[str, str]
) -> None:
    async with buying(agentpay_shared_chain, kind) as (market, agent):
        outcomes = [await bought(agent, url) for url in urls * 3]
        later = await trips(agent, *urls)
        paid, held = await totals(agent)

    assert outcomes == [200] * 6
    assert later == [1, 1] if kind != "charge" else [2, 2]
    assert (paid, held) == (4 * 3 * PRICE, 0)
    assert market.shop.served["/ok"] == 8


@pytest.mark.parametrize("urls", [(OK, BIG), (BIG, OK)], ids=["dearer", "cheaper"])
async def test_c3_a_transfer_for_another_query_is_refused_once_and_not_paid_beside(
    agentpay_shared_chain: LocalChain, urls: tuple[str, str]
) -> None:
    async with buying(agentpay_shared_chain, "exact") as (market, agent):
        outcomes = [await bought(agent, url) for url in urls * 3]
        later = await trips(agent, *urls)
        paid, held = await totals(agent)
        refused = big_is_dear(urls[0].encode())

    assert outcomes == [200, "rejected", 200, 200, 200, 200]
    assert later == [1, 1]
    assert held == refused  # signed by the first one's offer, and still out
    assert paid == 4 * 3 * PRICE - big_is_dear(urls[1].encode())
    assert len(market.wire.credentials) == 8


async def test_c3_a_payee_that_names_no_fates_refuses_another_query_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with buying(agentpay_shared_chain, "batch-settlement") as (market, agent):
        market.wire.inner = through(official(market.app))
        outcomes = [await bought(agent, url) for url in (OK, BIG) * 3]
        paid, _ = await totals(agent)

    assert outcomes == [200, "rejected", 200, 200, 200, 200]
    assert paid == PRICE * 7


@pytest.mark.parametrize("kind", KINDS)
async def test_queries_of_one_price_cost_one_round_trip_each(
    agentpay_shared_chain: LocalChain, kind: str
) -> None:
    async with buying(agentpay_shared_chain, kind) as (_, agent):
        await agent.get(OK)
        counts = await trips(agent, *(f"{OK}?n={n}" for n in range(5)))

    assert counts == [2 if kind == "charge" else 1] * 5


@pytest.mark.parametrize("url", [OK, BIG])
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("kind", ["exact", *VOUCHERS])
async def test_c3_a_price_that_rose_for_the_same_url_is_refused(
    agentpay_shared_chain: LocalChain, kind: str, url: str, *, apart: bool
) -> None:
    async with buying(agentpay_shared_chain, kind) as (market, agent):
        for first in (url, OK, BIG, OK, BIG) if apart else (url,):
            await bought(agent, first)
        before, _ = await totals(agent)
        market.price_of = lambda query: 2 * big_is_dear(query)
        with pytest.raises(PaymentRejected):
            await agent.get(url)
        after, _ = await totals(agent)

        assert after == before
        assert (await agent.get(url)).status_code == 200  # asked again, it is agreed to


@pytest.mark.parametrize("kind", ["exact", *VOUCHERS])
async def test_c3_a_url_that_was_bought_by_anothers_offer_has_a_price_that_rises(
    agentpay_shared_chain: LocalChain, kind: str
) -> None:
    async with buying(agentpay_shared_chain, kind) as (market, agent):
        for url in (OK, f"{OK}?n=1"):
            await agent.get(url)
        market.price_of = lambda query: 2 * PRICE
        with pytest.raises(PaymentRejected):
            await agent.get(f"{OK}?n=1")
        paid, _ = await totals(agent)

    assert paid == 2 * PRICE


@pytest.mark.parametrize("kind", VOUCHERS)
async def test_a_url_that_is_paid_as_before_has_not_risen(
    agentpay_shared_chain: LocalChain, kind: str
) -> None:
    """Its own offer was forgotten, and that of another query learned since."""
    async with buying(agentpay_shared_chain, kind) as (_, agent):
        await agent.get(BIG)
        agent._payments._memory._offers.clear()
        outcomes = [await bought(agent, url) for url in (OK, BIG)]

    assert outcomes == [200, 200]


@pytest.mark.parametrize("kind", VOUCHERS)
async def test_c3_a_price_seen_first_is_paid_within_budget_and_policy_alone(
    agentpay_shared_chain: LocalChain, kind: str
) -> None:
    async with buying(agentpay_shared_chain, kind, per_request="$0.0015") as (
        market,
        agent,
    ):
        await agent.get(OK)
        with pytest.raises(BudgetExceeded):
            await agent.get(BIG)
        assert await totals(agent) == (PRICE, 0)
        assert market.shop.served["/ok"] == 1

    creeping = replace(QUICK, price_rise_max=1)
    async with buying(agentpay_shared_chain, kind, policy=creeping) as (_, agent):
        await agent.get(OK)
        with pytest.raises(PriceRose):
            await agent.get(BIG)
        assert await totals(agent) == (PRICE, 0)


async def test_c3_one_request_is_paid_anew_for_another_url_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    """A price that rises with every refusal is not followed."""
    async with buying(agentpay_shared_chain, "batch-settlement") as (market, agent):
        await agent.get(OK)
        asked = iter(range(2, 10))
        market.price_of = lambda query: PRICE * next(asked)
        with pytest.raises(PaymentRejected):
            await agent.get(BIG)
        paid, _ = await totals(agent)

        assert paid == PRICE
        assert market.shop.served["/ok"] == 1


@pytest.mark.parametrize("kind", ["exact", "batch-settlement"])
async def test_requests_at_once_for_another_query_are_paid_once_each_at_most(
    agentpay_shared_chain: LocalChain, kind: str
) -> None:
    async with buying(agentpay_shared_chain, kind) as (market, agent):
        await agent.get(OK)
        urls = [f"{BIG}&n={n}" for n in range(8)]
        outcomes = await asyncio.gather(*(bought(agent, url) for url in urls))
        paid, _ = await totals(agent)

        served = outcomes.count(200)
        assert kind == "exact" or served == 8
        assert market.shop.served["/ok"] == 1 + served
        assert paid == PRICE + 2 * PRICE * served
        assert [await bought(agent, url) for url in urls] == [200] * 8


@pytest.mark.parametrize("kind", ["exact", "batch-settlement"])
async def test_a_refusal_at_the_same_price_does_not_tell_queries_apart(
    agentpay_shared_chain: LocalChain, kind: str
) -> None:
    async with buying(agentpay_shared_chain, kind) as (market, agent):
        await agent.get(OK)
        shop = market.wire.inner

        async def unpaid(request: httpx.Request) -> httpx.Response:
            del request.headers["payment-signature"]
            return await shop.handle_async_request(request)

        market.wire.inner = httpx.MockTransport(unpaid)
        with pytest.raises(PaymentRejected):
            await agent.get(f"{OK}?refused=1")
        market.wire.inner = shop
        await agent.get(OK)

        assert await trips(agent, *(f"{OK}?n={n}" for n in range(3))) == [1, 1, 1]


async def test_a_method_is_told_apart_from_no_other(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with buying(agentpay_shared_chain, "batch-settlement") as (_, agent):
        await agent.post(OK)
        for url in (OK, BIG):
            await agent.get(url)
        before = agent.round_trips
        await agent.post(f"{OK}?n=1")

        assert agent.round_trips - before == 1


async def test_a_hundred_queries_of_different_prices_are_all_paid(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with buying(agentpay_shared_chain, "batch-settlement") as (market, agent):
        market.price_of = lambda query: PRICE // 10 + len(query) % 7
        outcomes = [await bought(agent, f"{OK}?{'q' * n}") for n in range(100)]
        memory = agent._payments._memory

        assert outcomes == [200] * 100
        assert len(memory._by_url) == 1
        assert len(memory._offers_by_url) == 100


def test_queries_are_remembered_within_bounds_and_push_no_route_out() -> None:
    memory = Memory()
    memory.remember(target("https://a/plain"), None)
    memory.tell_apart(target("https://a/ok"))
    for n in range(5000):
        memory.remember(target(f"https://a/ok?{n}"), None)
        memory.note_agreed(target(f"https://a/ok?{n}"), n)

    assert len(memory._offers_by_url) == 1024
    assert len(memory._agreed) == 4096
    assert memory._fresh(target("https://a/plain?x")) is not None
    assert memory._fresh(target("https://a/ok?4999")) is not None
    assert memory._fresh(target("https://a/ok?1")) is None


def test_routes_that_are_told_apart_are_remembered_within_bounds() -> None:
    memory = Memory()
    for n in range(5000):
        memory.tell_apart(target(f"https://a/{n}"))

    assert len(memory._by_url) == 1024
