"""MPP charges whose answers are lost, refused, untrue, or asked for twice (C8)."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from agentpay import Paywall
from agentpay.errors import (
    AnswerLost,
    ChallengeUsed,
    PaymentOutcomeUnknown,
    PaymentRejected,
    PriceRose,
)
from agentpay.http.paywall import Receive, Scope, Send
from agentpay.payee.answers import AnswerPolicy
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from agentpay.wire.mpp.challenge import Challenge, format_challenge, parse_challenges
from agentpay.wire.mpp.receipt import (
    PAYMENT_RECEIPT,
    charge_receipt,
    format_receipt,
)
from tests.http.world import (
    PRICE,
    Shop,
    a_payee,
    an_agent,
    through,
    until,
)
from tests.payee.mpp_hand import MPP
from tests.payer.charges import (
    BASE,
    BY_CHARGE,
    OK,
    SERVED_FIRST,
    a_market,
    app_of,
    challenging,
    held,
    spent,
)

OTHER = f"{BASE}/exact/serve-then-settle/ok"


@pytest.mark.parametrize("what", ["lose_requests", "lose_answers"])
async def test_c8_what_is_lost_is_sent_again_with_the_same_credential(
    agentpay_shared_chain: LocalChain, what: str
) -> None:
    async with (
        a_market(agentpay_shared_chain) as (shop, payee, wire),
        await an_agent(agentpay_shared_chain, wire, policy=BY_CHARGE) as agent,
    ):
        setattr(wire, what, 2)
        paid = await agent.get(OK)

        assert paid.status_code == 200
        assert len(wire.credentials) == 3
        assert len(set(wire.credentials)) == 1
        assert len({r.headers["idempotency-key"] for r in wire.sent[1:]}) == 1
        assert shop.begun[OK.removeprefix(BASE)] == 1
        assert (await spent(agent), await held(agent)) == (PRICE, 0)
        assert await agentpay_shared_chain.balance(payee.settings.pay_to) == PRICE


async def test_c8_an_answer_that_is_not_kept_was_paid_for_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    none_kept = AnswerPolicy(bytes_each=0)
    async with (
        a_market(agentpay_shared_chain, answers=none_kept) as (shop, payee, wire),
        await an_agent(agentpay_shared_chain, wire, policy=BY_CHARGE) as agent,
    ):
        wire.lose_answers = 1
        with pytest.raises(AnswerLost):
            await agent.get(OK)

        assert shop.begun[OK.removeprefix(BASE)] == 1
        assert (await spent(agent), await held(agent)) == (PRICE, 0)
        assert await agentpay_shared_chain.balance(payee.settings.pay_to) == PRICE


async def test_c8_a_charge_that_nobody_answers_stays_in_the_budget(
    agentpay_shared_chain: LocalChain,
) -> None:
    hasty = replace(BY_CHARGE, give_up_seconds=0.3)
    async with (
        a_market(agentpay_shared_chain) as (_, _, wire),
        await an_agent(agentpay_shared_chain, wire, policy=hasty) as agent,
    ):
        wire.lose_answers = 100
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.get(OK)
        assert (await spent(agent), await held(agent)) == (0, PRICE)

        assert await agent.payer.resolve() == 0
        assert (await spent(agent), await held(agent)) == (PRICE, 0)


async def test_c8_a_refused_charge_is_not_paid_again_while_it_may_move(
    agentpay_shared_chain: LocalChain,
) -> None:
    """The refusal has a fresh challenge, and the first signature is still out."""
    async with a_market(agentpay_shared_chain) as (_, _, wire):
        app = app_of(wire)

        async def refusing(request: httpx.Request) -> httpx.Response:
            paid = request.headers.pop("authorization", None)
            wire.sent.append(httpx.Request("GET", OK, headers={"a": str(paid)}))
            return await through(app).handle_async_request(request)

        async with await an_agent(
            agentpay_shared_chain, httpx.MockTransport(refusing), policy=BY_CHARGE
        ) as agent:
            with pytest.raises(PaymentRejected):
                await agent.get(OK)

            assert len(wire.sent) == 2
            assert await held(agent) == PRICE
            assert await agent.payer.resolve() == 1


async def test_c8_a_charge_that_nobody_had_is_free_again_when_it_can_move_no_more(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    head = await chain.node.rpc("eth_getBlockByNumber", "latest", False)
    then = float(int(head["timestamp"], 16)) - 10_000
    hasty = replace(BY_CHARGE, give_up_seconds=0.3)
    async with (
        a_market(chain) as (_, _, wire),
        await an_agent(chain, wire, policy=hasty, clock=lambda: then) as agent,
    ):
        wire.lose_requests = 100
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.get(OK)
        assert await held(agent) == PRICE

        assert await agent.payer.resolve() == 0
        assert (await spent(agent), await held(agent)) == (0, 0)


async def test_an_answer_without_a_receipt_is_looked_up_on_the_chain(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_market(agentpay_shared_chain) as (_, payee, wire),
        await an_agent(agentpay_shared_chain, wire, policy=BY_CHARGE) as agent,
    ):
        served = await agent.get(SERVED_FIRST)
        assert served.status_code == 200
        assert PAYMENT_RECEIPT not in served.headers

        async with asyncio.timeout(15):
            while await agent.payer.resolve():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert (await spent(agent), await held(agent)) == (PRICE, 0)
        assert await agentpay_shared_chain.balance(payee.settings.pay_to) == PRICE


RECEIPTS: dict[str, Callable[[Challenge, LocalChain], str]] = {
    "of another challenge": lambda challenge, chain: receipt("another", chain.chain_id),
    "on another chain": lambda challenge, chain: receipt(challenge.id, 1),
    "of no transaction": lambda challenge, chain: format_receipt(
        {"status": "success", "method": "evm", "timestamp": "x", "reference": "none"}
    ),
    "no receipt at all": lambda challenge, chain: "e30",
}


def receipt(challenge_id: str, chain: int) -> str:
    return format_receipt(
        charge_receipt(
            challenge_id=challenge_id,
            chain=chain,  # type: ignore[arg-type]
            transaction=Hash32("0x" + "ab" * 32),
            at=1_790_000_000,
        )
    )


@pytest.mark.parametrize("name", RECEIPTS)
async def test_a_receipt_that_is_not_ours_closes_nothing(
    agentpay_shared_chain: LocalChain, name: str
) -> None:
    async with a_market(agentpay_shared_chain) as (_, _, wire):
        asked = await wire.handle_async_request(httpx.Request("GET", OK))
    (challenge,) = parse_challenges(asked.headers.get_list("www-authenticate"))

    def serve(request: httpx.Request) -> httpx.Response:
        if "authorization" not in request.headers:
            line = {"WWW-Authenticate": format_challenge(challenge)}
            return httpx.Response(402, headers=line)
        said = RECEIPTS[name](challenge, agentpay_shared_chain)
        return httpx.Response(200, headers={PAYMENT_RECEIPT: said})

    async with await an_agent(
        agentpay_shared_chain, httpx.MockTransport(serve), policy=BY_CHARGE
    ) as agent:
        await agent.get(OK)

        assert (await spent(agent), await held(agent)) == (0, PRICE)


# Servers that repeat themselves, and change their minds.


async def test_a_challenge_that_is_given_out_again_is_not_paid_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    """As mppx 0.11 does within a millisecond: another one is asked for."""
    async with a_market(agentpay_shared_chain) as (shop, _, wire):
        first: list[Challenge] = []
        repeats = 3

        def repeating(challenge: Challenge) -> Challenge:
            nonlocal repeats
            if not first or not repeats:
                first.append(challenge)
                return challenge
            repeats -= 1
            return first[0]

        wire.inner = through(challenging(app_of(wire), repeating))
        async with await an_agent(
            agentpay_shared_chain, wire, policy=BY_CHARGE
        ) as agent:
            alone = await agent.get(OK)
            paid = await asyncio.gather(*(agent.get(OK) for _ in range(2)))

            assert {answer.status_code for answer in (alone, *paid)} == {200}
            assert len(set(wire.credentials)) == 3
            assert shop.served[OK.removeprefix(BASE)] == 3
            assert await spent(agent) == 3 * PRICE


async def test_a_server_that_has_one_challenge_is_paid_once(
    agentpay_shared_chain: LocalChain, tmp_path: Any
) -> None:
    store = str(tmp_path / "agent.db")
    wallet = await agentpay_shared_chain.funded_wallet(ether=0)
    options: dict[str, Any] = {"policy": BY_CHARGE, "store": store, "wallet": wallet}
    async with a_market(agentpay_shared_chain) as (_, _, wire):
        first: list[Challenge] = []

        def repeating(challenge: Challenge) -> Challenge:
            first.append(challenge)
            return first[0]

        wire.inner = through(challenging(app_of(wire), repeating))
        async with await an_agent(agentpay_shared_chain, wire, **options) as agent:
            wire.lose_requests = 100
            with pytest.raises(PaymentOutcomeUnknown):
                await agent.get(OK)
            with pytest.raises(ChallengeUsed):
                await agent.get(OTHER)
        async with await an_agent(agentpay_shared_chain, wire, **options) as again:
            with pytest.raises(ChallengeUsed):
                await again.get(OTHER)

            assert len(set(wire.credentials)) == 1
            assert await held(again) == PRICE


async def test_c1_c3_a_price_that_creeps_up_between_charges_is_stopped(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain, mpp=MPP) as payee:
        price = PRICE

        async def priced(scope: Scope, receive: Receive, send: Send) -> None:
            wall = Paywall(Shop(), payee=payee, routes={"/ok": price})
            await wall(scope, receive, send)

        async with await an_agent(
            agentpay_shared_chain, through(priced), policy=BY_CHARGE
        ) as agent:
            await agent.get(BASE + "/ok")
            price = 10 * PRICE
            await agent.get(BASE + "/ok")
            price = 11 * PRICE
            with pytest.raises(PriceRose):
                await agent.get(BASE + "/ok")

            assert await spent(agent) == 11 * PRICE


async def test_c8_a_caller_that_leaves_before_it_was_sent_asks_again_for_the_same(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_market(agentpay_shared_chain) as (_, _, wire),
        await an_agent(agentpay_shared_chain, wire, policy=BY_CHARGE) as agent,
    ):
        wire.hang = asyncio.Event()
        leaving = asyncio.create_task(agent.get(OK))
        await until(lambda: bool(wire.credentials))
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await held(agent) == PRICE
        wire.hang.set()
        paid = await agent.get(OK)

        assert paid.status_code == 200
        assert len(set(wire.credentials)) == 1
        assert (await spent(agent), await held(agent)) == (PRICE, 0)
