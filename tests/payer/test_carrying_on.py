"""C8: whoever asks again for what had no answer carries its payment on, once."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from agentpay import Agent, Budget, Payee, Policy
from agentpay.core.budget import Hold
from agentpay.errors import (
    AnswerLost,
    BudgetExceeded,
    PaymentOutcomeUnknown,
    PaymentRejected,
    StoreOutcomeUnknown,
)
from agentpay.http.paywall import App, Message, Receive, Scope, Send
from agentpay.payee.answers import AnswerPolicy
from agentpay.payee.pricing import Order
from agentpay.payer.unanswered import Unanswered
from agentpay.ports import PayerStore
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT
from agentpay.wire.x402 import PAYMENT_RESPONSE
from tests.http.world import (
    PRICE,
    Shop,
    Wire,
    an_agent,
    eventually,
    serving,
    through,
    until,
)
from tests.payer.books import at_rest, charged, none_open
from tests.payer.charges import BASE, a_market, held, spent
from tests.payer.test_lost_answers import SlowWallet

RESERVED = f"{BASE}/exact/{Order.RESERVE}/ok"
SETTLED = f"{BASE}/exact/{Order.SETTLE_FIRST}/ok"
WHOLE = f"{BASE}/ok"
BY_EXACT = Policy(prefer=("exact",), give_up_seconds=0.4)
BY_CHARGE = Policy(prefer=("charge",), give_up_seconds=0.4)
NONE_KEPT = AnswerPolicy(bytes_each=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A shop, an agent of which can be restarted, and what each has of the money."""

    chain: LocalChain
    shop: Shop
    payee: Payee
    wire: Wire
    options: dict[str, Any]

    async def agent(self, **changes: Any) -> Agent:
        return await an_agent(self.chain, self.wire, **{**self.options, **changes})

    async def arrived(self) -> int:
        """What the payee was paid, by the chain."""
        return await self.chain.balance(self.payee.settings.pay_to)

    @property
    def begun(self) -> int:
        """How often its application ran."""
        return self.shop.begun.total()

    @property
    def paid_with(self) -> int:
        """How many payments it has seen."""
        return len(set(self.wire.credentials))


@contextlib.asynccontextmanager
async def a_world(
    chain: LocalChain, *, policy: Policy = BY_EXACT, **options: Any
) -> AsyncIterator[World]:
    wallet = await chain.funded_wallet(ether=0)
    async with a_market(chain, **options) as (shop, payee, wire):
        yield World(
            chain=chain,
            shop=shop,
            payee=payee,
            wire=wire,
            options={"policy": policy, "wallet": wallet},
        )


async def unknown(
    world: World, agent: Agent, url: str, *, method: str = "GET", **options: Any
) -> None:
    """A request whose every answer is lost."""
    world.wire.lose_answers = 10**6
    with pytest.raises(PaymentOutcomeUnknown):
        await agent.request(method, url, **options)
    world.wire.lose_answers = 0


async def unsent(world: World, agent: Agent, url: str) -> None:
    """A request that never arrives, whatever it pays with."""
    world.wire.lose_requests = 10**6
    with pytest.raises(PaymentOutcomeUnknown):
        await agent.get(url)
    world.wire.lose_requests = 0


@contextlib.asynccontextmanager
async def at_work(
    chain: LocalChain, **options: Any
) -> AsyncIterator[tuple[World, Agent]]:
    """A world, and one agent in it."""
    async with a_world(chain, **options) as world, await world.agent() as agent:
        yield world, agent


KINDS = pytest.mark.parametrize(
    ("policy", "url"),
    [
        (BY_EXACT, RESERVED),
        (BY_EXACT, SETTLED),
        (BY_CHARGE, RESERVED),
        (BY_CHARGE, SETTLED),
    ],
    ids=["exact", "exact settled first", "charge", "charge settled first"],
)


@KINDS
async def test_c8_the_same_request_again_is_told_the_answer_that_was_kept(
    agentpay_shared_chain: LocalChain, policy: Policy, url: str
) -> None:
    async with at_work(agentpay_shared_chain, policy=policy) as (world, agent):
        await unknown(world, agent, url)
        again = await agent.get(url)

        assert (again.status_code, again.json()) == (200, {"answer": 42})
        assert (world.paid_with, world.begun) == (1, 1)
        assert await world.arrived() == PRICE
        assert (await spent(agent), await held(agent)) == (PRICE, 0)

        await agent.get(url)
        assert (world.paid_with, world.begun) == (2, 2)
        assert (await spent(agent), await held(agent)) == (2 * PRICE, 0)


