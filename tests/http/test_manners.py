"""What a good server does around payments: caches, browsers, and its own name."""

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.request import parse_http_list

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import ConfigurationError
from agentpay.http.manners import check_origin, for_reader, keep_private
from agentpay.http.paywall import Paywall, Receive, Scope, Send
from agentpay.payee.about import About
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Order, Route
from agentpay.payee.sales import Refusal
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.headers import encode_json
from agentpay.wire.x402 import parse_payment_required
from tests.http.world import (
    BASE,
    EXACT_ONLY,
    PRICE,
    ROUTES,
    Shop,
    a_payee,
    a_shop,
    an_agent,
    open_payee,
    required_header,
    through,
)
from tests.payee.hand import HandPayer, decoded, terms_of
from tests.wire.schemas import faults

HEADER = "payment-signature"
BROWSER = {
    "accept": "text/html,application/xhtml+xml,*/*;q=0.8",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64)",
}
ORIGIN = "https://api.example.com"
OUR_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "p", "code"),
    *("table", "tr", "th", "td"),
}
EVIL = '"><script>alert(1)</script>'


# What caches may keep.

NOT_SHARED = {"private", "no-store", "no-cache"}
"""Each as it stands: with arguments, it is about the fields that it names."""


def directives(cache_control: str) -> set[str]:
    """What a header says: commas in quotes are none, as the standard library reads."""
    return {word.lower() for word in parse_http_list(cache_control)}


