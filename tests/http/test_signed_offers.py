"""Offers and receipts that a payee signs, and what its payer makes of them."""

from typing import Any

import httpx
import pytest

from agentpay import Attestor, Wallet
from agentpay.errors import ConfigurationError, UnsafeKey
from agentpay.http.paywall import Paywall
from agentpay.payer.payment import Answer
from agentpay.payer.receipts import receipt_in
from agentpay.testing.local_chain import LocalChain
from agentpay.types import ChainId
from agentpay.wire.offer_receipt import read_offers
from agentpay.wire.x402 import PAYMENT_RESPONSE, parse_payment_required
from tests.http.world import (
    BASE,
    ROUTES,
    Shop,
    a_payee,
    an_agent,
    open_payee,
    required_header,
    through,
)
from tests.payee.hand import decoded

KINDS = pytest.mark.parametrize(
    "path", ["/channel/reserve-then-settle/ok", "/exact/reserve-then-settle/ok"]
)


async def test_every_offer_of_a_402_is_signed(
    agentpay_shared_chain: LocalChain,
) -> None:
    key = Wallet.create()
    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(
            Shop(), payee=payee, routes=ROUTES, origin=BASE, attestor=Attestor(key)
        )
        async with httpx.AsyncClient(transport=through(wall)) as client:
            answer = await client.get("http://elsewhere.example/ok")
    required = parse_payment_required(required_header(answer))
    signed = read_offers(required.extensions)

    assert [offer.signer for offer in signed] == [key.address] * 2
    for offer, entry in zip(signed, required.accepts, strict=True):
        assert offer.is_of(entry, BASE + "/ok")
        assert offer.payload.valid_until > 0
    assert len(required_header(answer)) < 8192


@KINDS
async def test_a_paid_answer_carries_a_receipt_that_its_payer_can_show(
    agentpay_shared_chain: LocalChain, path: str
) -> None:
    key, stranger = Wallet.create(), Wallet.create()
    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(
            Shop(), payee=payee, routes=ROUTES, origin=BASE, attestor=Attestor(key)
        )
        wallet = await agentpay_shared_chain.funded_wallet(ether=0)
        async with await an_agent(
            agentpay_shared_chain, through(wall), wallet=wallet
        ) as agent:
            paid = await agent.get(BASE + path)
            spending = str(await agent.spending())
    answer = Answer(status=paid.status_code, headers=dict(paid.headers))
    ours: dict[str, Any] = {"url": BASE + path, "payer": wallet.address}
    receipt = receipt_in(answer, **ours, trusted={key.address})

    assert receipt is not None
    assert receipt.payload.transaction == ""
    assert spending.startswith("$0.001 spent")
    assert receipt_in(answer, **ours, trusted={stranger.address}) is None
    assert receipt_in(answer, **{**ours, "url": BASE}, trusted={key.address}) is None
    other = {**ours, "payer": stranger.address}
    assert receipt_in(answer, **other, trusted={key.address}) is None


async def test_what_cannot_be_signed_costs_nobody_an_answer(
    agentpay_shared_chain: LocalChain,
) -> None:
    class Broken(Wallet):
        __slots__ = ()

        async def sign_digest(self, digest: bytes, *, chain: ChainId) -> bytes:
            raise UnsafeKey("the signer is gone")

    async with a_payee(agentpay_shared_chain) as payee:
        attestor = Attestor(Broken(bytes(31) + b"\x09"))
        wall = Paywall(
            Shop(), payee=payee, routes=ROUTES, origin=BASE, attestor=attestor
        )
        async with await an_agent(agentpay_shared_chain, through(wall)) as agent:
            paid = await agent.get(BASE + "/ok")

    assert paid.status_code == 200
    assert "offer-receipt" not in decoded(paid.headers[PAYMENT_RESPONSE]).get(
        "extensions", {}
    )


async def test_p6_nothing_is_signed_for_an_origin_that_is_not_known(
    agentpay_shared_chain: LocalChain,
) -> None:
    payee = await open_payee(agentpay_shared_chain)
    with pytest.raises(ConfigurationError, match="origin"):
        Paywall(Shop(), payee=payee, routes=ROUTES, attestor=Attestor(Wallet.create()))


@pytest.mark.parametrize(
    "header", [None, "", "e30=", "bnVsbA==", "eyJleHRlbnNpb25zIjoxfQ=="]
)
def test_an_answer_without_a_signed_receipt_has_none(header: str | None) -> None:
    headers = {PAYMENT_RESPONSE.lower(): header} if header is not None else {}
    answer = Answer(status=200, headers=headers)
    payer = Wallet.create().address

    assert receipt_in(answer, url=BASE, payer=payer, trusted={payer}) is None
