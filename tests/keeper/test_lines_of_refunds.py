"""However many payers want their money back, the keeper looks at the chain in time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from agentpay import Agent
from agentpay.core.payee_channel import Reservation, Status
from agentpay.evm.hashing import keccak
from agentpay.ports import PayeeStore
from agentpay.records import PayeeRecord, PayeeStep
from agentpay.testing.faulty_rpc import FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from tests.http.world import called
from tests.keeper.test_bad_rows_are_left_alone import others
from tests.keeper.test_settlement_triggers import Clock, World, a_world
from tests.keeper.test_what_chains_take_back import a_keeper
from tests.sessions.till import a_till
from tests.stores.store_cases import is_put

DELAY = 900
AT_ONCE = 50
"""So many are tried in one round."""


@dataclass(kw_only=True)
class SlowBlocks(Clock):
    """The clock of a chain that takes so long for each transaction."""

    rpc: FaultyRpc
    seconds: float = 0

    def __call__(self) -> float:
        mined = called(self.rpc, "eth_sendRawTransaction") * self.seconds
        return super().__call__() + mined


@asynccontextmanager
async def a_line(
    chain: LocalChain, count: int, *, seconds: float
) -> AsyncIterator[tuple[World, list[Agent]]]:
    """So many payers that want their money back, which the payee could not give yet."""
    async with FaultyRpc(chain.rpc_url) as rpc:
        clock = SlowBlocks(rpc=rpc)
        terms = {"claim_at": "$1000", "withdraw_delay": DELAY, "clock": clock}
        async with (
            a_world(chain, rpc_url=rpc.url, **terms) as world,
            others(world, count) as agents,
        ):
            for agent in agents:
                assert (await agent.get(world.url)).status_code == 200
            await a_keeper(world)
            store = world.payee._running.store.payee
            for agent in agents:
                for channel in await agent.channels():
                    await store.update(channel.channel, wants_its_money_back)
            clock.seconds = seconds
            yield world, agents


def wants_its_money_back(record: PayeeRecord | None) -> PayeeStep[None]:
    assert record is not None
    ledger = replace(record.ledger, status=Status.CLOSING)
    return PayeeStep(record=replace(record, ledger=ledger), answer=None)


async def waiting(store: PayeeStore, *, sessions: bool = False) -> set[Hash32]:
    records = await store.closing(sessions=sessions, limit=1000)
    return {record.channel for record in records}


async def test_k5_a_line_of_refunds_keeps_the_keeper_from_no_withdrawal(
    agentpay_chain: LocalChain,
) -> None:
    """Each of them takes a tenth of the withdraw delay to be mined."""
    async with a_line(agentpay_chain, 5, seconds=DELAY / 10) as (world, _):
        running = world.payee._running
        keeper, store = running.keeper, running.store.payee
        left, fresh = [len(await waiting(store))], []
        for _ in range(6):
            await keeper.tick()
            fresh.append(keeper.fresh())
            left.append(len(await waiting(store)))

        assert fresh == [True] * 6
        assert left == [5, 4, 3, 2, 1, 0, 0]


async def test_a_round_refunds_as_many_as_it_has_time_for(
    agentpay_chain: LocalChain,
) -> None:
    async with a_line(agentpay_chain, 5, seconds=DELAY / 20) as (world, _):
        running = world.payee._running
        await running.keeper.tick()

        assert len(await waiting(running.store.payee)) == 3


async def fill_up(store: PayeeStore, like: PayeeRecord) -> None:
    """As many others as a round tries, older ones, whose requests never end."""
    request = Reservation(
        cumulative=like.ledger.highest,
        maximum=0,
        charged=0,
        prepaid=False,
        owner=store.owner,
        resource="GET /slow",
    )
    ledger = replace(like.ledger, status=Status.CLOSING, running=(request,))
    for number in range(AT_ONCE):
        channel = Hash32.of(keccak(number.to_bytes(1, "big")))
        record = replace(like, channel=channel, ledger=ledger, last_voucher_at=0)
        await store.update(channel, is_put(record))


async def test_k7_channels_that_still_run_requests_keep_no_refund_from_others(
    agentpay_chain: LocalChain,
) -> None:
    async with a_line(agentpay_chain, 1, seconds=0) as (world, (agent,)):
        running = world.payee._running
        keeper, store = running.keeper, running.store.payee
        (record,) = await agent.channels()
        like = await store.read(record.channel)
        assert like is not None
        await fill_up(store, like)
        for _ in range(3):
            await keeper.tick()

        assert record.channel not in await waiting(store)
        assert len(await waiting(store)) == AT_ONCE


async def test_k7_sessions_that_still_run_requests_keep_no_other_from_being_closed(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        slow, config = await till.opened(100), await till.opened(100)
        for each in (slow, config):
            await till.sells(each, 30, 30)
        like = await till.store.read(slow.channel)
        assert like is not None
        await fill_up(till.store, like)
        await till.keeper.sync()
        await till.asks_to_close(config, 30)
        await till.store.update(config.channel, is_asked_last)
        for _ in range(3):
            await till.keeper.tick()

        assert (await till.table.state(config)).finalized
        assert len(await waiting(till.store, sessions=True)) == AT_ONCE


def is_asked_last(record: PayeeRecord | None) -> PayeeStep[None]:
    assert record is not None
    return PayeeStep(record=replace(record, last_voucher_at=1), answer=None)
