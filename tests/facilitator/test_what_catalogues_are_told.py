"""What a payee tells the facilitators that it asks of what it sells (x402's bazaar)."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from agentpay import Payee, Paywall, Route, Wallet
from agentpay.http.facilitator_client import RemoteFacilitator
from agentpay.http.pools import PooledTransport
from agentpay.payee.about import About
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.bazaar import BYTES_MAX
from agentpay.wire.headers import decode_json, encode_json
from agentpay.wire.x402 import BATCH_SETTLEMENT, EXACT, PAYMENT_SIGNATURE, UPTO
from tests.facilitator.world import a_desk
from tests.http.world import (
    BASE,
    PRICE,
    Shop,
    a_payee,
    an_agent,
    client_of,
    required_header,
    through,
)
from tests.payee.hand import HandPayer, decoded, terms_of

ABOUT = About(
    description="A forecast", service_name="Weather", tags=("sun",), query={"days": "3"}
)
PATH = "/weather/Oslo"
TOLD = {
    "url": BASE + PATH,
    "description": "A forecast",
    "mimeType": "",
    "serviceName": "Weather",
    "tags": ["sun"],
}

# `specs/extensions/bazaar.md`, "Verify and Settlement Response Sidechannel".
REJECTED = (
    "eyJiYXphYXIiOnsic3RhdHVzIjoicmVqZWN0ZWQiLCJyZWplY3RlZFJlYXNvbiI6ImluZm8gZmFpbGVk"
    "IHNjaGVtYSB2YWxpZGF0aW9uIn19"
)


class Overheard(httpx.AsyncBaseTransport):
    """Sends what is asked on, and keeps it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.outcomes: str | None = None
        """What its catalogue says beside every answer."""
        self._inner = PooledTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.asked.append((request.url.path, json.loads(request.content)))
        answer = await self._inner.handle_async_request(request)
        if self.outcomes is not None:
            answer.headers["EXTENSION-RESPONSES"] = self.outcomes
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    @property
    def resources(self) -> list[Any]:
        return [asked["paymentPayload"].get("resource") for _, asked in self.asked]

    @property
    def listings(self) -> list[Any]:
        payments = [asked["paymentPayload"] for _, asked in self.asked]
        return [p.get("extensions", {}).get("bazaar") for p in payments]


@contextlib.asynccontextmanager
async def a_listed_shop(
    chain: LocalChain,
    *schemes: str,
    about: About | None = ABOUT,
    origin: str | None = BASE,
) -> AsyncIterator[tuple[Overheard, Payee, Paywall]]:
    """A shop without gas, what it asks its facilitator, and what it sells."""
    overheard = Overheard()
    async with a_desk(chain) as desk:
        remote = RemoteFacilitator([desk.url], transport=overheard)
        async with a_payee(chain, wallet=Wallet.create(), facilitator=remote) as payee:
            route = Route(
                price=PRICE, schemes=schemes, metered=UPTO in schemes, about=about
            )
            wall = Paywall(
                Shop(), payee=payee, routes={"/weather/{city}": route}, origin=origin
            )
            yield overheard, payee, wall


async def offered(wall: Paywall) -> dict[str, Any]:
    async with client_of(wall) as client:
        return decoded(required_header(await client.get(PATH)))


async def pay(
    chain: LocalChain,
    payee: Payee,
    wall: Paywall,
    *,
    says: dict[str, Any] | None = None,
    **headers: str,
) -> httpx.Response:
    """One request, paid by hand; `says` stands beside what is signed."""
    payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
    signed = await payer.transfer(terms_of(payee, Route(price=PRICE, schemes=(EXACT,))))
    payment = {**decode_json(signed, name="a payment"), **(says or {})}
    async with client_of(wall) as client:
        paid = {PAYMENT_SIGNATURE: encode_json(payment), **headers}
        return await client.get(PATH, headers=paid)


