"""Streams on MPP's sessions: more is signed while they flow, and nothing is unpaid."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from agentpay import Paywall, Streaming
from agentpay.evm.session_escrow import SessionConfig
from agentpay.http.paywall import App
from agentpay.stream_errors import StreamExhausted
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.evm_session import NeedVoucher
from agentpay.wire.mpp.outcome import PAYMENT_VOUCHER, parse_outcome
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT, SessionReceipt, parse_receipt
from agentpay.wire.mpp.sse import (
    NEED_VOUCHER,
    RECEIPT,
    read_need_voucher,
    read_receipt,
)
from tests.http.session_world import World, a_world
from tests.http.test_selling_streams import (
    INCREMENT,
    MAXIMUM,
    PER_TOKEN,
    Listener,
    Model,
    route,
)
from tests.http.world import ROUTES, until
from tests.payee.mpp_hand import kind_of
from tests.payee.session_hand import (
    outcome_of,
    session_of,
    session_receipt_of,
    wanted_of,
)

STREAM = "/stream"
PATIENT = {STREAM: route(streaming=Streaming(increment=INCREMENT, wait_seconds=5))}
HASTY = {STREAM: route(streaming=Streaming(increment=INCREMENT, wait_seconds=0.05))}
TOKENS = INCREMENT // PER_TOKEN


@dataclass
class Models:
    """An application with one model for each request."""

    models: list[App] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.models.pop(0)(scope, receive, send)


@dataclass
class Streams:
    """A payer of streams, by hand."""

    world: World
    app: Models
    wall: Paywall

    async def voucher(
        self,
        config: SessionConfig,
        cumulative: int,
        raises: tuple[int, int] | None = None,
        **more: Any,
    ) -> JsonObject:
        payload = await self.world.payer.voucher(config, cumulative, **more)
        if raises is not None:
            request, maximum = raises
            payload["raises"] = {"cumulative": str(request), "maximum": str(maximum)}
        return payload

    async def begin(
        self, config: SessionConfig, cumulative: int, model: Model, **options: Any
    ) -> tuple[Listener, asyncio.Task[None]]:
        self.app.models.append(model)
        challenge = await self.world.challenge(STREAM)
        payload = await self.voucher(config, cumulative)
        ((name, header),) = self.world.payer.headers(challenge, payload).items()
        listener = Listener(header, path=STREAM, name=name, **options)
        return listener, asyncio.create_task(listener.listen(self.wall))

    async def signs(
        self,
        config: SessionConfig,
        cumulative: int,
        raises: tuple[int, int] | None = None,
        **more: Any,
    ) -> httpx.Response:
        payload = await self.voucher(config, cumulative, raises, **more)
        return await self.world.send(payload, path=STREAM, method="HEAD")


@contextlib.asynccontextmanager
async def streams(
    chain: LocalChain, routes: Any = PATIENT, **options: Any
) -> AsyncIterator[Streams]:
    app = Models()
    every = {**ROUTES, **routes}
    async with a_world(chain, routes=every, app=app, **options) as world:
        wall = Paywall(app, payee=world.payee, routes=every)
        yield Streams(world, app, wall)


def needs(listener: Listener) -> list[NeedVoucher]:
    return [read_need_voucher(e) for e in listener.events if e.event == NEED_VOUCHER]


def last_receipt(listener: Listener) -> SessionReceipt:
    assert listener.events[-1].event == RECEIPT
    return read_receipt(listener.events[-1])


async def waits(listener: Listener, times: int = 1) -> None:
    await until(lambda: len(needs(listener)) == times)


async def test_a_challenge_says_the_price_of_a_token_and_what_a_stream_begins_with(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with streams(agentpay_shared_chain) as payer:
        challenge = await payer.world.challenge(STREAM)
        asked = wanted_of(challenge)
        details = challenge.decode_request()["methodDetails"]

        assert (asked.amount, asked.unit_type) == (PER_TOKEN, "llm_token")
        assert isinstance(details, dict)
        said = details["parallel-vouchers"]
        assert isinstance(said, dict)
        assert said["maximum"] == str(INCREMENT)


@pytest.mark.parametrize("tagged", [True, False])
async def test_a_stream_asks_for_vouchers_and_costs_what_left_of_it(
    agentpay_shared_chain: LocalChain, tagged: bool
) -> None:
    async with streams(agentpay_shared_chain) as payer:
        config = await payer.world.opened(tagged=tagged)
        first, model = INCREMENT, Model(tokens=23)
        listener, streaming = await payer.begin(config, first, model)
        for turn in range(1, 5):
            await waits(listener, turn)
            need = needs(listener)[-1]
            assert listener.tokens == TOKENS * turn
            assert need.accepted_cumulative == INCREMENT * turn
            assert need.required_cumulative == INCREMENT * (turn + 1)
            raises = (first, need.required_cumulative) if tagged else None
            answer = await payer.signs(config, need.required_cumulative, raises)
            assert answer.status_code == 200
        await streaming

        assert (listener.tokens, listener.whole) == (23, True)
        assert await payer.world.spent(config) == (23 * PER_TOKEN, 5 * INCREMENT)
        receipt = last_receipt(listener)
        assert (receipt.spent, receipt.units) == (23 * PER_TOKEN, 23)
        assert receipt.accepted_cumulative == 5 * INCREMENT


async def test_the_head_of_a_stream_has_a_receipt_and_says_that_its_voucher_runs(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with streams(agentpay_shared_chain) as payer:
        config = await payer.world.opened()
        listener, streaming = await payer.begin(config, INCREMENT, Model(tokens=3))
        await streaming

        headers = {n.decode(): v.decode() for n, v in listener.head["headers"]}
        head = parse_receipt(headers[PAYMENT_RECEIPT.lower()], SessionReceipt)
        assert head.spent == 0
        outcome = parse_outcome(headers[PAYMENT_VOUCHER.lower()])
        assert (outcome.fate, outcome.charged) == ("running", 0)
        told = json.loads(listener.events[-1].data)["parallel-vouchers"]
        assert told == {
            "cumulative": str(INCREMENT),
            "fate": "charged",
            "charged": str(3 * PER_TOKEN),
        }


@pytest.mark.parametrize("tagged", [True, False])
async def test_p10_a_client_that_signs_no_more_is_served_no_more(
    agentpay_shared_chain: LocalChain, tagged: bool
) -> None:
    async with streams(agentpay_shared_chain, HASTY) as payer:
        config = await payer.world.opened(tagged=tagged)
        model = Model(tokens=60)
        listener, streaming = await payer.begin(config, INCREMENT, model)
        await streaming

        assert isinstance(model.ended, StreamExhausted)
        assert (listener.tokens, listener.whole) == (TOKENS, True)
        assert [e.event for e in listener.events[-2:]] == [NEED_VOUCHER, RECEIPT]
        assert await payer.world.spent(config) == (INCREMENT, INCREMENT)
        assert last_receipt(listener).spent == INCREMENT


@pytest.mark.parametrize("tagged", [True, False])
async def test_a_stream_that_is_not_paid_for_from_the_start_is_refused_by_mpp(
    agentpay_shared_chain: LocalChain, tagged: bool
) -> None:
    async def eager(scope: Any, receive: Any, send: Any) -> None:
        await scope["agentpay"].meter.charge(tokens=TOKENS + 1)

    async with streams(agentpay_shared_chain, HASTY) as payer:
        config = await payer.world.opened(tagged=tagged)
        payer.app.models.append(eager)
        payload = await payer.voucher(config, INCREMENT)
        refused = await payer.world.send(payload, path=STREAM)

        assert refused.status_code == 402
        assert kind_of(refused) == "session/insufficient-balance"
        assert wanted_of(session_of(refused)).recipient == config.terms.payee
        assert "no-store" in refused.headers["cache-control"]
        assert PAYMENT_RECEIPT not in refused.headers
        assert (PAYMENT_VOUCHER in refused.headers) is tagged
        assert (await payer.world.spent(config))[0] == 0


async def test_a_stream_draws_on_no_voucher_that_is_not_for_it(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with streams(agentpay_shared_chain) as payer:
        config = await payer.world.opened()
        one, first = await payer.begin(config, INCREMENT, Model(tokens=7))
        await waits(one)
        two, second = await payer.begin(config, 2 * INCREMENT, Model(tokens=7))
        await waits(two)
        await payer.signs(config, 900)  # for nobody
        await payer.signs(config, 300, (2 * INCREMENT, 2 * INCREMENT))
        await second

        assert (one.tokens, two.tokens) == (TOKENS, 7)
        assert not first.done()
        await payer.signs(config, 1000, (INCREMENT, 2 * INCREMENT))
        await first
        assert one.tokens == 7
        assert await payer.world.spent(config) == (14 * PER_TOKEN, 1000)


async def test_a_voucher_raises_a_stream_to_its_routes_price_at_most(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with streams(agentpay_shared_chain) as payer:
        config = await payer.world.opened()
        model = Model(tokens=150)
        listener, streaming = await payer.begin(config, INCREMENT, model)
        await waits(listener)
        answer = await payer.signs(config, 2 * MAXIMUM, (INCREMENT, 2 * MAXIMUM))
        await streaming

        assert outcome_of(answer).fate == "charged"
        assert listener.tokens == MAXIMUM // PER_TOKEN
        assert isinstance(model.ended, StreamExhausted)
        assert await payer.world.spent(config) == (MAXIMUM, 2 * MAXIMUM)


async def test_a_voucher_for_a_stream_that_is_over_is_burnt_and_says_so(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with streams(agentpay_shared_chain) as payer:
        config = await payer.world.opened()
        _, streaming = await payer.begin(config, INCREMENT, Model(tokens=2))
        await streaming
        late = await payer.signs(config, 500, (INCREMENT, 500))
        again = await payer.signs(config, 500, (INCREMENT, 500))

        assert late.status_code == 402
        assert outcome_of(late).fate == outcome_of(again).fate == "void"
        assert await payer.world.spent(config) == (2 * PER_TOKEN, INCREMENT)


async def test_a_stream_goes_on_with_a_deposit_that_comes_with_a_voucher(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with streams(agentpay_shared_chain) as payer:
        world = payer.world
        config = world.payer.config()
        deposit = await world.payer.deposit(config, INCREMENT + 50)
        open_it = await world.payer.open(config, deposit)
        opened = await world.send(open_it, path=STREAM, method="HEAD")
        assert opened.status_code == 200
        listener, streaming = await payer.begin(config, INCREMENT, Model(tokens=9))
        await waits(listener)
        need = needs(listener)[0]
        assert need.required_cumulative <= need.deposit == INCREMENT + 50
        await payer.signs(config, 150, (INCREMENT, 150))
        await waits(listener, 2)
        need = needs(listener)[1]
        assert need.required_cumulative > need.deposit
        more = await world.payer.deposit(config, 1000, opens=False)
        await payer.signs(config, 400, (INCREMENT, 400), deposit=more)
        await streaming

        assert listener.tokens == 9
        assert await world.spent(config) == (9 * PER_TOKEN, 400)


async def test_p10_a_client_that_falls_silent_at_token_4000_gets_nothing_free(
    agentpay_shared_chain: LocalChain,
) -> None:
    streaming = Streaming(increment="$0.001", wait_seconds=2)
    dear = {STREAM: route(price="$1", streaming=streaming)}
    async with streams(agentpay_shared_chain, dear) as payer:
        config = payer.world.payer.config()
        deposit = await payer.world.payer.deposit(config, 200_000)
        open_it = await payer.world.payer.open(config, deposit)
        await payer.world.send(open_it, path=STREAM, method="HEAD")
        signed, model = 1000, Model(tokens=10_000)
        listener, streaming_on = await payer.begin(config, signed, model)
        for turn in range(1, 5):
            await waits(listener, turn)
            signed = 20_000 * turn
            answer = await payer.signs(config, signed, (1000, signed))
            assert answer.status_code == 200
        await streaming_on

        assert listener.tokens == 4000
        assert await payer.world.spent(config) == (4000 * PER_TOKEN, signed)


async def test_p13_a_stream_that_owes_too_much_waits_for_a_claim_and_does_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    # A keeper that never comes: what is due is settled here, by hand.
    limit, half, tokens = 50_000, 25_000, 1500
    limited = {"exposure_max": limit, "claim_at": "$1000", "poll_seconds": 1000}
    dear = {STREAM: route(price=limit, streaming=PATIENT[STREAM].streaming)}
    async with streams(agentpay_shared_chain, dear, **limited) as payer:
        config = payer.world.payer.config(tagged=False)
        deposit = await payer.world.payer.deposit(config, 2 * limit)
        open_it = await payer.world.payer.open(config, deposit)
        await payer.world.send(open_it, path=STREAM, method="HEAD")
        _, first = await payer.begin(config, half, Model(tokens=half // PER_TOKEN))
        await first
        listener, streaming = await payer.begin(config, 3 * half, Model(tokens=tokens))
        await until(lambda: listener.tokens == half // PER_TOKEN)
        began = time.process_time()
        await asyncio.sleep(1)
        worked = time.process_time() - began
        assert listener.tokens == half // PER_TOKEN
        assert not needs(listener)  # all that it needs is signed
        settlement = payer.world.payee._running.session_settlement
        assert settlement is not None
        assert await settlement.settle() == 1
        await streaming

        assert worked < 0.2
        assert (listener.tokens, listener.whole) == (tokens, True)
        spent = half + tokens * PER_TOKEN
        assert await payer.world.spent(config) == (spent, 3 * half)


async def test_a_session_closes_with_exactly_what_its_streams_cost(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with streams(agentpay_shared_chain) as payer:
        config = await payer.world.opened()
        before = await payer.world.balance()
        listener, streaming = await payer.begin(config, INCREMENT, Model(tokens=8))
        await waits(listener)
        await payer.signs(config, 900, (INCREMENT, 900))
        await streaming
        close = await payer.world.payer.close(config, 8 * PER_TOKEN)
        closed = await payer.world.send(close, path=STREAM)

        assert closed.status_code == 200
        assert session_receipt_of(closed).tx_hash is not None
        assert await payer.world.balance() - before == 8 * PER_TOKEN


async def test_p10_a_client_that_leaves_a_session_pays_for_what_left(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with streams(agentpay_shared_chain) as payer:
        config, charged = await payer.world.opened(), 0
        for k in range(1, TOKENS + 1):
            listener, streaming = await payer.begin(
                config, charged + INCREMENT + k, Model(tokens=60), leaves_after=k
            )
            with contextlib.suppress(OSError):
                await streaming
            charged += k * PER_TOKEN

            assert listener.tokens == k
            assert (await payer.world.spent(config))[0] == charged
