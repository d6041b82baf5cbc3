"""The paying transport: hostile 402s, redirects, strangers' networks."""

import asyncio
import itertools
import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from agentpay import Budget, Policy, Wallet
from agentpay.errors import (
    AgentPayError,
    ApprovalNeeded,
    BudgetExceeded,
    MalformedMessage,
    NoAcceptableOffer,
    OfferUntrusted,
    PaymentRejected,
)
from agentpay.http.paywall import Paywall
from agentpay.payee.payee import Payee
from agentpay.testing.local_chain import LocalChain
from agentpay.types import UINT128_MAX, ChainId, Hash32
from agentpay.wire.headers import encode_json
from agentpay.wire.x402 import PAYMENT_REQUIRED, PAYMENT_RESPONSE
from tests.http.world import (
    BASE,
    PRICE,
    ROUTES,
    Shop,
    Wire,
    a_payee,
    a_shop,
    an_agent,
    rewriting,
    serving,
    through,
)
from tests.payee.hand import NOBODY, decoded, refused, terms_of

pytestmark = pytest.mark.usefixtures("way")

Handler = Callable[[httpx.Request], httpx.Response]


class CountingWallet(Wallet):
    """Counts its signatures."""

    __slots__ = ("signatures",)
    signatures: int

    async def sign_digest(self, digest: bytes, *, chain: ChainId) -> bytes:
        self.signatures += 1
        return await super().sign_digest(digest, chain=chain)


async def a_counting_wallet(chain: LocalChain) -> CountingWallet:
    wallet = CountingWallet.create()
    wallet.signatures = 0
    await chain.fund(wallet.address)
    return wallet


async def genuine_402(payee: Payee, **changes: Any) -> dict[str, Any]:
    """A good 402 of a payee, decoded, to be spoilt."""
    refusal = refused(await payee.answer(None, terms_of(payee, **changes)))
    return decoded(refusal.headers[PAYMENT_REQUIRED.lower()])


def required(message: dict[str, Any]) -> httpx.Response:
    return httpx.Response(402, headers={PAYMENT_REQUIRED: encode_json(message)})


async def signs_nothing(
    chain: LocalChain, header: str, *refusals: type[AgentPayError]
) -> None:
    """An agent that gets this 402 raises one of these, and has signed nothing."""
    wallet = await a_counting_wallet(chain)
    transport = httpx.MockTransport(
        lambda request: httpx.Response(402, headers={PAYMENT_REQUIRED: header})
    )
    async with await an_agent(chain, transport, wallet=wallet) as agent:
        with pytest.raises(refusals):
            await agent.get(BASE + "/ok")

    assert wallet.signatures == 0