@pytest.mark.parametrize("scheme", [EXACT, UPTO, BATCH_SETTLEMENT])
async def test_a_catalogue_is_told_what_was_offered_and_not_what_was_asked(
    agentpay_shared_chain: LocalChain, scheme: str
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_listed_shop(chain, scheme) as (overheard, _, wall),
        await an_agent(chain, through(wall), allow_private_networks=True) as agent,
    ):
        answer = await agent.get(f"{BASE}{PATH}?days=3&secret=1")
        listing = (await offered(wall))["extensions"]["bazaar"]
    amounts = {
        asked["paymentPayload"]["accepted"]["amount"]
        for _, asked in overheard.asked[:2]
    }

    assert answer.status_code == 200
    assert overheard.paths[:2] == ["/verify", "/settle"]
    assert overheard.resources[:2] == [TOLD, TOLD]
    assert overheard.listings[:2] == [listing, listing]
    assert listing["routeTemplate"] == "/weather/:city"
    assert amounts == {str(PRICE)}


async def test_what_a_payer_says_of_a_resource_is_told_to_nobody(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    invented = {"info": {"input": {"type": "http", "method": "GET"}}, "schema": {}}
    async with a_listed_shop(chain, EXACT) as (overheard, payee, wall):
        listing = (await offered(wall))["extensions"]["bazaar"]
        answer = await pay(
            chain,
            payee,
            wall,
            says={
                "resource": {"url": BASE + PATH, "serviceName": "Casino"},
                "extensions": {"bazaar": {**invented, "routeTemplate": "/admin"}},
            },
        )

    assert answer.status_code == 200
    assert overheard.resources == [TOLD, TOLD]
    assert overheard.listings == [listing, listing]


@pytest.mark.parametrize("host", [BASE.removeprefix("http://"), "bank.example"])
async def test_a_host_that_only_its_client_named_is_listed_nowhere(
    agentpay_shared_chain: LocalChain, host: str
) -> None:
    """Without an origin, who pays would say whose shop a catalogue lists as ours."""
    chain = agentpay_shared_chain
    async with a_listed_shop(chain, EXACT, origin=None) as (overheard, payee, wall):
        answer = await pay(chain, payee, wall, host=host)

    assert answer.status_code == 200
    assert overheard.paths == ["/verify", "/settle"]
    assert overheard.resources == overheard.listings == [None, None]


@pytest.mark.parametrize(
    "about",
    [
        None,
        About(description="Not for catalogues", listed=False),
        About(output="x" * BYTES_MAX),
    ],
)
async def test_what_is_not_listed_or_too_long_is_paid_for_and_told_to_nobody(
    agentpay_shared_chain: LocalChain, about: About | None
) -> None:
    chain = agentpay_shared_chain
    async with a_listed_shop(chain, EXACT, about=about) as (overheard, payee, wall):
        answer = await pay(chain, payee, wall)

    assert answer.status_code == 200
    assert overheard.resources == overheard.listings == [None, None]


@pytest.mark.parametrize(
    ("outcomes", "heard"),
    [
        (REJECTED, "info failed schema validation"),
        (encode_json({"bazaar": {"status": "rejected"}}), "no reason is given"),
        (
            encode_json(
                {"bazaar": {"status": "rejected", "rejectedReason": "x\n" * 999}}
            ),
            "x\\n" * 100,
        ),
        ("?", "extension-responses is not base64"),
        ("A" * 20_000, "we read 16384"),
    ],
)
async def test_what_a_catalogue_rejects_is_logged_once_and_still_paid_for(
    agentpay_shared_chain: LocalChain,
    caplog: pytest.LogCaptureFixture,
    outcomes: str,
    heard: str,
) -> None:
    chain = agentpay_shared_chain
    async with a_listed_shop(chain, EXACT) as (facilitator, payee, wall):
        facilitator.outcomes = outcomes
        answers = [await pay(chain, payee, wall) for _ in range(2)]
    logged = [m for m in caplog.messages if "does not list" in m]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(logged) == 1
    assert BASE + PATH in logged[0]
    assert heard in logged[0]
    assert len(logged[0]) < 1000
    assert "extension-responses" not in answers[0].headers, "it is for the payee alone"


@pytest.mark.parametrize("status", ["success", "processing", "unheard of", None])
async def test_nothing_is_logged_of_what_a_catalogue_does_not_reject(
    agentpay_shared_chain: LocalChain,
    caplog: pytest.LogCaptureFixture,
    status: str | None,
) -> None:
    chain = agentpay_shared_chain
    async with a_listed_shop(chain, EXACT) as (facilitator, payee, wall):
        facilitator.outcomes = encode_json({"bazaar": {"status": status}, "other": 1})
        answer = await pay(chain, payee, wall)

    assert answer.status_code == 200
    assert not [m for m in caplog.messages if "does not list" in m]
