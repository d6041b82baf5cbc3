"""What an agent has to ask about is asked once its database is back."""

import asyncio

import pytest

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
from tests.payer.books import at_rest, charged, spent
from tests.stores.cut_wire import cut_wire

AWAY_SECONDS = 1.0
EXACT = BASE + "/exact/reserve-then-settle/ok"


@pytest.mark.parametrize("sent", [True, False])
async def test_c8_a_voucher_is_asked_about_though_the_database_was_away(
    agentpay_shared_chain: LocalChain, postgres_url: str, sent: bool
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_shop(chain) as (shop, payee, wall),
        cut_wire(postgres_url) as (url, database),
        await an_agent(chain, Wire(through(wall)), store=url) as agent,
    ):
        await agent.get(BASE + "/ok")
        leaving = asyncio.create_task(agent.get(BASE + "/slow"))
        await until(lambda: shop.begun["/slow"] == 1)
        if sent:
            shop.gate.set()
        database.cuts = lambda _: "before"
        database.cut_all()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await asyncio.sleep(AWAY_SECONDS)
        database.cuts = lambda _: ""
        await eventually(lambda: at_rest(agent))

        assert await spent(agent) == await charged(payee, agent)
        assert await spent(agent) in {PRICE, 2 * PRICE}


async def test_c8_a_transfer_is_carried_on_though_the_database_was_away(
    agentpay_shared_chain: LocalChain, postgres_url: str
) -> None:
    """That nobody is at it any more could not be saved, and is known all the same."""
    chain = agentpay_shared_chain
    async with (
        a_shop(chain) as (shop, payee, wall),
        cut_wire(postgres_url) as (url, database),
    ):
        wire = Wire(through(wall))
        async with await an_agent(chain, wire, store=url) as agent:
            wire.lose_answers = 10**6
            leaving = asyncio.create_task(agent.get(EXACT))
            await until(lambda: shop.served.total() == 1)
            database.cuts = lambda _: "before"
            database.cut_all()
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            database.cuts = lambda _: ""
            wire.lose_answers = 0
            answer = await agent.get(EXACT)

            assert answer.status_code == 200
            assert len(set(wire.credentials)) == shop.begun.total() == 1
            assert await chain.balance(payee.settings.pay_to) == PRICE
