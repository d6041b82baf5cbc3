"""What a chain takes back while no keeper looks is taken back by the next one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agentpay.chain.rpc import RpcChain
from agentpay.errors import ChainUnreachable
from agentpay.payee.keeper import Keeper
from agentpay.records import PayeeRecord
from agentpay.stores import PostgresStore, open_store
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from tests import young_chain
from tests.keeper.test_settlement_triggers import a_world
from tests.keeper.test_what_chains_take_back import a_keeper, begun, synced
from tests.sessions.till import a_till, a_till_at
from tests.sessions.world import seated

agentpay_chain = young_chain.agentpay_chain

KINDS = pytest.mark.parametrize("url", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that outlives whoever opens it."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'store.db'}"


@asynccontextmanager
async def restarted(
    chain: LocalChain, url: str, *, ahead: float = 0
) -> AsyncIterator[Keeper]:
    """The keeper of another process over the same database."""
    async with await open_store(url) as store, seated(chain) as table:
        till = a_till_at(table, store=store.payee)
        await begun(till.desk)
        till.clock.ahead = ahead
        yield till.keeper


async def height(chain: LocalChain) -> int:
    return int(await chain.node.rpc("eth_blockNumber"), 16)


async def in_books(url: str, channel: Hash32) -> PayeeRecord:
    async with await open_store(url) as store:
        found = await store.payee.read(channel)
    assert found is not None
    return found


async def turned_back(
    chain: LocalChain, url: str, channel: Hash32, *, after: int
) -> PayeeRecord:
    """What is in the books once a block's successors are gone, and a keeper starts."""
    await chain.node.reorg(after=after)
    async with restarted(chain, url) as another:
        await synced(another)
    return await in_books(url, channel)


@KINDS
async def test_f9_a_deposit_to_a_channel_that_a_reorg_took_during_a_restart_is_gone(
    agentpay_chain: LocalChain, url: str
) -> None:
    chain = agentpay_chain
    async with a_world(chain, store=url, claim_at="$1000") as world:
        await world.agent.get(f"{world.url}/")  # opens the payee, costs nothing
        keeper = await a_keeper(world)
        before = await height(chain)
        await world.buy(1)
        (record,) = await world.agent.channels()
        await keeper.sync()
    credited = await in_books(url, record.channel)
    taken_back = await turned_back(chain, url, record.channel, after=before)

    assert credited.ledger.balance > 0
    assert taken_back.ledger.balance == 0


@KINDS
async def test_f9_a_deposit_to_a_session_that_a_reorg_took_during_a_restart_is_gone(
    agentpay_chain: LocalChain, url: str
) -> None:
    chain = agentpay_chain
    async with (
        await open_store(url) as store,
        a_till(chain, store=store.payee) as till,
    ):
        before = await height(chain)
        config = await till.opened(100)
        await till.keeper.sync()
    credited = await in_books(url, config.channel)
    taken_back = await turned_back(chain, url, config.channel, after=before)

    assert credited.ledger.balance == 100
    assert taken_back.ledger.balance == 0


@KINDS
async def test_f9_a_deposit_that_no_keeper_followed_is_taken_back_too(
    agentpay_chain: LocalChain, url: str
) -> None:
    """Its payee had looked at it, and died before its keeper came to it."""
    chain = agentpay_chain
    async with (
        await open_store(url) as store,
        a_till(chain, store=store.payee) as till,
    ):
        before = await height(chain)
        config = await till.opened(100)
    taken_back = await turned_back(chain, url, config.channel, after=before)

    assert taken_back.ledger.balance == 0


@KINDS
async def test_what_was_seen_long_ago_is_not_looked_at_by_who_starts(
    agentpay_chain: LocalChain, url: str
) -> None:
    chain = agentpay_chain
    async with (
        await open_store(url) as store,
        a_till(chain, store=store.payee) as till,
    ):
        config = await till.opened(100)
        await till.keeper.sync()
        await chain.node.increase_time(3600)
        await chain.node.mine(70)
        till.clock.ahead = 3600
        recent = await till.opened(50)
        await till.keeper.sync()
    old, new = [await in_books(url, c.channel) for c in (config, recent)]
    async with restarted(chain, url, ahead=3700) as another:
        await another.sync()

    assert await in_books(url, config.channel) == old
    assert (await in_books(url, recent.channel)).chain_seen_at > new.chain_seen_at


async def test_f9_who_takes_the_lead_takes_back_what_its_leader_had_followed(
    agentpay_chain: LocalChain, postgres_url: str
) -> None:
    chain = agentpay_chain
    async with (
        await PostgresStore.open(postgres_url) as store,
        a_till(chain, store=store.payee) as waiting,
    ):
        async with (
            await PostgresStore.open(postgres_url) as dying,
            a_till(chain, store=dying.payee) as leading,
        ):
            await leading.keeper._round()
            await waiting.keeper._round()
            before = await height(chain)
            config = await leading.opened(100)
            await leading.keeper._round()
            credited = await waiting.ledger(config)
        await chain.node.reorg(after=before)
        await waiting.keeper._round()
        taken_back = await waiting.ledger(config)

    assert credited.balance == 100
    assert taken_back.balance == 0


async def test_f9_a_keeper_that_could_not_look_again_has_not_caught_up(
    agentpay_chain: LocalChain,
) -> None:
    chain = agentpay_chain
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_till(chain, rpc_url=rpc.url) as till,
    ):
        before = await height(chain)
        config = await till.opened(100)
        await chain.node.reorg(after=before)
        another = a_till_at(till.table, store=till.store)
        await begun(another.desk)
        rpc.plan("eth_call", Fault.UNAVAILABLE)
        with pytest.raises(ChainUnreachable):
            await another.keeper.sync()
        caught_up = another.keeper.fresh()
        await another.keeper.sync()
        taken_back = await another.ledger(config)

    assert not caught_up
    assert taken_back.balance == 0
    assert another.keeper.fresh()


async def test_k13_a_node_behind_one_url_that_lags_takes_nothing_back(
    agentpay_chain: LocalChain,
) -> None:
    chain = agentpay_chain
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        RpcChain(rpc.url, chain_id=chain.chain_id, turned_back_seconds=60) as balanced,
        a_till(chain) as till,
    ):
        keeper = a_till_at(replace(till.table, chain=balanced), store=till.store).keeper
        before = await height(chain)
        config = await till.opened(100)
        await keeper.sync()
        await rpc.freeze(behind=await height(chain) - before)
        with pytest.raises(ChainUnreachable, match="was seen"):
            await keeper.sync()
        meanwhile = await till.ledger(config)
        rpc.heal()
        await keeper.sync()
        after = await till.ledger(config)

    assert (meanwhile.balance, after.balance) == (100, 100)
