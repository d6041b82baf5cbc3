"""Servers of x402's first version are paid too, by the same rules, if we say so."""

import gzip
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from agentpay import Policy
from agentpay.errors import (
    AnswerLost,
    BudgetExceeded,
    NoAcceptableOffer,
    OfferUntrusted,
    PaymentRejected,
)
from agentpay.facilitator.embedded import Facilitator
from agentpay.http.paywall import App, Message, Paywall, Receive, Scope, Send
from agentpay.http.reread import BODY_BYTES_MAX
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Order
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.headers import encode_json
from agentpay.wire.x402 import ExactPayload
from agentpay.wire.x402_transfers import read_transfer
from agentpay.wire.x402_v1 import X_PAYMENT, X_PAYMENT_RESPONSE
from tests.http.world import (
    BASE,
    PRICE,
    ROUTES,
    Shop,
    Wire,
    a_payee,
    an_agent,
    answer,
    through,
)
from tests.payee.hand import decoded

pytestmark = pytest.mark.usefixtures("way")

FIRST = Policy(v1=True, give_up_seconds=3)
URL = BASE + "/premium"


class FirstServer:
    """A server written after the specification of version 1, and nothing else."""

    def __init__(self, payee: Payee) -> None:
        self.payee = payee
        self.settled: set[str] = set()
        self.served = 0
        self.change: Callable[[dict[str, Any]], Any] = lambda body: body
        self.headers = {"content-type": "application/json"}
        self.encode: Callable[[bytes], bytes] = lambda raw: raw
        self.payments: list[dict[str, Any]] = []
        self.status = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {n.decode(): v.decode() for n, v in scope["headers"]}
        header = headers.get(X_PAYMENT.lower())
        if header is None:
            await self._ask(send, "X-PAYMENT header is required")
            return
        payment = decoded(header)
        self.payments.append(payment)
        authorization = payment["payload"]["authorization"]
        settings = self.payee.settings
        agreed = (authorization["to"].lower(), authorization["value"])
        if agreed != (settings.pay_to, str(PRICE)):
            await self._ask(send, "invalid_payment_requirements")
            return
        if authorization["nonce"] in self.settled:
            await self._ask(send, "invalid_transaction_state")
            return
        payload = ExactPayload.model_validate(payment["payload"])
        transfer = read_transfer(payload, settings.asset)
        settled = await facilitator_of(self.payee).settle_transfer(transfer, PRICE)
        self.settled.add(authorization["nonce"])
        self.served += 1
        receipt = {
            "success": True,
            "transaction": settled.transaction,
            "network": "local",
            "payer": authorization["from"],
        }
        said = {X_PAYMENT_RESPONSE.lower(): encode_json(receipt)}
        await answer(send, self.status, b'{"premium":1}', said)

    async def _ask(self, send: Send, error: str) -> None:
        settings = self.payee.settings
        entry = {
            "scheme": "exact",
            "network": "local",
            "maxAmountRequired": str(PRICE),
            "asset": str(settings.asset.address),
            "payTo": str(settings.pay_to),
            "resource": URL,
            "description": "",
            "mimeType": "application/json",
            "outputSchema": None,
            "maxTimeoutSeconds": 60,
            "extra": {"name": settings.asset.name, "version": settings.asset.version},
        }
        body = {"x402Version": 1, "error": error, "accepts": [entry]}
        raw = json.dumps(self.change(body)).encode()
        await answer(send, 402, self.encode(raw), self.headers)


def facilitator_of(payee: Any) -> Facilitator:
    found: Facilitator = payee._running.facilitator
    return found


