"""
A database that goes and comes back while a keeper runs: it goes on by itself.

No claim is lost, and none is made twice.
"""

import asyncio
import contextlib
import logging
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentpay.evm.addresses import BATCH_SETTLEMENT
from agentpay.evm.batch_settlement_abi import CLAIMED
from agentpay.records import PayerRecord
from agentpay.testing.faulty_rpc import FaultyRpc
from agentpay.testing.local_chain import LocalChain
from tests.http.world import called, eventually, until
from tests.keeper.test_bad_days_of_a_chain import agree, in_books, on_chain
from tests.keeper.test_bad_rows_are_left_alone import others
from tests.keeper.test_settlement_triggers import PRICE, World, a_world
from tests.postgres_server import PostgresServer
from tests.small_disks import fill_up, small_disk_at

pytestmark = pytest.mark.timeout(110)

Day = Callable[[], AbstractAsyncContextManager[None]]
"""Begins to be bad, and is over."""


async def sold(world: World, count: int) -> PayerRecord:
    """So many requests, each of them delivered and due."""
    await world.buy(count)
    (record,) = await world.agent.channels()

    async def all_due() -> bool:
        return (await in_books(world, record)).ledger.due == count * PRICE

    await eventually(all_due)
    return record


async def claims(world: World, record: PayerRecord) -> int:
    """How many claims of a channel the chain has."""
    chain = world.payee._running.chain
    head = await chain.head()
    logs = await chain.logs(
        address=BATCH_SETTLEMENT,
        topics=[CLAIMED, record.channel],
        first_block=0,
        last_block=head.number,
    )
    return len(logs)


async def is_booked(world: World, record: PayerRecord) -> bool:
    """Whether there was a claim, and the books say what the chain says."""
    books, state = await in_books(world, record), await on_chain(world, record)
    return state.claimed > 0 and agree(books, state)


async def claimed_once(world: World, record: PayerRecord, *, amount: int) -> None:
    """The keeper does it by itself, and does nothing more."""

    async def booked() -> bool:
        return await is_booked(world, record)

    await eventually(booked, seconds=40)
    await asyncio.sleep(0.5)  # some rounds more
    assert (await on_chain(world, record)).claimed == amount
    assert await claims(world, record) == 1


async def goes_on(world: World) -> None:
    """What happens after a bad day is answered like on any other."""
    async with others(world, 1) as (agent,):
        assert (await agent.get(world.url)).status_code == 200
        (record,) = await agent.channels()
        await agent.start_withdrawal(record.channel)
        await claimed_once(world, record, amount=PRICE)


def failed_rounds(caplog: pytest.LogCaptureFixture) -> int:
    keepers = "agentpay.payee.keeper"
    return sum(
        r.name == keepers and r.levelno >= logging.WARNING for r in caplog.records
    )


async def live_through(
    chain: LocalChain, day: Day, caplog: pytest.LogCaptureFixture, **terms: Any
) -> None:
    """A payer withdraws on a bad day, and is claimed from when it is over."""
    terms = {"claim_at": "$1000", "withdraw_delay": 900, **terms}
    async with a_world(chain, **terms) as world:
        record = await sold(world, 2)
        caplog.clear()
        async with day():
            await world.agent.start_withdrawal(record.channel)
            await until(lambda: failed_rounds(caplog) > 0, seconds=30)
            assert await claims(world, record) == 0
        await claimed_once(world, record, amount=2 * PRICE)
        await goes_on(world)


async def test_a_locked_file_ends_no_keeper_and_doubles_no_claim(
    agentpay_chain: LocalChain, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "payee.db"

    @asynccontextmanager
    async def locked() -> AsyncIterator[None]:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    await live_through(agentpay_chain, locked, caplog, store=f"sqlite:///{path}")


async def test_a_full_disk_ends_no_keeper_and_doubles_no_claim(
    agentpay_chain: LocalChain, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk_at(tmp_path / "disk", size="16m") as disk:

        @asynccontextmanager
        async def full() -> AsyncIterator[None]:
            ballast = fill_up(disk)
            yield
            ballast.unlink()

        store = f"sqlite:///{disk}/payee.db"
        await live_through(agentpay_chain, full, caplog, store=store)


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """One that may be stopped."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_a_server_that_is_away_ends_no_keeper_and_doubles_no_claim(
    agentpay_chain: LocalChain,
    own_server: PostgresServer,
    caplog: pytest.LogCaptureFixture,
    how: signal.Signals,
) -> None:
    @asynccontextmanager
    async def away() -> AsyncIterator[None]:
        await asyncio.to_thread(own_server.halt, how=how)
        yield
        await asyncio.to_thread(own_server.start)

    await live_through(agentpay_chain, away, caplog, store=own_server.new_database())


async def test_a_server_that_goes_while_a_claim_is_sent_doubles_none(
    agentpay_chain: LocalChain, own_server: PostgresServer
) -> None:
    chain = agentpay_chain
    terms: dict[str, Any] = {"claim_at": "$1000", "withdraw_delay": 900}
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_world(
            chain, rpc_url=rpc.url, store=own_server.new_database(), **terms
        ) as world,
    ):
        record = await sold(world, 2)
        before = called(rpc, "eth_sendRawTransaction")
        rpc.delay_seconds = 0.3  # what is asked is answered after the server is gone
        await world.agent.start_withdrawal(record.channel)
        await until(lambda: called(rpc, "eth_sendRawTransaction") > before, seconds=20)
        await asyncio.to_thread(own_server.halt, how=signal.SIGQUIT)
        rpc.heal()
        await asyncio.sleep(1)
        await asyncio.to_thread(own_server.start)

        await claimed_once(world, record, amount=2 * PRICE)
        await goes_on(world)
