"""Agents pay for streams as they flow: a little ahead, and never blindly."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from agentpay import Agent, Budget, Payee, Paywall, Policy, Streaming
from agentpay.errors import BudgetExceeded, ChannelUnusable, PayeeMisbehaved
from agentpay.http.asgi import Receive, Scope, Send
from agentpay.http.paid_stream import PaidStream
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.mpp.evm_session import NeedVoucher
from tests.http.test_selling_streams import PER_TOKEN, Model, route
from tests.http.ways import to_servers
from tests.http.world import Wire, a_payee, an_agent, eventually, serving
from tests.payee.mpp_hand import MPP

from .books import charged, spent
from .sessions import on_chain, payload_of, the_session

pytestmark = pytest.mark.usefixtures("way")

INCREMENT = 100
AHEAD = 400
STREAM = route(
    price="$0.05",
    streaming=Streaming(increment=INCREMENT, wait_seconds=5),
    schemes=("batch-settlement",),
)
BY_SESSION = Policy(
    prefer=("session",),
    deposit="$0.1",
    low_water="$0.01",
    headroom="$0.001",
    ahead="$0.0004",
    give_up_seconds=3,
)
BUDGET = Budget(total="$5", per_request="$0.04")


@dataclass
class Models:
    """An application with one model for each request."""

    models: list[Model] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.models.pop(0)(scope, receive, send)
            return
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return


@dataclass
class Market:
    """A seller of streams, and an agent that buys there."""

    app: Models
    payee: Payee
    agent: Agent
    wire: Wire
    url: str

    @contextlib.asynccontextmanager
    async def stream(self, model: Model, **options: Any) -> AsyncIterator[PaidStream]:
        self.app.models.append(model)
        async with self.agent.stream_paid("GET", self.url, **options) as stream:
            yield stream

    async def read(self, model: Model, **options: Any) -> tuple[PaidStream, list[str]]:
        async with self.stream(model, **options) as stream:
            return stream, [event.data async for event in stream]

    async def holds_nothing(self) -> bool:
        return not (await self.agent.spending()).held

    async def books(self) -> tuple[int, int]:
        """What both sides say was spent, once nothing is open."""

        async def rests() -> bool:
            records = await self.agent.channels()
            return not any(record.ledger.open for record in records)

        await eventually(rests)
        return await spent(self.agent), await charged(self.payee, self.agent)


@contextlib.asynccontextmanager
async def a_market(
    chain: LocalChain, *, clock: Callable[[], float] = time.time, **options: Any
) -> AsyncIterator[Market]:
    async with a_payee(chain, mpp=MPP, clock=clock) as payee:
        app = Models()
        wall = Paywall(app, payee=payee, routes={"/stream": STREAM})
        wire = Wire(to_servers())
        defaults: dict[str, Any] = {
            "policy": BY_SESSION,
            "budget": BUDGET,
            "allow_private_networks": True,
        }
        async with (
            serving(wall) as url,
            await an_agent(chain, wire, **{**defaults, **options}) as agent,
        ):
            yield Market(app, payee, agent, wire, url + "/stream")


async def test_a_stream_is_paid_as_it_flows_and_its_payment_is_not_seen(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_market(agentpay_shared_chain) as market:
        stream, tokens = await market.read(Model(tokens=200))

        assert tokens == [f"token {n}" for n in range(200)]
        assert stream.charged == 200 * PER_TOKEN
        assert await market.books() == (200 * PER_TOKEN, 200 * PER_TOKEN)
        assert stream.ahead_most <= AHEAD + INCREMENT
        assert 200 * PER_TOKEN // AHEAD <= stream.vouchers <= 60
        record = await the_session(market.agent)
        assert record.ledger.exposure <= record.ledger.headroom


async def test_any_client_of_httpx_reads_a_stream_and_pays_for_it(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_market(agentpay_shared_chain) as market:
        market.app.models += [Model(tokens=50), Model(tokens=20)]
        async with market.agent.stream("GET", market.url) as answer:
            lines = [line async for line in answer.aiter_lines() if line]
        whole = await market.agent.get(market.url)

        assert lines == [f"data: token {n}" for n in range(50)]
        assert whole.text.count("data: token") == 20
        assert "payment" not in whole.text
        assert await market.books() == (70 * PER_TOKEN, 70 * PER_TOKEN)


async def test_streams_at_once_are_paid_on_one_session(
    agentpay_shared_chain: LocalChain,
) -> None:
    policy = Policy(prefer=("session",), deposit="$0.1", give_up_seconds=5)
    async with a_market(agentpay_shared_chain, policy=policy) as market:
        sizes = (40, 80, 20, 60)
        read = await asyncio.gather(
            *(market.read(Model(tokens=size)) for size in sizes)
        )

        assert sorted(len(tokens) for _, tokens in read) == sorted(sizes)
        assert await market.books() == (200 * PER_TOKEN, 200 * PER_TOKEN)
        assert len(await market.agent.channels()) == 1


async def test_a_session_is_topped_up_while_a_stream_flows(
    agentpay_shared_chain: LocalChain,
) -> None:
    policy = Policy(
        prefer=("session",),
        deposit="$0.002",
        low_water="$0.0005",
        headroom="$0.001",
        ahead="$0.0004",
        give_up_seconds=5,
    )
    async with a_market(agentpay_shared_chain, policy=policy) as market:
        stream, tokens = await market.read(Model(tokens=250))
        record = await the_session(market.agent)

        assert len(tokens) == 250
        assert stream.charged == 250 * PER_TOKEN
        assert record.ledger.balance >= 250 * PER_TOKEN
        state = await on_chain(agentpay_shared_chain, record)
        assert state.deposit == record.ledger.balance


async def test_a_session_closes_with_what_its_streams_cost(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_market(agentpay_shared_chain) as market:
        for size in (33, 1):
            await market.read(Model(tokens=size))
        record = await the_session(market.agent)
        closed = await market.agent.close_channel(record.channel)
        state = await on_chain(agentpay_shared_chain, record)

        assert closed.spent == state.settled == 34 * PER_TOKEN
        assert state.finalized


async def test_p10_who_leaves_a_stream_pays_for_what_was_sent(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_market(agentpay_shared_chain) as market:
        gate = asyncio.Event()

        async def wait(n: int) -> None:
            if n == 30:
                await gate.wait()

        model = Model(tokens=100, before=wait)
        async with market.stream(model) as stream:
            seen = 0
            async for _ in stream:
                seen += 1
                if seen == 30:
                    break
        gate.set()
        ours, theirs = await market.books()

        assert stream.charged is None
        assert ours == theirs == 30 * PER_TOKEN


async def test_c8_who_left_a_stream_and_asks_again_reads_another_one(
    agentpay_shared_chain: LocalChain,
) -> None:
    """What came of the first was had: no answer to it is due."""
    async with a_market(agentpay_shared_chain) as market:
        async with market.stream(Model(tokens=100)) as stream:
            async for _ in stream:
                break
        first, _ = await market.books()
        again, tokens = await market.read(Model(tokens=5))
        ours, theirs = await market.books()

        assert (len(tokens), again.charged) == (5, 5 * PER_TOKEN)
        assert ours == theirs == first + 5 * PER_TOKEN


async def test_a_stream_costs_no_more_than_a_request_may(
    agentpay_shared_chain: LocalChain,
) -> None:
    budget = Budget(total="$5", per_request="$0.001")
    async with a_market(agentpay_shared_chain, budget=budget) as market:
        with pytest.raises(BudgetExceeded):
            await market.read(Model(tokens=200))
        ours, theirs = await market.books()

        assert ours == theirs <= 1000


async def test_an_event_may_be_worth_more_than_one_unit(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_market(agentpay_shared_chain) as market:
        stream, tokens = await market.read(Triples(tokens=60), count=lambda e: 3)

        assert len(tokens) == 60
        assert stream.charged == 180 * PER_TOKEN
        assert await market.books() == (180 * PER_TOKEN, 180 * PER_TOKEN)


class Triples(Model):
    """A model that charges three tokens for each event."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        meter = scope["agentpay"].meter

        class Thrice:
            async def charge(self, *, tokens: int) -> None:
                await meter.charge(tokens=3 * tokens)

        inner = {**scope, "agentpay": type("Paid", (), {"meter": Thrice()})()}
        await super().__call__(inner, receive, send)