async def test_a_server_of_version_1_is_paid_and_its_receipt_booked(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        server = FirstServer(payee)
        async with await an_agent(
            agentpay_shared_chain, through(server), policy=FIRST
        ) as agent:
            answers = [await agent.get(URL) for _ in range(3)]
            spending = await agent.spending()
            trips = agent.round_trips
        paid = await agentpay_shared_chain.balance(payee.settings.pay_to)

    assert [a.json() for a in answers] == [{"premium": 1}] * 3
    assert decoded(answers[0].headers[X_PAYMENT_RESPONSE])["success"]
    assert (spending.spent, spending.held) == (3 * PRICE * 10**12, 0)
    assert (paid, server.served, trips) == (3 * PRICE, 3, 4)
    assert {(p["x402Version"], p["network"]) for p in server.payments} == {(1, "local")}
    assert set(server.payments[0]) == {"x402Version", "scheme", "network", "payload"}


@pytest.mark.parametrize("order", list(Order))
async def test_our_own_paywall_is_paid_by_version_1(
    agentpay_shared_chain: LocalChain, order: Order
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(Shop(), payee=payee, routes=ROUTES, v1=True)
        wire = Wire(through(first_only(wall)))
        async with await an_agent(agentpay_shared_chain, wire, policy=FIRST) as agent:
            got = await agent.get(BASE + f"/exact/{order}/ok")
            spending = await agent.spending()

    assert got.json() == {"answer": 42}
    assert spending.spent == PRICE * 10**12
    assert not wire.credentials


def first_only(app: App) -> App:
    """The same application without a word of version 2."""
    second = (b"payment-required", b"payment-response")

    async def plain(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_plain(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(n, v) for n, v in message["headers"] if n not in second]
                message = {**message, "headers": headers}
            await send(message)

        await app(scope, receive, send_plain)

    return plain


async def test_unless_it_is_configured_a_402_of_version_1_is_the_callers(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        server = FirstServer(payee)
        async with await an_agent(agentpay_shared_chain, through(server)) as agent:
            got = await agent.get(URL)
            spending = await agent.spending()

    assert (got.status_code, got.json()["x402Version"]) == (402, 1)
    assert (spending.spent, spending.held) == (0, 0)


def _with(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    def change(body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "accepts": [{**entry, **changes} for entry in body["accepts"]]}

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (_with(resource="http://bank.example/premium"), OfferUntrusted),
        (_with(asset="0x" + "11" * 20), NoAcceptableOffer),
        (_with(network="base"), NoAcceptableOffer),
        (_with(extra={"name": "Fake", "version": "2"}), NoAcceptableOffer),
        (_with(maxAmountRequired=str(10**9)), BudgetExceeded),
        (_with(scheme="upto"), NoAcceptableOffer),
    ],
)
async def test_c2_version_1_is_trusted_no_more_than_version_2(
    agentpay_shared_chain: LocalChain,
    change: Callable[[dict[str, Any]], Any],
    error: type[Exception],
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        server = FirstServer(payee)
        server.change = change
        async with await an_agent(
            agentpay_shared_chain, through(server), policy=FIRST
        ) as agent:
            with pytest.raises(error):
                await agent.get(URL)
            spending = await agent.spending()

    assert not server.payments
    assert (spending.spent, spending.held) == (0, 0)


async def test_c7_version_1_is_not_paid_on_a_private_network(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        server = FirstServer(payee)
        async with await an_agent(
            agentpay_shared_chain, through(server), policy=FIRST
        ) as agent:
            with pytest.raises(OfferUntrusted):
                await agent.get("http://10.0.0.1/premium")

    assert not server.payments


async def test_c8_a_lost_answer_of_version_1_is_paid_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        server, lost = FirstServer(payee), [1]
        inner = through(server)

        async def losing(request: httpx.Request) -> httpx.Response:
            response = await inner.handle_async_request(request)
            if X_PAYMENT in request.headers and lost[0]:
                lost[0] -= 1
                raise httpx.ReadError("planned", request=request)
            return response

        async with await an_agent(
            agentpay_shared_chain, httpx.MockTransport(losing), policy=FIRST
        ) as agent:
            with pytest.raises(AnswerLost):
                await agent.get(URL)
            spending = await agent.spending()
        paid = await agentpay_shared_chain.balance(payee.settings.pay_to)

    assert len({json.dumps(p) for p in server.payments}) == 1
    assert paid == PRICE
    assert (spending.spent, spending.held) == (PRICE * 10**12, 0)


async def test_a_refusal_of_version_1_is_a_rejection_and_stays_held(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        server = FirstServer(payee)
        server.change = _with(maxAmountRequired=str(PRICE - 1))
        async with await an_agent(
            agentpay_shared_chain, through(server), policy=FIRST
        ) as agent:
            with pytest.raises(PaymentRejected):
                await agent.get(URL)
            spending = await agent.spending()

    assert len(server.payments) == 1
    assert (spending.spent, spending.held) == (0, (PRICE - 1) * 10**12)


async def test_an_applications_error_after_version_1_was_paid_is_delivered(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        server = FirstServer(payee)
        server.status = 500
        async with await an_agent(
            agentpay_shared_chain, through(server), policy=FIRST
        ) as agent:
            got = await agent.get(URL)
            spending = await agent.spending()

    assert (got.status_code, len(server.payments)) == (500, 1)
    assert spending.spent == PRICE * 10**12


async def test_terms_may_come_compressed(agentpay_shared_chain: LocalChain) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        server = FirstServer(payee)
        server.headers["content-encoding"] = "gzip"
        server.encode = gzip.compress
        async with await an_agent(
            agentpay_shared_chain, through(server), policy=FIRST
        ) as agent:
            got = await agent.get(URL)

    assert got.status_code == 200


@pytest.mark.parametrize(
    ("size", "packed"),
    [(BODY_BYTES_MAX, False), (BODY_BYTES_MAX, True), (50_000_000, True)],
)
async def test_c17_a_large_body_is_not_read_for_terms_and_is_the_callers(
    agentpay_shared_chain: LocalChain, size: int, packed: bool
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        server = FirstServer(payee)
        server.change = lambda body: {**body, "padding": " " * size}
        if packed:
            server.headers["content-encoding"] = "gzip"
            server.encode = gzip.compress
        async with await an_agent(
            agentpay_shared_chain, through(server), policy=FIRST
        ) as agent:
            got = await agent.get(URL)

    assert got.status_code == 402
    assert len(got.json()["padding"]) == size
    assert not server.payments


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        ("application/json", b'{"x402Version":1,"accepts":"send 5 USDC to me"}'),
        ("application/json", b"\xff\xfe"),
        ("application/json", b""),
        ("text/plain", b'{"x402Version":1,"accepts":[]}'),
    ],
)
async def test_c16_a_402_that_is_not_of_version_1_is_the_callers_untouched(
    agentpay_shared_chain: LocalChain, kind: str, raw: bytes
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 402, raw, {"content-type": kind})

    async with await an_agent(
        agentpay_shared_chain, through(app), policy=FIRST
    ) as agent:
        got = await agent.get(URL)

    assert (got.status_code, got.content) == (402, raw)
