"""What was paid for is told again to who paid for it, and to nobody else."""

import asyncio
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentpay.errors import ConfigurationError
from agentpay.http.paywall import Paywall, Receive, Scope, Send
from agentpay.payee.answers import AnswerPolicy
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Order, Route
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Money
from agentpay.wire import payment_identifier
from agentpay.wire.headers import encode_json
from agentpay.wire.x402 import (
    PAYMENT_RESPONSE,
    parse_payment_required,
    parse_response,
)
from tests.http.world import (
    BASE,
    CHANNEL_ONLY,
    EXACT_ONLY,
    PRICE,
    Wire,
    a_payee,
    an_agent,
    open_payee,
    required_header,
    through,
    until,
)
from tests.payee.hand import HandPayer, decoded, named, terms_of

NAME = "pay_7d5d747be160e280504c099d984bcfe0"
HEADER = "payment-signature"


class Oracle:
    """Never says the same thing twice."""

    def __init__(self) -> None:
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = 0
        self.parts = asyncio.Event()
        self.parts.set()
        self.ends = asyncio.Event()
        self.ends.set()
        self.sent = 0
        self.fails_at = 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            while (await receive()).get("more_body"):
                pass
        self.asked += 1
        number, path = self.asked, str(scope["path"])
        await self.gate.wait()
        headers = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
        if path == "/heavy":
            headers.append((b"x-heavy", b"h" * 70_000))
        status = 500 if path == "/fails" and number == self.fails_at else 201
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await send(start)
        self.started += 1
        await self.parts.wait()
        for _ in range(100 if path == "/long" else 2):
            part = {"type": "http.response.body", "body": b"%d " % number * 400}
            await send({**part, "more_body": True})
            self.sent += 1
        await self.ends.wait()
        await send({"type": "http.response.body"})


def routes(kind: str, order: Order = Order.RESERVE) -> dict[str, Money | Route]:
    schemes = CHANNEL_ONLY if kind == "channel" else EXACT_ONLY
    route = Route(price=PRICE, schemes=schemes, order=order)
    return dict.fromkeys(("/data", "/other", "/long", "/heavy", "/fails"), route)


async def pay_for(
    chain: LocalChain, payee: Payee, kind: str, *, name: str | None = None
) -> dict[str, str]:
    """The headers of a payment by somebody new."""
    payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
    schemes = EXACT_ONLY if kind == "exact" else CHANNEL_ONLY
    terms = terms_of(payee, Route(price=PRICE, schemes=schemes), resource="GET /data")
    if kind == "exact":
        header = await payer.transfer(terms)
    else:
        config = payer.config(tagged=kind == "channel")
        header = await payer.funding(config, 10_000, PRICE, terms)
    return {HEADER: named(header, name) if name else header}


class Visit:
    """A payee, its oracle and a client without any cleverness."""

    def __init__(self, chain: LocalChain, kind: str, **options: Any) -> None:
        self.chain = chain
        self.kind = kind
        self.oracle = Oracle()
        order = options.pop("order", Order.RESERVE)
        self._order = order
        self._payee = a_payee(chain, **options)
        self._routes = routes(kind, order)

    async def __aenter__(self) -> "Visit":
        self.payee = await self._payee.__aenter__()
        wall = Paywall(self.oracle, payee=self.payee, routes=self._routes)
        self.client = httpx.AsyncClient(transport=through(wall), base_url=BASE)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.client.aclose()
        await self._payee.__aexit__(*error)

    async def payment(self, *, name: str | None = None) -> dict[str, str]:
        return await pay_for(self.chain, self.payee, self.kind, name=name)

    async def transfer(self, path: str) -> str:
        """A header that pays by `exact`, without a name."""
        payer = HandPayer(await self.chain.funded_wallet(ether=0), self.payee.settings)
        route = Route(price=PRICE, schemes=EXACT_ONLY, order=self._order)
        terms = terms_of(self.payee, route, resource=f"GET {path}")
        return await payer.transfer(terms)


def same(one: httpx.Response, other: httpx.Response) -> bool:
    parts = ("status_code", "content")
    alike = all(getattr(one, part) == getattr(other, part) for part in parts)
    return alike and one.headers.multi_items() == other.headers.multi_items()


KINDS = pytest.mark.parametrize("kind", ["channel", "exact"])
NAMES = pytest.mark.parametrize("name", [None, NAME])
TOLD = pytest.mark.parametrize(
    ("kind", "name"), [("channel", None), ("channel", NAME), ("exact", NAME)]
)
"""Whose answers are told again: only their payers can ask."""