@KINDS
async def test_c8_what_never_arrived_is_bought_by_the_same_request(
    agentpay_shared_chain: LocalChain, policy: Policy, url: str
) -> None:
    async with at_work(agentpay_shared_chain, policy=policy) as (world, agent):
        await unsent(world, agent, url)
        await unsent(world, agent, url)
        again = await agent.get(url)

        assert again.status_code == 200
        assert (world.paid_with, world.begun) == (1, 1)
        assert await world.arrived() == PRICE
        assert (await spent(agent), await held(agent)) == (PRICE, 0)


@KINDS
async def test_c8_an_answer_that_is_not_kept_is_lost_and_not_paid_again(
    agentpay_shared_chain: LocalChain, policy: Policy, url: str
) -> None:
    async with at_work(agentpay_shared_chain, policy=policy, answers=NONE_KEPT) as (
        world,
        agent,
    ):
        world.wire.hang = asyncio.Event()
        leaving = asyncio.create_task(agent.get(url))
        await until(lambda: bool(world.wire.credentials))
        world.wire.lose_answers = 1
        world.wire.hang.set()
        await until(lambda: world.shop.served.total() == 1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        world.wire.lose_answers = 0
        with pytest.raises(AnswerLost):
            await agent.get(url)

        assert (world.paid_with, world.begun) == (1, 1)
        assert (await spent(agent), await held(agent)) == (PRICE, 0)
        assert (await agent.get(url)).status_code == 200
        assert await world.arrived() == await spent(agent) == 2 * PRICE


# Vouchers of parallel channels.

VOUCHERS = pytest.mark.parametrize("prefer", ["batch-settlement", "session"])


def by_voucher(prefer: str) -> Policy:
    return Policy(
        prefer=(prefer,), deposit="$0.1", low_water="$0.01", give_up_seconds=0.4
    )


@VOUCHERS
@pytest.mark.parametrize("first", [True, False])
async def test_c8_the_same_request_again_presents_the_same_voucher(
    agentpay_shared_chain: LocalChain, prefer: str, first: bool
) -> None:
    async with at_work(agentpay_shared_chain, policy=by_voucher(prefer)) as (
        world,
        agent,
    ):
        if not first:
            await agent.get(WHOLE)
        done = 0 if first else 1
        await unknown(world, agent, WHOLE)
        again = await agent.get(WHOLE)

        assert (again.status_code, again.json()) == (200, {"answer": 42})
        assert world.begun == done + 1
        assert await spent(agent) == await charged(world.payee, agent)
        assert await spent(agent) == (done + 1) * PRICE

        await agent.get(WHOLE)
        assert world.begun == done + 2
        await eventually(lambda: at_rest(agent))
        assert await spent(agent) == (done + 2) * PRICE


@VOUCHERS
async def test_c8_an_answer_that_a_voucher_bought_is_due_after_it_was_asked_about(
    agentpay_shared_chain: LocalChain, prefer: str
) -> None:
    async with at_work(agentpay_shared_chain, policy=by_voucher(prefer)) as (
        world,
        agent,
    ):
        await unknown(world, agent, WHOLE)
        await eventually(lambda: at_rest(agent))
        assert await spent(agent) == PRICE
        assert (await agent.get(WHOLE)).json() == {"answer": 42}

        assert world.begun == 1
        assert await spent(agent) == await charged(world.payee, agent) == PRICE


@VOUCHERS
async def test_c8_a_voucher_that_is_found_void_is_not_presented_again(
    agentpay_shared_chain: LocalChain, prefer: str
) -> None:
    async with at_work(agentpay_shared_chain, policy=by_voucher(prefer)) as (
        world,
        agent,
    ):
        await agent.get(WHOLE)
        await unsent(world, agent, WHOLE)
        await eventually(lambda: none_open(agent))
        sent = len(world.wire.credentials)
        assert (await agent.get(WHOLE)).status_code == 200

        assert len(world.wire.credentials) == sent + 1
        assert world.begun == 2
        assert await spent(agent) == await charged(world.payee, agent) == 2 * PRICE


@VOUCHERS
async def test_c8_what_failed_and_cost_nothing_is_bought_by_who_asks_again(
    agentpay_shared_chain: LocalChain, prefer: str
) -> None:
    """It is asked what became of its voucher meanwhile, and they are faster."""
    async with at_work(agentpay_shared_chain, policy=by_voucher(prefer)) as (
        world,
        agent,
    ):
        for tries in (1, 2):
            assert (await agent.get(f"{BASE}/raises")).status_code == 500
            assert world.begun == tries
        assert (await agent.get(WHOLE)).status_code == 200

        await eventually(lambda: at_rest(agent))
        assert await spent(agent) == await charged(world.payee, agent) == PRICE


# Which request is the same.


@pytest.mark.parametrize(
    "other",
    [
        {"method": "PUT"},
        {"url": RESERVED + "?a=1"},
        {"content": b"other"},
        {"content": b""},
        {"headers": {"authorization": "Bearer other"}},
        {"headers": {"x-user": "other"}},
    ],
    ids=["method", "query", "body", "no body", "key", "field"],
)
async def test_c8_another_request_is_another_purchase(
    agentpay_shared_chain: LocalChain, other: dict[str, Any]
) -> None:
    asked: dict[str, Any] = {"method": "POST", "url": RESERVED, "content": b"words"}
    async with at_work(agentpay_shared_chain) as (world, agent):
        await unknown(world, agent, **asked)
        assert (await agent.request(**{**asked, **other})).status_code == 200
        assert world.paid_with == 2
        assert (await agent.request(**asked)).status_code == 200

        assert world.paid_with == world.begun == 2
        assert await world.arrived() == await spent(agent) == 2 * PRICE


async def test_c8_the_fields_of_an_attempt_do_not_make_another_request(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with at_work(agentpay_shared_chain) as (world, agent):
        ours = {"x-user": "one"}
        await unknown(world, agent, RESERVED, headers={**ours, "traceparent": "00-1"})
        again = {**ours, "traceparent": "00-2", "x-request-id": "2", "user-agent": "x"}
        assert (await agent.get(RESERVED, headers=again)).status_code == 200

        assert world.paid_with == world.begun == 1


async def test_c8_two_at_once_are_two_purchases_and_one_of_them_carries_on(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with at_work(agentpay_shared_chain) as (world, agent):
        first = await asyncio.gather(*(agent.get(RESERVED) for _ in range(2)))
        assert world.paid_with == world.begun == len(first) == 2
        await unknown(world, agent, RESERVED)
        answers = await asyncio.gather(*(agent.get(RESERVED) for _ in range(3)))

        assert [answer.status_code for answer in answers] == [200] * 3
        assert world.paid_with == world.begun == 5
        assert await world.arrived() == await spent(agent) == 5 * PRICE


async def test_c8_the_oldest_of_several_is_carried_on_first(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with at_work(agentpay_shared_chain) as (world, agent):
        await agent.get(RESERVED)
        world.wire.lose_answers = 10**6
        both = await asyncio.gather(
            *(agent.get(RESERVED) for _ in range(2)), return_exceptions=True
        )
        world.wire.lose_answers = 0
        assert [type(each) for each in both] == [PaymentOutcomeUnknown] * 2
        assert world.paid_with == 3
        for _ in range(2):
            assert (await agent.get(RESERVED)).status_code == 200

        assert world.paid_with == world.begun == 3
        assert (await spent(agent), await held(agent)) == (3 * PRICE, 0)


# When it is over.


async def test_c8_what_expired_unused_is_paid_anew(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    head = await chain.node.rpc("eth_getBlockByNumber", "latest", False)
    now = float(int(head["timestamp"], 16))
    times = [now - 10_000]
    async with (
        a_world(chain) as world,
        await world.agent(clock=lambda: times[-1]) as agent,
    ):
        await unsent(world, agent, RESERVED)
        times.append(now)
        assert (await agent.get(RESERVED)).status_code == 200

        assert (world.paid_with, world.begun) == (2, 1)
        assert (await spent(agent), await held(agent)) == (PRICE, 0)


async def test_c8_a_payment_that_is_refused_at_last_is_not_carried_on(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with at_work(agentpay_shared_chain) as (world, agent):
        await unsent(world, agent, RESERVED)
        app = world.wire.inner
        world.wire.inner = httpx.MockTransport(
            lambda request: httpx.Response(400, headers={"payment-required": "e30="})
        )
        with pytest.raises(PaymentRejected):
            await agent.get(RESERVED)
        world.wire.inner = app
        assert (await agent.get(RESERVED)).status_code == 200

        assert (world.paid_with, world.begun) == (2, 1)
        assert (await spent(agent), await held(agent)) == (PRICE, PRICE)


async def test_c8_an_answer_is_due_for_what_the_chain_shows_as_paid(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Asking the chain in between books the money, and gives up no answer."""
    async with at_work(agentpay_shared_chain) as (world, agent):
        await unknown(world, agent, RESERVED)
        for _ in range(2):
            assert await agent.payer.resolve() == 0
            assert (await spent(agent), await held(agent)) == (PRICE, 0)
        assert (await agent.get(RESERVED)).status_code == 200

        assert (world.paid_with, world.begun) == (1, 1)
        assert (await spent(agent), await held(agent)) == (PRICE, 0)
        assert not (
            await agent.payer.ledger.store.budget(agent.payer.keys.account)
        ).holds


async def test_c8_who_has_no_budget_left_still_gets_what_was_paid_for(
    agentpay_shared_chain: LocalChain,
) -> None:
    budget = Budget(total="$0.001", per_request="$0.001")
    async with (
        a_world(agentpay_shared_chain) as world,
        await world.agent(budget=budget) as agent,
    ):
        await unknown(world, agent, RESERVED)
        assert (await agent.get(RESERVED)).status_code == 200
        with pytest.raises(BudgetExceeded):
            await agent.get(RESERVED)

        assert await spent(agent) == await world.arrived() == PRICE


async def test_c8_what_is_bought_in_another_way_now_is_not_paid_again(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    """By then a channel is open, which pays before a transfer does."""
    policy = replace(BY_EXACT, prefer=("exact", "batch-settlement"))
    store, other = str(tmp_path / "agent.db"), RESERVED.replace("/exact/", "/channel/")
    async with a_world(agentpay_shared_chain, policy=policy) as world:
        async with await world.agent(store=store) as agent:
            await unknown(world, agent, WHOLE)
            await agent.get(other)
        async with await world.agent(store=store) as agent:
            assert (await agent.get(WHOLE)).json() == {"answer": 42}
            assert world.begun == 2
            assert (await agent.get(WHOLE)).status_code == 200
            assert world.begun == 3
            assert await world.arrived() == PRICE


class Unheard:
    """A payer's store, a step of which is carried out or not, and nobody is told."""

    def __init__(self, store: PayerStore, *, saved: bool) -> None:
        self._store = store
        self._saved = saved
        self.doubtful = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def update(self, *step: Any, durable: bool = True) -> Any:
        lost = self.doubtful and durable
        if self._saved or not lost:
            answer = await self._store.update(*step, durable=durable)
        if lost:
            self.doubtful = False
            raise StoreOutcomeUnknown("planned")
        return answer


@pytest.mark.parametrize("saved", [True, False])
async def test_c8_what_was_perhaps_taken_up_is_carried_on(
    agentpay_shared_chain: LocalChain, saved: bool
) -> None:
    async with at_work(agentpay_shared_chain) as (world, agent):
        await unknown(world, agent, RESERVED)
        ledger = agent.payer.ledger
        ledger.store = cast("PayerStore", Unheard(ledger.store, saved=saved))
        with pytest.raises(StoreOutcomeUnknown):
            await agent.get(RESERVED)
        assert (await agent.get(RESERVED)).status_code == 200

        assert world.paid_with == world.begun == 1
        assert (await agent.get(RESERVED)).status_code == 200
        assert world.paid_with == world.begun == 2


# What a caller is told that says nothing of the payment.


def without_receipts(app: App, *, status: int) -> App:
    """Its answers to payments have this status and no receipt."""

    async def changed(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_changed(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                kept = [h for h in message["headers"] if h[0] not in RECEIPTS]
                message = {**message, "status": status, "headers": kept}
            await send(message)

        await app(scope, receive, send_changed)

    return changed


RECEIPTS = (PAYMENT_RESPONSE.lower().encode(), PAYMENT_RECEIPT.lower().encode())


@pytest.mark.parametrize(("status", "payments"), [(502, 1), (404, 2), (200, 2)])
async def test_c8_an_error_that_may_be_any_proxys_is_no_answer(
    agentpay_shared_chain: LocalChain, status: int, payments: int
) -> None:
    async with at_work(agentpay_shared_chain) as (world, agent):
        inner = world.wire.inner
        assert isinstance(inner, httpx.ASGITransport)
        world.wire.inner = through(without_receipts(inner.app, status=status))
        assert (await agent.get(RESERVED)).status_code == status
        world.wire.inner = inner
        assert (await agent.get(RESERVED)).status_code == 200

        assert world.paid_with == world.begun == payments
        assert await world.arrived() == payments * PRICE


@pytest.mark.parametrize("policy", [BY_EXACT, BY_CHARGE], ids=["exact", "charge"])
async def test_c8_what_failed_and_is_refused_is_bought_by_who_asks_again(
    agentpay_shared_chain: LocalChain, policy: Policy
) -> None:
    """A payee never settles what its application failed at."""
    url = RESERVED.replace("/ok", "/raises")
    async with at_work(agentpay_shared_chain, policy=policy) as (world, agent):
        for tries in (1, 2):
            assert (await agent.get(url)).status_code == 500
            assert world.paid_with == world.begun == tries

        assert (await spent(agent), await held(agent)) == (0, 2 * PRICE)
        assert await world.arrived() == 0


class Refusing(httpx.AsyncBaseTransport):
    """Whatever a request pays with, it is asked to pay."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        unpaid = httpx.Request(request.method, request.url)
        return await self._inner.handle_async_request(unpaid)


@pytest.mark.parametrize("policy", [BY_EXACT, BY_CHARGE], ids=["exact", "charge"])
async def test_c8_what_nobody_answered_and_is_refused_is_its_callers_to_pay_again(
    agentpay_shared_chain: LocalChain, policy: Policy
) -> None:
    async with at_work(agentpay_shared_chain, policy=policy) as (world, agent):
        await unsent(world, agent, RESERVED)
        inner = world.wire.inner
        world.wire.inner = Refusing(inner)
        with pytest.raises(PaymentRejected):
            await agent.get(RESERVED)
        assert world.paid_with == 1
        world.wire.inner = inner
        assert (await agent.get(RESERVED)).status_code == 200
        assert (world.paid_with, world.begun) == (2, 1)


class Breaking(httpx.AsyncBaseTransport):
    """The first answer to a payment arrives whole, and is cut off on its way."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self._broken = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        paid = {"payment-signature", "authorization"} & set(request.headers)
        if paid and not self._broken:
            self._broken = True
            await response.aread()
            return httpx.Response(
                response.status_code, headers=response.headers, stream=Cut()
            )
        return response


class Cut(httpx.AsyncByteStream):
    """Breaks off after a byte."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"{"
        raise httpx.ReadError("planned")


@KINDS
@pytest.mark.parametrize("told", [True, False])
async def test_c8_an_answer_that_broke_off_is_due_to_who_asks_again(
    agentpay_shared_chain: LocalChain, policy: Policy, url: str, told: bool
) -> None:
    async with at_work(agentpay_shared_chain, policy=policy) as (world, agent):
        inner = world.wire.inner
        assert isinstance(inner, httpx.ASGITransport)
        app = inner.app if told else without_receipts(inner.app, status=200)
        world.wire.inner = Breaking(through(app))
        with pytest.raises(AnswerLost if told else PaymentOutcomeUnknown):
            await agent.get(url)
        world.wire.inner = inner
        assert (await agent.get(url)).json() == {"answer": 42}

        assert world.paid_with == world.begun == 1
        assert await world.arrived() == PRICE
        assert (await spent(agent), await held(agent)) == (PRICE, 0)
        assert (await agent.get(url)).status_code == 200
        assert world.paid_with == world.begun == 2


@VOUCHERS
@pytest.mark.parametrize("kept", [True, False])
async def test_c8_an_answer_to_a_voucher_that_broke_off_is_due_to_who_asks_again(
    agentpay_shared_chain: LocalChain, prefer: str, kept: bool
) -> None:
    answers = AnswerPolicy() if kept else NONE_KEPT
    async with at_work(
        agentpay_shared_chain, policy=by_voucher(prefer), answers=answers
    ) as (world, agent):
        await agent.get(WHOLE)
        inner = world.wire.inner
        assert isinstance(inner, httpx.ASGITransport)
        world.wire.inner = Breaking(through(inner.app))
        with pytest.raises(AnswerLost):
            await agent.get(WHOLE)
        world.wire.inner = inner
        if kept:
            assert (await agent.get(WHOLE)).json() == {"answer": 42}
        else:
            with pytest.raises(AnswerLost):
                await agent.get(WHOLE)

        assert world.begun == 2
        assert (await agent.get(WHOLE)).status_code == 200
        assert world.begun == 3
        await eventually(lambda: at_rest(agent))
        assert await spent(agent) == await charged(world.payee, agent) == 3 * PRICE


async def test_c8_what_broke_off_is_due_no_longer_than_answers_are_kept(
    agentpay_shared_chain: LocalChain,
) -> None:
    ahead = [0.0]
    policy = replace(BY_EXACT, authorization_seconds_max=60)
    async with (
        a_world(agentpay_shared_chain, policy=policy) as world,
        await world.agent(clock=lambda: time.time() + ahead[-1]) as agent,
    ):
        ledger, inner = agent.payer.ledger, world.wire.inner
        for later, due in ((0.0, 1), (1000.0, 2), (3750.0, 2)):
            ahead.append(later)
            world.wire.inner = Breaking(inner)
            with pytest.raises(AnswerLost):
                await agent.get(RESERVED, params={"later": later})
            holds = (await ledger.store.budget(ledger.account)).holds
            assert (len(holds), sum(hold.amount for hold in holds)) == (due, 0)


# Crashes, and other processes.


def image_of(file: Path) -> str:
    """The store of a process that dies now, as the next one finds it."""
    copy = file.with_name(f"{file.stem}-crashed.db")
    with (
        contextlib.closing(sqlite3.connect(file)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    return str(copy)


@KINDS
@pytest.mark.parametrize("crash", ["recorded", "signed", "arrived", "unknown"])
async def test_c8_after_a_crash_at_any_step_the_same_request_pays_once(
    agentpay_shared_chain: LocalChain,
    tmp_path: Path,
    policy: Policy,
    url: str,
    crash: str,
) -> None:
    file, wallet = tmp_path / "agent.db", SlowWallet.create()
    wallet.gate, wallet.asked = asyncio.Event(), 0
    await agentpay_shared_chain.fund(wallet.address)
    async with a_world(agentpay_shared_chain, policy=policy) as world:
        wire = world.wire
        async with await world.agent(wallet=wallet, store=str(file)) as agent:
            wire.hang = asyncio.Event()
            asking = asyncio.create_task(agent.get(url))
            await until(lambda: wallet.asked == 1)
            if crash != "recorded":
                wallet.gate.set()
                await until(lambda: bool(wire.credentials))
            if crash in ("arrived", "unknown"):
                wire.lose_answers = 10**6
                wire.hang.set()
                await until(lambda: world.shop.served.total() == 1)
            if crash == "unknown":
                await asyncio.gather(asking, return_exceptions=True)
            image = image_of(file)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        wire.lose_answers, wire.hang = 0, None
        wallet.gate.set()
        async with await world.agent(wallet=wallet, store=image) as agent:
            answers = [await agent.get(url) for _ in range(2)]

            assert [answer.status_code for answer in answers] == [200, 200]
            assert world.paid_with == world.begun == 2
            assert await world.arrived() == 2 * PRICE
            assert (await spent(agent), await held(agent)) == (2 * PRICE, 0)


async def test_c8_what_another_agent_left_is_carried_on_by_one_alone(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    store = str(tmp_path / "agent.db")
    async with (
        a_world(agentpay_shared_chain) as world,
        await world.agent(store=store) as one,
        await world.agent(store=store) as two,
    ):
        await two.get(RESERVED)
        await unknown(world, one, RESERVED)
        answers = await asyncio.gather(one.get(RESERVED), two.get(RESERVED))

        assert [answer.status_code for answer in answers] == [200, 200]
        assert world.paid_with == world.begun == 3
        assert await world.arrived() == await spent(one) == 3 * PRICE


async def test_c8_of_two_that_know_how_it_was_left_one_takes_it_up(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    """All within one second: the times that they say are no others for that."""
    store, now = str(tmp_path / "agent.db"), time.time()
    async with (
        a_world(agentpay_shared_chain) as world,
        await world.agent(store=store, clock=lambda: now) as one,
        await world.agent(store=store, clock=lambda: now) as two,
    ):
        await two.get(RESERVED)
        await unknown(world, one, RESERVED)
        world.wire.hang, sent = asyncio.Event(), len(world.wire.credentials)
        first = asyncio.create_task(two.get(RESERVED))
        await until(lambda: len(world.wire.credentials) > sent)
        assert world.paid_with == 2
        second = asyncio.create_task(one.get(RESERVED))
        await until(lambda: len(world.wire.credentials) > sent + 1)
        world.wire.hang.set()

        assert (await first).status_code == (await second).status_code == 200
        assert world.paid_with == world.begun == 3


async def test_c8_what_another_agent_is_at_is_not_carried_on(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    store = str(tmp_path / "agent.db")
    async with (
        a_world(agentpay_shared_chain) as world,
        await world.agent(store=store) as one,
        await world.agent(store=store) as two,
    ):
        await two.get(RESERVED)
        world.wire.hang = asyncio.Event()
        asking = asyncio.create_task(one.get(RESERVED))
        await until(lambda: world.paid_with == 2)
        world.wire.hang.set()
        second = await two.get(RESERVED)

        assert second.status_code == (await asking).status_code == 200
        assert world.paid_with == world.begun == 3
        assert await spent(one) == 3 * PRICE


async def test_c8_an_agent_that_begins_waits_for_what_others_are_at(
    agentpay_shared_chain: LocalChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot tell who lives: what ends meanwhile is nobody else's to carry on."""
    take_up, tried = Unanswered._take_up, list[str]()

    async def noted(self: Unanswered[Any], request: str) -> tuple[Hold | None, bool]:
        tried.append(request)
        return await take_up(self, request)

    monkeypatch.setattr(Unanswered, "_take_up", noted)
    store, patient = str(tmp_path / "agent.db"), replace(BY_EXACT, give_up_seconds=20)
    async with (
        a_world(agentpay_shared_chain, policy=patient) as world,
        await world.agent(store=store) as one,
    ):
        world.wire.hang = asyncio.Event()
        first = asyncio.create_task(one.get(RESERVED))
        await until(lambda: world.paid_with == 1)
        async with await world.agent(store=store) as two:
            second = asyncio.create_task(two.get(RESERVED))
            await until(lambda: len(tried) > 1)  # it has waited once
            assert len(world.wire.credentials) == 1
            world.wire.hang.set()

            assert (await second).status_code == (await first).status_code == 200
            assert world.paid_with == world.begun == 2
            assert await spent(two) == 2 * PRICE


async def test_c8_a_request_that_takes_very_long_keeps_its_payment(
    agentpay_shared_chain: LocalChain,
) -> None:
    ahead = [0.0]
    async with (
        a_world(agentpay_shared_chain) as world,
        await world.agent(clock=lambda: time.time() + ahead[-1]) as agent,
    ):
        world.wire.hang = asyncio.Event()
        slow = asyncio.create_task(agent.get(RESERVED))
        await until(lambda: world.paid_with == 1)
        ahead.append(200.0)
        second = asyncio.create_task(agent.get(RESERVED))
        await until(lambda: world.paid_with == 2)
        world.wire.hang.set()

        assert (await slow).status_code == (await second).status_code == 200
        assert world.begun == 2


async def test_c8_over_real_http_a_restarted_provider_is_paid_once(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    """The agent's connection breaks after the money moved, and both ask again."""
    policy = replace(BY_EXACT, give_up_seconds=2)
    async with a_world(agentpay_shared_chain, policy=policy) as world:
        inner = world.wire.inner
        assert isinstance(inner, httpx.ASGITransport)
        options = {**world.options, "allow_private_networks": True}
        options["store"] = str(tmp_path / "agent.db")
        async with serving(inner.app) as base:
            url = base + RESERVED.removeprefix(BASE)
            wire = Wire(httpx.AsyncHTTPTransport())
            wire.lose_answers = 10**6
            async with await an_agent(world.chain, wire, **options) as agent:
                with pytest.raises(PaymentOutcomeUnknown):
                    await agent.get(url)
            async with await an_agent(world.chain, None, **options) as agent:
                assert (await agent.get(url)).json() == {"answer": 42}

                assert world.begun == 1
                assert await world.arrived() == await spent(agent) == PRICE
