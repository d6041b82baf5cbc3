"""MPP's `evm/charge`, paid by an agent: each challenge once, and within its budget."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest

from agentpay.errors import (
    BudgetExceeded,
    MalformedMessage,
    NoAcceptableOffer,
    PaymentRejected,
)
from agentpay.evm.hashing import checksummed
from agentpay.evm.session_escrow import charge_nonce, charge_nonce_of_json
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.mpp.challenge import Challenge
from agentpay.wire.mpp.idempotency import IDEMPOTENCY_KEY, parse_idempotency_key
from agentpay.wire.mpp.preference import ACCEPT_PAYMENT
from agentpay.wire.mpp.timestamps import format_time
from tests.http.world import (
    PRICE,
    an_agent,
    through,
)
from tests.payee.mpp_hand import MPP, receipt_of
from tests.payer.charges import (
    BASE,
    BY_CHARGE,
    OK,
    a_market,
    app_of,
    challenging,
    changed,
    held,
    paid_with,
    spent,
)


async def test_a_charge_is_paid_answered_and_booked(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_market(agentpay_shared_chain) as (shop, payee, wire),
        await an_agent(agentpay_shared_chain, wire, policy=BY_CHARGE) as agent,
    ):
        paid = [await agent.get(OK) for _ in range(2)]
        credentials = [paid_with(credential) for credential in wire.credentials]
        receipts = [receipt_of(answer) for answer in paid]

        assert [answer.json() for answer in paid] == [{"answer": 42}] * 2
        assert agent.round_trips == 4  # a challenge is for one answer
        assert len({c.challenge.id for c in credentials}) == 2
        assert [r.challenge_id for r in receipts] == [
            c.challenge.id for c in credentials
        ]
        for credential in credentials:
            nonce = charge_nonce(credential.challenge.id, credential.challenge.realm)
            assert credential.payload["nonce"] == nonce
            assert credential.source == (
                f"did:pkh:eip155:{agentpay_shared_chain.chain_id}"
                f":{checksummed(agent.payer.keys.account)}"
            )
        assert shop.served[OK.removeprefix(BASE)] == 2
        assert (await spent(agent), await held(agent)) == (2 * PRICE, 0)
        assert await agentpay_shared_chain.balance(payee.settings.pay_to) == 2 * PRICE


async def test_the_form_of_pympps_nonce_is_for_the_hosts_that_need_it(
    agentpay_shared_chain: LocalChain,
) -> None:
    policy = replace(BY_CHARGE, json_nonces=("shop.example",))
    async with (
        a_market(agentpay_shared_chain) as (_, _, wire),
        await an_agent(agentpay_shared_chain, wire, policy=policy) as agent,
    ):
        paid = await agent.get(OK)

        assert paid.status_code == 200
        (credential,) = map(paid_with, wire.credentials)
        challenge = credential.challenge
        expected = charge_nonce_of_json(challenge.id, challenge.realm)
        assert credential.payload["nonce"] == expected


async def test_a_body_is_bound_to_its_payment(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_market(agentpay_shared_chain) as (_, _, wire),
        await an_agent(agentpay_shared_chain, wire, policy=BY_CHARGE) as agent,
    ):
        paid = [await agent.post(OK, content=body) for body in (b"one", b"two", b"")]
        digests = [paid_with(c).challenge.digest for c in wire.credentials]

        assert [answer.status_code for answer in paid] == [200] * 3
        assert len(set(digests)) == 3
        assert digests[-1] is None


async def test_x402_is_preferred_where_both_are_offered(
    agentpay_shared_chain: LocalChain,
) -> None:
    """It costs one round trip where a charge costs two."""
    async with (
        a_market(agentpay_shared_chain) as (_, _, wire),
        await an_agent(agentpay_shared_chain, wire) as agent,
    ):
        await agent.get(OK)

        assert all("payment-signature" in r.headers for r in wire.sent[1:])


@pytest.mark.parametrize("header", ["PAYMENT-REQUIRED", "WWW-Authenticate"])
@pytest.mark.parametrize("broken", ["x", "Payment", 'Payment id="', "\\" * 12_000])
async def test_c17_what_can_be_read_of_a_402_is_paid(
    agentpay_shared_chain: LocalChain, header: str, broken: str
) -> None:
    async with a_market(agentpay_shared_chain) as (_, _, wire):

        async def spoil(request: httpx.Request) -> httpx.Response:
            response = await wire.handle_async_request(request)
            if response.status_code == 402:
                response.headers[header] = broken
            return response

        transport = httpx.MockTransport(spoil)
        policy = replace(BY_CHARGE, prefer=("exact", "charge"))
        async with await an_agent(
            agentpay_shared_chain, transport, policy=policy
        ) as agent:
            paid = await agent.get(OK)

        assert paid.status_code == 200
        by_mpp = header == "PAYMENT-REQUIRED"
        assert wire.credentials[0].startswith("Payment ") == by_mpp


GOOD = 'Payment id="a", realm="r", method="evm", intent="charge", request="e30"'
UNREADABLE = (
    "Payment",
    "Payment " + "\\" * 12_000,
    'Payment id="' + "\\" * 12_000 + '"',
    GOOD.replace("e30", "!"),
    GOOD.replace("e30", "A" * 20_000),
    GOOD.replace('id="a"', 'id="a", id="b"'),
    GOOD.replace('id="a"', 'id=""'),
    GOOD + ', header="Host"',
    GOOD + ', expires="tomorrow"',
    "Payment " + "x" * 65_536,
    ", ".join([GOOD] * 33),
)


@pytest.mark.parametrize("line", UNREADABLE)
async def test_c17_challenges_that_cannot_be_read_are_a_protocol_error(
    agentpay_shared_chain: LocalChain, line: str
) -> None:
    refusal = httpx.Response(402, headers={"WWW-Authenticate": line})
    transport = httpx.MockTransport(lambda request: refusal)
    async with await an_agent(agentpay_shared_chain, transport) as agent:
        with pytest.raises(MalformedMessage):
            await agent.get(OK)

        assert await held(agent) == 0


HOSTILE: dict[str, Callable[[Challenge], Challenge]] = {
    "c5 for another host": lambda c: replace(c, realm="bank.example"),
    "c5 for another host, by its url": lambda c: replace(
        c, realm="https://bank.example:8443/"
    ),
    "c5 for a host that ends like ours": lambda c: replace(c, realm="myshop.example"),
    "c10 over": lambda c: replace(c, expires=format_time(1_000_000_000)),
    "of another method": lambda c: replace(c, method="tempo"),
    "of another intent": lambda c: replace(c, intent="subscription"),
    "for another request": lambda c: replace(c, digest="sha-256=" + "A" * 43 + "="),
    "c2 for nobody": lambda c: replace(
        c, request=changed(c, recipient="0x" + "0" * 40)
    ),
    "c2 in another token": lambda c: replace(
        c, request=changed(c, currency="0x" + "11" * 20)
    ),
    "c4 for nothing": lambda c: replace(c, request=changed(c, amount="0")),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_c2_c4_c5_c10_a_hostile_challenge_gets_no_signature(
    agentpay_shared_chain: LocalChain, name: str
) -> None:
    async with a_market(agentpay_shared_chain) as (_, _, wire):
        wire.inner = through(challenging(app_of(wire), HOSTILE[name]))
        async with await an_agent(
            agentpay_shared_chain, wire, policy=BY_CHARGE
        ) as agent:
            with pytest.raises(NoAcceptableOffer):
                await agent.get(OK)

            assert await held(agent) == 0
        assert wire.credentials == []


async def test_c4_a_charge_above_the_budget_gets_no_signature(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_market(agentpay_shared_chain) as (_, _, wire):
        dear = challenging(
            app_of(wire), lambda c: replace(c, request=changed(c, amount="100001"))
        )
        wire.inner = through(dear)
        async with await an_agent(
            agentpay_shared_chain, wire, policy=BY_CHARGE
        ) as agent:
            with pytest.raises(BudgetExceeded):
                await agent.get(OK)

        assert wire.credentials == []


async def test_c10_a_charge_is_good_for_ten_minutes_at_most(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_market(agentpay_shared_chain) as (_, _, wire):
        patient = challenging(
            app_of(wire), lambda c: replace(c, expires=format_time(4_000_000_000))
        )
        wire.inner = through(patient)
        async with await an_agent(
            agentpay_shared_chain, wire, policy=BY_CHARGE
        ) as agent:
            with pytest.raises(PaymentRejected):  # it is not what was given out
                await agent.get(OK)
        (credential,) = map(paid_with, wire.credentials)

        assert int(credential.payload["validBefore"]) <= time.time() + 600


async def test_nothing_is_paid_by_mpp_without_tls(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_market(agentpay_shared_chain) as (_, _, wire),
        await an_agent(agentpay_shared_chain, wire, policy=BY_CHARGE) as agent,
    ):
        with pytest.raises(NoAcceptableOffer, match="https only"):
            await agent.get(OK.replace("https:", "http:"))

        assert wire.credentials == []


async def test_a_callers_own_authorization_is_not_overwritten(
    agentpay_shared_chain: LocalChain,
) -> None:
    ours = {"Authorization": "Bearer ours"}
    async with a_market(agentpay_shared_chain) as (_, _, wire):
        async with await an_agent(
            agentpay_shared_chain, wire, policy=BY_CHARGE
        ) as agent:
            with pytest.raises(NoAcceptableOffer, match="which the request has"):
                await agent.get(OK, headers=ours)
        either = replace(BY_CHARGE, prefer=("charge", "exact"))
        async with await an_agent(agentpay_shared_chain, wire, policy=either) as agent:
            paid = await agent.get(OK, headers=ours)

        assert paid.status_code == 200
        assert {r.headers["authorization"] for r in wire.sent} == {"Bearer ours"}


async def test_a_credential_goes_where_its_challenge_says(
    agentpay_shared_chain: LocalChain,
) -> None:
    ours = {"Authorization": "Bearer ours"}
    mpp = replace(MPP, header="Payment-Authorization")
    async with (
        a_market(agentpay_shared_chain, mpp=mpp) as (_, _, wire),
        await an_agent(agentpay_shared_chain, wire, policy=BY_CHARGE) as agent,
    ):
        paid = await agent.get(OK, headers=ours)

        assert paid.status_code == 200
        assert wire.sent[-1].headers["authorization"] == "Bearer ours"
        assert wire.sent[-1].headers["payment-authorization"].startswith("Payment ")


async def test_paid_requests_have_names_unless_they_have_one_already(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_market(agentpay_shared_chain) as (_, _, wire),
        await an_agent(agentpay_shared_chain, wire, policy=BY_CHARGE) as agent,
    ):
        await agent.get(OK)
        await agent.get(OK)
        await agent.get(OK, headers={"Idempotency-Key": "ours"})
        paid = [r for r in wire.sent if "authorization" in r.headers]
        first, second, ours = (r.headers[IDEMPOTENCY_KEY] for r in paid)

        assert parse_idempotency_key([first]) != parse_idempotency_key([second])
        assert ours == "ours"
        assert IDEMPOTENCY_KEY not in wire.sent[0].headers


async def test_c6_a_credential_follows_no_redirect(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_market(agentpay_shared_chain) as (_, _, wire):
        seen: list[httpx.Request] = []

        async def elsewhere(request: httpx.Request) -> httpx.Response:
            if request.url.host == "shop.example":
                paid = await wire.handle_async_request(request)
                if paid.status_code == 200:
                    return httpx.Response(
                        302, headers={"location": "https://b.example"}
                    )
                return paid
            seen.append(request)
            return httpx.Response(200)

        async with await an_agent(
            agentpay_shared_chain,
            httpx.MockTransport(elsewhere),
            policy=BY_CHARGE,
            follow_redirects=True,
        ) as agent:
            await agent.get(OK)

        assert len(seen) == 1
        assert "authorization" not in seen[0].headers


async def test_who_could_pay_is_told_to_those_who_charge_alone(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_market(agentpay_shared_chain) as (_, _, wire),
        await an_agent(agentpay_shared_chain, wire, policy=BY_CHARGE) as agent,
    ):
        await agent.get(BASE + "/free")
        await agent.get(OK)
        await agent.get(OK)
        told = [r.headers.get(ACCEPT_PAYMENT) for r in wire.sent]

        assert told == [None, None, None, "evm/charge", None]


async def test_many_requests_at_once_each_pay_their_own_challenge(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_market(agentpay_shared_chain) as (_, payee, wire),
        await an_agent(agentpay_shared_chain, wire, policy=BY_CHARGE) as agent,
    ):
        paid = await asyncio.gather(*(agent.get(OK) for _ in range(32)))

        assert {answer.status_code for answer in paid} == {200}
        assert len(set(wire.credentials)) == 32
        assert await spent(agent) == 32 * PRICE
        balance = await agentpay_shared_chain.balance(payee.settings.pay_to)
        assert balance == 32 * PRICE


async def test_an_applications_own_402_and_other_schemes_are_the_callers(
    agentpay_shared_chain: LocalChain,
) -> None:
    def basic(request: httpx.Request) -> httpx.Response:
        header = {"WWW-Authenticate": 'Basic realm="Payment"'}
        return httpx.Response(402, headers=header)

    async with await an_agent(
        agentpay_shared_chain, httpx.MockTransport(basic), policy=BY_CHARGE
    ) as agent:
        assert (await agent.get(OK)).status_code == 402
