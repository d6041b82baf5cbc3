"""Callers that give up, at whatever step: nothing stays set aside or locked."""

import asyncio
from pathlib import Path

import pytest

from agentpay.stores import open_store
from agentpay.testing.local_chain import LocalChain
from tests.http.world import BASE, Wire, a_shop, an_agent, through


@pytest.mark.parametrize("path", ["/ok", "/exact/reserve-then-settle/ok"])
async def test_c8_who_gives_up_while_it_is_recorded_leaves_no_hold(
    agentpay_shared_chain: LocalChain, tmp_path: Path, path: str
) -> None:
    chain = agentpay_shared_chain
    store = str(tmp_path / "agent.db")
    async with a_shop(chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(chain, wire, store=store) as agent:
            await agent.get(BASE + path)  # what is asked of the chain first is known
            settled = await agent.spending()
            for steps in range(12):
                sent = len(wire.credentials)
                task = asyncio.create_task(agent.get(BASE + path))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                if len(wire.credentials) > sent:
                    break  # signed and sent: rightly held
                assert (await agent.spending()).held == settled.held


async def test_an_agent_whose_end_is_cancelled_lets_go_of_its_store(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    store = str(tmp_path / "agent.db")
    async with a_shop(chain) as (_, _, wall):
        agent = await an_agent(chain, through(wall), store=store)
        await agent.__aenter__()
        await agent.get(BASE + "/ok")
        (record,) = await agent.channels()
        leaving = asyncio.create_task(asyncio.Event().wait())
        agent._departures[record.channel] = leaving  # type: ignore[assignment]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await agent.__aexit__()

        assert leaving.cancelling()
        async with await open_store(store):
            pass  # which another process could not while the agent holds it
