"""An endpoint that is away, and a chain that takes back what it showed."""

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest

from agentpay import PaymentRejected
from agentpay.chain.rpc import RpcChain
from agentpay.evm.batch_settlement_abi import ChannelOnChain
from agentpay.evm.calls import Call
from agentpay.onchain import read_channel
from agentpay.payee.settlement import Settlement
from agentpay.records import PayeeRecord, PayerRecord
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from tests import young_chain
from tests.http.world import called, until
from tests.keeper.test_bad_rows_are_left_alone import others
from tests.keeper.test_settlement_triggers import PRICE, Clock, World, a_world
from tests.keeper.test_what_chains_take_back import a_keeper, synced

agentpay_chain = young_chain.agentpay_chain

DELAY = 900


async def on_chain(world: World, record: PayerRecord) -> ChannelOnChain:
    return await read_channel(world.payee._running.chain, record.channel)


async def in_books(world: World, record: PayerRecord) -> PayeeRecord:
    found = await world.payee._running.store.payee.read(record.channel)
    assert found is not None
    return found


def agree(books: PayeeRecord, chain: ChannelOnChain) -> bool:
    """Whether the ledger equals the chain."""
    ledger = books.ledger
    ours = (ledger.balance, ledger.claimed, ledger.pending_withdrawal)
    return ours == (chain.balance, chain.claimed, chain.withdrawal)


async def until_claimed(world: World, record: PayerRecord, amount: int) -> None:
    async with asyncio.timeout(20):
        while (await on_chain(world, record)).claimed < amount:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("outage", [Fault.REQUEST_DROPPED, Fault.UNAVAILABLE])
async def test_k5_a_withdrawal_while_the_endpoint_is_away_a_third_is_claimed_in_time(
    agentpay_chain: LocalChain, outage: Fault
) -> None:
    chain, clock = agentpay_chain, Clock()
    terms = {"claim_at": "$1000", "withdraw_delay": DELAY, "clock": clock}
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_world(chain, rpc_url=rpc.url, **terms) as world,
    ):
        await world.buy(2)
        (record,) = await world.agent.channels()
        rpc.outage = outage
        leaving = await world.agent.start_withdrawal(record.channel)
        await chain.node.increase_time(DELAY // 3)
        clock.ahead += DELAY / 3
        still_selling = world.payee._running.keeper.fresh()
        rpc.heal()
        await until_claimed(world, record, 2 * PRICE)
        claimed_at = (await world.payee._running.chain.head()).timestamp
        await chain.node.increase_time(DELAY)
        finished = await world.agent.finish_withdrawal(record.channel)
        await world.payee.settlement.settle()

        assert not still_selling  # on what may be gone
        assert claimed_at < leaving.ready_at
        assert finished.amount == leaving.amount - 2 * PRICE
        assert await world.earned() == 2 * PRICE


async def test_k5_a_withdrawal_in_an_outage_is_claimed_though_gas_has_tripled(
    agentpay_chain: LocalChain,
) -> None:
    chain = agentpay_chain
    terms = {"claim_at": "$1000", "withdraw_delay": DELAY}
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_world(chain, rpc_url=rpc.url, **terms) as world,
    ):
        await world.buy(1)
        (record,) = await world.agent.channels()
        rpc.outage = Fault.REQUEST_DROPPED
        await world.agent.start_withdrawal(record.channel)
        block = await chain.node.rpc("eth_getBlockByNumber", "latest", False)
        fee = 3 * int(block["baseFeePerGas"], 16)
        await chain.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(fee))
        rpc.heal()
        await until_claimed(world, record, PRICE)


async def test_k5_payers_that_withdraw_together_are_claimed_together(
    agentpay_chain: LocalChain,
) -> None:
    """One after the other, the last of many would be claimed after its delay."""
    chain = agentpay_chain
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_world(chain, rpc_url=rpc.url, claim_at="$1000") as world,
        others(world, 4) as agents,
    ):
        for agent in agents:
            assert (await agent.get(world.url)).status_code == 200
        records = [record for agent in agents for record in await agent.channels()]
        rpc.outage = Fault.REQUEST_DROPPED
        for agent, record in zip(agents, records, strict=True):
            await agent.start_withdrawal(record.channel)
        before = len(rpc.requests)
        rpc.heal()
        for record in records:
            await until_claimed(world, record, PRICE)
        calls = [call for request in rpc.requests[before:] for call in request]
        sent = [c for c in calls if c["method"] == "eth_sendRawTransaction"]

        assert len(records) == 4
        assert len(sent) == 1


