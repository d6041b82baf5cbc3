"""
An answer that is there whole is charged, kept and closed before any of it leaves.

So whoever misses it is told it again, whatever happened after that one step.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from agentpay.core.payee_channel import PayeeChannel
from agentpay.evm.batch_settlement import ChannelConfig, channel_id
from agentpay.http.paywall import Message, Paywall, Receive, Scope, Send
from agentpay.payee.answers import AnswerPolicy
from agentpay.payee.pricing import Order, Route
from agentpay.stores.memory import MemoryPayeeStore
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.x402 import PAYMENT_RESPONSE
from tests.http.test_selling_on_channels import unreliable
from tests.http.world import (
    CHANNEL_ONLY,
    PRICE,
    a_payee,
    eventually,
    through,
    until,
)
from tests.payee.hand import HandPayer, decoded, terms_of

Told = list[Message]
Tell = Callable[[Message], Awaitable[None]]


class Page:
    """Answers with a number, which it never says twice."""

    def __init__(self) -> None:
        self.asked = 0
        self.parts = 1
        self.size = 10
        self.says_its_length = True
        self.fails = False
        self.gate = asyncio.Event()
        """Between the head and the body."""
        self.gate.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        if "used" in str(scope["query_string"]):
            scope["agentpay"].charge(PRICE // 2)
        parts = [b"%010d" % self.asked * (self.size // 10)] * self.parts
        length = str(sum(map(len, parts))).encode()
        headers = [(b"content-length", length)] if self.says_its_length else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self.gate.wait()
        if self.fails:
            raise RuntimeError("the handler failed")
        for number, part in enumerate(parts, 1):
            more = number < len(parts)
            await send({"type": "http.response.body", "body": part, "more_body": more})


class Visit:
    """A payee that sells a page, and somebody who pays on a channel."""

    def __init__(self, chain: LocalChain, route: Route, **options: Any) -> None:
        self.page = Page()
        self._chain = chain
        self._route = route
        self._payee = a_payee(chain, **options)
        self._signed = 0

    async def __aenter__(self) -> "Visit":
        self.payee = await self._payee.__aenter__()
        self.wall = Paywall(
            self.page, payee=self.payee, routes={"GET /page": self._route}
        )
        self.client = httpx.AsyncClient(
            transport=through(self.wall), base_url="http://shop.example"
        )
        wallet = await self._chain.funded_wallet(ether=0)
        self.payer = HandPayer(wallet, self.payee.settings)
        self.terms = terms_of(self.payee, self._route, resource="GET /page")
        self.config: ChannelConfig = self.payer.config()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.client.aclose()
        await self._payee.__aexit__(*error)

    async def payment(self) -> dict[str, str]:
        """What pays for one page more."""
        self._signed += 1
        if self._signed == 1:
            header = await self.payer.funding(
                self.config, 100 * PRICE, PRICE, self.terms
            )
        else:
            amount = self._signed * PRICE
            header = await self.payer.voucher(self.config, amount, self.terms)
        return {"payment-signature": header}

    async def ledger(self) -> PayeeChannel:
        channel = channel_id(self.config, self.payee.asset.chain)
        record = await self.payee._running.store.payee.read(channel)
        assert record is not None
        return record.ledger

    async def ask(self, headers: dict[str, str], tell: Tell) -> None:
        """One request, whose answer is told as it leaves."""
        scope = {
            "type": "http",
            "method": "GET",
            "scheme": "http",
            "path": "/page",
            "raw_path": b"/page",
            "query_string": b"",
            "root_path": "",
            "headers": [
                (b"host", b"shop.example"),
                *((name.encode(), value.encode()) for name, value in headers.items()),
            ],
        }

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        await self.wall(scope, receive, tell)


FIXED = Route(price=PRICE, schemes=CHANNEL_ONLY)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return "memory:" if request.param == "memory" else str(tmp_path / "payee.db")


@pytest.mark.parametrize("order", Order)
async def test_p1_it_is_closed_and_kept_before_its_head_leaves(
    agentpay_shared_chain: LocalChain, store: str, order: Order
) -> None:
    route = Route(price=PRICE, schemes=CHANNEL_ONLY, order=order)
    async with Visit(agentpay_shared_chain, route, store=store) as visit:
        headers, seen = await visit.payment(), []

        async def tell(message: Message) -> None:
            again = await visit.client.get("/page", headers=headers)
            seen.append((message, await visit.ledger(), again))

        await visit.ask(headers, tell)

        (head, *_), (body, *_) = seen
        for _, ledger, again in seen:
            assert (ledger.running, ledger.due) == ((), PRICE)
            assert (again.status_code, again.content) == (200, body["body"])
            sent = [(n.decode(), v.decode()) for n, v in head["headers"]]
            assert again.headers.multi_items() == sent
        assert visit.page.asked == 1


async def test_p1_one_that_is_lost_on_its_way_is_told_again_and_runs_nothing(
    agentpay_shared_chain: LocalChain, store: str
) -> None:
    async with Visit(agentpay_shared_chain, FIXED, store=store) as visit:
        headers = await visit.payment()

        async def lost(message: Message) -> None:
            raise ConnectionResetError(str(message["type"]))

        with pytest.raises(ConnectionResetError):
            await visit.ask(headers, lost)
        if store != "memory:":
            await visit.payee.stop()  # and it starts again when it is asked
        again = await visit.client.get("/page", headers=headers)

        assert (again.status_code, again.content) == (200, b"0000000001")
        assert visit.page.asked == 1
        assert (await visit.ledger()).due == PRICE


async def test_p10_a_handler_that_fails_behind_its_head_is_not_paid(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with Visit(agentpay_shared_chain, FIXED) as visit:
        visit.page.fails = True
        told: Told = []

        async def tell(message: Message) -> None:
            told.append(message)

        with pytest.raises(RuntimeError, match="the handler failed"):
            await visit.ask(await visit.payment(), tell)
        ledger = await visit.ledger()

    assert told == []  # so that the server can still say 500
    assert (ledger.charged, ledger.running) == (0, ())


async def test_p10_a_request_that_is_cancelled_behind_its_head_is_not_paid(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with Visit(agentpay_shared_chain, FIXED) as visit:
        visit.page.gate.clear()
        asking = asyncio.create_task(visit.ask(await visit.payment(), _nothing))
        await until(lambda: visit.page.asked == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        ledger = await visit.ledger()

    assert (ledger.charged, ledger.running) == (0, ())


async def _nothing(message: Message) -> None:
    del message


@pytest.mark.parametrize(
    "change", [{"says_its_length": False}, {"size": 40_000}], ids=str
)
async def test_another_leaves_as_it_comes(
    agentpay_shared_chain: LocalChain, change: dict[str, Any]
) -> None:
    """Its length is not known, or it is longer than half of what is kept."""
    async with Visit(agentpay_shared_chain, FIXED) as visit:
        for name, value in change.items():
            setattr(visit.page, name, value)
        visit.page.gate.clear()
        told: Told = []

        async def tell(message: Message) -> None:
            told.append(message)

        headers = await visit.payment()
        asking = asyncio.create_task(visit.ask(headers, tell))
        await until(lambda: len(told) == 1)
        running = (await visit.ledger()).running
        visit.page.gate.set()
        await asking
        again = await visit.client.get("/page", headers=headers)

        assert [reservation.answered for reservation in running] == [True]
        assert again.content == told[1]["body"]
        assert (visit.page.asked, (await visit.ledger()).due) == (1, PRICE)


async def test_one_in_parts_is_whole_all_the_same(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with Visit(agentpay_shared_chain, FIXED) as visit:
        visit.page.parts = 3
        headers = await visit.payment()
        first = await visit.client.get("/page", headers=headers)
        again = await visit.client.get("/page", headers=headers)

        assert first.content == again.content == b"0000000001" * 3
        assert first.headers.multi_items() == again.headers.multi_items()
        assert (visit.page.asked, (await visit.ledger()).due) == (1, PRICE)


async def test_a_metered_one_costs_what_its_handler_says(
    agentpay_shared_chain: LocalChain,
) -> None:
    route = Route(price=PRICE, schemes=CHANNEL_ONLY, metered=True)
    async with Visit(agentpay_shared_chain, route) as visit:
        answer = await visit.client.get("/page?used", headers=await visit.payment())

        assert decoded(answer.headers[PAYMENT_RESPONSE])["extra"]["chargedAmount"] == (
            str(PRICE // 2)
        )
        assert (await visit.ledger()).due == PRICE // 2


async def test_p13_where_nothing_is_kept_it_is_not_kept_either(
    agentpay_shared_chain: LocalChain,
) -> None:
    keep = AnswerPolicy(bytes_each=0)
    async with Visit(agentpay_shared_chain, FIXED, answers=keep) as visit:
        visit.page.size = 0
        headers = await visit.payment()
        first = await visit.client.get("/page", headers=headers)
        again = await visit.client.get("/page", headers=headers)

        assert (first.status_code, again.status_code) == (200, 409)


async def test_p13_what_is_kept_of_whole_ones_stays_within_its_bound(
    agentpay_shared_chain: LocalChain,
) -> None:
    keep = AnswerPolicy(bytes_each=4000, bytes_total=32_000)
    async with Visit(agentpay_shared_chain, FIXED, answers=keep) as visit:
        visit.page.size = 1000
        for _ in range(60):
            answer = await visit.client.get("/page", headers=await visit.payment())
            assert answer.status_code == 200

        await until(lambda: sum(a.size for a in _kept(visit)) <= 32_000)
        assert _kept(visit)


def _kept(visit: Visit) -> list[Any]:
    store = visit.payee._running.store.payee
    assert isinstance(store, MemoryPayeeStore)
    return list(store._answers.values())


async def test_p10_one_whose_end_cannot_be_written_is_503_and_nothing_of_it_leaves(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with Visit(agentpay_shared_chain, FIXED) as visit:
        store, headers = unreliable(visit.payee), await visit.payment()
        visit.page.gate.clear()
        asking = asyncio.create_task(visit.client.get("/page", headers=headers))
        await until(lambda: visit.page.asked == 1)
        store.fails = True
        visit.page.gate.set()
        failed = await asking
        store.fails = False

        async def closed() -> bool:
            return not (await visit.ledger()).running

        await eventually(closed, seconds=10)
        assert (failed.status_code, b"0000000001" in failed.content) == (503, False)
        assert (await visit.ledger()).charged == 0
