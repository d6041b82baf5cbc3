"""What the paywall does to requests and answers that it lets through, or does not."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from asgi_lifespan import LifespanManager
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.responses import Response

from agentpay.errors import ChainUnreachable, ConfigurationError, WrongChain
from agentpay.http.paywall import Message, Paywall, Scope
from agentpay.payee.pricing import Route
from agentpay.testing.anvil import Anvil
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.x402 import parse_payment_required
from tests.http.world import (
    BASE,
    PRICE,
    ROUTES,
    Shop,
    a_payee,
    a_shop,
    an_agent,
    open_payee,
    required_header,
    serving,
    through,
)
from tests.payee.hand import HandPayer, terms_of

NOWHERE = "http://127.0.0.1:9"


async def test_an_unpaid_request_learns_the_price_and_nothing_runs(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        async with httpx.AsyncClient(transport=through(wall)) as client:
            answer = await client.get(BASE + "/ok?a=1")
        required = parse_payment_required(required_header(answer))

        assert answer.status_code == 402
        assert answer.content == b"{}"
        assert not shop.begun
        offers = [offer for offer, _ in required.readable_offers()]
        assert [o.scheme for o in offers] == ["batch-settlement", "exact"]
        assert {o.amount for o in offers} == {PRICE}
        assert {o.pay_to for o in offers} == {payee.settings.pay_to}
        assert required.resource is not None
        assert required.resource.url == BASE + "/ok?a=1"


async def test_each_place_has_its_own_terms_however_often_it_is_asked_for(
    agentpay_shared_chain: LocalChain,
) -> None:
    places = [f"{BASE}/ok?a={n}" for n in ("1", "2", "x" * 2000)]
    places += ["http://b.example/ok?a=1", f"{BASE}/free", f"{BASE}/ok"]
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        async with httpx.AsyncClient(transport=through(wall)) as client:
            for place in places * 2:
                answer = await client.get(place)
                if answer.status_code == 402:
                    required = parse_payment_required(required_header(answer))
                    assert required.resource is not None
                    assert required.resource.url == place
                else:
                    assert place.endswith("/free")
        remembered = wall._prices._remembered.cache_info()

    assert (remembered.currsize, remembered.hits) == (5, 5)


async def test_p7_no_cache_keeps_an_answer_for_somebody_else(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        async with httpx.AsyncClient(transport=through(wall)) as client:
            unpaid = await client.get(BASE + "/ok")
        async with await an_agent(agentpay_shared_chain, through(wall)) as agent:
            paid = await agent.get(BASE + "/ok")

    assert unpaid.headers["cache-control"] == "no-store"
    assert paid.headers["cache-control"] == "private"


async def test_what_has_no_price_passes_untouched(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_shop(agentpay_shared_chain) as (shop, _, wall),
        httpx.AsyncClient(transport=through(wall)) as client,
    ):
        answer = await client.get(BASE + "/free")

    assert answer.status_code == 200
    assert "payment-response" not in answer.headers
    assert shop.begun["/free"] == 1


@pytest.mark.parametrize("credentials", [("", ""), ("a", "b")])
async def test_p8_two_credentials_are_malformed(
    agentpay_shared_chain: LocalChain, credentials: tuple[str, str]
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, _, wall):
        headers = [("payment-signature", credential) for credential in credentials]
        async with httpx.AsyncClient(transport=through(wall)) as client:
            answer = await client.get(BASE + "/ok", headers=headers)

    assert answer.status_code == 400
    assert not shop.begun


@pytest.mark.parametrize("credential", ["", "x", "{}", "e30=", "bnVsbA==", "A" * 20000])
async def test_c17_a_malformed_credential_is_400(
    agentpay_shared_chain: LocalChain, credential: str
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, _, wall):
        headers = {"payment-signature": credential}
        async with httpx.AsyncClient(transport=through(wall)) as client:
            answer = await client.get(BASE + "/ok", headers=headers)

    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert not shop.begun


async def test_the_first_protocol_versions_header_pays_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_shop(agentpay_shared_chain) as (shop, _, wall),
        httpx.AsyncClient(transport=through(wall)) as client,
    ):
        answer = await client.get(BASE + "/ok", headers={"x-payment": "e30="})

    assert answer.status_code == 402
    assert not shop.begun


async def test_a_metered_handler_charges_less_and_the_agent_books_it(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_shop(agentpay_shared_chain) as (_, _, wall),
        await an_agent(agentpay_shared_chain, through(wall)) as agent,
    ):
        for used in ("300", "0", "1000"):
            await agent.get(BASE + f"/metered?used={used}")
        await agent.get(BASE + "/metered")
        spending = await agent.spending()

    assert str(spending) == "$0.0023 spent, $0.0977 deposited, $0 held"


@pytest.mark.parametrize(
    ("path", "why"),
    [("/metered?used=1001", "1000 at most"), ("/ok?used=1", "not a metered route")],
)
async def test_p15_a_handler_cannot_charge_more_or_where_the_price_is_fixed(
    agentpay_shared_chain: LocalChain, path: str, why: str
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, payee, wall):
        transport = httpx.ASGITransport(app=wall)
        payer = HandPayer(
            await agentpay_shared_chain.funded_wallet(ether=0), payee.settings
        )
        route = ROUTES[path.partition("?")[0]]
        terms = terms_of(
            payee, route if isinstance(route, Route) else Route(price=route)
        )
        header = await payer.funding(payer.config(), 10_000, 1000, terms)
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(ConfigurationError, match=why):
                await client.get(BASE + path, headers={"payment-signature": header})


async def test_p15_a_charge_after_the_answer_started_is_refused(
    agentpay_shared_chain: LocalChain,
) -> None:
    late: list[str] = []

    async def app(scope: Scope, receive: object, send: Any) -> None:
        del receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            scope["agentpay"].charge(1)
        except ConfigurationError as error:
            late.append(str(error))
        await send({"type": "http.response.body", "body": b"x"})

    async with a_payee(agentpay_shared_chain) as payee:
        routes = {"/": Route(price=PRICE, metered=True)}
        wall = Paywall(app, payee=payee, routes=routes)
        async with await an_agent(agentpay_shared_chain, through(wall)) as agent:
            await agent.get(BASE + "/")
            spending = await agent.spending()

    assert late == ["the receipt is in the answer's headers: too late"]
    assert str(spending).startswith("$0.001 spent")


def streaming_application(gate: asyncio.Event) -> FastAPI:
    app = FastAPI()

    @app.get("/stream")
    async def stream(request: Request) -> StreamingResponse:
        assert request.scope["agentpay"].maximum == PRICE

        async def slices() -> AsyncIterator[bytes]:
            yield b"first"
            await gate.wait()
            yield b"last"

        return StreamingResponse(slices())

    @app.get("/cookies")
    async def cookies() -> Response:
        response = Response("x", headers={"cache-control": "no-cache"})
        response.set_cookie("one", "1")
        response.set_cookie("two", "2")
        return response

    @app.post("/echo")
    async def echo(request: Request) -> dict[str, int]:
        return {"received": len(await request.body())}

    return app


async def test_a_stream_arrives_slice_by_slice(
    agentpay_shared_chain: LocalChain,
) -> None:
    gate = asyncio.Event()
    payee = await open_payee(agentpay_shared_chain)
    app = Paywall(streaming_application(gate), payee=payee, routes={"/stream": PRICE})
    async with (
        serving(app) as base,
        await an_agent(agentpay_shared_chain, allow_private_networks=True) as agent,
        agent.stream("GET", base + "/stream") as answer,
    ):
        slices = answer.aiter_raw()
        first = await anext(slices)
        gate.set()
        rest = b"".join([piece async for piece in slices])

    assert (first, rest) == (b"first", b"last")


async def test_two_cookies_and_cache_rules_of_the_application_survive(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        app = streaming_application(asyncio.Event())
        wall = Paywall(app, payee=payee, routes={"/cookies": PRICE})
        async with await an_agent(agentpay_shared_chain, through(wall)) as agent:
            answer = await agent.get(BASE + "/cookies")

    assert len(answer.headers.get_list("set-cookie")) == 2
    assert answer.headers.get_list("cache-control") == ["no-cache"]


async def test_a_body_that_is_a_stream_is_sent_again_with_the_payment(
    agentpay_shared_chain: LocalChain,
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"a" * 1000
        yield b"b" * 1000

    payee = await open_payee(agentpay_shared_chain)
    app = streaming_application(asyncio.Event())
    wall = Paywall(app, payee=payee, routes={"POST /echo": PRICE})
    async with (
        serving(wall) as base,
        await an_agent(agentpay_shared_chain, allow_private_networks=True) as agent,
    ):
        answer = await agent.post(base + "/echo", content=body())
        again = await agent.post(base + "/echo", content=b"c" * 3000)

    assert answer.json() == {"received": 2000}
    assert again.json() == {"received": 3000}


async def test_p5_a_websocket_on_a_priced_path_is_closed(
    agentpay_shared_chain: LocalChain,
) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async with a_shop(agentpay_shared_chain) as (shop, _, wall):
        scope: Scope = {"type": "websocket", "path": "/ok", "headers": []}
        await wall(scope, receive, send)
        await wall({**scope, "path": "/api/ok", "root_path": "/api"}, receive, send)

    assert [m["type"] for m in sent] == ["websocket.close"] * 2
    assert not shop.begun


async def test_the_lifespan_starts_and_stops_the_payee(
    agentpay_shared_chain: LocalChain,
) -> None:
    payee = await open_payee(agentpay_shared_chain)
    wall = Paywall(Shop(), payee=payee, routes=ROUTES)
    async with LifespanManager(wall):
        assert payee._works is not None
    assert payee._works is None


@pytest.mark.parametrize("lifespan", [True, False])
async def test_a_payee_without_its_chain_does_not_start(
    agentpay_shared_chain: LocalChain, lifespan: bool
) -> None:
    payee = await open_payee(agentpay_shared_chain, rpc_url=NOWHERE)
    wall = Paywall(Shop(), payee=payee, routes=ROUTES)
    if lifespan:
        with pytest.raises(ChainUnreachable):
            async with LifespanManager(wall):
                pass
        return
    async with httpx.AsyncClient(transport=through(wall)) as client:
        answer = await client.get(BASE + "/ok")
        free = await client.get(BASE + "/free")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert free.status_code == 200


async def test_a_payee_on_another_chain_does_not_start(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with Anvil(chain_id=1337) as other:
        payee = await open_payee(agentpay_shared_chain, rpc_url=other.url)
        with pytest.raises(WrongChain):
            await payee.start()


async def test_a_price_finer_than_the_token_is_refused_at_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    payee = await open_payee(agentpay_shared_chain)
    with pytest.raises(ConfigurationError, match="finer"):
        Paywall(Shop(), payee=payee, routes={"/ok": "$0.0000001"})
