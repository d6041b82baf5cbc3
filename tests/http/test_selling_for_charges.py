"""MPP's `evm/charge` behind the paywall, beside x402: one transfer, one answer."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from agentpay import MppTerms, Payee, Paywall, Wallet
from agentpay.errors import ConfigurationError
from agentpay.evm.session_escrow import charge_nonce, charge_nonce_of_json
from agentpay.http.paywall import Receive, Scope, Send
from agentpay.payee.pricing import Order
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.credential import Credential, format_credential
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT
from agentpay.wire.x402 import PAYMENT_REQUIRED, PAYMENT_RESPONSE
from tests.http.world import (
    PRICE,
    ROUTES,
    Shop,
    a_shop,
    answer,
    client_of,
    open_payee,
)
from tests.payee.hand import NOBODY, HandPayer, terms_of
from tests.payee.mpp_hand import (
    MPP,
    SECRET,
    ChargePayer,
    asked_of,
    challenge_of,
    kind_of,
    problem_of,
    receipt_of,
)

PAID = "/exact/reserve-then-settle/ok"
OTHER = "/exact/serve-then-settle/ok"
FIRST = "/exact/settle-first/ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A shop that speaks both protocols, and somebody who pays."""

    chain: LocalChain
    shop: Shop
    payee: Payee
    client: httpx.AsyncClient
    payer: ChargePayer

    async def balance(self) -> int:
        return await self.chain.balance(self.payee.settings.pay_to)


@contextlib.asynccontextmanager
async def a_world(chain: LocalChain, **options: Any) -> AsyncIterator[World]:
    async with (
        a_shop(chain, **{"mpp": MPP, **options}) as (shop, payee, wall),
        client_of(wall) as client,
    ):
        payer = ChargePayer(await chain.funded_wallet(ether=0), payee.asset)
        yield World(chain=chain, shop=shop, payee=payee, client=client, payer=payer)


async def test_a_402_offers_both_protocols(agentpay_shared_chain: LocalChain) -> None:
    async with a_world(agentpay_shared_chain) as world:
        asks = await world.client.get(PAID)
        again = await world.client.get(PAID)
        challenge = challenge_of(asks)
        asked = asked_of(challenge)

        assert asks.status_code == 402
        assert PAYMENT_REQUIRED in asks.headers
        assert asks.headers["cache-control"] == "no-store"
        assert kind_of(asks) == "payment-required"
        assert (challenge.method, challenge.intent) == ("evm", "charge")
        assert challenge.realm == "shop.example"
        assert (asked.amount, asked.recipient, asked.currency) == (
            PRICE,
            world.payee.settings.pay_to,
            world.payee.asset.address,
        )
        assert asked.method_details.credential_types == ("authorization",)
        assert challenge_of(again).id != challenge.id


