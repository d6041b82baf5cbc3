"""What a paywall says of its prices before anybody is asked to pay."""

import json
import re
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from agentpay import About, Discovery, MppTerms, Payee, Paywall, Route, Wallet
from agentpay.errors import ConfigurationError
from agentpay.http.paywall import App, Receive, Scope, Send
from agentpay.types import Money
from tests.http.world import BASE, answer, through
from tests.payee.mpp_hand import MPP

SHOP = Discovery(
    title="A shop",
    description="Sells answers.",
    categories=("data", "search"),
    homepage="https://shop.example/about",
)
ROUTES: dict[str, Money | Route | None] = {
    "GET /report": Route(
        price=1000,
        about=About(
            description="A report", query={"city": "Paris"}, output={"degrees": 20}
        ),
    ),
    "POST /ask": Route(
        price="$0.02", metered=True, about=About(body={"question": "why?"})
    ),
    "/items/{name}": 5,
    "/secret": Route(price=7, about=About(listed=False)),
    "/channel": Route(price=9, schemes=("batch-settlement",)),
    "/free": None,
}


def a_payee(mpp: MppTerms | None = MPP) -> Payee:
    return Payee(Wallet.create(), network="local", mpp=mpp)


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """An application without a document."""
    await answer(send, 404, b"")


def wall(app: App = bare, **options: Any) -> Paywall:
    defaults: dict[str, Any] = {"payee": a_payee(), "routes": ROUTES, "discovery": SHOP}
    return Paywall(app, **{**defaults, **options})


async def ask(app: App, path: str, method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient(transport=through(app), base_url=BASE) as client:
        return await client.request(method, path)


async def document(app: App, path: str = "/openapi.json") -> Any:
    found = await ask(app, path)
    assert found.status_code == 200
    assert found.headers["content-type"] == "application/json"
    assert found.headers["cache-control"] == "max-age=300"
    assert int(found.headers["content-length"]) == len(found.content)
    return found.json()


def offers_of(operation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The offers of a paid operation, by the schema in the draft's appendix."""
    assert operation["responses"]["402"] == {"description": "Payment Required"}
    info = operation["x-payment-info"]
    assert set(info) == {"offers"}
    assert info["offers"]
    for offer in info["offers"]:
        assert {"intent", "method", "amount"} <= set(offer)
        assert set(offer) <= {"intent", "method", "amount", "currency", "description"}
        assert offer["intent"] in ("charge", "session")
        assert offer["amount"] is None or re.fullmatch("0|[1-9][0-9]*", offer["amount"])
        assert all(isinstance(v, str) for n, v in offer.items() if n != "amount")
    return list(info["offers"])


async def test_a_plain_application_is_described_by_its_price_list() -> None:
    found = await document(wall(origin="https://shop.example"))
    paths = found["paths"]
    charge, session = offers_of(paths["/report"]["get"])
    item = paths["/items/{name}"]["get"]

    assert found["openapi"].startswith("3.")
    assert found["info"] == {
        "title": "A shop",
        "version": "1.0.0",
        "description": "Sells answers.",
    }
    assert found["x-service-info"] == {
        "categories": ["data", "search"],
        "docs": {
            "homepage": "https://shop.example/about",
            "llms": "https://shop.example/llms.txt",
        },
    }
    assert found["servers"] == [{"url": "https://shop.example"}]
    assert set(paths) == {"/report", "/ask", "/items/{name}", "/channel"}
    assert (charge["intent"], session["intent"]) == ("charge", "session")
    for offer in (charge, session):
        assert (offer["method"], offer["amount"]) == ("evm", "1000")
        assert offer["currency"].lower() == a_payee().asset.address
    assert paths["/report"]["get"]["parameters"][0]["name"] == "city"
    assert paths["/ask"]["post"]["requestBody"]["content"]["application/json"][
        "example"
    ] == {"question": "why?"}
    assert [p["name"] for p in item["parameters"]] == ["name"]
    (on_a_channel,) = offers_of(paths["/channel"]["get"])
    assert on_a_channel["intent"] == "session"


async def test_a_document_of_the_application_is_kept_and_has_prices() -> None:
    app = FastAPI(title="Theirs", version="7")

    @app.get("/report")
    async def report(city: str) -> dict[str, int]:
        return {"degrees": len(city)}

    @app.get("/items/{item_id}", summary="One item")
    async def item(item_id: str) -> str:
        return item_id

    @app.get("/open")
    async def free() -> str:
        return "yes"

    plain = await ask(app, "/openapi.json")
    theirs = plain.json()
    found = await document(wall(app))

    assert found["info"] == theirs["info"]
    assert found["components"] == theirs["components"]
    assert found["paths"]["/open"] == theirs["paths"]["/open"]
    for path in ("/report", "/items/{item_id}"):
        before, after = theirs["paths"][path]["get"], found["paths"][path]["get"]
        assert offers_of(after)
        assert after["responses"].items() >= before["responses"].items()
        assert {**before, "responses": 0, "x-payment-info": 0} == {
            **after,
            "responses": 0,
            "x-payment-info": 0,
        }
    # What it sells and does not describe is described all the same.
    assert "/ask" in found["paths"]
    assert "/items/{name}" not in found["paths"]


async def test_a_mounted_application_is_found_under_its_prefix() -> None:
    app = FastAPI()

    @app.get("/report")
    async def report() -> str:
        return "yes"

    walled = wall(app, routes={"GET /api/report": 1000})

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "root_path": "/api"}
        await walled(scope, receive, send)

    found = await document(mounted, "/api/openapi.json")

    assert offers_of(found["paths"]["/report"]["get"])


async def test_what_it_says_is_free_even_where_all_else_is_denied() -> None:
    walled = wall(protected=["/"])

    assert (await ask(walled, "/openapi.json")).status_code == 200
    assert (await ask(walled, "/llms.txt")).status_code == 200
    assert (await ask(walled, "/other")).status_code == 403
    assert (await ask(walled, "/openapi.json", "POST")).status_code == 403
    assert (await ask(walled, "/report")).status_code == 503  # no chain here


async def test_head_has_headers_and_no_body() -> None:
    head = await ask(wall(), "/openapi.json", "HEAD")

    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0


async def test_models_are_told_in_words() -> None:
    found = await ask(wall(origin="https://shop.example"), "/llms.txt")
    text = found.text

    assert found.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.startswith("# A shop\n\n> Sells answers.\n")
    assert "- [GET /report](https://shop.example/report): $0.001. A report" in text
    assert "- [POST /ask](https://shop.example/ask): at most $0.02" in text
    assert "(https://shop.example/openapi.json)" in text
    assert "secret" not in text


async def test_an_application_keeps_its_own_words_for_models() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, b"# Mine\n")

    assert (await ask(wall(app), "/llms.txt")).text == "# Mine\n"


