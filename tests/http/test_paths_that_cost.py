"""P5: no spelling of a priced path reaches its handler without payment."""

import itertools
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from agentpay.errors import ConfigurationError
from agentpay.http.paywall import App, Paywall, Scope
from agentpay.http.routes import RouteTable
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Money
from tests.http.world import a_payee, through

PRICES: dict[str, Money] = {
    "GET /data": 1000,
    "/any": 1000,
    "GET /items/{name}": 1000,
    "GET /items/{name}/buy": 1000,
    "POST /data": 1000,
}
SECRET = "what one pays for"


async def pay_walled(request: Request) -> PlainTextResponse:
    del request
    return PlainTextResponse(SECRET)


def fastapi_application() -> FastAPI:
    app = FastAPI()
    app.get("/data")(lambda: SECRET)
    app.post("/data")(lambda: SECRET)
    app.api_route("/any", methods=["GET", "POST", "PUT", "DELETE"])(lambda: SECRET)
    app.get("/items/{name}")(lambda name: SECRET)
    app.get("/items/{name}/buy")(lambda name: SECRET)
    return app


def starlette_application() -> Starlette:
    return Starlette(
        routes=[
            Route("/data", pay_walled, methods=["GET", "POST"]),
            Route("/any", pay_walled, methods=["GET", "POST", "PUT", "DELETE"]),
            Route("/items/{name}", pay_walled),
            Route("/items/{name}/buy", pay_walled),
        ]
    )


def spellings() -> Iterator[str]:
    """Two hundred ways to write the priced paths."""
    for path in ("/data", "/any", "/items/one", "/items/one/buy"):
        last = path.rpartition("/")[2]
        yield from (path, path + "/", path + "//", "/" + path, "/." + path)
        yield from (path + end for end in ("%0a", "%0A", "%0d", "%0d%0a", "%00", "%20"))
        yield from (path + end for end in (".", "%2e", ";", ";a=1", ";/", "%3f", "%23"))
        yield from (path + end for end in ("?", "?a=1", "#x", "%2f", "%2F", "%5c"))
        yield from (path.upper(), path.title(), path.replace("/", "%2f"))
        yield from (path.replace("/", "%252f"), path.replace(last, f"x/../{last}"))
        yield from (path.replace(last, f"x/%2e%2e/{last}"), path.replace("/", "//"))
        yield "/" + quote(path[1:]).replace("a", "%61").replace("o", "%6f")
        yield "/" + quote(path[1:]).replace("a", "%2561")
        yield from (path + end for end in ("%c2%a0", "%e2%80%a8", "%85", "%0b", "%1c"))
        yield from (path.replace("a", "\u0430"), path + "\u200b", path + "%0a%0a")
        yield from (path + "/%0a", path + "%0a/", path + "/.", path + "/..;/")


METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get", "TRACE")
CORPUS = tuple(dict.fromkeys(spellings()))


