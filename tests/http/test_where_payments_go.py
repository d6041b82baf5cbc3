"""C6 and C7: no payment goes where nobody sent it, whatever names and redirects do."""

from collections.abc import Iterable
from typing import Any

import httpcore
import httpcore2
import httpx
import httpx2
import pytest

from agentpay import Agent, Policy
from agentpay.errors import OfferUntrusted, PaymentOutcomeUnknown
from agentpay.http.httpx2 import ThroughHttpx2
from agentpay.http.paywall import App, Paywall
from agentpay.payee.pricing import Order
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.x402 import PAYMENT_REQUIRED
from tests.http.ways import Chosen
from tests.http.world import (
    BASE,
    ROUTES,
    Heard,
    Shop,
    Wire,
    a_payee,
    a_shop,
    an_agent,
    rewriting,
    serving,
    through,
)

pytestmark = pytest.mark.usefixtures("way")

PUBLIC, METADATA = "93.184.216.34", "169.254.169.254"
HASTY = Policy(give_up_seconds=0.4)
EXACT = f"/exact/{Order.RESERVE}/ok"


class Resolved(httpcore.AsyncNetworkStream):
    """A connection to a server of ours under the address that a name resolved to."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, address: str) -> None:
        self._stream = stream
        self._address = address
        self.read = stream.read  # type: ignore[method-assign]
        self.write = stream.write  # type: ignore[method-assign]
        self.aclose = stream.aclose  # type: ignore[method-assign]

    def get_extra_info(self, info: str) -> Any:
        if info == "server_addr":
            return self._address, 80
        return self._stream.get_extra_info(info)


class Resolver(httpcore.AsyncNetworkBackend):
    """Leads every name to one server, by one address after another."""

    def __init__(self, port: int, addresses: Iterable[str]) -> None:
        self._port = port
        self._addresses = list(addresses)
        self.used: list[str] = []

    async def connect_tcp(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        address = self._addresses.pop(0)
        self._addresses.append(address)
        self.used.append(address)
        backend: Any = _core().AnyIOBackend()
        return Resolved(await backend.connect_tcp("127.0.0.1", self._port), address)


def resolving(
    base: str, addresses: Iterable[str], *, kept: int
) -> tuple[httpx.AsyncBaseTransport, Resolver]:
    """The library's own transport with names that resolve as a test wants."""
    resolver = Resolver(int(base.rpartition(":")[2]), addresses)
    ours = Chosen.name == "httpx"
    transport: Any = (httpx if ours else httpx2).AsyncHTTPTransport()
    transport._pool = _core().AsyncConnectionPool(
        network_backend=resolver, max_keepalive_connections=kept
    )
    return transport if ours else ThroughHttpx2(transport), resolver


def _core() -> Any:
    """What the library of our way connects by."""
    return httpcore if Chosen.name == "httpx" else httpcore2


async def test_a_public_address_is_paid(agentpay_shared_chain: LocalChain) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        heard = Heard(Paywall(Shop(), payee=payee, routes=ROUTES))
        async with serving(heard) as base:
            inner, resolver = resolving(base, [PUBLIC], kept=0)
            async with await an_agent(agentpay_shared_chain, inner) as agent:
                got = await agent.get(BASE + EXACT)

    assert (got.status_code, heard.credentials) == (200, 1)
    assert resolver.used == [PUBLIC, PUBLIC]


