"""What metrics, spans and logs say of money, and that they say no secret."""

import contextlib
import logging
import math
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from agentpay import Agent, Wallet
from agentpay.errors import GasMissing
from agentpay.http.asgi import App, Receive, Scope, Send
from agentpay.metrics import Watch
from agentpay.payee.payee import Payee
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.headers import encode_json
from agentpay.wire.x402 import PAYMENT_REQUIRED
from tests.http.world import (
    BASE,
    PRICE,
    a_payee,
    a_shop,
    an_agent,
    answer,
    eventually,
    open_payee,
    through,
)
from tests.keeper.test_batches_fit_the_chain import Dear
from tests.payee.mpp_hand import MPP

EXACT = "/exact/settle-first/ok"


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that is not asked."""


async def scraped(watch: Watch) -> dict[str, float]:
    """What Prometheus makes of the page; labels are part of a name."""
    async with httpx.AsyncClient(transport=through(watch.page)) as client:
        page = await client.get(BASE + "/metrics")
    return {
        " ".join(filter(None, [sample.name, *sample.labels.values()])): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


@contextlib.asynccontextmanager
async def watched(
    chain: LocalChain,
) -> AsyncIterator[tuple[Watch, Payee, Agent, InMemorySpanExporter]]:
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    async with a_shop(chain, mpp=MPP) as (_, payee, wall):
        watch = Watch(wall, payee=payee, tracer=provider.get_tracer("test"))
        async with await an_agent(chain, through(watch)) as agent:
            yield watch, payee, agent, spans


async def test_what_is_owed_is_scraped_and_falls_once_it_is_claimed(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with watched(agentpay_shared_chain) as (watch, payee, agent, _):
        nothing = await scraped(watch)
        for _ in range(3):
            await agent.get(BASE + "/ok")

        async def owed() -> bool:
            return (await payee.figures()).unclaimed == 3 * PRICE

        await eventually(owed)
        owing = await scraped(watch)
        await payee.settlement.claim()
        settled = await scraped(watch)

    assert nothing["agentpay_exposure_units"] == 0
    assert owing["agentpay_exposure_units"] == 3 * PRICE
    assert owing["agentpay_unclaimed_units"] == 3 * PRICE
    assert owing["agentpay_unclaimed_channels"] == 1
    assert 0 <= owing["agentpay_unclaimed_oldest_seconds"] < 60
    assert settled["agentpay_exposure_units"] == 0
    assert 0 < settled["agentpay_gas_wei"] < owing["agentpay_gas_wei"]


async def test_requests_are_counted_by_what_became_of_their_payment(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with watched(agentpay_shared_chain) as (watch, _, agent, spans):
        await agent.get(BASE + EXACT)
        async with httpx.AsyncClient(transport=through(watch)) as client:
            await client.get(BASE + "/free")
            bad = {"payment-signature": "e30="}
            assert (await client.get(BASE + "/ok", headers=bad)).status_code == 400
        counted = await scraped(watch)
        outcomes = [dict(span.attributes or {}) for span in spans.get_finished_spans()]

    assert counted["agentpay_answers_total paid"] == 1
    assert counted["agentpay_answers_total asked"] == 1
    assert counted["agentpay_answers_total free"] == 1
    (failed,) = [
        name
        for name in counted
        if re.fullmatch("agentpay_answers_total .* failed", name)
    ]
    assert [said["agentpay.outcome"] for said in outcomes] == [
        "asked",
        "paid",
        "free",
        "failed",
    ]
    assert outcomes[1] == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "agentpay.outcome": "paid",
    }
    assert outcomes[3]["agentpay.code"] == failed.split(" ")[1]


@pytest.mark.parametrize("status", [402, 412])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("insufficient_funds", "insufficient_funds"),
        ("insufficient_funds: of 0x12", "insufficient_funds"),
        ("whatever a stranger writes", "other"),
        ("x" * 65, "other"),
        (None, "other"),
    ],
)
async def test_c17_nobody_outside_makes_metrics_of_their_own(
    error: object, code: str, status: int
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        said = {PAYMENT_REQUIRED: encode_json({"error": error})}
        await answer(send, status, b"{}", said)

    async with a_watch_without_chain(app) as watch:
        async with httpx.AsyncClient(transport=through(watch)) as client:
            await client.get(BASE)
        counted = watch.registry.get_sample_value(
            "agentpay_answers_total", {"outcome": "refused", "code": code}
        )

    assert counted == 1


@contextlib.asynccontextmanager
async def a_watch_without_chain(app: App) -> AsyncIterator[Watch]:
    yield Watch(app, payee=Payee(Wallet.create(), network="local"))


async def test_figures_that_cannot_be_read_are_not_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        FaultyRpc(chain.rpc_url) as proxy,
        a_payee(chain, rpc_url=proxy.url) as payee,
    ):
        watch = Watch(nothing, payee=payee)
        proxy.plan("eth_getTransactionCount", Fault.UNAVAILABLE, times=100)
        page = await scraped(watch)

    assert math.isnan(page["agentpay_exposure_units"])
    assert page["agentpay_unread_total chain_unreachable"] == 1


async def test_what_becomes_of_claims_is_counted_and_told_as_spans(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with watched(agentpay_shared_chain) as (watch, payee, agent, spans):
        await payee._running.keeper.stop()
        await agent.get(BASE + "/ok")
        settlement = payee.settlement
        good = settlement._facilitator
        settlement._facilitator = Dear(good, GasMissing("too little"), most=0)
        with pytest.raises(GasMissing):
            await settlement.claim()
        settlement._facilitator = good
        await settlement.claim()
        await settlement.settle()
        page = await scraped(watch)
        told = [s for s in spans.get_finished_spans() if s.name != "agentpay.request"]

    assert page["agentpay_keeper_steps_total gas_missing claim"] == 1
    assert page["agentpay_keeper_steps_total claim"] == 1
    assert page["agentpay_keeper_steps_total settle"] == 1
    assert [(span.name, dict(span.attributes or {})) for span in told] == [
        ("agentpay.claim", {"agentpay.count": 1, "agentpay.code": "gas_missing"}),
        ("agentpay.claim", {"agentpay.count": 1}),
        ("agentpay.settle", {"agentpay.count": 1}),
    ]
    assert [span.status.is_ok for span in told] == [False, True, True]


async def test_a_keeper_whose_chain_is_out_of_reach_is_seen(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        FaultyRpc(chain.rpc_url) as proxy,
        a_payee(chain, rpc_url=f"{proxy.url}/SECRET", poll_seconds=0.02) as payee,
    ):
        watch, steps = Watch(nothing, payee=payee), payee.watched.steps

        async def rounds(code: str) -> None:
            before = steps["round", code]

            async def one_more() -> bool:
                return steps["round", code] > before

            await eventually(one_more)

        await rounds("")
        proxy.outage = Fault.UNAVAILABLE
        await rounds("chain_unreachable")
        page = await scraped(watch)
        synced_at = payee.watched.synced_at
        proxy.heal()
        await rounds("")

    where = proxy.url.rstrip("/")
    assert page["agentpay_keeper_steps_total chain_unreachable round"] >= 1
    assert page[f"agentpay_rpc_failures_total chain_unreachable {where}"] >= 1
    assert page["agentpay_synced_timestamp_seconds"] == synced_at
    assert payee.watched.synced_at > synced_at


async def test_each_movement_of_money_is_one_line_without_a_secret(
    agentpay_shared_chain: LocalChain, caplog: pytest.LogCaptureFixture
) -> None:
    chain = agentpay_shared_chain
    with caplog.at_level(logging.INFO, logger="agentpay"):
        async with watched(chain) as (_, payee, agent, _):
            await agent.get(BASE + EXACT)
            await agent.get(BASE + "/ok")
            await agent.get(BASE + "/ok")
            await payee.settlement.claim()
            await payee.settlement.settle()
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    paid = [line for line in lines if line.startswith("paid ")]
    settled = [line for line in lines if line.startswith("settled ")]
    deposited = [line for line in lines if line.startswith("deposited ")]

    assert len(paid) == 2  # a transfer and a deposit; vouchers move nothing yet
    assert paid[0].startswith("paid $0.001 to shop.example: transfer ")
    assert (len(deposited), len(settled)) == (1, 2)
    for line in lines:
        assert "signature" not in line
        assert not re.search("[0-9a-f]{65}", line)


async def test_a_payee_that_does_not_run_has_no_figures(
    agentpay_shared_chain: LocalChain,
) -> None:
    payee = await open_payee(agentpay_shared_chain)
    page = await scraped(Watch(nothing, payee=payee))

    assert page["agentpay_unread_total configuration_error"] == 1
