"""Agents open sessions of MPP, spend them in parallel, top them up and close them."""

import asyncio

from agentpay import Policy
from agentpay.core.payer_channel import PayerStatus
from agentpay.testing.local_chain import LocalChain
from tests.http.world import an_agent

from .books import charged, spent
from .sessions import (
    BASE,
    BY_SESSION,
    PRICE,
    a_market,
    in_the_world,
    on_chain,
    payload_of,
    the_session,
    vouchers,
)


async def test_a_session_is_opened_by_its_first_voucher_in_one_round_trip(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_market(chain) as (shop, payee, wire),
        await an_agent(chain, wire, policy=BY_SESSION) as agent,
    ):
        answers = [await agent.get(BASE + "/ok") for _ in range(3)]
        record = await the_session(agent)
        where = await in_the_world(agent)
        trips = agent.round_trips

        assert [a.status_code for a in answers] == [200, 200, 200]
        assert trips == 1 + 3
        assert "deposit" in payload_of(wire.credentials[0])
        assert vouchers(wire) == [PRICE, 2 * PRICE, 3 * PRICE]
        assert await spent(agent) == await charged(payee, agent) == 3 * PRICE
        assert where == (3 * PRICE, 97 * PRICE, 0)
        assert shop.served["/ok"] == 3
        state = await on_chain(chain, record)
        assert (state.deposit, state.settled) == (100 * PRICE, 0)


async def test_thirty_two_requests_at_once_are_paid_on_one_session(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_market(chain) as (shop, payee, wire),
        await an_agent(chain, wire, policy=BY_SESSION) as agent,
    ):
        first = await asyncio.gather(*(agent.get(BASE + "/ok") for _ in range(32)))
        again = await asyncio.gather(*(agent.get(BASE + "/ok") for _ in range(32)))
        record = await the_session(agent)

        assert {a.status_code for a in (*first, *again)} == {200}
        assert shop.served["/ok"] == 64
        assert await spent(agent) == await charged(payee, agent) == 64 * PRICE
        assert len(vouchers(wire)) == len(vouchers(wire, fresh=True)) == 64
        assert (await on_chain(chain, record)).deposit >= 64 * PRICE
        assert not record.ledger.open


async def test_a_session_is_topped_up_before_it_is_empty(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    policy = Policy(prefer=("session",), deposit="$0.02", low_water="$0.005")
    async with (
        a_market(chain) as (_, payee, wire),
        await an_agent(chain, wire, policy=policy) as agent,
    ):
        for _ in range(40):
            assert (await agent.get(BASE + "/ok")).status_code == 200
        record = await the_session(agent)
        state = await on_chain(chain, record)

        assert await spent(agent) == await charged(payee, agent) == 40 * PRICE
        assert state.deposit == record.ledger.balance == 60 * PRICE
        assert await in_the_world(agent) == (40 * PRICE, 20 * PRICE, 0)
        assert agent.round_trips == 1 + 40


async def test_a_metered_request_costs_what_it_used(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_market(chain) as (_, payee, wire),
        await an_agent(chain, wire, policy=BY_SESSION) as agent,
    ):
        for used in (0, 1, 999, 1000):
            await agent.get(f"{BASE}/metered?used={used}")

        assert await spent(agent) == await charged(payee, agent) == 2000
        record = await the_session(agent)
        assert record.ledger.exposure <= record.ledger.headroom


async def test_an_error_of_the_application_costs_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_market(chain) as (_, payee, wire),
        await an_agent(chain, wire, policy=BY_SESSION) as agent,
    ):
        for status in (404, 500, 200):
            answer = await agent.get(f"{BASE}/ok?status={status}")
            assert answer.status_code == status

        assert await spent(agent) == await charged(payee, agent) == PRICE
        assert not (await the_session(agent)).ledger.open


async def test_a_session_is_closed_with_exactly_what_was_spent(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet("$10", ether=0)
    async with (
        a_market(chain) as (_, payee, wire),
        await an_agent(chain, wire, policy=BY_SESSION, wallet=wallet) as agent,
    ):
        await asyncio.gather(*(agent.get(BASE + "/ok") for _ in range(5)))
        await agent.get(BASE + "/metered?used=7")
        record = await the_session(agent)
        closed = await agent.close_channel(record.channel)
        after = await the_session(agent)
        state = await on_chain(chain, record)

        assert (closed.spent, closed.returned) == (5007, 94_993)
        assert closed.transaction.startswith("0x")
        assert (state.settled, state.finalized) == (5007, True)
        assert after.ledger.status is PayerStatus.CLOSED
        assert await chain.balance(wallet.address) == 10_000_000 - 5007
        assert await in_the_world(agent) == (5007, 0, 0)
        assert await chain.balance(payee.settings.pay_to) == 5007


async def test_after_a_close_the_next_request_opens_another_session(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_market(chain) as (_, payee, wire),
        await an_agent(chain, wire, policy=BY_SESSION) as agent,
    ):
        await agent.get(BASE + "/ok")
        await agent.close_channel((await the_session(agent)).channel)
        assert (await agent.get(BASE + "/ok")).status_code == 200

        sessions = await agent.channels()
        assert len({s.channel for s in sessions}) == 2
        assert sorted(s.index for s in sessions) == [0, 1]
        assert await charged(payee, agent) == 2 * PRICE
