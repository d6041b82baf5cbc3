"""
Two workers over one PostgreSQL, one of which lives and has lost its connection to it.

It is taken for dead, and its payments are taken over. It answers none of them after.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from agentpay import Payee
from agentpay.errors import StoreUnavailable
from agentpay.http.paywall import App, Paywall, Receive, Scope, Send
from agentpay.payee.pricing import Order, Route
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.x402 import PAYMENT_RESPONSE, parse_response
from tests.http.world import BASE, PRICE, ROUTES, Shop, eventually, through
from tests.payee.hand import HandPayer, named, terms_of
from tests.stores.cut_wire import CutWire, cut_wire


class HalfWay(Shop):
    """Begins its answer at once, and ends it when it may."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.begun[str(scope["path"])] += 1
        await self.gate.wait()
        await send({"type": "http.response.body", "body": b'{"answer":42}'})


class Worker:
    """A payee, what it sells, and its wire to the database."""

    def __init__(self, payee: Payee, shop: Shop, wire: CutWire | None = None) -> None:
        self.payee = payee
        self.shop = shop
        self._wire = wire
        self._app: App = Paywall(shop, payee=payee, routes=ROUTES)

    async def ask(self, path: str, header: str) -> httpx.Response:
        client = httpx.AsyncClient(transport=through(self._app), base_url=BASE)
        async with client:
            return await client.get(path, headers={"payment-signature": header})

    def part(self) -> None:
        """Its session ends, and there is no other."""
        assert self._wire is not None
        self._wire.cuts = lambda _: "before"
        self._wire.cut_all()

    async def come_back(self) -> None:
        assert self._wire is not None
        self._wire.cuts = lambda _: ""

        async def connected() -> bool:
            with contextlib.suppress(StoreUnavailable):
                await self.payee._running.store.payee.read_cursor("anything")
                return True
            return False

        await eventually(connected, seconds=20)


Two = tuple[Worker, Worker]
Opening = Callable[[type[Shop]], "contextlib.AbstractAsyncContextManager[Two]"]


@pytest.fixture
def open_two(agentpay_shared_chain: LocalChain, postgres_url: str) -> Opening:
    """The first of two workers has a wire that can be cut."""

    @contextlib.asynccontextmanager
    async def opened(kind: type[Shop]) -> AsyncIterator[Two]:
        chain = agentpay_shared_chain
        wallet = await chain.funded_wallet(0)

        def open_at(url: str) -> Payee:
            return Payee(wallet, network=chain.network, store=url, withdraw_delay=3600)

        async with cut_wire(postgres_url) as (url, wire):
            one, other = open_at(url), open_at(postgres_url)
            await one.start()
            await other.start()
            try:
                yield Worker(one, kind(), wire), Worker(other, Shop())
            finally:
                await one.stop()
                await other.stop()

    return opened


async def a_payment(chain: LocalChain, one: Worker, kind: str, order: Order) -> str:
    """A header that pays once for the slow route."""
    payee = one.payee
    payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
    path = f"/{kind}/{order}/slow"
    route = ROUTES[path]
    assert isinstance(route, Route)
    terms = terms_of(payee, route, resource=f"GET {path}")
    if kind == "exact":
        return named(await payer.transfer(terms), secrets.token_hex(16))
    return await payer.funding(payer.config(), 10 * PRICE, PRICE, terms)


async def taken_over(other: Worker, path: str, header: str) -> httpx.Response:
    """What the other says, once it takes the first for dead."""
    answers: list[httpx.Response] = []

    async def answered() -> bool:
        answers.append(await other.ask(path, header))
        return answers[-1].status_code != 409

    await eventually(answered, seconds=20)
    return answers[-1]


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("kind", ["exact", "channel"])
async def test_p1_a_worker_that_was_taken_for_dead_answers_nothing(
    agentpay_shared_chain: LocalChain, open_two: Opening, kind: str, order: Order
) -> None:
    path = f"/{kind}/{order}/slow"
    async with open_two(Shop) as (one, other):
        header = await a_payment(agentpay_shared_chain, one, kind, order)
        other.shop.gate.set()
        asked = asyncio.create_task(one.ask(path, header))
        await eventually(_begun(one, path))
        one.part()
        taken = await taken_over(other, path, header)
        await one.come_back()
        one.shop.gate.set()
        left = await asked
        again = await one.ask(path, header)

    assert taken.status_code == 200
    assert left.status_code == 503
    receipt = parse_response(left.headers[PAYMENT_RESPONSE])
    assert not receipt.success
    assert (again.status_code, again.content) == (200, taken.content)
    assert (one.shop.begun[path], other.shop.begun[path]) == (1, 1)


@pytest.mark.parametrize("order", Order)
async def test_a_worker_that_is_cut_off_when_it_would_answer_answers_nothing(
    agentpay_shared_chain: LocalChain, open_two: Opening, order: Order
) -> None:
    chain, path = agentpay_shared_chain, f"/exact/{order}/slow"
    async with open_two(Shop) as (one, other):
        header = await a_payment(chain, one, "exact", order)
        other.shop.gate.set()
        asked = asyncio.create_task(one.ask(path, header))
        await eventually(_begun(one, path))
        one.part()
        one.shop.gate.set()
        left = await asked
        taken = await taken_over(other, path, header)

        assert (left.status_code, taken.status_code) == (503, 200)
        assert PAYMENT_RESPONSE in left.headers
        assert await chain.balance(one.payee.settings.pay_to) == PRICE


@pytest.mark.parametrize("order", [Order.RESERVE, Order.SETTLE_FIRST])
async def test_what_has_left_is_not_answered_by_who_took_it_over(
    agentpay_shared_chain: LocalChain, open_two: Opening, order: Order
) -> None:
    path = f"/exact/{order}/slow"
    async with open_two(HalfWay) as (one, other):
        header = await a_payment(agentpay_shared_chain, one, "exact", order)
        first = asyncio.create_task(one.ask(path, header))
        await eventually(_begun(one, path))
        one.part()

        takes_over: list[asyncio.Task[httpx.Response]] = []

        async def takes() -> bool:
            takes_over.append(asyncio.create_task(other.ask(path, header)))
            await asyncio.wait(takes_over[-1:], timeout=0.2)
            return not takes_over[-1].done()

        await eventually(takes, seconds=20)
        await one.come_back()
        one.shop.gate.set()
        whole = await first
        other.shop.gate.set()
        late = await takes_over[-1]
        again = await other.ask(path, header)

    assert (whole.status_code, late.status_code) == (200, 503)
    assert (again.status_code, again.content) == (200, whole.content)


def _begun(worker: Worker, path: str) -> Callable[[], Awaitable[bool]]:
    async def begun() -> bool:
        return worker.shop.begun[path] == 1

    return begun
