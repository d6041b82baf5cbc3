"""P5: no spelling of a priced path reaches its handler without payment."""

import itertools
from collections.abc import Iterator
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
