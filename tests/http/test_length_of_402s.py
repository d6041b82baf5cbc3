"""402s that offer everything fit into a header that clients read."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from agentpay import About, Attestor, PaidReceipt, Paywall, Route, Wallet
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.offer_receipt import read_offers
from agentpay.wire.sign_in import HEADER
from agentpay.wire.x402 import PAYMENT_REQUIRED, parse_payment_required
from tests.http.world import (
    BASE,
    PRICE,
    Shop,
    Wire,
    a_payee,
    an_agent,
    client_of,
    rewriting,
    serving,
    through,
)
from tests.payee.hand import decoded

READ_BY_AIOHTTP = 8190
ABOUT = About(
    description="The weather of a city, hour by hour",
    mime_type="application/json",
    query={"city": "Bern"},
    output={"celsius": 21},
)
ALL_SCHEMES = ("batch-settlement", "exact", "upto")
ROUTES = {
    "/metered": Route(price=PRICE, metered=True, schemes=ALL_SCHEMES, about=ABOUT),
    "/returning": Route(price=PRICE, access_seconds=60, about=ABOUT),
}
NAMED = {"parallel-vouchers", "payment-identifier", "bazaar", "offer-receipt"}
SPONSORED = {"eip2612GasSponsoring", "erc20ApprovalGasSponsoring"}


@asynccontextmanager
async def offering_all(chain: LocalChain, **options: Any) -> AsyncIterator[Paywall]:
    """A paywall that offers each way to pay, and each extension."""
    every: dict[str, Any] = {
        "transfer_methods": ("eip3009", "permit2"),
        "sponsor_approvals_up_to": 10**15,
        **options,
    }
    async with a_payee(chain, **every) as payee:
        attestor = Attestor(Wallet.create())
        yield Paywall(
            Shop(), payee=payee, routes=ROUTES, origin=BASE, attestor=attestor
        )


@pytest.mark.parametrize(("path", "offers"), [("/metered", 5), ("/returning", 4)])
async def test_a_402_that_offers_everything_is_read_by_a_client_of_8190_bytes(
    agentpay_shared_chain: LocalChain, path: str, offers: int
) -> None:
    async with (
        offering_all(agentpay_shared_chain) as wall,
        serving(wall) as url,
        aiohttp.ClientSession() as client,
        client.get(url + path) as answer,
    ):
        header = answer.headers[PAYMENT_REQUIRED]
    required = parse_payment_required(header)
    wanted = NAMED | SPONSORED
    wanted |= {"sign-in-with-x"} if path == "/returning" else set()
    bazaar: Any = required.extensions["bazaar"]

    assert answer.status == 402
    assert len(header) < READ_BY_AIOHTTP
    assert len(required.accepts) == len(read_offers(required.extensions)) == offers
    assert set(required.extensions) == wanted
    assert "schema" in bazaar


async def test_an_agent_uses_each_extension_without_its_schema(
    agentpay_shared_chain: LocalChain,
) -> None:
    def bare(message: Any) -> Any:
        for words in message["extensions"].values():
            words.pop("schema", None)
        return message

    kept = list[PaidReceipt]()
    options = {"transfer_methods": ("permit2",)}
    async with offering_all(agentpay_shared_chain, **options) as wall:
        exact = rewriting(wall, PAYMENT_REQUIRED, lambda said: only_exact(bare(said)))
        wire = Wire(through(exact))
        async with await an_agent(
            agentpay_shared_chain, wire, on_receipt=kept.append
        ) as agent:
            answers = [await agent.get(BASE + "/returning") for _ in range(2)]
    (paid,), (receipt,) = wire.credentials, kept
    extensions = decoded(paid)["extensions"]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert HEADER in wire.sent[-1].headers
    assert receipt.offer is not None
    assert "signature" in extensions["eip2612GasSponsoring"]["info"]
    assert extensions["payment-identifier"]["info"]["id"]


def only_exact(message: Any) -> Any:
    """A 402 that offers no channel."""
    accepts = [offer for offer in message["accepts"] if offer["scheme"] == "exact"]
    return {**message, "accepts": accepts}


async def test_a_402_that_is_too_long_all_the_same_is_logged_once_for_its_route(
    agentpay_shared_chain: LocalChain, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="agentpay.http.paywall")
    async with (
        offering_all(agentpay_shared_chain) as wall,
        client_of(wall) as client,
    ):
        for path in ("/metered", "/returning"):
            await client.get(path)
        short = list(caplog.messages)
        for path in ("/metered", "/metered", "/returning"):
            answer = await client.get(f"{path}?{'secret' * 400}")
            assert answer.status_code == 402
    first, second = caplog.messages

    assert short == []
    assert "/metered" in first
    assert "/returning" in second
    assert "secret" not in caplog.text
