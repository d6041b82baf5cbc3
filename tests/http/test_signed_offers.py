"""Offers and receipts that a payee signs, and what its payer makes of them."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from agentpay import Attestor, PaidReceipt, Policy, Wallet
from agentpay.errors import (
    ConfigurationError,
    MalformedMessage,
    OfferUntrusted,
    UnsafeKey,
)
from agentpay.http.paywall import App, Paywall
from agentpay.payer.payment import Answer
from agentpay.payer.receipts import receipt_in
from agentpay.testing.local_chain import LocalChain
from agentpay.types import ChainId
from agentpay.wire.headers import JsonObject
from agentpay.wire.offer_receipt import read_offers, read_receipt
from agentpay.wire.x402 import (
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    parse_payment_required,
)
from tests.http.world import (
    BASE,
    PRICE,
    ROUTES,
    Shop,
    Wire,
    a_payee,
    an_agent,
    open_payee,
    required_header,
    rewriting,
    through,
)
from tests.payee.hand import decoded

KINDS = pytest.mark.parametrize(
    "path", ["/channel/reserve-then-settle/ok", "/exact/reserve-then-settle/ok"]
)


@contextlib.asynccontextmanager
async def signing(
    chain: LocalChain, key: Wallet, **options: Any
) -> AsyncIterator[Paywall]:
    """A paywall that signs what it offers and sells."""
    async with a_payee(chain, **options) as payee:
        yield Paywall(
            Shop(), payee=payee, routes=ROUTES, origin=BASE, attestor=Attestor(key)
        )


def _extension(words: JsonObject) -> JsonObject:
    return {"offer-receipt": {"info": {"receipt": words}}}


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
    offered = [words for _, words in required.readable_offers()]
    for offer, entry in zip(signed, offered, strict=True):
        assert offer.is_of(entry, BASE + "/ok")
        assert offer.payload.valid_until > 0
    assert len(required_header(answer)) < 8192


@KINDS
@pytest.mark.parametrize("known", [True, False])
async def test_a_paid_answer_carries_a_receipt_that_its_payer_can_show(
    agentpay_shared_chain: LocalChain, path: str, known: bool
) -> None:
    key, kept = Wallet.create(), list[PaidReceipt]()
    policy = Policy(attestors={"shop.example": [key.address]} if known else {})
    async with signing(agentpay_shared_chain, key) as wall:
        wallet = await agentpay_shared_chain.funded_wallet(ether=0)
        async with await an_agent(
            agentpay_shared_chain,
            through(wall),
            wallet=wallet,
            policy=policy,
            on_receipt=kept.append,
        ) as agent:
            await agent.get(BASE + path + "?a=1")
            await agent.get(BASE + path)
            spending = str(await agent.spending())
    first, second = kept

    assert spending.startswith("$0.002 spent")
    assert (first.url, second.url) == (BASE + path + "?a=1", BASE + path)
    assert first.payment != second.payment
    for paid in kept:
        assert paid.trusted is known
        assert paid.receipt.payload.transaction == ""
        assert paid.receipt.payload.payer.lower() == wallet.address
        assert read_receipt(_extension(paid.receipt.words)) == paid.receipt
        assert paid.offer is not None
        assert paid.receipt.signer == paid.offer.signer == key.address


async def test_the_account_that_is_paid_needs_no_introduction(
    agentpay_shared_chain: LocalChain,
) -> None:
    key, kept = await agentpay_shared_chain.funded_wallet(0), list[PaidReceipt]()
    async with (
        signing(agentpay_shared_chain, key, pay_to=key.address) as wall,
        await an_agent(
            agentpay_shared_chain, through(wall), on_receipt=kept.append
        ) as agent,
    ):
        await agent.get(BASE + "/ok")

    assert [paid.trusted for paid in kept] == [True]


def forging(app: App, changes: dict[str, Any]) -> App:
    """An application whose signed receipts say something else than was signed."""

    def forged(message: Any) -> Any:
        message["extensions"]["offer-receipt"]["info"]["receipt"]["payload"] |= changes
        return message

    return rewriting(app, PAYMENT_RESPONSE, forged)


@pytest.mark.parametrize(
    "changes",
    [
        {"payer": "0x" + "11" * 20},
        {"resourceUrl": "http://elsewhere.example/ok"},
        {"resourceUrl": 7},
        {"version": 2},
    ],
)
async def test_a_receipt_that_is_not_true_is_a_warning_and_costs_no_answer(
    agentpay_shared_chain: LocalChain,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, Any],
) -> None:
    kept: list[PaidReceipt] = []
    async with (
        signing(agentpay_shared_chain, Wallet.create()) as wall,
        await an_agent(
            agentpay_shared_chain,
            through(forging(wall, changes)),
            on_receipt=kept.append,
        ) as agent,
    ):
        answer = await agent.get(BASE + "/ok")
        spending = await agent.spending()

    assert answer.json() == {"answer": 42}
    assert spending.spent == PRICE * 10**12
    assert not kept
    assert "is not kept" in caplog.text


async def test_a_receipt_of_another_time_has_another_signer_and_is_not_trusted(
    agentpay_shared_chain: LocalChain,
) -> None:
    key, kept = Wallet.create(), list[PaidReceipt]()
    async with (
        signing(agentpay_shared_chain, key) as wall,
        await an_agent(
            agentpay_shared_chain,
            through(forging(wall, {"issuedAt": 1})),
            policy=Policy(attestors={"shop.example": [key.address]}),
            on_receipt=kept.append,
        ) as agent,
    ):
        await agent.get(BASE + "/ok")

    assert [paid.trusted for paid in kept] == [False]


async def test_who_cannot_keep_a_receipt_has_the_answer_nevertheless(
    agentpay_shared_chain: LocalChain, caplog: pytest.LogCaptureFixture
) -> None:
    def full(receipt: PaidReceipt) -> None:
        raise OSError(f"no room for {receipt.payment}")

    async with (
        signing(agentpay_shared_chain, Wallet.create()) as wall,
        await an_agent(agentpay_shared_chain, through(wall), on_receipt=full) as agent,
    ):
        answer = await agent.get(BASE + "/ok")

    assert answer.status_code == 200
    assert "no room" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"payTo": "0x" + "22" * 20},
        {"amount": "999"},
        {"amount": str(10**30)},
        {"resourceUrl": "http://bank.example/ok"},
    ],
)
async def test_c2_an_offer_that_its_own_signature_contradicts_is_not_paid(
    agentpay_shared_chain: LocalChain, changes: dict[str, str]
) -> None:
    def contradicting(offer: dict[str, Any]) -> dict[str, Any]:
        return {**offer, "payload": {**offer["payload"], **changes}}

    async with signing(agentpay_shared_chain, Wallet.create()) as wall:
        wire = Wire(through(changing_offers(wall, contradicting)))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            with pytest.raises(OfferUntrusted):
                await agent.get(BASE + "/ok")
            spending = await agent.spending()

    assert not wire.credentials
    assert (spending.spent, spending.held) == (0, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"signature": "0x00"},
        {"format": "jws"},
        {"acceptIndex": 31},
        {"payload": 7},
        {"payload": {"scheme": "exact", "network": "eip155:1"}},
    ],
)
async def test_a_signature_that_says_nothing_of_the_offer_changes_nothing(
    agentpay_shared_chain: LocalChain, changes: dict[str, Any]
) -> None:
    def changed(offer: dict[str, Any]) -> dict[str, Any]:
        return {**offer, **changes}

    async with signing(agentpay_shared_chain, Wallet.create()) as wall:
        app = changing_offers(wall, changed)
        async with await an_agent(agentpay_shared_chain, through(app)) as agent:
            answer = await agent.get(BASE + "/ok")

    assert answer.status_code == 200


def changing_offers(app: App, change: Callable[[Any], Any]) -> App:
    """An application whose signed offers are not the ones that it signed."""

    def changed(message: Any) -> Any:
        info = message["extensions"]["offer-receipt"]["info"]
        info["offers"] = [change(offer) for offer in info["offers"]]
        return message

    return rewriting(app, PAYMENT_REQUIRED, changed)


def test_attestors_are_addresses() -> None:
    with pytest.raises(ConfigurationError, match="attestors"):
        Policy(attestors={"shop.example": ["somebody"]}).check(6)


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


@pytest.mark.parametrize("header", [None, "e30=", "eyJleHRlbnNpb25zIjoxfQ=="])
def test_an_answer_without_a_signed_receipt_has_none(header: str | None) -> None:
    headers = {PAYMENT_RESPONSE.lower(): header} if header is not None else {}
    answer = Answer(status=200, headers=headers)

    assert receipt_in(answer, payer=Wallet.create().address) is None


@pytest.mark.parametrize("header", ["", "x", "bnVsbA=="])
def test_c17_a_receipt_that_cannot_be_read_is_none(header: str) -> None:
    answer = Answer(status=200, headers={PAYMENT_RESPONSE.lower(): header})

    with pytest.raises(MalformedMessage):
        receipt_in(answer, payer=Wallet.create().address)