@pytest.mark.parametrize(
    "body", [b"", b"not json", b"[]", b'{"swagger":"2.0","paths":{}}']
)
async def test_what_is_no_such_document_is_left_alone(body: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, body)

    assert (await ask(wall(app), "/openapi.json")).content == body


async def test_an_application_that_compresses_is_asked_not_to() -> None:
    seen: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(name for name, _ in scope["headers"])
        theirs = {"openapi": "3.0.2", "info": {"title": "t", "version": "1"}}
        headers = {"etag": '"1"', "content-length": "1"}
        await answer(send, 200, json.dumps({**theirs, "paths": {}}).encode(), headers)

    found = await ask(wall(app), "/openapi.json")

    assert b"accept-encoding" not in seen
    assert "etag" not in found.headers
    assert offers_of(found.json()["paths"]["/report"]["get"])


async def test_nothing_is_said_unless_it_is_asked_for() -> None:
    assert (await ask(wall(discovery=None), "/openapi.json")).status_code == 404


async def test_without_mpp_there_are_prices_and_no_offers_of_it() -> None:
    found = await document(wall(payee=a_payee(None)))

    assert "x-payment-info" not in found["paths"]["/report"]["get"]
    assert "402" in found["paths"]["/report"]["get"]["responses"]


def test_a_page_that_costs_money_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"llms\.txt"):
        wall(routes={"/llms.txt": 1})


@pytest.mark.parametrize(
    "bad",
    [
        {"title": ""},
        {"version": ""},
        {"categories": ("a",) * 6},
        {"categories": ("",)},
        {"homepage": "somewhere"},
        {"api_reference": "https://a b"},
        {"max_age_seconds": -1},
    ],
)
def test_what_cannot_be_said_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Discovery(**{"title": "A shop", **bad})
