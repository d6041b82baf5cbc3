"""A claim is of as many channels as fit the gas of the chain, and our purse."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import ChainError, GasMissing, GasTooExpensive
from agentpay.evm import batch_settlement_abi as channels
from agentpay.evm.addresses import BATCH_SETTLEMENT
from agentpay.evm.batch_settlement import VoucherClaim
from agentpay.facilitator.gas import TRANSACTION_GAS_MAX, ClaimSize, GasLimits
from agentpay.ports import Settler, Signer
from agentpay.records import Settled
from agentpay.testing.local_chain import LocalChain
from tests.keeper.test_bad_rows_are_left_alone import Listening, claimed, others
from tests.keeper.test_settlement_triggers import PRICE, a_world
from tests.keeper.test_what_chains_take_back import a_keeper


@given(
    limit=st.integers(0, 10**9),
    claims=st.lists(st.tuples(st.integers(1, 600), st.integers(20_000, 60_000))),
)
def test_what_is_put_together_fits_half_a_block_and_one_transaction(
    limit: int, claims: list[tuple[int, int]]
) -> None:
    limits = GasLimits()
    size = ClaimSize(limits, most=600)
    size.see_block(limit)
    row = limits.claim_row
    for rows, each in claims:
        size.see_claim(rows, rows * each)
        row = each if rows >= 10 else row
    room = min(TRANSACTION_GAS_MAX, limit // 2 if limit else TRANSACTION_GAS_MAX)

    assert 1 <= size.rows <= 600
    assert size.rows == 1 or size.rows * row * 5 // 4 <= room


def test_a_size_is_learnt_from_what_claims_used() -> None:
    size = ClaimSize(GasLimits(), most=600)
    before = size.rows
    size.see_claim(3, 3 * 30_000)
    assert size.rows == before
    size.see_claim(100, 100 * 30_000)

    assert before < size.rows < 600


async def test_claims_on_a_chain_of_small_blocks_are_of_what_fits(
    agentpay_chain: LocalChain,
) -> None:
    node = agentpay_chain.node
    usual = (await node.rpc("eth_getBlockByNumber", "latest", False))["gasLimit"]
    await node.rpc("evm_setBlockGasLimit", hex(1_000_000))
    try:
        await node.mine(1)
        async with (
            a_world(agentpay_chain, claim_at="$1000") as world,
            others(world, 5) as agents,
        ):
            await world.buy(1)
            await a_keeper(world)
            for agent in agents:
                assert (await agent.get(world.url)).status_code == 200
            chain = world.payee._running.chain
            first = (await chain.head()).number
            count = await world.payee.settlement.claim()
            logs = await chain.logs(
                address=BATCH_SETTLEMENT,
                topics=[channels.CLAIMED],
                first_block=first,
                last_block=int(await node.rpc("eth_blockNumber"), 16),
            )
            amounts = [
                await claimed(world, record.channel)
                for agent in (world.agent, *agents)
                for record in await agent.channels()
            ]
    finally:
        await node.rpc("evm_setBlockGasLimit", usual)

    assert count == 6
    assert amounts == [PRICE] * 6
    assert len({log.transaction for log in logs}) == 2  # of four and of two


class Dear(Listening):
    """A facilitator that can pay for a claim of few channels only."""

    def __init__(self, settler: Settler, error: ChainError, *, most: int = 2) -> None:
        super().__init__(settler)
        self.most = most
        self._error = error

    async def claim(
        self, claims: Sequence[VoucherClaim], *, authorizer: Signer, deadline: int = 0
    ) -> Settled:
        if len(claims) > self.most:
            raise self._error
        return await super().claim(claims, authorizer=authorizer, deadline=deadline)


@pytest.mark.parametrize("error", [GasTooExpensive("5 gwei"), GasMissing("too little")])
async def test_what_costs_too_much_together_is_claimed_in_parts(
    agentpay_chain: LocalChain, error: ChainError
) -> None:
    """A limit to the cost of a transaction is reached by a large one first."""
    async with (
        a_world(agentpay_chain, claim_at="$1000") as world,
        others(world, 3) as agents,
    ):
        for agent in agents:
            assert (await agent.get(world.url)).status_code == 200
        await a_keeper(world)
        settlement = world.payee.settlement
        dear = Dear(settlement._facilitator, error)
        settlement._facilitator = dear
        dear.most = 0
        with pytest.raises(type(error)):
            await settlement.claim()
        dear.most = 2
        count = await settlement.claim()  # none is to blame, and none is left alone
        amounts = [
            await claimed(world, record.channel)
            for agent in agents
            for record in await agent.channels()
        ]

    assert count == 3
    assert amounts == [PRICE] * 3
    assert len(dear.heard) == 2
