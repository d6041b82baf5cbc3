"""Agents that share a store leave each other's vouchers alone."""

import asyncio
from pathlib import Path

import pytest

from agentpay import Agent, Paywall
from agentpay.ports import Signer
from agentpay.testing.local_chain import LocalChain
from tests.http.world import BASE, Wire, a_shop, an_agent, through, until

URL = f"{BASE}/ok"


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What the agents share."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/agents.db"


async def beside(
    chain: LocalChain, wall: Paywall, wallet: Signer, place: str
) -> tuple[Agent, Wire]:
    wire = Wire(through(wall))
    return await an_agent(chain, wire, wallet=wallet, store=place), wire


async def test_a_voucher_that_is_on_its_way_is_not_asked_about_by_another_agent(
    agentpay_shared_chain: LocalChain, place: str
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet(ether=0)
    async with a_shop(chain) as (shop, _, wall):
        one, wire = await beside(chain, wall, wallet, place)
        other, _ = await beside(chain, wall, wallet, place)
        async with one, other:
            await one.get(URL)
            wire.hang = asyncio.Event()
            slow = asyncio.create_task(one.get(URL))
            await until(lambda: len(wire.credentials) == 2)
            beside_it = asyncio.create_task(other.get(URL))
            await asyncio.sleep(0.5)
            wire.hang.set()
            answers = [await slow, await beside_it]

        assert [a.status_code for a in answers] == [200, 200]
        assert len(wire.credentials) == 2  # and none that was signed again
        assert shop.begun["/ok"] == 3


async def test_what_a_dead_agent_left_open_is_asked_about_by_another(
    agentpay_shared_chain: LocalChain, place: str
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet(ether=0)
    async with a_shop(chain) as (shop, _, wall):
        one, wire = await beside(chain, wall, wallet, place)
        async with one:
            await one.get(URL)
            wire.hang = asyncio.Event()
            slow = asyncio.create_task(one.get(URL))
            await until(lambda: len(wire.credentials) == 2)
            other, _ = await beside(chain, wall, wallet, place)
            async with other:
                answer = await other.get(URL)
                (record,) = await other.channels()
            slow.cancel()

        assert answer.status_code == 200
        assert record.ledger.open == ()
        assert shop.begun["/ok"] == 2
