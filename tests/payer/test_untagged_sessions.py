"""Towards a payee of sessions that follows the draft alone: one request at a time."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentpay import Policy
from agentpay.errors import AnswerLost, PaymentOutcomeUnknown
from agentpay.payee.answers import AnswerPolicy
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.headers import JsonObject
from tests.http.world import Wire, an_agent, eventually, patient

from .books import at_rest, charged, spent
from .sessions import (
    BASE,
    BY_SESSION,
    HASTY,
    PRICE,
    a_market,
    alone,
    in_the_world,
    on_chain,
    the_session,
    vouchers,
    within,
)


def names(wire: Wire) -> list[str]:
    """What the paid requests were called, in order."""
    said = [request.headers.get("idempotency-key") for request in wire.sent]
    return [name for name in said if name is not None]


async def test_vouchers_rise_one_at_a_time_and_the_close_is_exact(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_market(chain, reword=alone) as (_, payee, wire),
        await an_agent(chain, wire, policy=BY_SESSION) as agent,
    ):
        for _ in range(3):
            assert (await agent.get(BASE + "/ok")).status_code == 200
        await agent.get(BASE + "/metered?used=7")
        record = await the_session(agent)

        assert not record.ledger.tagged
        assert vouchers(wire, fresh=True) == [n * PRICE for n in (1, 2, 3, 4)]
        assert len(set(names(wire))) == 4
        assert await spent(agent) == await charged(payee, agent) == 3007
        closed = await agent.close_channel(record.channel)
        assert (closed.spent, closed.returned) == (3007, 96_993)
        assert (await on_chain(chain, record)).settled == 3007
        assert await in_the_world(agent) == (3007, 0, 0)


async def test_a_metered_request_leaves_its_rest_to_the_next(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_market(chain, reword=alone) as (_, payee, wire),
        await an_agent(chain, wire, policy=BY_SESSION) as agent,
    ):
        for used in (0, 1, 999, 1000):
            answer = await agent.get(f"{BASE}/metered?used={used}")
            assert answer.status_code == 200
        amounts = vouchers(wire, fresh=True)

        assert amounts == sorted(amounts)
        assert await spent(agent) == await charged(payee, agent) == 2000
        assert (await the_session(agent)).ledger.exposure <= PRICE


async def test_requests_at_once_are_paid_on_lanes(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    policy = Policy(prefer=("session",), deposit="$0.1", give_up_seconds=20)
    async with (
        a_market(chain, reword=alone) as (shop, payee, wire),
        await an_agent(chain, wire, policy=policy) as agent,
    ):
        answers = await asyncio.gather(*(agent.get(BASE + "/ok") for _ in range(16)))
        records = await agent.channels()

        assert {a.status_code for a in answers} == {200}
        assert 1 < len(records) <= 4
        assert await spent(agent) == await charged(payee, agent) == 16 * PRICE
        assert shop.served["/ok"] == 16


@pytest.mark.parametrize("least", [1500, 30_000])
async def test_vouchers_rise_by_what_the_payee_wants_within_the_headroom(
    agentpay_shared_chain: LocalChain, least: int
) -> None:
    def asking(words: JsonObject) -> JsonObject:
        return within(words, minVoucherDelta=str(least))

    chain = agentpay_shared_chain
    policy = Policy(
        prefer=("session",), deposit="$0.2", headroom="$0.05", give_up_seconds=1
    )
    async with (
        a_market(chain, reword=asking) as (_, payee, wire),
        await an_agent(chain, wire, policy=policy) as agent,
    ):
        for _ in range(8):
            assert (await agent.get(BASE + "/ok")).status_code == 200
        amounts = vouchers(wire, fresh=True)
        record = await the_session(agent)

        assert not record.ledger.tagged
        steps = [b - a for a, b in zip([0, *amounts], amounts, strict=False)]
        assert all(step >= least for step in steps)
        assert record.ledger.exposure <= 50_000
        assert await spent(agent) == await charged(payee, agent) == 8 * PRICE


@pytest.mark.parametrize("kept", [0, 65_536])
@pytest.mark.parametrize("lost", ["lose_requests", "lose_answers"])
async def test_c8_what_is_lost_is_the_same_request_again(
    agentpay_shared_chain: LocalChain, lost: str, kept: int
) -> None:
    chain, answers = agentpay_shared_chain, AnswerPolicy(bytes_each=kept)
    async with (
        a_market(chain, answers=answers, reword=alone) as (shop, payee, wire),
        await an_agent(chain, wire, policy=HASTY) as agent,
    ):
        await agent.get(BASE + "/ok")
        setattr(wire, lost, 2)
        sent = len(wire.credentials)
        gone = lost == "lose_answers" and not kept
        if gone:
            with pytest.raises((AnswerLost, PaymentOutcomeUnknown)):
                await agent.get(BASE + "/ok")
        else:
            assert (await agent.get(BASE + "/ok")).status_code == 200

        assert len(set(wire.credentials[sent:])) == 1 or gone
        assert shop.begun["/ok"] == 2
        await eventually(lambda: at_rest(agent))
        assert await spent(agent) == await charged(payee, agent) == 2 * PRICE


@pytest.mark.parametrize("lost", ["lose_requests", "lose_answers"])
async def test_c8_a_restarted_agent_books_no_less_than_its_payee(
    agentpay_shared_chain: LocalChain, tmp_path: Path, lost: str
) -> None:
    """Nobody says what became of one voucher: what is in doubt counts as spent."""
    chain = agentpay_shared_chain
    options: dict[str, Any] = {
        "wallet": await chain.funded_wallet(ether=0),
        "store": str(tmp_path / "agent.db"),
        "policy": HASTY,
    }
    async with a_market(chain, reword=alone) as (_, payee, wire):
        async with await an_agent(chain, wire, **options) as agent:
            await agent.get(BASE + "/ok")
            setattr(wire, lost, 10**6)
            with pytest.raises((PaymentOutcomeUnknown, AnswerLost)):
                await agent.get(BASE + "/ok")
        setattr(wire, lost, 0)
        async with await an_agent(chain, wire, **patient(options)) as agent:
            assert (await agent.get(BASE + "/ok")).status_code == 200
            await eventually(lambda: at_rest(agent))
            total = await charged(payee, agent)

            assert total <= await spent(agent) <= total + PRICE
            closed = await agent.close_channel((await the_session(agent)).channel)
            assert closed.spent == total