async def test_p15_what_a_payee_counts_and_we_do_not_stays_within_the_headroom(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_market(agentpay_shared_chain) as market:
        with pytest.raises(ChannelUnusable, match="count="):
            await market.read(Triples(tokens=200))
        record = await the_session(market.agent)
        ours, theirs = await market.books()

        assert record.ledger.exposure <= record.ledger.headroom
        assert ours == theirs


async def test_p15_an_answer_that_cost_more_than_was_counted_is_said_as_such(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_market(agentpay_shared_chain) as market:
        with pytest.raises(PayeeMisbehaved, match="by our own count"):
            await market.read(Triples(tokens=5), count=lambda e: 1)

        assert await market.books() == (15 * PER_TOKEN, 15 * PER_TOKEN)


async def test_a_stream_on_a_channel_of_x402_is_read_to_its_end(
    agentpay_shared_chain: LocalChain,
) -> None:
    policy = Policy(prefer=("batch-settlement",), headroom="$0.1", give_up_seconds=3)
    budget = Budget(total="$5", per_request="$0.10")
    async with a_market(agentpay_shared_chain, policy=policy, budget=budget) as market:
        stream, tokens = await market.read(Model(tokens=40))
        record = await the_session(market.agent)

        assert len(tokens) == 40
        assert stream.charged == record.ledger.spent == 40 * PER_TOKEN
        assert not record.ledger.open


async def test_nothing_is_signed_for_a_payee_that_asks_for_what_it_has(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_market(agentpay_shared_chain) as market,
        market.stream(Model(tokens=200)) as stream,
    ):
        running = stream._running
        assert running is not None
        async for _ in stream:
            if stream.vouchers > 1:
                break
        await running._rest()
        signed, vouchers = running._signed, stream.vouchers
        amounts = ("requiredCumulative", "acceptedCumulative", "deposit")
        late = NeedVoucher.model_validate(
            {"channelId": running._payment.record.channel}
            | dict.fromkeys(amounts, str(signed))
        )
        await running.asked(late)

        assert (running._signed, stream.vouchers) == (signed, vouchers)


@pytest.mark.parametrize("lost", ["lose_requests", "lose_answers"])
async def test_a_voucher_whose_answer_is_lost_is_sent_once_more_and_not_signed_anew(
    agentpay_shared_chain: LocalChain, lost: str
) -> None:
    async with a_market(agentpay_shared_chain) as market:

        async def lose(n: int) -> None:
            if n == 10:
                setattr(market.wire, lost, 1)

        stream, tokens = await market.read(Model(tokens=100, before=lose))
        payloads = [payload_of(c) for c in market.wire.credentials]
        signed = {p["cumulativeAmount"] for p in payloads}
        first = payloads[0]["cumulativeAmount"]

        assert len(tokens) == 100
        assert len(signed) == stream.vouchers < len(payloads)
        raised = [p["raises"] for p in payloads if "raises" in p]
        assert {r["cumulative"] for r in raised} == {first}
        assert await market.books() == (100 * PER_TOKEN, 100 * PER_TOKEN)


async def test_a_stream_outlives_the_challenge_that_it_began_with(
    agentpay_shared_chain: LocalChain,
) -> None:
    late = 0.0

    async def pass_by(n: int) -> None:
        nonlocal late
        if n == 40:
            late += 1000

    async with a_market(
        agentpay_shared_chain, clock=lambda: time.time() + late
    ) as market:
        stream, tokens = await market.read(Model(tokens=100, before=pass_by))

        assert len(tokens) == 100
        assert stream.charged == 100 * PER_TOKEN
        assert await market.books() == (100 * PER_TOKEN, 100 * PER_TOKEN)


async def test_who_is_cancelled_while_reading_leaves_nothing_open(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_market(agentpay_shared_chain) as market:
        for pause in (0.0, 0.005, 0.01, 0.02, 0.04):
            reading = asyncio.create_task(market.read(Model(tokens=400)))
            await asyncio.sleep(pause)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            market.app.models.clear()

            # A deposit is looked for once its request is known to be over.
            await eventually(market.holds_nothing)
            ours, theirs = await market.books()
            assert ours == theirs
