"""What an agent has less is what was paid or is escrowed, whatever happens."""

import asyncio
from dataclasses import dataclass
from random import Random

import pytest

from agentpay import Agent, Budget, Policy
from agentpay.errors import AgentPayError
from agentpay.evm import batch_settlement_abi as contract
from agentpay.payee.pricing import Order
from agentpay.testing.local_chain import LocalChain
from tests.http.world import BASE, Wire, a_shop, an_agent, eventually, through
from tests.payer.books import charged, spent
from tests.payer.test_lanes import official

FUNDS = 1_000_000
PATHS = (
    "/ok",
    "/raises",
    "/ok?status=404",
    "/metered?used=1",
    "/metered?used=0",
    "/metered",
    f"/exact/{Order.RESERVE}/ok",
    f"/exact/{Order.SETTLE_FIRST}/ok",
    f"/exact/{Order.SETTLE_FIRST}/raises",
    f"/channel/{Order.SETTLE_FIRST}/ok",
    f"/channel/{Order.SERVE_FIRST}/ok",
)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Requests that come at once, and what is done to them."""

    paths: tuple[str, ...]
    lost_requests: int
    lost_answers: int
    cancelled: int
    official: bool

    @classmethod
    def of(cls, seed: int) -> "Scenario":
        random = Random(seed)
        return cls(
            paths=tuple(random.choice(PATHS) for _ in range(random.randint(1, 24))),
            lost_requests=random.choice((0, 0, 1, 4)),
            lost_answers=random.choice((0, 0, 1, 4)),
            cancelled=random.choice((0, 0, 2)),
            official=random.random() < 0.3,
        )


async def all_settled(agent: Agent) -> bool:
    await agent.payer.resolve()
    open_tickets = [r for r in await agent.channels() if r.ledger.open]
    return not open_tickets


async def escrowed(agent: Agent) -> int:
    """What the contract holds for the agent, or owes its payee."""
    total = 0
    for record in await agent.channels():
        calls = contract.channel_state_calls(record.channel)
        state = contract.decode_channel_state(await agent._chain.read(calls))
        total += state.balance - state.claimed
    return total


@pytest.mark.parametrize("seed", range(25))
async def test_money_is_conserved(agentpay_shared_chain: LocalChain, seed: int) -> None:
    chain, scenario = agentpay_shared_chain, Scenario.of(seed)
    wallet = await chain.funded_wallet(FUNDS, ether=0)
    async with a_shop(chain, claim_at="$1000") as (_, payee, wall):
        wire = Wire(through(official(wall) if scenario.official else wall))
        agent = await an_agent(
            chain,
            wire,
            wallet=wallet,
            budget=Budget(total="$0.5", per_request="$0.01"),
            policy=Policy(deposit="$0.02", low_water="$0.005", give_up_seconds=10),
        )
        async with agent:
            wire.lose_requests = scenario.lost_requests
            wire.lose_answers = scenario.lost_answers
            asked = [asyncio.create_task(agent.get(BASE + p)) for p in scenario.paths]
            await asyncio.sleep(0.02)
            for task in asked[: scenario.cancelled]:
                task.cancel()
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            wire.lose_requests = wire.lose_answers = 0
            await eventually(lambda: all_settled(agent), seconds=10)
            await payee.settlement.claim()
            await payee.settlement.settle()
            spending = await agent.spending()
            on_channels = await spent(agent)
            arrived = await chain.balance(payee.settings.pay_to)
            less = FUNDS - await chain.balance(wallet.address)

            for outcome in outcomes:
                known = (AgentPayError, asyncio.CancelledError)
                assert not isinstance(outcome, BaseException) or isinstance(
                    outcome, known
                ), outcome
            assert on_channels == await charged(payee, agent)
            assert less == arrived + await escrowed(agent)
            by_transfer = arrived - on_channels
            assert by_transfer >= 0
            assert by_transfer % 1000 == 0
            final = spending.spent + spending.held
            assert final >= arrived * 10**12
            assert spending.spent + spending.deposited + spending.held >= less * 10**12