async def test_k5_what_may_be_withdrawn_is_claimed_before_others_get_refunds(
    agentpay_chain: LocalChain,
) -> None:
    """Each refund waits to be mined: a line of them could outlast a delay."""
    async with (
        FaultyRpc(agentpay_chain.rpc_url) as rpc,
        a_world(agentpay_chain, rpc_url=rpc.url, claim_at="$1000") as world,
        others(world, 4) as agents,
    ):
        await world.buy(1)
        (record,) = await world.agent.channels()
        for agent in agents:
            assert (await agent.get(world.url)).status_code == 200
        sends = partial(called, rpc, "eth_sendRawTransaction")
        before, rpc.delay_seconds = sends(), 0.2
        closing = [
            asyncio.create_task(agent.close_channel(channel.channel))
            for agent in agents
            for channel in await agent.channels()
        ]
        await until(lambda: sends() > before, seconds=20)
        await asyncio.sleep(0.5)  # the others wait in line
        before = sends()
        await world.payee.settlement.claim_channels([record.channel])
        between = sends() - before
        rpc.heal()
        closed = await asyncio.gather(*closing)

        assert between == 1
        assert (await on_chain(world, record)).claimed == PRICE
        assert [done.returned > 0 for done in closed] == [True] * 4


class SlowChain(RpcChain):
    """Its first answer is on its way for as long as a test likes."""

    def hold(self) -> asyncio.Event:
        self.held, self.let_go = asyncio.Event(), asyncio.Event()
        return self.held

    async def read(
        self, calls: Sequence[Call], *, block: int | None = None
    ) -> list[bytes]:
        answers = await super().read(calls, block=block)
        if not self.held.is_set():
            self.held.set()
            await self.let_go.wait()
        return answers


async def test_k13_an_older_look_of_another_worker_never_hides_a_withdrawal(
    agentpay_chain: LocalChain,
) -> None:
    chain = agentpay_chain
    async with (
        a_world(chain, claim_at="$1000") as world,
        SlowChain(chain.rpc_url, chain_id=chain.network.chain) as slow,
    ):
        await world.buy(1)
        keeper = await a_keeper(world)
        (record,) = await world.agent.channels()
        running = world.payee._running
        another = Settlement(
            settings=world.payee.settings,
            chain=slow,
            facilitator=running.facilitator,
            store=running.store.payee,
            authorizer=await chain.funded_wallet("$0"),
            clock=Clock(),
        )
        held = slow.hold()
        older = asyncio.create_task(another.see_chain(record.channel))
        await held.wait()
        await world.agent.start_withdrawal(record.channel)
        await keeper.sync()
        slow.let_go.set()
        told = await older
        state = await on_chain(world, record)

        assert state.withdrawal > 0
        assert agree(await in_books(world, record), state)
        assert told is not None
        assert agree(told, state)


async def test_f9_a_reorg_after_a_deposit_takes_the_credit_back(
    agentpay_chain: LocalChain,
) -> None:
    chain = agentpay_chain
    async with a_world(chain, claim_at="$1000") as world:
        await world.agent.get(f"{world.url}/")  # opens the payee, costs nothing
        keeper = await a_keeper(world)
        before = (await world.payee._running.chain.head()).number
        await world.buy(1)
        (record,) = await world.agent.channels()
        await keeper.sync()
        credited = await in_books(world, record)
        await chain.node.reorg(after=before)
        await synced(keeper)
        taken_back = await in_books(world, record)
        state = await on_chain(world, record)
        async with asyncio.timeout(20):
            with pytest.raises(PaymentRejected):
                await world.buy(1)

        assert credited.ledger.balance > 0
        assert state.balance == 0
        assert agree(taken_back, state)


async def test_f9_a_reorg_after_a_claim_makes_it_due_again(
    agentpay_chain: LocalChain,
) -> None:
    chain = agentpay_chain
    async with a_world(chain, claim_at="$1000") as world:
        await world.buy(2)
        keeper = await a_keeper(world)
        (record,) = await world.agent.channels()
        await keeper.sync()
        before = (await world.payee._running.chain.head()).number
        await world.payee.settlement.claim()
        await world.payee.settlement.settle()
        await keeper.sync()
        claimed, earned = await in_books(world, record), await world.earned()
        await chain.node.reorg(after=before)
        lost = await world.earned()
        await synced(keeper)
        taken_back, state = await in_books(world, record), await on_chain(world, record)
        await world.payee.settlement.claim()
        await world.payee.settlement.settle()
        await keeper.sync()

        assert (earned, lost) == (2 * PRICE, 0)
        assert claimed.ledger.claimed == 2 * PRICE
        assert agree(taken_back, state)
        assert state.claimed == 0
        assert await world.earned() == 2 * PRICE
        assert agree(await in_books(world, record), await on_chain(world, record))