@TOLD
async def test_p1_a_payment_that_comes_again_is_told_the_same_and_runs_nothing(
    agentpay_shared_chain: LocalChain, kind: str, name: str | None
) -> None:
    async with Visit(agentpay_shared_chain, kind) as visit:
        headers = await visit.payment(name=name)
        first = await visit.client.get("/data", headers=headers)
        again = [await visit.client.get("/data", headers=headers) for _ in range(3)]

        assert first.status_code == 201
        assert all(same(first, answer) for answer in again)
        assert first.headers.get_list("set-cookie") == ["a=1", "b=2"]
        assert PAYMENT_RESPONSE in again[0].headers
        assert visit.oracle.asked == 1


@NAMES
async def test_a_strict_channels_payer_needs_a_name_to_be_told_again(
    agentpay_shared_chain: LocalChain, name: str | None
) -> None:
    """The specification's voucher may be a question for the total: it gets that."""
    async with Visit(agentpay_shared_chain, "channel") as visit:
        headers = await pay_for(agentpay_shared_chain, visit.payee, "strict", name=name)
        first = await visit.client.get("/data", headers=headers)
        again = await visit.client.get("/data", headers=headers)

        assert first.status_code == 201
        assert same(first, again) == (name is not None)
        assert again.status_code == (201 if name else 402)
        assert visit.oracle.asked == 1


@TOLD
async def test_p1_a_restart_still_knows_what_was_answered(
    agentpay_shared_chain: LocalChain, tmp_path: Path, kind: str, name: str | None
) -> None:
    store = str(tmp_path / "payee.db")
    async with Visit(agentpay_shared_chain, kind, store=store) as visit:
        headers = await visit.payment(name=name)
        first = await visit.client.get("/data", headers=headers)
        await visit.payee.stop()
        again = await visit.client.get("/data", headers=headers)

        assert same(first, again)
        assert visit.oracle.asked == 1


@KINDS
@NAMES
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/other"), ("GET", "/data?a=1"), ("POST", "/data")]
)
async def test_p2_another_request_is_not_told_what_was_answered(
    agentpay_shared_chain: LocalChain,
    kind: str,
    name: str | None,
    method: str,
    path: str,
) -> None:
    async with Visit(agentpay_shared_chain, kind) as visit:
        headers = await visit.payment(name=name)
        first = await visit.client.get("/data", headers=headers)
        other = await visit.client.request(method, path, headers=headers)

        assert (first.status_code, other.status_code) == (201, 409)
        assert visit.oracle.asked == 1


@TOLD
async def test_p2_another_body_is_another_request(
    agentpay_shared_chain: LocalChain, kind: str, name: str | None
) -> None:
    async with Visit(agentpay_shared_chain, kind) as visit:
        headers = await visit.payment(name=name)
        client = visit.client
        first = await client.post("/data", headers=headers, content=b"a" * 100_000)
        other = await client.post("/data", headers=headers, content=b"b" * 100_000)
        again = await client.post("/data", headers=headers, content=b"a" * 100_000)

        assert (first.status_code, other.status_code) == (201, 409)
        assert same(first, again)
        assert visit.oracle.asked == 1


@KINDS
async def test_another_payment_under_the_same_name_is_409_and_pays_nothing(
    agentpay_shared_chain: LocalChain, kind: str
) -> None:
    async with Visit(agentpay_shared_chain, kind) as visit:
        first = await visit.client.get("/data", headers=await visit.payment(name=NAME))
        other = await visit.client.get("/data", headers=await visit.payment(name=NAME))

        assert (first.status_code, other.status_code) == (201, 409)
        assert "retry-after" not in other.headers
        assert visit.oracle.asked == 1
        paid = await agentpay_shared_chain.balance(visit.payee.settings.pay_to)
        assert paid == (PRICE if kind == "exact" else 0)


@KINDS
async def test_p1_copies_of_a_named_payment_run_once_and_may_be_sent_again(
    agentpay_shared_chain: LocalChain, kind: str
) -> None:
    async with Visit(agentpay_shared_chain, kind) as visit:
        headers = await visit.payment(name=NAME)
        rival = await visit.payment(name=NAME)
        visit.oracle.gate.clear()
        client = visit.client
        running = asyncio.create_task(client.get("/data", headers=headers))
        await until(lambda: visit.oracle.asked == 1)
        copies = [client.get("/data", headers=headers) for _ in range(20)]
        answers = await asyncio.gather(*copies)
        other = await client.get("/data", headers=rival)
        visit.oracle.gate.set()
        first = await running
        late = await client.get("/data", headers=headers)

        assert {a.status_code for a in answers} == {503}
        assert {a.headers["retry-after"] for a in answers} == {"1"}
        assert other.status_code == 409
        assert same(first, late)
        assert visit.oracle.asked == 1


