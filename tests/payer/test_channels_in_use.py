"""A channel's life at its payer: opened once, topped up in flight, closed for good."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentpay import Budget, Policy
from agentpay.errors import BudgetExceeded, ChannelUnusable
from agentpay.payee.pricing import Order
from agentpay.testing.local_chain import LocalChain
from tests.http.world import (
    BASE,
    PRICE,
    Wire,
    a_shop,
    an_agent,
    eventually,
    through,
    until,
)
from tests.payee.hand import decoded
from tests.payer.books import at_rest, charged, spent

THRIFTY = Policy(
    deposit="$0.02", low_water="$0.01", headroom="$0.05", give_up_seconds=20
)


def deposits(wire: Wire) -> list[int]:
    """The deposits that were sent, in order."""
    found = [decoded(credential)["payload"] for credential in wire.credentials]
    return [int(p["deposit"]["amount"]) for p in found if p["type"] == "deposit"]


@pytest.mark.parametrize("durable", [False, True])
async def test_c14_sixty_first_requests_at_once_open_one_channel_with_one_deposit(
    agentpay_shared_chain: LocalChain, tmp_path: Path, durable: bool
) -> None:
    store = str(tmp_path / "agent.db") if durable else "memory:"
    async with a_shop(agentpay_shared_chain) as (_, payee, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire, store=store) as agent:
            asked = [agent.get(BASE + "/ok") for _ in range(60)]
            answers = await asyncio.gather(*asked)

            assert {a.status_code for a in answers} == {200}
            assert len(await agent.channels()) == 1
            assert deposits(wire)[:1] == [100_000]
            assert len(set(deposits(wire))) == 1
            assert await spent(agent) == await charged(payee, agent) == 60 * PRICE


async def test_where_a_channel_is_open_its_money_is_used_whatever_is_liked_better(
    agentpay_shared_chain: LocalChain,
) -> None:
    policy = replace(THRIFTY, prefer=("exact", "batch-settlement"))
    async with a_shop(agentpay_shared_chain) as (_, payee, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire, policy=policy) as agent:
            await agent.get(BASE + "/ok")
            assert await agent.channels() == []
            await agent.get(BASE + f"/channel/{Order.RESERVE}/ok")
            await agent.get(BASE + "/dear")
            await agent.get(BASE + f"/exact/{Order.RESERVE}/ok")
            kinds = [decoded(c)["payload"].get("type") for c in wire.credentials]

            assert kinds == [None, "deposit", "deposit", None]
            assert await spent(agent) == await charged(payee, agent) > 50 * PRICE


async def test_c14_a_channel_is_topped_up_one_deposit_at_a_time_while_in_use(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, payee, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire, policy=THRIFTY) as agent:
            asked = [agent.get(BASE + "/ok") for _ in range(100)]
            answers = await asyncio.gather(*asked)
            (record,) = await agent.channels()

            assert {a.status_code for a in answers} == {200}
            assert await spent(agent) == await charged(payee, agent) == 100 * PRICE
            assert len(deposits(wire)) >= 5
            assert set(deposits(wire)) == {20_000}
            assert record.ledger.balance == sum(deposits(wire))
            assert await at_rest(agent)


async def test_c14_top_ups_end_where_the_budget_ends(
    agentpay_shared_chain: LocalChain,
) -> None:
    budget = Budget(total=50 * PRICE, per_request=PRICE)
    async with a_shop(agentpay_shared_chain) as (shop, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(
            agentpay_shared_chain, wire, policy=THRIFTY, budget=budget
        ) as agent:
            for _ in range(50):
                await agent.get(BASE + "/ok")
            with pytest.raises(BudgetExceeded):
                await agent.get(BASE + "/ok")
            spending = await agent.spending()

    assert shop.begun["/ok"] == 50
    assert sum(deposits(wire)) == 50 * PRICE
    assert str(spending) == "$0.05 spent, $0 deposited, $0 held"


async def test_the_headroom_bounds_what_is_in_flight(
    agentpay_shared_chain: LocalChain,
) -> None:
    policy = Policy(deposit="$0.1", headroom=5 * PRICE, give_up_seconds=20)
    async with (
        a_shop(agentpay_shared_chain) as (shop, payee, wall),
        await an_agent(agentpay_shared_chain, through(wall), policy=policy) as agent,
    ):
        await agent.get(BASE + "/ok")
        asked = [asyncio.create_task(agent.get(BASE + "/slow")) for _ in range(20)]
        await until(lambda: shop.begun["/slow"] == 5)
        await asyncio.sleep(0.1)
        (record,) = await agent.channels()
        most = shop.begun["/slow"]
        shop.gate.set()
        await asyncio.gather(*asked)

        assert most == 5
        assert record.ledger.exposure <= 5 * PRICE
        assert await spent(agent) == await charged(payee, agent) == 21 * PRICE


async def test_a_closed_channel_gives_the_rest_back_and_the_next_one_is_new(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet("$1", ether=0)
    async with (
        a_shop(chain) as (_, _, wall),
        await an_agent(chain, through(wall), wallet=wallet) as agent,
    ):
        await asyncio.gather(*(agent.get(BASE + "/ok") for _ in range(7)))
        (record,) = await agent.channels()
        closed = await agent.close_channel(record.channel)
        after = str(await agent.spending())
        balance = await chain.balance(wallet.address)
        with pytest.raises(ChannelUnusable, match="closed already"):
            await agent.close_channel(record.channel)
        await agent.get(BASE + "/ok")
        channels = await agent.channels()

    assert (closed.spent, closed.returned) == (7 * PRICE, 93_000)
    assert after == "$0.007 spent, $0 deposited, $0 held"
    assert balance == 993_000
    assert len(channels) == 2


async def test_a_channel_is_not_closed_under_a_request(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_shop(agentpay_shared_chain) as (shop, _, wall),
        await an_agent(agentpay_shared_chain, through(wall)) as agent,
    ):
        await agent.get(BASE + "/ok")
        asking = asyncio.create_task(agent.get(BASE + "/slow"))
        await until(lambda: shop.begun["/slow"] == 1)
        (record,) = await agent.channels()
        with pytest.raises(ChannelUnusable, match="in flight"):
            await agent.close_channel(record.channel)
        shop.gate.set()
        assert (await asking).status_code == 200
        closed = await agent.close_channel(record.channel)

    assert closed.spent == 2 * PRICE


async def test_k12_a_lost_answer_to_a_refund_is_asked_for_again(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet("$1", ether=0)
    options: dict[str, Any] = {"wallet": wallet, "store": str(tmp_path / "agent.db")}
    async with a_shop(chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(chain, wire, **options) as agent:
            await agent.get(BASE + "/ok")
            (record,) = await agent.channels()
            wire.lose_answers = 1
            closed = await agent.close_channel(record.channel)

        assert closed.returned == 99_000
        assert await chain.balance(wallet.address) == 999_000


async def test_p10_a_payer_that_leaves_by_itself_gets_all_but_what_it_spent(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_shop(chain, poll_seconds=0.1) as (_, payee, wall):
        wallet = await chain.funded_wallet("$1", ether=1)
        async with await an_agent(chain, through(wall), wallet=wallet) as agent:
            await asyncio.gather(*(agent.get(BASE + "/ok") for _ in range(5)))
            (record,) = await agent.channels()
            await agent.start_withdrawal(record.channel)

            async def claimed() -> bool:
                seen = await payee.settlement.see_chain(record.channel)
                return seen is not None and seen.ledger.claimed == 5 * PRICE

            await eventually(claimed)  # the keeper saw it and claimed at once