@pytest.mark.parametrize("nonce", [charge_nonce, charge_nonce_of_json])
async def test_a_charge_is_paid_and_answered(
    agentpay_shared_chain: LocalChain, nonce: Any
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge = challenge_of(await world.client.get(PAID))
        signed = nonce(challenge.id, challenge.realm)
        headers = await world.payer.pays(challenge, nonce=signed)
        paid = await world.client.get(PAID, headers=headers)
        receipt = receipt_of(paid)

        assert paid.status_code == 200
        assert paid.json() == {"answer": 42}
        assert PAYMENT_RESPONSE not in paid.headers
        assert "private" in paid.headers["cache-control"]
        assert "Authorization" in paid.headers["vary"]
        assert receipt.challenge_id == challenge.id
        assert receipt.chain_id == world.chain.chain_id
        moved = await world.payee._running.chain.receipt(receipt.reference)
        assert moved is not None
        assert await world.balance() == PRICE


@pytest.mark.parametrize("path", [PAID, FIRST, OTHER])
async def test_p1_fifty_copies_of_a_credential_buy_one_answer(
    agentpay_shared_chain: LocalChain, path: str
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge = challenge_of(await world.client.get(path))
        headers = await world.payer.pays(challenge)
        copies = [world.client.get(path, headers=headers) for _ in range(50)]
        answers = await asyncio.gather(*copies)
        late = await world.client.get(path, headers=headers)
        served = [answer for answer in answers if answer.status_code == 200]

        assert {a.status_code for a in answers} <= {200, 409}
        for copy in answers:
            if copy.status_code == 409:
                assert kind_of(copy) == "credential-replayed"
                assert PAYMENT_RESPONSE not in copy.headers
        assert {a.content for a in served} == {late.content}
        assert late.status_code == 200
        assert world.shop.begun[path] == 1
        assert await world.balance() == PRICE


async def test_a_receipt_waits_for_the_money(agentpay_shared_chain: LocalChain) -> None:
    async with a_world(agentpay_shared_chain) as world:
        headers = await world.payer.pays(challenge_of(await world.client.get(OTHER)))
        served = await world.client.get(OTHER, headers=headers)

        assert served.status_code == 200
        assert PAYMENT_RECEIPT not in served.headers
        assert await world.balance() == PRICE


@pytest.mark.parametrize("order", [Order.RESERVE, Order.SETTLE_FIRST])
async def test_no_receipt_stands_on_an_error(
    agentpay_shared_chain: LocalChain, order: Order
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        path = f"/exact/{order}/ok?status=500"
        headers = await world.payer.pays(challenge_of(await world.client.get(path)))
        failed = await world.client.get(path, headers=headers)

        assert failed.status_code == 500
        assert PAYMENT_RECEIPT not in failed.headers
        paid = PRICE if order is Order.SETTLE_FIRST else 0
        assert await world.balance() == paid


async def test_a_redirect_that_is_paid_for_has_no_receipt(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        path = PAID + "?status=303"
        headers = await world.payer.pays(challenge_of(await world.client.get(path)))
        moved = await world.client.get(path, headers=headers)

        assert (moved.status_code, await world.balance()) == (303, PRICE)
        assert PAYMENT_RECEIPT not in moved.headers


@pytest.mark.parametrize(
    "bad",
    [
        {"to": NOBODY},
        {"value": PRICE - 1},
        {"value": PRICE + 1},
        {"nonce": Hash32("0x" + "11" * 32)},
        {"nonce": charge_nonce("another", "shop.example")},
        {"payer": NOBODY},
        {"signer": Wallet.create()},
        {"valid_before": 1},
        {"valid_after": 2**40},
    ],
    ids=lambda bad: next(iter(bad)),
)
async def test_a_transfer_on_other_terms_buys_nothing(
    agentpay_shared_chain: LocalChain, bad: dict[str, Any]
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge = challenge_of(await world.client.get(PAID))
        headers = await world.payer.pays(challenge, **bad)
        refused = await world.client.get(PAID, headers=headers)
        good = await world.payer.pays(challenge)
        paid = await world.client.get(PAID, headers=good)

        assert refused.status_code == 402
        assert kind_of(refused) == "verification-failed"
        assert problem_of(refused).challenge_id == challenge.id
        assert challenge_of(refused).id != challenge.id
        assert PAYMENT_RESPONSE not in refused.headers
        assert paid.status_code == 200  # a bad credential uses nothing up


async def test_p2_a_challenge_is_for_one_method_path_query_and_body(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        first = await world.client.post(PAID, content=b"question")
        challenge = challenge_of(first)
        headers = await world.payer.pays(challenge)
        elsewhere = [
            await world.client.get(PAID, headers=headers),
            await world.client.put(PAID, headers=headers, content=b"question"),
            await world.client.post(FIRST, headers=headers, content=b"question"),
            await world.client.post(
                PAID + "?q=1", headers=headers, content=b"question"
            ),
            await world.client.post(PAID, headers=headers, content=b"Question"),
            await world.client.post(PAID, headers=headers),
            await world.client.post("/dear", headers=headers, content=b"question"),
        ]
        here = await world.client.post(PAID, headers=headers, content=b"question")

        assert {a.status_code for a in elsewhere} == {402}
        assert {kind_of(a) for a in elsewhere} == {"invalid-challenge"}
        assert here.status_code == 200
        assert world.shop.begun.total() == 1


async def test_p11_challenges_of_others_and_changed_ones_are_refused(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge = challenge_of(await world.client.get(PAID))
        cheap = asked_of(challenge)
        assert cheap.amount == PRICE
        for change in (
            {"id": "A" * 43},
            {"realm": "other.example"},
            {"intent": "subscription"},
            {"expires": "2099-01-01T00:00:00Z"},
            {"expires": None},
            {"digest": "sha-256=" + "A" * 43 + "="},
            {"opaque": None},
            {"header": "Payment-Authorization"},
        ):
            changed = replace(challenge, **change)
            value = await world.payer.credential(changed)
            headers = {"authorization": value}
            refused = await world.client.get(PAID, headers=headers)

            assert (refused.status_code, kind_of(refused)) == (402, "invalid-challenge")
        assert await world.balance() == 0


async def test_p11_a_late_credential_is_told_so_unless_it_was_taken_in_time(
    agentpay_shared_chain: LocalChain,
) -> None:
    now = [time.time()]
    async with a_world(agentpay_shared_chain, clock=lambda: now[0]) as world:
        late, taken = [challenge_of(await world.client.get(PAID)) for _ in range(2)]
        headers = await world.payer.pays(taken)
        in_time = await world.client.get(PAID, headers=headers)
        now[0] += 301
        refused = await world.client.get(PAID, headers=await world.payer.pays(late))
        again = await world.client.get(PAID, headers=headers)

        assert (in_time.status_code, again.status_code) == (200, 200)
        assert (refused.status_code, kind_of(refused)) == (402, "payment-expired")
        assert world.shop.begun[PAID] == 1


async def test_a_challenge_is_for_one_transfer(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        other = await world.chain.funded_wallet(ether=0)
        challenge = challenge_of(await world.client.get(PAID))
        headers = await world.payer.pays(challenge)
        paid = await world.client.get(PAID, headers=headers)
        for payer, nonce in (
            (ChargePayer(other, world.payee.asset), charge_nonce),
            (world.payer, charge_nonce_of_json),
        ):
            second = await payer.pays(
                challenge, nonce=nonce(challenge.id, challenge.realm)
            )
            refused = await world.client.get(PAID, headers=second)

            assert (refused.status_code, kind_of(refused)) == (402, "invalid-challenge")
        assert paid.status_code == 200
        assert await world.balance() == PRICE


async def test_p3_a_signature_buys_one_answer_over_both_protocols(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        hand = HandPayer(world.payer.wallet, world.payee.settings)
        terms = terms_of(world.payee, schemes=("exact",))
        challenges = [challenge_of(await world.client.get(PAID)) for _ in range(2)]
        nonces = [charge_nonce(c.id, c.realm) for c in challenges]
        x402 = [
            {"payment-signature": await hand.transfer(terms, nonce=nonce)}
            for nonce in nonces
        ]
        mpp = [await world.payer.pays(challenge) for challenge in challenges]
        answers = [
            await world.client.get(PAID, headers=mpp[0]),
            await world.client.get(PAID, headers=x402[0]),
            await world.client.get(PAID, headers=x402[1]),
            await world.client.get(PAID, headers=mpp[1]),
        ]

        # The second of each pair is told the answer to the first, or nothing at all.
        assert answers[0].status_code == answers[2].status_code == 200
        assert answers[1].headers.get(PAYMENT_RECEIPT) in (
            None,
            answers[0].headers[PAYMENT_RECEIPT],
        )
        assert world.shop.begun[PAID] == 2
        assert await world.balance() == 2 * PRICE


async def test_p1_what_the_chain_shows_of_a_charge_is_told_no_answer(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge = challenge_of(await world.client.get(PAID))
        headers = await world.payer.pays(challenge)
        bought = await world.client.get(PAID, headers=headers)
        again = await world.client.get(PAID, headers=headers)
        # Of the signature on the chain, anybody can make a payment of x402.
        hand = HandPayer(world.payer.wallet, world.payee.settings)
        shown = await hand.transfer(
            terms_of(world.payee, schemes=("exact",)),
            nonce=charge_nonce(challenge.id, challenge.realm),
        )
        by_anyone = await world.client.get(PAID, headers={"payment-signature": shown})

        assert bought.status_code == 200
        assert again.content == bought.content
        assert by_anyone.status_code == 409
        assert by_anyone.content != bought.content


async def test_p8_what_is_no_payment_credential_is_the_applications_own(
    agentpay_shared_chain: LocalChain,
) -> None:
    seen: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(v for n, v in scope["headers"] if n == b"authorization")
        await answer(send, 200, b"free")

    payee = await open_payee(agentpay_shared_chain, mpp=MPP)
    wall = Paywall(app, payee=payee, routes=ROUTES)
    async with client_of(wall) as client:
        free = await client.get("/free", headers={"authorization": "Bearer abc"})
        paid = await client.get(PAID, headers={"authorization": "Bearer abc"})
        odd = await client.get("/free", headers={"authorization": "Payment abc"})
    await payee.stop()

    assert (free.status_code, odd.status_code, paid.status_code) == (200, 200, 402)
    assert kind_of(paid) == "payment-required"
    assert seen == [b"Bearer abc", b"Payment abc"]


@pytest.mark.parametrize(
    "value",
    ["Payment", "Payment !!", "payment e30", "Payment " + "A" * 49_999, "PAYMENT bm8"],
)
async def test_p8_a_malformed_credential_is_402_with_a_fresh_challenge(
    agentpay_shared_chain: LocalChain, value: str
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        refused = await world.client.get(PAID, headers={"authorization": value})

        assert (refused.status_code, kind_of(refused)) == (402, "malformed-credential")
        assert challenge_of(refused)
        assert world.shop.begun.total() == 0


async def test_p8_other_payloads_are_refused(agentpay_shared_chain: LocalChain) -> None:
    payloads: list[tuple[JsonObject, str]] = [
        ({}, "malformed-credential"),
        ({"type": "gift"}, "malformed-credential"),
        ({"type": "hash", "hash": "0x" + "11" * 32}, "verification-failed"),
        ({"type": "transaction", "signature": "0x02"}, "verification-failed"),
    ]
    async with a_world(agentpay_shared_chain) as world:
        for payload, kind in payloads:
            challenge = challenge_of(await world.client.get(PAID))
            credential = Credential(challenge=challenge, payload=payload)
            headers = {"authorization": format_credential(credential)}
            refused = await world.client.get(PAID, headers=headers)

            assert (refused.status_code, kind_of(refused)) == (402, kind)
        assert world.shop.begun.total() == 0


async def test_several_payments_are_400_and_use_nothing_up(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge = challenge_of(await world.client.get(PAID))
        value = await world.payer.credential(challenge)
        hand = HandPayer(world.payer.wallet, world.payee.settings)
        terms = terms_of(world.payee, schemes=("exact",))
        both = {
            "authorization": value,
            "payment-signature": await hand.transfer(terms),
        }
        joined = {"authorization": f"{value}, {value}"}
        answers = [
            await world.client.get(PAID, headers=headers) for headers in (both, joined)
        ]
        beside = {"authorization": f"Bearer abc, {value}"}
        paid = await world.client.get(PAID, headers=beside)

        assert [a.status_code for a in answers] == [400, 400]
        assert paid.status_code == 200
        assert await world.balance() == PRICE


async def test_credentials_may_have_a_field_of_their_own(
    agentpay_shared_chain: LocalChain,
) -> None:
    mpp = replace(MPP, header="Payment-Authorization")
    async with a_world(agentpay_shared_chain, mpp=mpp) as world:
        challenge = challenge_of(await world.client.get(PAID))
        value = await world.payer.credential(challenge)
        wrong = await world.client.get(PAID, headers={"authorization": value})
        headers = {"authorization": "Bearer abc", "payment-authorization": value}
        paid = await world.client.get(PAID, headers=headers)

        assert challenge.header == "Payment-Authorization"
        assert (wrong.status_code, kind_of(wrong)) == (402, "payment-required")
        assert paid.status_code == 200
        assert "Payment-Authorization" in paid.headers["vary"]


async def test_a_challenge_of_the_secret_before_this_one_is_honoured(
    agentpay_shared_chain: LocalChain,
) -> None:
    fresh = b"the secret that came after that one"
    both = replace(MPP, secrets=(fresh, SECRET))
    async with (
        a_world(agentpay_shared_chain) as old,
        a_world(
            agentpay_shared_chain, mpp=both, pay_to=old.payee.settings.pay_to
        ) as new,
        a_world(
            agentpay_shared_chain,
            mpp=replace(MPP, secrets=(fresh,)),
            pay_to=old.payee.settings.pay_to,
        ) as newest,
    ):
        challenge = challenge_of(await old.client.get(PAID))
        headers = await old.payer.pays(challenge)
        gone = await newest.client.get(PAID, headers=headers)
        paid = await new.client.get(PAID, headers=headers)

        assert (gone.status_code, kind_of(gone)) == (402, "invalid-challenge")
        assert paid.status_code == 200


async def test_a_payer_without_money_is_told_so_and_may_pay_later(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        poor = ChargePayer(await world.chain.funded_wallet(0), world.payee.asset)
        challenge = challenge_of(await world.client.get(PAID))
        refused = await world.client.get(PAID, headers=await poor.pays(challenge))

        assert (refused.status_code, kind_of(refused)) == (402, "verification-failed")
        assert PAYMENT_RESPONSE not in refused.headers
        assert challenge_of(refused).id != challenge.id


async def test_p13_a_payer_without_money_leaves_nothing_in_the_books(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        poor = ChargePayer(await world.chain.funded_wallet(0), world.payee.asset)
        store = world.payee._running.store.payee
        challenge = challenge_of(await world.client.get(PAID))
        headers = await poor.pays(challenge, valid_before=int(time.time()) + 3600)
        refused = await world.client.get(PAID, headers=headers)

        assert refused.status_code == 402
        assert await store.find_payment(f"challenge {challenge.id}") is None


async def test_p13_a_challenge_is_forgotten_whatever_its_payer_signs(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        store = world.payee._running.store.payee
        challenge = challenge_of(await world.client.get(PAID))
        headers = await world.payer.pays(
            challenge, valid_before=int(time.time()) + 3600
        )
        paid = await world.client.get(PAID, headers=headers)
        taken = f"challenge {challenge.id}"
        known = await store.find_payment(taken)
        await store.sweep_payments(now=int(time.time()) + 24 * 3600)

        assert paid.status_code == 200
        assert known is not None
        assert await store.find_payment(taken) is None


async def test_the_body_that_was_read_ahead_reaches_the_application(
    agentpay_shared_chain: LocalChain,
) -> None:
    heard: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        body = b""
        while more:
            message = await receive()
            body += message["body"]
            more = message.get("more_body", False)
        heard.append(body)
        await answer(send, 200, b"ok")

    async def parts() -> AsyncIterator[bytes]:
        for part in (b"a" * 1000, b"", b"b" * 1000):
            yield part

    payee = await open_payee(agentpay_shared_chain, mpp=MPP)
    wall = Paywall(app, payee=payee, routes=ROUTES)
    wallet = await agentpay_shared_chain.funded_wallet(ether=0)
    payer = ChargePayer(wallet, payee.asset)
    async with client_of(wall) as client:
        challenge = challenge_of(await client.post(PAID, content=parts()))
        headers = await payer.pays(challenge)
        paid = await client.post(PAID, content=parts(), headers=headers)
        again = await client.post(PAID, content=parts(), headers=headers)
        other = await client.post(PAID, content=b"other", headers=headers)
    await payee.stop()

    assert (paid.status_code, again.status_code, other.status_code) == (200, 200, 402)
    assert heard == [b"a" * 1000 + b"b" * 1000]


async def test_a_body_that_is_too_long_is_offered_x402_only(
    agentpay_shared_chain: LocalChain,
) -> None:
    mpp = replace(MPP, body_bytes_max=10)
    async with a_world(agentpay_shared_chain, mpp=mpp) as world:
        challenge = challenge_of(await world.client.post(PAID, content=b"x" * 10))
        headers = await world.payer.pays(challenge)
        long = b"x" * 11
        unpaid = await world.client.post(PAID, content=long)
        refused = await world.client.post(PAID, content=long, headers=headers)

        assert (unpaid.status_code, refused.status_code) == (402, 402)
        assert PAYMENT_REQUIRED in unpaid.headers
        assert "www-authenticate" not in unpaid.headers
        assert kind_of(refused) == "invalid-challenge"


async def test_x402_is_refused_with_challenges_too(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        hand = HandPayer(world.payer.wallet, world.payee.settings)
        terms = terms_of(world.payee, schemes=("exact",))
        header = await hand.transfer(terms, to=NOBODY)
        headers = {"payment-signature": header}
        refused = await world.client.get(PAID, headers=headers)

        assert (refused.status_code, kind_of(refused)) == (402, "verification-failed")
        assert challenge_of(refused)


async def test_one_402_is_read_by_three_kinds_of_clients(
    agentpay_shared_chain: LocalChain,
) -> None:
    payee = await open_payee(agentpay_shared_chain, mpp=MPP)
    wall = Paywall(Shop(), payee=payee, routes=ROUTES, v1=True)
    async with client_of(wall) as client:
        asks = await client.get(PAID)
    await payee.stop()

    assert kind_of(asks) == "payment-required"
    assert challenge_of(asks).intent == "charge"
    assert PAYMENT_REQUIRED in asks.headers
    assert asks.json()["x402Version"] == 1


async def test_routes_without_single_transfers_take_no_charge(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        path = "/channel/settle-first/ok"
        asks = await world.client.get(path)
        elsewhere = challenge_of(await world.client.get(PAID))
        headers = await world.payer.pays(elsewhere)
        refused = await world.client.get(path, headers=headers)

        assert challenge_of(asks).intent == "session"
        assert (refused.status_code, kind_of(refused)) == (402, "invalid-challenge")


async def test_mpp_is_off_unless_it_is_asked_for(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as speaks:
        challenge = challenge_of(await speaks.client.get(PAID))
        headers = await speaks.payer.pays(challenge)
    async with a_world(agentpay_shared_chain, mpp=None) as world:
        asks = await world.client.get(PAID, headers=headers)

        assert asks.status_code == 402
        assert "www-authenticate" not in asks.headers
        assert asks.headers["content-type"] == "application/json"
        assert asks.headers["vary"] == "PAYMENT-SIGNATURE, Accept, User-Agent"


@pytest.mark.parametrize("lines", ["evm/charge", "*/*;q=0", "nonsense", "tempo/*"])
async def test_a_preference_never_leaves_a_402_without_a_challenge(
    agentpay_shared_chain: LocalChain, lines: str
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        asks = await world.client.get(PAID, headers={"accept-payment": lines})

        assert challenge_of(asks).intent == "charge"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"secrets": ()}, "secret"),
        ({"secrets": (b"short",)}, "32"),
        ({"realm": ""}, "realm"),
        ({"realm": "a|b"}, "realm"),
        ({"realm": "a\nb"}, "characters"),
        ({"header": "Cookie"}, "Cookie"),
        ({"body_bytes_max": -1}, "-1"),
    ],
)
def test_terms_that_cannot_be_used_are_refused(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        MppTerms(**{"realm": "r", "secrets": (SECRET,), **changes})


def test_secrets_are_in_no_repr() -> None:
    assert "secret for tests" not in repr(MPP)