def each(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def spoil(message: dict[str, Any]) -> None:
        for offer in message["accepts"]:
            change(offer)

    return spoil


SPOILT: dict[str, Callable[[dict[str, Any]], None]] = {
    "c2 t11 another asset of the same name": each(
        lambda o: o.update(asset=str(NOBODY))
    ),
    "c2 another chain": each(lambda o: o.update(network="eip155:1")),
    "c2 not an EVM chain": each(lambda o: o.update(network="solana:x")),
    "c2 paid to nobody": each(lambda o: o.update(payTo="0x" + "0" * 40)),
    "c4 an amount with a point": each(lambda o: o.update(amount="0.001")),
    "c4 a float": each(lambda o: o.update(amount=1000.0)),
    "c4 an int": each(lambda o: o.update(amount=1000)),
    "c4 negative": each(lambda o: o.update(amount="-1")),
    "c4 leading zeros": each(lambda o: o.update(amount="01000")),
    "c4 other digits": each(lambda o: o.update(amount="\u0661\u0660\u0660\u0660")),
    "c4 other decimals of name": each(lambda o: o["extra"].update(name="USD6")),
    "c10 a negative timeout": each(lambda o: o.update(maxTimeoutSeconds=-1)),
    "c11 an approval": each(lambda o: o["extra"].update(assetTransferMethod="permit2")),
    "c12 another contract": each(lambda o: o["extra"].update(paymentFlow="escrow")),
    "c12 another domain": each(lambda o: o["extra"].update(version="9")),
    "an unknown scheme": each(lambda o: o.update(scheme="upto")),
    "an absurd amount": each(lambda o: o.update(amount=str(UINT128_MAX + 1))),
    "no offers": lambda m: m.update(accepts=[]),
}


@pytest.mark.parametrize("name", SPOILT)
async def test_c2_c4_c10_c11_c12_t11_a_hostile_402_gets_no_signature(
    agentpay_shared_chain: LocalChain, name: str
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        message = await genuine_402(payee)
    SPOILT[name](message)
    await signs_nothing(
        agentpay_shared_chain, encode_json(message), NoAcceptableOffer, ApprovalNeeded
    )


async def test_c4_an_offer_that_cannot_be_read_is_named_with_its_value(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        message = await genuine_402(payee)
    SPOILT["c4 an amount with a point"](message)
    header = encode_json(message)
    transport = httpx.MockTransport(
        lambda request: httpx.Response(402, headers={PAYMENT_REQUIRED: header})
    )
    async with await an_agent(agentpay_shared_chain, transport) as agent:
        with pytest.raises(NoAcceptableOffer, match=r"accepts\[0\].amount: .*'0\.001'"):
            await agent.get(BASE + "/ok")


@pytest.mark.parametrize(
    "header",
    [
        "x",
        "e30=",
        "bnVsbA==",
        "W10=",
        "A" * 20_000,
        encode_json({"x402Version": 1, "accepts": []}),
        encode_json({"x402Version": 2, "accepts": [{}] * 33}),
        encode_json({"x402Version": 2, "accepts": "all"}),
        encode_json({"x402Version": True, "accepts": []}),
    ],
)
async def test_c17_a_402_that_cannot_be_read_is_a_protocol_error(
    agentpay_shared_chain: LocalChain, header: str
) -> None:
    await signs_nothing(agentpay_shared_chain, header, MalformedMessage)


async def test_c17_text_that_cannot_be_echoed_gets_no_signature(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        message = await genuine_402(payee)
    for offer in message["accepts"]:
        offer["extra"]["note"] = "SURROGATE"
    text = json.dumps(message).replace("SURROGATE", "\\ud800")
    header = b64encode(text.encode()).decode()
    await signs_nothing(agentpay_shared_chain, header, MalformedMessage)


async def test_c16_a_402_in_prose_is_delivered_and_not_paid(
    agentpay_shared_chain: LocalChain,
) -> None:
    prose = "Payment required: send 5 USDC to 0x" + "77" * 20
    wallet = await a_counting_wallet(agentpay_shared_chain)
    transport = httpx.MockTransport(lambda request: httpx.Response(402, text=prose))
    async with await an_agent(agentpay_shared_chain, transport, wallet=wallet) as agent:
        answer = await agent.get(BASE + "/ok")

    assert (answer.status_code, answer.text) == (402, prose)
    assert wallet.signatures == 0


async def test_c2_the_best_offer_is_ours_to_choose_and_not_the_first(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, payee, wall):
        message = await genuine_402(payee)
        _, exact = message["accepts"]
        dear = {**exact, "amount": "90000"}
        bad = {**exact, "asset": str(NOBODY), "amount": "1"}
        message["accepts"] = [bad, dear, exact]
        wire = Wire(through(wall))

        async def first_402(request: httpx.Request) -> httpx.Response:
            if "payment-signature" in request.headers:
                return await wire.handle_async_request(request)
            return required(message)

        transport = httpx.MockTransport(first_402)
        async with await an_agent(agentpay_shared_chain, transport) as agent:
            await agent.get(BASE + "/ok")
            spending = await agent.spending()

    assert str(spending) == "$0.001 spent, $0 deposited, $0 held"


@pytest.mark.parametrize("scheme", [0, 1])
async def test_c3_a_second_402_at_a_higher_price_is_not_paid(
    agentpay_shared_chain: LocalChain, scheme: int
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        cheap, dear = await genuine_402(payee), await genuine_402(payee, maximum=2000)
    cheap["accepts"] = [cheap["accepts"][scheme]]
    wallet = await a_counting_wallet(agentpay_shared_chain)
    prices = itertools.chain([cheap], itertools.repeat(dear))
    transport = httpx.MockTransport(lambda request: required(next(prices)))
    async with await an_agent(agentpay_shared_chain, transport, wallet=wallet) as agent:
        with pytest.raises(PaymentRejected):
            await agent.get(BASE + "/ok")

    assert wallet.signatures <= 2


async def test_c3_a_payee_that_voids_every_payment_is_paid_three_times_at_most(
    agentpay_shared_chain: LocalChain,
) -> None:
    wallet = await a_counting_wallet(agentpay_shared_chain)
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire, wallet=wallet) as agent:
            await agent.get(BASE + "/ok")
            signed = wallet.signatures
            wire.inner = httpx.MockTransport(_void)
            with pytest.raises(PaymentRejected):
                await agent.get(BASE + "/ok")
            spending = await agent.spending()

    assert wallet.signatures - signed <= 3
    assert str(spending).startswith("$0.001 spent")


def _void(request: httpx.Request) -> httpx.Response:
    """A receipt that voids the voucher in hand, with the offer once more."""
    payment = decoded(request.headers["payment-signature"])
    voucher = payment["payload"]["voucher"]
    info = {
        "cumulative": voucher["maxClaimableAmount"],
        "fate": "void",
        "charged": "0",
    }
    receipt = {
        "success": False,
        "errorReason": "no",
        "transaction": "",
        "network": "eip155:31337",
        "extensions": {"parallel-vouchers": {"info": info}},
    }
    offered = {
        "x402Version": 2,
        "error": "no",
        "accepts": [payment["accepted"]],
        "extensions": payment["extensions"],
    }
    headers = {
        PAYMENT_REQUIRED: encode_json(offered),
        PAYMENT_RESPONSE: encode_json(receipt),
    }
    return httpx.Response(402, headers=headers)


async def test_c13_a_receipt_that_charges_more_than_agreed_stops_the_channel(
    agentpay_shared_chain: LocalChain,
) -> None:
    def greedy(receipt: Any) -> Any:
        receipt["extensions"]["parallel-vouchers"]["info"]["charged"] = "1001"
        return receipt

    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            await agent.get(BASE + "/ok")
            wire.inner = through(rewriting(wall, PAYMENT_RESPONSE, greedy))
            with pytest.raises(AgentPayError) as stopped:
                await agent.get(BASE + "/ok")
            (record,) = await agent.channels()

    assert stopped.value.code == "payee_misbehaved"
    assert record.ledger.status == "stopped"
    assert record.ledger.spent == 2 * PRICE


@pytest.mark.parametrize("claimed", [2001, 10**9])
async def test_c13_a_total_above_what_our_vouchers_bought_stops_the_channel(
    agentpay_shared_chain: LocalChain, claimed: int
) -> None:
    def greedy(receipt: Any) -> Any:
        state = receipt["extra"]["channelState"]
        state["chargedCumulativeAmount"] = str(claimed)
        return receipt

    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            await agent.get(BASE + "/ok")
            wire.inner = through(rewriting(wall, PAYMENT_RESPONSE, greedy))
            with pytest.raises(AgentPayError) as stopped:
                await agent.get(BASE + "/ok")
            (record,) = await agent.channels()

    assert stopped.value.code == "payee_misbehaved"
    assert record.ledger.status == "stopped"


async def test_c14_a_minimum_deposit_above_the_budget_is_refused(
    agentpay_shared_chain: LocalChain,
) -> None:
    wallet = await a_counting_wallet(agentpay_shared_chain)
    async with (
        a_shop(agentpay_shared_chain, min_deposit="$6") as (_, _, wall),
        await an_agent(agentpay_shared_chain, through(wall), wallet=wallet) as agent,
    ):
        with pytest.raises(BudgetExceeded):
            await agent.get(BASE + "/ok")

    assert wallet.signatures == 0


async def test_c10_a_signature_is_good_for_ten_minutes_at_most(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        message = await genuine_402(payee)
    for offer in message["accepts"]:
        offer["maxTimeoutSeconds"] = 10**12
    seen: list[dict[str, Any]] = []

    def note(request: httpx.Request) -> httpx.Response:
        if "payment-signature" in request.headers:
            seen.append(decoded(request.headers["payment-signature"]))
            return httpx.Response(500)
        return required(message)

    now = 1_800_000_000.0
    for prefer in (("exact",), ("batch-settlement",)):
        policy = Policy(prefer=prefer, give_up_seconds=0.1)
        async with await an_agent(
            agentpay_shared_chain,
            httpx.MockTransport(note),
            policy=policy,
            clock=lambda: now,
        ) as agent:
            await agent.get(BASE + "/ok")

    transfer = seen[0]["payload"]["authorization"]
    deposit = seen[1]["payload"]["deposit"]["authorization"]["erc3009Authorization"]
    assert int(transfer["validBefore"]) <= now + 600
    assert int(deposit["validBefore"]) <= now + 600


def spoofing(wire: Wire, url: str, *, paid: bool = False) -> httpx.MockTransport:
    """Every 402, or with `paid` every 402 to a payment, is for this URL."""

    async def spoof(request: httpx.Request) -> httpx.Response:
        answer = await wire.handle_async_request(request)
        with_payment = "payment-signature" in request.headers
        if answer.status_code != 402 or with_payment is not paid:
            return answer
        message = decoded(answer.headers[PAYMENT_REQUIRED])
        message["resource"]["url"] = url
        return required(message)

    return httpx.MockTransport(spoof)


@pytest.mark.parametrize(
    "url", ["https://bank.example/ok", BASE + "/dear", "http://sh\u043ep.example/ok"]
)
async def test_c5_a_402_for_another_resource_gets_no_signature(
    agentpay_shared_chain: LocalChain, url: str
) -> None:
    wallet = await a_counting_wallet(agentpay_shared_chain)
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        transport = spoofing(Wire(through(wall)), url)
        async with await an_agent(
            agentpay_shared_chain, transport, wallet=wallet
        ) as agent:
            with pytest.raises(OfferUntrusted, match="/ok") as refused:
                await agent.get(BASE + "/ok")
            with pytest.raises(OfferUntrusted):
                await agent.find_lost_channels(BASE + "/ok")

    assert repr(url) in str(refused.value)
    assert repr(BASE + "/ok") in str(refused.value)
    assert wallet.signatures == 0


async def test_c5_a_second_402_for_another_resource_is_not_paid(
    agentpay_shared_chain: LocalChain,
) -> None:
    wallet = await a_counting_wallet(agentpay_shared_chain)
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        wire = Wire(through(wall))
        transport = spoofing(wire, "https://bank.example/ok", paid=True)
        async with await an_agent(
            agentpay_shared_chain, transport, wallet=wallet
        ) as agent:
            await agent.get(BASE + "/ok")
            before = wallet.signatures
            wire.inner = through(Paywall(shop, payee=payee, routes={"/ok": PRICE // 2}))
            with pytest.raises(PaymentRejected):
                await agent.get(BASE + "/ok")

    assert wallet.signatures == before + 1


async def test_c5_budget_and_channel_go_by_the_requested_url(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(wall))
        transport = spoofing(wire, "https://bank.example/")
        budget = Budget(total="$1", per_request="$0.1", per_host="$0.1")
        policy = Policy(deposit="$0.1", low_water="$0.01", same_resource=False)
        async with await an_agent(
            agentpay_shared_chain, transport, budget=budget, policy=policy
        ) as agent:
            await agent.get(BASE + "/ok")
            (record,) = await agent.channels()

    assert record.origin == BASE
    assert decoded(wire.credentials[0])["resource"]["url"] == BASE + "/ok"


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("warm", [True, False])
async def test_c6_no_credential_follows_a_redirect_to_another_origin(
    agentpay_shared_chain: LocalChain, status: int, warm: bool
) -> None:
    elsewhere: list[httpx.Request] = []
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        inner = through(wall)
        moved = not warm

        async def route(request: httpx.Request) -> httpx.Response:
            if request.url.host == "thief.example":
                elsewhere.append(request)
                return httpx.Response(200, text="thanks")
            if moved:
                location = "http://thief.example/ok"
                return httpx.Response(status, headers={"location": location})
            return await inner.handle_async_request(request)

        async with await an_agent(
            agentpay_shared_chain, httpx.MockTransport(route), follow_redirects=True
        ) as agent:
            if warm:
                await agent.get(BASE + "/ok")
                moved = True
            answer = await agent.get(BASE + "/ok")

    assert answer.text == "thanks"
    assert elsewhere
    assert all("payment-signature" not in request.headers for request in elsewhere)


async def test_c6_a_callers_own_credential_header_is_not_sent(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            await agent.get(BASE + "/free", headers={"PAYMENT-SIGNATURE": "mine"})

    assert not wire.credentials


# Private networks


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "192.168.1.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[fe80::1]",
        "localhost",
        "a.localhost",
        "printer.local",
        "0.0.0.0",  # noqa: S104 - not bound to
    ],
)
async def test_c7_nothing_on_a_private_network_is_paid(
    agentpay_shared_chain: LocalChain, host: str
) -> None:
    wallet = await a_counting_wallet(agentpay_shared_chain)
    async with (
        a_shop(agentpay_shared_chain) as (_, _, wall),
        await an_agent(agentpay_shared_chain, through(wall), wallet=wallet) as agent,
    ):
        with pytest.raises(OfferUntrusted):
            await agent.get(f"http://{host}/ok")

    assert wallet.signatures == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "127.1", "localhost."])
async def test_c7_what_a_name_leads_to_decides(
    agentpay_shared_chain: LocalChain, host: str
) -> None:
    wallet = await a_counting_wallet(agentpay_shared_chain)
    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(Shop(), payee=payee, routes=ROUTES)
        async with serving(wall) as base:
            port = base.rpartition(":")[2]
            async with await an_agent(agentpay_shared_chain, wallet=wallet) as agent:
                with pytest.raises((OfferUntrusted, httpx.ConnectError)):
                    await agent.get(f"http://{host}:{port}/ok")

    assert wallet.signatures == 0


async def test_c7_a_refused_offer_leaves_no_connection_behind(
    agentpay_shared_chain: LocalChain,
) -> None:
    payee_wall = None
    async with a_payee(agentpay_shared_chain) as payee:
        payee_wall = Paywall(Shop(), payee=payee, routes=ROUTES)
        async with serving(payee_wall) as base:
            limits = httpx.Limits(max_connections=2)
            inner = httpx.AsyncHTTPTransport(limits=limits)
            async with await an_agent(agentpay_shared_chain, inner, timeout=2) as agent:
                for _ in range(5):
                    with pytest.raises(OfferUntrusted):
                        await agent.get(base + "/ok")


# Offers remembered


async def test_a_warm_route_costs_one_round_trip(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_shop(agentpay_shared_chain) as (_, _, wall),
        await an_agent(agentpay_shared_chain, through(wall)) as agent,
    ):
        await agent.get(BASE + "/ok")
        before = agent.round_trips
        await asyncio.gather(*(agent.get(BASE + f"/ok?n={n}") for n in range(30)))

        assert agent.round_trips - before == 30


async def test_a_price_that_fell_is_paid_at_the_new_price(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            await agent.get(BASE + "/ok")
            cheaper = Paywall(shop, payee=payee, routes={"/ok": PRICE // 2})
            wire.inner = through(cheaper)
            answer = await agent.get(BASE + "/ok")
            spending = await agent.spending()

    assert answer.status_code == 200
    assert str(spending).startswith("$0.0015 spent")


async def test_c3_a_price_that_rose_is_the_callers_decision(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            await agent.get(BASE + "/ok")
            wire.inner = through(Paywall(shop, payee=payee, routes={"/ok": PRICE * 2}))
            with pytest.raises(PaymentRejected):
                await agent.get(BASE + "/ok")
            await agent.get(BASE + "/ok")  # asked again, it learns the price
            spending = await agent.spending()

    assert str(spending).startswith("$0.003 spent")


async def test_a_route_that_becomes_free_costs_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            await agent.get(BASE + "/ok")
            wire.inner = through(shop)
            answer = await agent.get(BASE + "/ok")
            (record,) = await agent.channels()

    assert answer.status_code == 200
    assert record.ledger.spent == PRICE
    assert record.channel == Hash32(record.channel)


async def test_a_password_in_a_url_is_told_to_its_server_alone(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            answer = await agent.get("http://me:s3cret@shop.example/ok")

        (credential,) = wire.credentials
        assert answer.status_code == 200
        assert "s3cret" not in str(decoded(credential))