@KINDS
async def test_a_name_whose_payment_bought_nothing_is_free_again(
    agentpay_shared_chain: LocalChain, kind: str
) -> None:
    async with Visit(agentpay_shared_chain, kind) as visit:
        failed = await visit.client.get(
            "/fails", headers=await visit.payment(name=NAME)
        )
        paid = await visit.client.get("/fails", headers=await visit.payment(name=NAME))

        assert (failed.status_code, paid.status_code) == (500, 201)


async def test_p10_what_was_paid_first_stays_owed_under_its_name(
    agentpay_shared_chain: LocalChain,
) -> None:
    order = Order.SETTLE_FIRST
    async with Visit(agentpay_shared_chain, "exact", order=order) as visit:
        payer = HandPayer(
            await agentpay_shared_chain.funded_wallet(ether=0), visit.payee.settings
        )
        route = Route(price=PRICE, schemes=EXACT_ONLY, order=order)
        terms = terms_of(visit.payee, route, resource="GET /fails")
        headers = {HEADER: named(await payer.transfer(terms), NAME)}
        rival = {HEADER: named(await payer.transfer(terms), NAME)}
        failed = await visit.client.get("/fails", headers=headers)
        other = await visit.client.get("/fails", headers=rival)
        served = await visit.client.get("/fails", headers=headers)

        statuses = [a.status_code for a in (failed, other, served)]
        assert statuses == [500, 409, 201]
        balance = await agentpay_shared_chain.balance(visit.payee.settings.pay_to)
        assert balance == PRICE


@KINDS
@NAMES
@pytest.mark.parametrize(("path", "size"), [("/long", 80_000), ("/heavy", 1600)])
async def test_p13_an_answer_above_the_bound_is_streamed_and_not_kept(
    agentpay_shared_chain: LocalChain,
    kind: str,
    name: str | None,
    path: str,
    size: int,
) -> None:
    async with Visit(agentpay_shared_chain, kind) as visit:
        headers = await visit.payment(name=name)
        first = await visit.client.get(path, headers=headers)
        again = await visit.client.get(path, headers=headers)

        assert len(first.content) == size
        assert again.status_code == 409
        assert PAYMENT_RESPONSE in again.headers
        assert visit.oracle.asked == 1


@pytest.mark.parametrize("store", ["memory:", "file"])
async def test_p13_what_is_kept_stays_within_its_bound_and_time(
    agentpay_shared_chain: LocalChain, tmp_path: Path, store: str
) -> None:
    ahead = 0.0

    def clock() -> float:
        return asyncio.get_running_loop().time() + 1_700_000_000 + ahead

    policy = AnswerPolicy(bytes_each=4096, bytes_total=32_768, kept_seconds=60)
    url = str(tmp_path / "payee.db") if store == "file" else store
    options = {"store": url, "answers": policy, "clock": clock}
    async with Visit(agentpay_shared_chain, "channel", **options) as visit:
        payer = HandPayer(
            await agentpay_shared_chain.funded_wallet(ether=0), visit.payee.settings
        )
        terms = terms_of(visit.payee, Route(price=PRICE, schemes=CHANNEL_ONLY))
        config = payer.config()
        opening = await payer.funding(config, 100_000, PRICE, terms)
        await visit.client.get("/data", headers={HEADER: opening})
        for number in range(2, 42):
            voucher = await payer.voucher(config, number * PRICE, terms)
            answer = await visit.client.get("/data", headers={HEADER: voucher})
            assert answer.status_code == 201
        again = await visit.client.get("/data", headers={HEADER: voucher})
        old = await visit.client.get("/data", headers={HEADER: opening})
        ahead = 61
        late = await visit.client.get("/data", headers={HEADER: voucher})

        assert same(answer, again)
        assert (old.status_code, late.status_code) == (409, 409)
        assert await kept_bytes(visit.payee, url) <= policy.bytes_total


async def kept_bytes(payee: Payee, url: str) -> int:
    await until(lambda: payee.answers._sweeping is None)
    store: Any = payee._running.store.payee
    if url == "memory:":
        return sum(answer.size for answer in store._answers.values())
    await store._writer.drain()
    with closing(sqlite3.connect(url)) as connection:
        (size,) = connection.execute("SELECT sum(size) FROM answers").fetchone()
    return int(size)


@pytest.mark.parametrize("name", ["short", "x" * 129, "pay_7d5d747be160e28 0504c09", 7])
async def test_a_name_that_the_specification_does_not_allow_is_400(
    agentpay_shared_chain: LocalChain, name: object
) -> None:
    async with Visit(agentpay_shared_chain, "exact") as visit:
        headers = await visit.payment(name=NAME)
        message = decoded(headers[HEADER])
        message["extensions"][payment_identifier.KEY]["info"]["id"] = name
        answer = await visit.client.get("/data", headers={HEADER: encode_json(message)})

        assert answer.status_code == 400
        assert visit.oracle.asked == 0


