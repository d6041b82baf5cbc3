"""What is served on a deposit that a chain may still take back is bounded."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay import (
    Agent,
    AgentPayError,
    Budget,
    ConfigurationError,
    Finality,
    Policy,
)
from agentpay.evm.networks import BASE, LOCAL
from agentpay.payee.finality import finality_of
from agentpay.testing.local_chain import LocalChain
from tests.keeper.test_bad_days_of_a_chain import in_books
from tests.keeper.test_settlement_triggers import PRICE, a_world
from tests.keeper.test_what_chains_take_back import a_keeper

DEPTH = 400
DEPOSIT = 1_000_000


async def test_f9_a_young_deposit_is_spent_up_to_the_free_amount_and_then_in_full(
    agentpay_chain: LocalChain,
) -> None:
    chain = agentpay_chain
    await chain.node.mine(DEPTH)  # before that, there were no contracts to ask
    finality = Finality(confirmations=DEPTH, above=20 * PRICE)
    policy = Policy(headroom=PRICE)
    async with (
        a_world(chain, claim_at="$1000", finality=finality) as world,
        Agent(
            await chain.funded_wallet("$10"),
            budget=Budget(total="$5", per_request="$0.01"),
            policy=policy,
            network=chain.network,
            allow_private_networks=True,
        ) as agent,
    ):
        for _ in range(20):
            assert (await agent.get(world.url)).status_code == 200
        (record,) = await agent.channels()
        young = await in_books(world, record)
        # However it is paid now: not by this channel.
        with suppress(AgentPayError):
            await agent.get(world.url)
        more = await in_books(world, record)
        await chain.node.mine(DEPTH)
        await world.payee.settlement.see_chain(record.channel)
        old = await in_books(world, record)

    assert young.ledger.balance == 20 * PRICE
    assert more.ledger.charged == 20 * PRICE
    assert old.ledger.balance == DEPOSIT


async def test_a_young_deposit_is_given_back_in_full(
    agentpay_chain: LocalChain,
) -> None:
    chain = agentpay_chain
    await chain.node.mine(DEPTH)
    finality = Finality(confirmations=DEPTH, above=PRICE)
    async with a_world(chain, claim_at="$1000", finality=finality) as world:
        await world.buy(1)
        await a_keeper(world)
        (record,) = await world.agent.channels()
        closed = await world.agent.close_channel(record.channel)

    assert closed.returned == DEPOSIT - PRICE


def test_a_local_chain_waits_for_nothing_and_small_deposits_nowhere() -> None:
    assert finality_of(None, LOCAL).confirmations == 0
    usual = finality_of(None, BASE)
    assert (usual.confirmations, usual.free) == (10, 10_000_000)


@given(confirmations=st.integers(-3, -1))
def test_a_depth_below_nothing_is_refused(confirmations: int) -> None:
    with pytest.raises(ConfigurationError, match="finality"):
        finality_of(Finality(confirmations=confirmations), LOCAL)