@dataclass
class CachingProxy(httpx.AsyncBaseTransport):
    """A shared cache as RFC 9111 has it, as eager as it may be."""

    inner: httpx.AsyncBaseTransport
    kept: list[tuple[httpx.Request, httpx.Response]] = field(
        default_factory=list[tuple[httpx.Request, httpx.Response]]
    )
    hits: int = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for asked, answer in self.kept:
            words = answer.headers.get("vary", "").split(",")
            names = [word.strip() for word in words if word.strip()]
            same = all(asked.headers.get(n) == request.headers.get(n) for n in names)
            if asked.url == request.url and same:
                self.hits += 1
                return answer
        answer = await self.inner.handle_async_request(request)
        await answer.aread()
        rules = directives(answer.headers.get("cache-control", ""))
        if not rules & NOT_SHARED and request.method == "GET":
            self.kept.append((request, answer))
        return answer


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        (None, "private"),
        ("public, max-age=600", "private, max-age=600"),
        ("max-age=600, s-maxage=900", "private, max-age=600"),
        ("no-cache", "no-cache"),
        ("Private, max-age=5", "Private, max-age=5"),
        ("no-store", "no-store"),
        ('public, max-age=600, private="set-cookie"', "private, max-age=600"),
        ('max-age=9, no-cache="x, y"', 'private, max-age=9, no-cache="x, y"'),
        ('a="private, b", max-age=9', 'private, a="private, b", max-age=9'),
        ('max-age=9, a="b, private', 'private, max-age=9, a="b, private'),
    ],
)
async def test_p7_a_shared_cache_never_gives_a_paid_answer_to_somebody_else(
    agentpay_shared_chain: LocalChain, said: str | None, sent: str
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        headers = [(b"cache-control", said.encode())] if said else []
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": b"what one pays for"})

    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(app, payee=payee, routes={"/paid": PRICE})
        proxy = CachingProxy(through(wall))
        async with await an_agent(agentpay_shared_chain, proxy) as agent:
            paid = await agent.get(BASE + "/paid")
        async with httpx.AsyncClient(transport=proxy) as stranger:
            unpaid = await stranger.get(BASE + "/paid")

    assert paid.status_code == 200
    assert paid.headers["cache-control"] == sent
    assert HEADER in paid.headers["vary"].lower()
    assert unpaid.status_code == 402
    assert unpaid.headers["cache-control"] == "no-store"
    assert proxy.hits == 0


@pytest.mark.parametrize(
    "name",
    [
        *("cdn-cache-control", "CDN-Cache-Control", "surrogate-control"),
        *("cloudflare-cdn-cache-control", "Vercel-CDN-Cache-Control"),
        *("akamai-cache-control", "Edge-Control", "x-accel-expires"),
    ],
)
async def test_p7_no_cache_is_told_anything_else_of_a_paid_answer(
    agentpay_shared_chain: LocalChain, name: str
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        headers = [(name.encode(), b"max-age=600"), (b"cache-control", b"no-store")]
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": b"what one pays for"})

    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(app, payee=payee, routes={"/paid": PRICE})
        async with await an_agent(agentpay_shared_chain, through(wall)) as agent:
            paid = await agent.get(BASE + "/paid")

    assert paid.status_code == 200
    assert name.lower() not in paid.headers
    assert paid.headers["cache-control"] == "no-store"


WORDS = st.sampled_from(
    (
        *("public", "Public", "private", "max-age=9", "s-maxage=9", "no-store"),
        *("no-cache", 'private="set-cookie"', 'No-Cache="a, private"', "private=x"),
        *('x="private, no-store"', r'x="\", private, "', 'x="a', ""),
    )
)


@given(st.lists(st.lists(WORDS).map(", ".join), max_size=3))
def test_p7_no_cache_control_leaves_an_answer_public(lines: list[str]) -> None:
    headers = [(b"Cache-Control", line.encode("latin-1")) for line in lines]
    keep_private(headers)
    said = b",".join(v for n, v in headers if n.lower() == b"cache-control")
    rules = directives(said.decode("latin-1"))

    assert rules & NOT_SHARED
    if rules & {"public", "s-maxage=9"}:  # then its application contradicts itself
        assert directives(",".join(lines)) & NOT_SHARED


# Browsers


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_a_browser_is_told_the_price_in_a_page(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, payee, wall):
        async with httpx.AsyncClient(transport=through(wall)) as client:
            answer = await client.get(BASE + "/ok", headers=BROWSER)
        page = Page(answer.text)

        assert answer.status_code == 402
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert parse_payment_required(required_header(answer)).accepts
        for word in ("$0.001", "exact", "eip155:31337", "PAYMENT-SIGNATURE", "/ok"):
            assert word in page.text, word
        assert payee.asset.address in page.text.lower()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"accept": "text/html"},
        {"user-agent": "Mozilla/5.0"},
        {"accept": "application/json", "user-agent": "Mozilla/5.0"},
        {"accept": "*/*", "user-agent": "curl/8"},
    ],
)
async def test_a_program_is_not_sent_a_page(
    agentpay_shared_chain: LocalChain, headers: Mapping[str, str]
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        plain = {"user-agent": "", "accept": "", **headers}
        async with httpx.AsyncClient(transport=through(wall)) as client:
            answer = await client.get(BASE + "/ok", headers=plain)

    assert answer.headers["content-type"] == "application/json"
    assert answer.content == b"{}"
    assert "Accept" in answer.headers["vary"]


@given(st.text(), st.text())
def test_p14_nothing_in_a_page_is_markup_that_somebody_else_wrote(
    url: str, description: str
) -> None:
    from agentpay.evm.networks import LOCAL

    required: Any = {
        "resource": {"url": EVIL + url, "description": description + EVIL},
        "accepts": [{"amount": "1000", "scheme": EVIL, "payTo": "<b>"}],
    }
    headers = [(n.encode(), v.encode()) for n, v in BROWSER.items()]
    refusal = Refusal(status=402, required=required)
    shown = for_reader(refusal, {"headers": headers}, LOCAL.usdc)
    page = Page(shown.body.decode("utf-8", "surrogatepass"))

    names = {tag for tag, _ in page.tags}
    assert names <= OUR_TAGS
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    assert not [a for _, attrs in page.tags for a in attrs if a in ("src", "href")]


# Our own name.


async def test_p6_offers_name_the_configured_origin_whatever_the_host_says(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(Shop(), payee=payee, routes=ROUTES, origin=ORIGIN + "/")
        hosts = {"host": "evil.example", "x-forwarded-host": "worse.example"}
        async with httpx.AsyncClient(transport=through(wall)) as client:
            answer = await client.get("http://x/ok?a=1", headers=hosts)
        required = parse_payment_required(required_header(answer))

    assert required.resource is not None
    assert required.resource.url == ORIGIN + "/ok?a=1"
    assert "evil" not in b64decode(required_header(answer)).decode()


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "api.example.com",
        "ftp://api.example.com",
        "https://",
        "https://user@api.example.com",
        "https://api.example.com?x=1",
        "https://api.example.com/#x",
        "https://api example.com",
        "https://api.example.com:99999",
        "https://[::1",
        "https://\u0430pi.example.com",
    ],
)
def test_p6_an_origin_that_is_none_is_refused(origin: str) -> None:
    with pytest.raises(ConfigurationError, match="an origin is"):
        check_origin(origin)


