"""Requests of sessions that go on: more is signed as they are delivered, in bounds."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from agentpay import Agent, Budget, Payee, Paywall, Policy, Streaming
from agentpay.errors import BudgetExceeded, ChannelUnusable, PaymentOutcomeUnknown
from agentpay.http.readings import answer_of
from agentpay.payer.payer import Payer
from agentpay.payer.payment import Payment
from agentpay.payer.session_running import RunningRequest
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.mpp.sse import (
    NEED_VOUCHER,
    RECEIPT,
    EventReader,
    ServerEvent,
    read_need_voucher,
)
from tests.http.test_selling_streams import INCREMENT, PER_TOKEN, Model, route
from tests.http.world import ROUTES, Wire, a_payee, an_agent, eventually, serving
from tests.payee.mpp_hand import MPP

from .sessions import at_rest, charged, payload_of, spent, the_session

STREAM = "/stream"
HEADROOM = 3 * INCREMENT
POLICY = Policy(
    prefer=("session",), deposit=5000, headroom=HEADROOM, low_water=0, give_up_seconds=2
)


@dataclass(kw_only=True)
class Market:
    """A shop of streams at a real server, and an agent."""

    agent: Agent
    payee: Payee
    wire: Wire
    url: str

    @property
    def payer(self) -> Payer:
        assert self.agent._payer is not None
        return self.agent._payer

    @contextlib.asynccontextmanager
    async def begun(
        self,
    ) -> AsyncIterator[tuple[RunningRequest, AsyncIterator[ServerEvent], Payment]]:
        """A stream whose head came in."""
        offers, target = await self.agent._payments.look_up(self.url)
        (offer,) = [o for o in offers if o.scheme == "session"]
        payment = await self.payer.pay(offer, target)
        async with (
            httpx.AsyncClient() as client,
            client.stream(
                "GET", self.url, headers={payment.header: payment.credential}
            ) as response,
        ):
            judged = await payment.book(answer_of(response), resent=False)
            assert judged.running
            running = self.payer.running(payment, offer, target)
            assert running is not None
            yield running, events_of(response), payment


async def events_of(response: httpx.Response) -> AsyncIterator[ServerEvent]:
    reader = EventReader()
    async for chunk in response.aiter_raw():
        for event in reader.feed(chunk):
            yield event


@contextlib.asynccontextmanager
async def a_market(
    chain: LocalChain, *, tokens: int = 60, wait_seconds: float = 5, **options: Any
) -> AsyncIterator[Market]:
    streaming = Streaming(increment=INCREMENT, wait_seconds=wait_seconds)
    routes = {**ROUTES, STREAM: route(streaming=streaming)}
    async with a_payee(chain, mpp=MPP) as payee:
        wall = Paywall(Model(tokens=tokens), payee=payee, routes=routes)
        wire = Wire(httpx.AsyncHTTPTransport())
        defaults: dict[str, Any] = {"policy": POLICY, "allow_private_networks": True}
        async with (
            serving(wall) as base,
            await an_agent(chain, wire, **{**defaults, **options}) as agent,
        ):
            yield Market(agent=agent, payee=payee, wire=wire, url=base + STREAM)


async def exposure(agent: Agent) -> int:
    return (await the_session(agent)).ledger.exposure


async def test_a_stream_may_cost_more_than_the_headroom_as_it_is_delivered(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_market(agentpay_shared_chain) as market:
        tokens, worst, last = 0, 0, None
        async with market.begun() as (running, events, _):
            async for event in events:
                worst = max(worst, await exposure(market.agent))
                if event.event == NEED_VOUCHER:
                    need = read_need_voucher(event).required_cumulative
                    assert await running.raise_by(INCREMENT, required=need)
                elif event.event == RECEIPT:
                    last = event
                else:
                    tokens += 1
                    await running.progress(tokens * PER_TOKEN)
        assert last is not None
        judged = await running.finish(last)

        assert tokens == 60
        assert judged.charged == 60 * PER_TOKEN > HEADROOM
        assert worst <= HEADROOM
        assert await at_rest(market.agent)
        assert await spent(market.agent) == await charged(market.payee, market.agent)
        record = await the_session(market.agent)
        closed = await market.agent.close_channel(record.channel)
        assert closed.spent == 60 * PER_TOKEN


async def test_nothing_is_signed_beyond_the_headroom_for_what_did_not_come(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_market(agentpay_shared_chain) as market,
        market.begun() as (running, _, _),
    ):
        assert await running.raise_by(INCREMENT)
        assert await running.raise_by(INCREMENT)
        asked = len(market.wire.sent)

        assert not await running.raise_by(INCREMENT)
        assert await running.maximum() == HEADROOM
        assert len(market.wire.sent) == asked
        await running.finish(None)


@pytest.mark.parametrize("lost", ["lose_requests", "lose_answers"])
async def test_a_raise_whose_answer_is_lost_is_the_same_voucher_again(
    agentpay_shared_chain: LocalChain, lost: str
) -> None:
    async with (
        a_market(agentpay_shared_chain, tokens=8) as market,
        market.begun() as (running, events, payment),
    ):
        setattr(market.wire, lost, 2)
        assert await running.raise_by(INCREMENT)
        (credential,) = set(market.wire.credentials)
        last = [event async for event in events][-1]
        await running.finish(last)

        first = payload_of(payment.credential)["cumulativeAmount"]
        raises = payload_of(credential)["raises"]
        assert raises == {"cumulative": first, "maximum": str(2 * INCREMENT)}
        assert await at_rest(market.agent)
        assert await spent(market.agent) == 8 * PER_TOKEN


async def test_a_raise_that_nobody_answers_is_unknown_and_asked_about(
    agentpay_shared_chain: LocalChain,
) -> None:
    policy = Policy(prefer=("session",), deposit=5000, low_water=0, give_up_seconds=0.3)
    async with a_market(agentpay_shared_chain, policy=policy) as market:
        async with market.begun() as (running, _, _):
            market.wire.lose_requests = 10**6
            with pytest.raises(PaymentOutcomeUnknown):
                await running.raise_by(INCREMENT)
        assert len((await the_session(market.agent)).ledger.open) == 2
        market.wire.lose_requests = 0
        await running.finish(None)
        await eventually(lambda: at_rest(market.agent))

        assert await spent(market.agent) == await charged(market.payee, market.agent)


async def test_who_leaves_in_a_raise_leaves_nothing_open(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_market(agentpay_shared_chain, tokens=200) as market:
        for steps in range(0, 40, 2):
            async with market.begun() as (running, events, _):
                raising = asyncio.create_task(running.raise_by(INCREMENT))
                for _ in range(steps):
                    await asyncio.sleep(0)
                raising.cancel()
                await asyncio.gather(raising, return_exceptions=True)
                await anext(events)
            await running.finish(None)
            await eventually(lambda: at_rest(market.agent))

            spending = await market.agent.spending()
            assert spending.held == 0
            ours = await spent(market.agent)
            assert ours == await charged(market.payee, market.agent)


async def test_the_budget_of_a_request_holds_for_what_it_comes_to_cost(
    agentpay_shared_chain: LocalChain,
) -> None:
    budget = Budget(total="$5", per_request=2 * INCREMENT)
    async with (
        a_market(agentpay_shared_chain, budget=budget) as market,
        market.begun() as (running, _, _),
    ):
        assert await running.raise_by(INCREMENT)
        with pytest.raises(BudgetExceeded):
            await running.raise_by(INCREMENT)
        assert await running.maximum() == 2 * INCREMENT
        await running.finish(None)


async def test_a_raise_takes_a_deposit_along_where_the_session_has_too_little(
    agentpay_shared_chain: LocalChain,
) -> None:
    policy = Policy(
        prefer=("session",), deposit=2 * INCREMENT, low_water=0, give_up_seconds=2
    )
    async with (
        a_market(agentpay_shared_chain, tokens=14, policy=policy) as market,
        market.begun() as (running, events, _),
    ):
        assert await running.raise_by(INCREMENT)
        assert await running.raise_by(INCREMENT)
        last = [event async for event in events][-1]
        await running.finish(last)
        record = await the_session(market.agent)

        assert "deposit" in payload_of(market.wire.credentials[-1])
        assert record.ledger.balance == 4 * INCREMENT
        assert record.ledger.spent == 14 * PER_TOKEN
        assert (await market.agent.spending()).held == 0


async def test_a_request_that_is_over_is_not_raised(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_market(agentpay_shared_chain, tokens=2) as market:
        async with market.begun() as (running, events, _):
            last = [event async for event in events][-1]
        await running.finish(last)

        assert await running.maximum() == 0
        with pytest.raises(ChannelUnusable, match="is over"):
            await running.raise_by(INCREMENT)


@pytest.mark.parametrize("said", ["nothing", "of another session", "of no voucher"])
async def test_a_stream_without_its_receipt_is_asked_about(
    agentpay_shared_chain: LocalChain, said: str
) -> None:
    async with a_market(agentpay_shared_chain, tokens=3) as market:
        async with market.begun() as (running, events, _):
            last = [event async for event in events][-1]
        record = await the_session(market.agent)
        data = last.data.replace('"fate"', '"was"')
        if said == "of another session":
            other = "0x" + "11" * 32
            data = last.data.replace(record.channel, other)
        event = None if said == "nothing" else ServerEvent(event=RECEIPT, data=data)
        judged = await running.finish(event)
        assert not judged.final
        await eventually(lambda: at_rest(market.agent))

        assert await spent(market.agent) == 3 * PER_TOKEN


async def test_a_plain_request_of_a_stream_is_booked_when_its_body_ends(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_market(agentpay_shared_chain, tokens=3) as market:
        answer = await market.agent.get(market.url)
        await eventually(lambda: at_rest(market.agent))

        assert answer.text.count("token") >= 3
        assert await spent(market.agent) == 3 * PER_TOKEN
        assert await charged(market.payee, market.agent) == 3 * PER_TOKEN