@pytest.mark.parametrize("build", [fastapi_application, starlette_application])
async def test_p5_no_spelling_of_a_priced_path_is_free(
    agentpay_shared_chain: LocalChain, build: type[Starlette]
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(build(), payee=payee, routes=PRICES)
        async with httpx.AsyncClient(transport=through(wall)) as client:
            asked = 0
            for path, method in itertools.product(CORPUS, METHODS):
                answer = await client.request(method, f"http://shop.example{path}")
                asked += answer.status_code == 402
                assert SECRET not in answer.text, (method, path)
                if method == "HEAD":
                    assert answer.status_code != 200, (method, path)

    assert len(CORPUS) >= 160
    assert asked > 100


@pytest.mark.parametrize("root", ["/api", "/data", "/v1/api"])
async def test_p5_a_mounted_application_is_not_free(
    agentpay_shared_chain: LocalChain, root: str
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        inside = Paywall(starlette_application(), payee=payee, routes=PRICES)
        app = Starlette(routes=[Mount(root, app=inside)])
        async with httpx.AsyncClient(transport=through(app)) as client:
            answer = await client.get(f"http://shop.example{root}/data")

    assert answer.status_code == 402


@pytest.mark.parametrize("keys", ["/data", "/api/data"])
async def test_p5_a_root_path_makes_nothing_free(
    agentpay_shared_chain: LocalChain, keys: str
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(starlette_application(), payee=payee, routes={keys: 1000})
        app = _with_root(wall, "/api")
        async with httpx.AsyncClient(transport=through(app)) as client:
            answer = await client.get("http://shop.example/data")

    assert answer.status_code == 402


def _with_root(app: App, root: str) -> App:
    """What a server does that runs behind a proxy which strips a prefix."""

    async def rooted(scope: Scope, receive: object, send: object) -> None:
        scope = {**scope, "root_path": root, "path": root + scope["path"]}
        await app(scope, receive, send)  # type: ignore[arg-type] # passed on

    return rooted


# What is in no line of the table, under a prefix that is protected.

PROTECTED = ("/api", "/v2/admin")
UNPRICED = {"GET /api/data": 1000, "GET /api/health": None, "/api/items/{name}": 1000}


def unpriced_spellings() -> Iterator[str]:
    """Two hundred ways to write paths under the prefixes that have no price."""
    for path in ("/api/secret", "/api", "/v2/admin/keys", "/api/data/more"):
        first, _, rest = path[1:].partition("/")
        yield from (path, path + "/", "/" + path, "//" + path, "/." + path)
        yield from (path.upper(), path.title(), path.replace("/", "//"))
        yield from (path.replace("/", "%2f"), path.replace("/", "%252F"))
        yield from (path.replace("a", "%61"), path.replace("a", "%2561"))
        yield from (path.replace("/", "\\"), path.replace("/", "%5c"))
        yield from (f"/x/..{path}", f"/x/%2e%2e{path}", f"/%2e%2e{path}", f"/.{path}")
        yield from (f"/x/%252e%252e{path}", f"/free/..;{path}", f"/x/../y/..{path}")
        yield from (f"/{first};v=1/{rest}", f"/{first}%20/{rest}", f"/{first}./{rest}")
        for end in ("%00", "%0a", "%3fx", "\u200b", "%23"):
            yield f"/{first}{end}/{rest}"
            yield f"/ {first}{end}{end}/{rest}"
        yield from (path + end for end in ("%0a", "%00", ";", ".", "%20", "/.."))
        yield from (path + end for end in ("%2f..", "/%2e%2e", "/%2e", "%c2%a0"))
        full = "".join(chr(ord(c) + 0xFEE0) if c.isalnum() else c for c in first)
        yield f"/{full}/{rest}"
        yield path.replace("i", "\u0131") if "i" not in first else path + "?x=1"


HIDDEN = tuple(dict.fromkeys("/" * (p[0] != "/") + p for p in unpriced_spellings()))


async def everything(scope: Scope, receive: object, send: Any) -> None:
    """An application that answers whatever it is asked."""
    del receive
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": SECRET.encode()})


async def status_of(app: App, method: str, path: str) -> int:
    """What is answered to a path as it came over the wire: clients tidy paths up."""
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": method, "headers": [], "query_string": b""}
    await app({**scope, "path": unquote(path), "raw_path": b"/"}, receive, send)
    return statuses[0]


async def test_p5_what_has_no_price_under_a_protected_prefix_is_denied(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(everything, payee=payee, routes=UNPRICED, protected=PROTECTED)
        for path, method in itertools.product(HIDDEN, METHODS):
            assert await status_of(wall, method, path) in (402, 403), (method, path)
        asked = [
            ("GET", "/api/health"),
            ("HEAD", "/api/health"),
            ("OPTIONS", "/api/data"),
            ("GET", "/apis"),
            ("GET", "/free/api"),
            ("GET", "/v2"),
            ("POST", "/api/health"),
            ("GET", "/api/data"),
            ("POST", "/api/data"),
            ("OPTIONS", "/api/secret"),
        ]
        statuses = [await status_of(wall, method, path) for method, path in asked]

    assert len(HIDDEN) >= 160
    assert statuses == [200, 200, 200, 200, 200, 200, 403, 402, 403, 403]


async def test_p5_a_websocket_under_a_protected_prefix_is_closed(
    agentpay_shared_chain: LocalChain,
) -> None:
    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(everything, payee=payee, routes=UNPRICED, protected=PROTECTED)
        for path in ("/api/secret", "/API/secret", "/api/data"):
            scope: Scope = {"type": "websocket", "path": path, "headers": []}
            await wall(scope, receive, send)

    assert sent == ["websocket.close"] * 3


@given(st.text())
def test_p5_nothing_under_a_protected_root_is_free(text: str) -> None:
    table = RouteTable({"/data": 1}, protected=("/",))
    path = unquote("/" + text)

    priced = path.removesuffix("\n") == "/data"
    assert table.denies("GET", path) != priced


@pytest.mark.parametrize("prefix", ["api", "", "/api/{x}", "/api?x", "/a%20b"])
def test_p5_a_prefix_that_would_protect_nothing_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError):
        RouteTable({}, protected=(prefix,))


def test_p8_head_costs_what_get_does_and_options_nothing() -> None:
    table = RouteTable({"GET /data": 1})

    assert table.find("HEAD", "/data") is not None
    assert table.find("get", "/data") is not None
    assert table.find("OPTIONS", "/data") is None
    assert table.find("POST", "/data") is None


@pytest.mark.parametrize(
    "key",
    [
        "data",
        "GET",
        "FETCH /data",
        "get /data",
        "GET  /data",
        "GET /data?x=1",
        "GET /data#x",
        "GET /files/{path:path}",
        "GET /x{name}",
        "GET /{na me}",
        "GET /caf%C3%A9",
        "GET /data/*",
        "GET /{}",
        "GET /{a}/{a}",
        "GET /data\n",
    ],
)
def test_p5_a_key_that_could_match_nothing_is_refused(key: str) -> None:
    with pytest.raises(ConfigurationError):
        RouteTable({key: 1})


@given(st.text(min_size=1).filter(lambda name: "/" not in name))
def test_p5_a_segment_is_anything_but_a_slash(name: str) -> None:
    table = RouteTable({"/items/{name}": 1})

    assert table.find("GET", f"/items/{name}") is not None
    assert table.find("GET", f"/items/{name}/x") is None


@given(st.text())
def test_a_path_costs_if_and_only_if_it_is_in_the_table(text: str) -> None:
    path = unquote("/" + text)
    free = path.removesuffix("\n") != "/data"

    assert (RouteTable({"/data": 1}).find("GET", path) is None) == free
