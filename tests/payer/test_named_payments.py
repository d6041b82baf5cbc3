"""Payments carry a name where names are taken, and what else a 402 asks to hear."""

from typing import Any

import pytest

from agentpay import Policy
from agentpay.http.paywall import App
from agentpay.payee.pricing import Order
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.x402 import PAYMENT_REQUIRED
from tests.http.world import BASE, PRICE, Wire, a_shop, an_agent, rewriting, through
from tests.payee.hand import decoded

KEY = "payment-identifier"
LANE = BASE + "/channel/reserve-then-settle/ok"
EXACT = BASE + f"/exact/{Order.RESERVE}/ok"


def offering(app: App, changes: dict[str, Any]) -> App:
    """The same application, whose 402s offer other extensions; None takes one away."""

    def changed(message: Any) -> Any:
        merged = {**message.get("extensions", {}), **changes}
        kept = {name: words for name, words in merged.items() if words is not None}
        return {**message, "extensions": kept}

    return rewriting(app, PAYMENT_REQUIRED, changed)


def strict(app: App) -> App:
    """The same application by a payee that takes names, and no vouchers at once."""
    return offering(app, {"parallel-vouchers": None})


def name_in(credential: str) -> str | None:
    extension = decoded(credential).get("extensions", {}).get(KEY, {})
    name: str | None = extension.get("info", {}).get("id")
    return name


@pytest.mark.parametrize("url", [EXACT, LANE])
async def test_c8_a_named_payment_whose_answer_was_lost_is_told_it_again(
    agentpay_shared_chain: LocalChain, url: str
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        wire = Wire(through(strict(wall)))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            first = await agent.get(url)
            wire.lose_answers = 2
            before = len(wire.credentials)
            again = await agent.get(url)
            await agent.get(url)
            names = [name_in(c) for c in wire.credentials]
            spending = await agent.spending()

            assert (first.status_code, again.json()) == (200, {"answer": 42})
            assert len(set(wire.credentials[before:])) == 2
            assert len(names) == 5
            assert len(set(names)) == 3
            assert all(name and name.startswith("pay_") for name in names)
            assert sum(shop.served.values()) == sum(shop.begun.values()) == 3
            assert spending.spent == 3 * PRICE * 10**12
        if url == EXACT:
            paid = await agentpay_shared_chain.balance(payee.settings.pay_to)
            assert paid == 3 * PRICE


async def test_a_voucher_of_a_parallel_channel_is_named_only_where_it_must_be(
    agentpay_shared_chain: LocalChain,
) -> None:
    must = {KEY: {"info": {"required": True}}}
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        free, bound = Wire(through(wall)), Wire(through(offering(wall, must)))
        for wire in (free, bound):
            async with await an_agent(agentpay_shared_chain, wire) as agent:
                assert (await agent.get(BASE + "/ok")).status_code == 200

    (unnamed,), (named,) = free.credentials, bound.credentials
    assert name_in(unnamed) is None
    assert name_in(named) is not None


@pytest.mark.parametrize("url", [EXACT, BASE + "/ok"])
async def test_what_a_402_offers_is_echoed_as_it_came(
    agentpay_shared_chain: LocalChain, url: str
) -> None:
    words = {"info": {"a": [1, {"b": None}], "c": "é"}, "schema": {"type": "object"}}
    bad = {"list": [1], "text": "x", "number": 1}
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(offering(wall, {"x-unknown": words, **bad})))
        async with await an_agent(
            agentpay_shared_chain, wire, policy=Policy(deposit="$0.1")
        ) as agent:
            assert (await agent.get(url)).status_code == 200

    extensions = decoded(wire.credentials[0])["extensions"]
    assert extensions["x-unknown"] == words
    assert not set(bad) & set(extensions)


async def test_a_402_that_offers_nothing_is_paid_without_extensions(
    agentpay_shared_chain: LocalChain,
) -> None:
    nothing = {KEY: None, "parallel-vouchers": None}
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(offering(wall, nothing)))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            assert (await agent.get(EXACT)).status_code == 200

    assert "extensions" not in decoded(wire.credentials[0])


ABOUT: dict[str, Any] = {
    "description": "What one pays for",
    "mimeType": "application/json",
    "serviceName": "A shop",
    "tags": ["data", "räume"],
}


def describing(app: App, about: dict[str, Any]) -> App:
    """The same application, whose 402s say this of what they are for."""

    def changed(message: Any) -> Any:
        return {**message, "resource": {"url": message["resource"]["url"], **about}}

    return rewriting(app, PAYMENT_REQUIRED, changed)


@pytest.mark.parametrize(
    ("about", "echoed"), [(ABOUT, ABOUT), ({**ABOUT, "description": "x" * 1024}, {})]
)
async def test_what_a_402_says_of_its_resource_is_echoed_unless_it_is_large(
    agentpay_shared_chain: LocalChain, about: dict[str, Any], echoed: dict[str, Any]
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(describing(wall, about)))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            for url in (EXACT, BASE + "/ok", BASE + "/ok"):
                assert (await agent.get(url)).status_code == 200

    exact, deposit, voucher = [decoded(c)["resource"] for c in wire.credentials]
    assert exact == {"url": EXACT, **echoed}
    assert deposit == {"url": BASE + "/ok", **echoed}
    assert voucher == {"url": BASE + "/ok"}