@pytest.mark.parametrize("inside", [METADATA, "127.0.0.1", "10.1.2.3", "::1"])
async def test_c7_a_name_that_leads_inside_for_the_payment_gets_none(
    agentpay_shared_chain: LocalChain, inside: str
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        heard = Heard(Paywall(Shop(), payee=payee, routes=ROUTES))
        async with serving(heard) as base:
            inner, resolver = resolving(base, [PUBLIC, inside], kept=0)
            async with await an_agent(
                agentpay_shared_chain, inner, policy=HASTY
            ) as agent:
                with pytest.raises(PaymentOutcomeUnknown, match="private network"):
                    await agent.get(BASE + EXACT)

    assert heard.credentials == 0
    assert resolver.used[:2] == [PUBLIC, inside]


async def test_c7_an_offer_that_is_remembered_is_not_paid_inside_either(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        heard = Heard(Paywall(Shop(), payee=payee, routes=ROUTES))
        async with serving(heard) as base:
            names = [PUBLIC, PUBLIC, *[METADATA] * 99]
            inner, _ = resolving(base, names, kept=0)
            async with await an_agent(
                agentpay_shared_chain, inner, policy=HASTY
            ) as agent:
                assert (await agent.get(BASE + EXACT)).status_code == 200
                with pytest.raises(PaymentOutcomeUnknown):
                    await agent.get(BASE + EXACT)

    assert heard.credentials == 1


async def test_c7_a_connection_that_led_inside_is_not_used_again_to_pay(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        heard = Heard(Paywall(Shop(), payee=payee, routes=ROUTES))
        async with serving(heard) as base:
            names = [PUBLIC, PUBLIC, METADATA, PUBLIC]
            inner, resolver = resolving(base, names, kept=1)
            async with await an_agent(
                agentpay_shared_chain, inner, policy=HASTY
            ) as agent:
                assert (await agent.get(BASE + EXACT)).status_code == 200
                await _close_idle(inner)
                assert (await agent.get(BASE + "/free")).status_code == 200
                with pytest.raises(PaymentOutcomeUnknown):
                    await agent.get(BASE + EXACT)

    assert heard.credentials == 1
    assert resolver.used[:3] == [PUBLIC, PUBLIC, METADATA]


async def _close_idle(transport: Any) -> None:
    """As after a while: the next request connects anew."""
    await getattr(transport, "_inner", transport)._pool.aclose()


async def test_c7_a_callers_own_trace_hears_of_everything(
    agentpay_shared_chain: LocalChain,
) -> None:
    events: list[str] = []

    async def trace(event: str, info: Any) -> None:
        events.append(event)

    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(Shop(), payee=payee, routes=ROUTES)
        async with serving(wall) as base:
            inner, _ = resolving(base, [PUBLIC], kept=1)
            async with await an_agent(agentpay_shared_chain, inner) as agent:
                await agent.get(BASE + EXACT, extensions={"trace": trace})

    assert "connection.connect_tcp.complete" in events


# Redirects

MOVED = pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
OTHER = "http://other.example"


async def redirected(
    chain: LocalChain, wire: Wire, status: int, to: str, **policy: Any
) -> Agent:
    """An agent at whose shop `/moved` redirects to where payment is wanted."""
    shop = wire.inner

    async def route(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/moved":
            return httpx.Response(status, headers={"location": to})
        return await shop.handle_async_request(request)

    wire.inner = httpx.MockTransport(route)
    made = Policy(deposit="$0.1", low_water="$0.01", **policy)
    return await an_agent(chain, wire, policy=made, follow_redirects=True)


def anywhere(app: App) -> App:
    """The same application, which does not say where it is."""

    def changed(message: Any) -> Any:
        return {k: v for k, v in message.items() if k != "resource"}

    return rewriting(app, PAYMENT_REQUIRED, changed)


@MOVED
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_c6_a_402_that_a_redirect_leads_to_is_not_paid_elsewhere(
    agentpay_shared_chain: LocalChain, status: int, method: str
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(anywhere(wall)))
        async with await redirected(
            agentpay_shared_chain, wire, status, OTHER + "/ok"
        ) as agent:
            with pytest.raises(OfferUntrusted, match="redirected"):
                await agent.request(method, BASE + "/moved", content=b"x")
            spending = await agent.spending()

    assert not wire.credentials
    assert (spending.spent, spending.deposited, spending.held) == (0, 0, 0)


@MOVED
async def test_c6_nor_where_its_price_is_known(
    agentpay_shared_chain: LocalChain, status: int
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await redirected(
            agentpay_shared_chain, wire, status, OTHER + "/ok"
        ) as agent:
            assert (await agent.get(OTHER + "/ok")).status_code == 200
            with pytest.raises(OfferUntrusted):
                await agent.get(BASE + "/moved")

    assert len(wire.credentials) == 1


@pytest.mark.parametrize(
    ("to", "policy"),
    [
        ("/ok", {}),
        (BASE + "/ok", {}),
        (BASE.replace("http:", "https:") + "/ok", {}),
        (OTHER + "/ok", {"pay_redirected": True}),
    ],
)
async def test_a_redirect_within_an_origin_to_its_tls_or_as_we_say_is_paid(
    agentpay_shared_chain: LocalChain, to: str, policy: dict[str, Any]
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await redirected(
            agentpay_shared_chain, wire, 307, to, **policy
        ) as agent:
            got = await agent.get(BASE + "/moved")

    assert got.status_code == 200
    assert len(wire.credentials) == 1


@MOVED
@pytest.mark.parametrize("host", [METADATA, "localhost", "[::1]"])
async def test_c7_a_redirect_into_our_own_network_is_not_paid(
    agentpay_shared_chain: LocalChain, status: int, host: str
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await redirected(
            agentpay_shared_chain,
            wire,
            status,
            f"http://{host}/ok",
            pay_redirected=True,
        ) as agent:
            with pytest.raises(OfferUntrusted, match="private network"):
                await agent.get(BASE + "/moved")

    assert not wire.credentials