# Payments for something else.


async def pay(
    chain: LocalChain, payee: Payee, *, url: str, order: Order = Order.RESERVE
) -> dict[str, str]:
    payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
    route = Route(price=PRICE, schemes=EXACT_ONLY, order=order)
    return {HEADER: await payer.transfer(terms_of(payee, route), url=url)}


TWO = {name: Route(price=PRICE, schemes=EXACT_ONLY) for name in ("/one", "/two")}


@pytest.mark.parametrize(
    ("url", "status"),
    [
        (ORIGIN + "/one", 200),
        (ORIGIN + ":443/one?other=query", 200),
        ("https://API.example.com/%6fne", 200),
        ("", 200),
        (ORIGIN + "/two", 402),
        ("http://api.example.com/one", 402),
        ("https://evil.example/one", 402),
        (ORIGIN + ":444/one", 402),
        (ORIGIN + "/x/one", 402),
        ("/one", 402),
        ("https://[::1/one", 402),
    ],
)
async def test_p2_a_payment_for_another_resource_is_refused(
    agentpay_shared_chain: LocalChain, url: str, status: int
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = Shop()
        wall = Paywall(shop, payee=payee, routes=TWO, origin=ORIGIN)
        headers = await pay(agentpay_shared_chain, payee, url=url)
        async with httpx.AsyncClient(transport=through(wall)) as client:
            answer = await client.get("http://inside:8000/one", headers=headers)
        paid = await agentpay_shared_chain.balance(payee.settings.pay_to)

    assert answer.status_code == status
    assert (shop.begun["/one"], paid) == ((1, PRICE) if status == 200 else (0, 0))


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://public.example/one", 200),
        ("https://public.example/prefix/one", 200),
        ("https://public.example/two", 402),
    ],
)
async def test_p2_without_an_origin_the_path_still_tells(
    agentpay_shared_chain: LocalChain, url: str, status: int
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(Shop(), payee=payee, routes=TWO)
        headers = await pay(agentpay_shared_chain, payee, url=url)
        async with httpx.AsyncClient(transport=through(wall)) as client:
            answer = await client.get("http://inside:8000/one", headers=headers)

    assert answer.status_code == status


async def test_p2_a_voucher_for_another_resource_is_void_and_its_payer_told_so(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(Shop(), payee=payee, routes=ROUTES, origin=ORIGIN)
        payer = HandPayer(
            await agentpay_shared_chain.funded_wallet(ether=0), payee.settings
        )
        config, terms = payer.config(), terms_of(payee)
        async with httpx.AsyncClient(transport=through(wall), base_url=BASE) as client:
            opening = await payer.funding(config, 10_000, PRICE, terms)
            first = await client.get("/ok", headers={HEADER: opening})
            stray = await payer.voucher(config, 2000, terms, url=ORIGIN + "/slow")
            refused = await client.get("/ok", headers={HEADER: stray})
        receipt = decoded(refused.headers["payment-response"])

    assert (first.status_code, refused.status_code) == (200, 402)
    fate = receipt["extensions"]["parallel-vouchers"]["info"]
    assert (fate["fate"], fate["charged"]) == ("void", "0")


# Flows, extensions, errors


@pytest.mark.parametrize("order", tuple(Order))
async def test_settle_first_is_said_on_the_wire_and_nothing_else(
    agentpay_shared_chain: LocalChain, order: Order
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(Shop(), payee=payee, routes={"/": Route(price=1, order=order)})
        async with httpx.AsyncClient(transport=through(wall)) as client:
            answer = await client.get(BASE + "/")
        required = parse_payment_required(required_header(answer))
        offers = [offer for offer, _ in required.readable_offers()]
        flows = {o.scheme: o.extra.get("paymentFlow") for o in offers}

    upfront = "upfront" if order is Order.SETTLE_FIRST else None
    assert flows == {"batch-settlement": None, "exact": upfront}


async def test_an_agent_pays_upfront(agentpay_shared_chain: LocalChain) -> None:
    async with a_shop(agentpay_shared_chain) as (_, payee, wall):
        async with await an_agent(agentpay_shared_chain, through(wall)) as agent:
            answer = await agent.get(BASE + f"/exact/{Order.SETTLE_FIRST}/ok")

        assert answer.status_code == 200
        assert await agentpay_shared_chain.balance(payee.settings.pay_to) == PRICE


@pytest.mark.parametrize("strange", [None, 7, "x", [], {}, {"info": 3}, {"info": {}}])
async def test_unknown_extensions_are_ignored_whatever_they_look_like(
    agentpay_shared_chain: LocalChain, strange: object
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(Shop(), payee=payee, routes=TWO)
        headers = await pay(agentpay_shared_chain, payee, url="")
        message = decoded(headers[HEADER])
        names = ("x-unknown", "parallel-vouchers", "payment-identifier", "bazaar")
        message["extensions"] = dict.fromkeys(names, strange)
        async with httpx.AsyncClient(transport=through(wall)) as client:
            answer = await client.get(
                BASE + "/one", headers={HEADER: encode_json(message)}
            )

    assert answer.status_code == 200


async def test_a_payment_that_cannot_be_checked_is_503_with_its_id(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with FaultyRpc(agentpay_shared_chain.rpc_url) as rpc:
        payee = await open_payee(agentpay_shared_chain, rpc_url=rpc.url)
        await payee.start()
        wall = Paywall(Shop(), payee=payee, routes=TWO)
        headers = await pay(agentpay_shared_chain, payee, url="")
        rpc.plan("eth_call", Fault.UNAVAILABLE, times=100)
        async with httpx.AsyncClient(transport=through(wall)) as client:
            answer = await client.get(BASE + "/one", headers=headers)
        rpc.heal()
        await payee.stop()
    nonce = decoded(headers[HEADER])["payload"]["authorization"]["nonce"]

    assert answer.status_code == 503
    assert nonce in answer.json()["payment"]
    assert answer.headers["content-type"] == "application/problem+json"


async def test_p8_two_credentials_are_told_what_is_wrong(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        twice = [(HEADER, "a"), (HEADER, "b")]
        async with httpx.AsyncClient(transport=through(wall)) as client:
            answer = await client.get(BASE + "/ok", headers=twice)

    assert answer.status_code == 400
    assert "more than one" in answer.json()["detail"]


async def test_a_route_says_what_it_is_and_how_it_is_called(
    agentpay_shared_chain: LocalChain,
) -> None:
    about = About(
        description="A forecast",
        mime_type="application/json",
        query={"days": "3"},
        output={"sun": True},
    )
    routes: dict[str, Any] = {
        "/weather/{city}": Route(price=PRICE, about=about),
        "/plain": PRICE,
    }
    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(Shop(), payee=payee, routes=routes)
        async with httpx.AsyncClient(transport=through(wall)) as client:
            described = await client.get(BASE + "/weather/Oslo?days=3")
            plain = await client.get(BASE + "/plain")
        async with await an_agent(agentpay_shared_chain, through(wall)) as agent:
            assert (await agent.get(BASE + "/weather/Oslo")).status_code == 200
    required = decoded(required_header(described))
    listing = required["extensions"]["bazaar"]

    assert required["resource"] == {
        "url": BASE + "/weather/Oslo?days=3",
        "description": "A forecast",
        "mimeType": "application/json",
    }
    assert listing["info"]["input"]["pathParams"] == {"city": "Oslo"}
    assert listing["routeTemplate"] == "/weather/:city"
    assert not faults(listing["info"], listing["schema"])
    assert "bazaar" not in decoded(required_header(plain))["extensions"]
