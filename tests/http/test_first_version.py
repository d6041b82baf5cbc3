"""Clients of x402's first version can pay, where that is configured."""

from typing import Any

import pytest

from agentpay.http.paywall import Paywall
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Order
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.headers import encode_json
from agentpay.wire.x402_v1 import X_PAYMENT, X_PAYMENT_RESPONSE, network_name
from tests.http.world import (
    BASE,
    PRICE,
    ROUTES,
    Shop,
    a_payee,
    an_agent,
    client_of,
    required_header,
    through,
)
from tests.payee.hand import EXACT_FIRST, HandPayer, decoded, terms_of

ORDERS = tuple(Order)


def path_of(order: Order) -> str:
    return f"/exact/{order}/ok"


async def pay(chain: LocalChain, payee: Payee, **changes: Any) -> dict[str, str]:
    """What a client of version 1 sends for an offer that it found in a body."""
    payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
    second = decoded(await payer.transfer(terms_of(payee, EXACT_FIRST), **changes))
    message = {
        "x402Version": 1,
        "scheme": "exact",
        "network": network_name(payee.asset.chain),
        "payload": second["payload"],
    }
    return {X_PAYMENT: encode_json(message)}


@pytest.mark.parametrize("order", ORDERS)
async def test_a_client_of_version_1_pays_and_is_told_so_in_its_words(
    agentpay_shared_chain: LocalChain, order: Order
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = Shop()
        wall = Paywall(shop, payee=payee, routes=ROUTES, v1=True)
        async with client_of(wall) as client:
            asked = await client.get(path_of(order))
            headers = await pay(agentpay_shared_chain, payee)
            paid = await client.get(path_of(order), headers=headers)
            again = await client.get(path_of(order), headers=headers)
        balance = await agentpay_shared_chain.balance(payee.settings.pay_to)

    (offer,) = asked.json()["accepts"]
    assert (asked.status_code, asked.json()["x402Version"]) == (402, 1)
    assert (offer["maxAmountRequired"], offer["network"]) == (str(PRICE), "local")
    assert (paid.status_code, again.status_code) == (200, 409)
    for answer in (paid, again):
        receipt = decoded(answer.headers[X_PAYMENT_RESPONSE])
        assert (receipt["success"], receipt["network"]) == (True, "local")
    assert (balance, shop.begun[path_of(order)]) == (PRICE, 1)


async def test_f1_version_1_is_told_that_nobody_knows_whether_it_has_paid(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        FaultyRpc(agentpay_shared_chain.rpc_url) as rpc,
        a_payee(agentpay_shared_chain, rpc_url=rpc.url) as payee,
    ):
        await payee.start()
        payee._running.sender._mined_within_seconds = 0.3
        wall = Paywall(Shop(), payee=payee, routes=ROUTES, v1=True)
        headers = await pay(agentpay_shared_chain, payee)
        rpc.plan("eth_sendRawTransaction", Fault.UNAVAILABLE, times=500)
        async with client_of(wall) as client:
            unknown = await client.get(path_of(Order.RESERVE), headers=headers)

    receipt = decoded(unknown.headers[X_PAYMENT_RESPONSE])
    assert unknown.status_code == 503
    assert (receipt["success"], receipt["network"]) == (False, "local")


async def test_p2_a_payment_of_version_1_that_is_too_small_is_refused(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = Shop()
        wall = Paywall(shop, payee=payee, routes=ROUTES, v1=True)
        headers = await pay(agentpay_shared_chain, payee, value=PRICE - 1)
        async with client_of(wall) as client:
            answer = await client.get(path_of(Order.RESERVE), headers=headers)

    assert answer.status_code == 402
    assert answer.json()["accepts"]
    assert "value_mismatch" in answer.json()["error"]
    assert not shop.begun


@pytest.mark.parametrize("header", ["", "x", "e30=", "A" * 20_000])
async def test_c17_a_malformed_payment_of_version_1_is_400(
    agentpay_shared_chain: LocalChain, header: str
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = Shop()
        wall = Paywall(shop, payee=payee, routes=ROUTES, v1=True)
        async with client_of(wall) as client:
            answer = await client.get("/ok", headers={X_PAYMENT: header})

    assert answer.status_code == 400
    assert not shop.begun


async def test_p8_a_payment_in_both_versions_is_400(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = Shop()
        wall = Paywall(shop, payee=payee, routes=ROUTES, v1=True)
        first = await pay(agentpay_shared_chain, payee)
        both = {**first, "payment-signature": "e30="}
        async with client_of(wall) as client:
            answer = await client.get("/ok", headers=both)

    assert answer.status_code == 400
    assert not shop.begun


async def test_version_2_is_spoken_beside_it(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(Shop(), payee=payee, routes=ROUTES, v1=True)
        async with await an_agent(agentpay_shared_chain, through(wall)) as agent:
            paid = await agent.get(BASE + "/ok")
        async with client_of(wall) as client:
            channel = await client.get("/channel/reserve-then-settle/ok")

    assert paid.status_code == 200
    assert X_PAYMENT_RESPONSE not in paid.headers
    assert channel.json()["accepts"] == []
    assert decoded(required_header(channel))["accepts"]


async def test_unless_it_is_configured_version_1_pays_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = Shop()
        wall = Paywall(shop, payee=payee, routes=ROUTES)
        headers = await pay(agentpay_shared_chain, payee)
        async with client_of(wall) as client:
            answer = await client.get(path_of(Order.RESERVE), headers=headers)

    assert (answer.status_code, answer.content) == (402, b"{}")
    assert not shop.begun