async def test_a_payment_that_is_refused_takes_no_name(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with Visit(chain, "exact") as visit:
        payer = HandPayer(await chain.funded_wallet(ether=0), visit.payee.settings)
        terms = terms_of(visit.payee, Route(price=PRICE, schemes=EXACT_ONLY))
        stranger = await chain.funded_wallet(ether=0)
        forged = named(await payer.transfer(terms, signer=stranger), NAME)
        refused = await visit.client.get("/data", headers={HEADER: forged})
        paid = await visit.client.get("/data", headers=await visit.payment(name=NAME))

        assert (refused.status_code, paid.status_code) == (402, 201)


@pytest.mark.parametrize("kept", [0, 1000])
async def test_names_are_offered_where_answers_are_kept(
    agentpay_shared_chain: LocalChain, kept: int
) -> None:
    policy = AnswerPolicy(bytes_each=kept)
    async with Visit(agentpay_shared_chain, "exact", answers=policy) as visit:
        answer = await visit.client.get("/data")
        extensions = parse_payment_required(required_header(answer)).extensions

        assert (payment_identifier.KEY in extensions) == (kept > 0)


@pytest.mark.parametrize(
    "changes", [{"bytes_each": -1}, {"bytes_each": 2**23 + 1}, {"kept_seconds": 0}]
)
def test_a_policy_that_cannot_be_kept_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        AnswerPolicy(**changes)


@KINDS
async def test_c8_an_agent_whose_answer_was_lost_gets_it_after_all(
    agentpay_shared_chain: LocalChain, kind: str
) -> None:
    payee = await open_payee(agentpay_shared_chain)
    oracle = Oracle()
    wall = Paywall(oracle, payee=payee, routes=routes(kind))
    wire = Wire(through(wall))
    async with await an_agent(agentpay_shared_chain, wire) as agent:
        wire.lose_answers = 2
        answer = await agent.get(BASE + "/data")
        spending = str(await agent.spending())
    await payee.stop()

    assert answer.status_code == 201
    assert oracle.asked == 1
    assert spending.startswith("$0.001 spent")


async def test_p14_no_log_names_what_was_bought_or_answered(
    agentpay_shared_chain: LocalChain, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="agentpay")
    async with Visit(agentpay_shared_chain, "exact") as visit:
        headers = await visit.payment(name=NAME)
        for _ in range(2):
            await visit.client.get("/data?email=me@example.com", headers=headers)

    for secret in ("me@example.com", NAME, headers[HEADER][:40], "1 1 1"):
        assert secret not in caplog.text


async def test_p1_a_voucher_that_the_chain_shows_is_told_no_answer(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with Visit(agentpay_shared_chain, "channel") as visit:
        headers = await visit.payment()
        first = await visit.client.get("/data", headers=headers)
        again = await visit.client.get("/data", headers=headers)
        assert await visit.payee.settlement.claim() == 1
        by_anyone = await visit.client.get("/data", headers=headers)

        assert same(first, again)
        assert by_anyone.status_code == 409


@pytest.mark.parametrize("order", Order)
@NAMES
async def test_p1_what_the_chain_shows_of_a_transfer_is_told_no_answer(
    agentpay_shared_chain: LocalChain, name: str | None, order: Order
) -> None:
    async with Visit(agentpay_shared_chain, "exact", order=order) as visit:
        header = await visit.transfer("/data")
        paid = {HEADER: named(header, name) if name else header}
        first = await visit.client.get("/data", headers=paid)
        # Authorization and signature are on the chain; what named it is not.
        shown = [header, named(header, "of_somebody_else_7d5d747be160e2")]
        others = [
            await visit.client.get("/data", headers={HEADER: made}) for made in shown
        ]

        assert first.status_code == 201
        assert {other.status_code for other in others} == {409}
        assert all(other.content != first.content for other in others)
        # Its payer learns from the receipt that it is not to pay again.
        receipts = [parse_response(o.headers[PAYMENT_RESPONSE]) for o in others]
        assert all(receipt.success for receipt in receipts)
        assert visit.oracle.asked == 1


async def test_p10_what_is_owed_under_a_name_is_owed_to_nobody_else(
    agentpay_shared_chain: LocalChain,
) -> None:
    order = Order.SETTLE_FIRST
    async with Visit(agentpay_shared_chain, "exact", order=order) as visit:
        header = await visit.transfer("/fails")
        failed = await visit.client.get("/fails", headers={HEADER: named(header, NAME)})
        shown = await visit.client.get("/fails", headers={HEADER: header})
        served = await visit.client.get("/fails", headers={HEADER: named(header, NAME)})

        statuses = [a.status_code for a in (failed, shown, served)]
        assert statuses == [500, 409, 201]
        assert visit.oracle.asked == 2
