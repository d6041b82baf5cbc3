"""SIGKILL in the middle of a thousand payments: nothing is lost or charged twice."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from agentpay import Agent, Payee, Wallet
from agentpay.evm import batch_settlement_abi as contract
from agentpay.evm.batch_settlement_abi import ChannelOnChain
from agentpay.testing.local_chain import LocalChain
from tests.end_to_end.spender import AT_ONCE, Spree, make_agent

ROOT = Path(__file__).parents[2]
REQUESTS = 1000
FIXED, METERED = 1000, 700
FUNDS = 10_000_000

pytestmark = pytest.mark.timeout(110)


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What each of three says of all channels of an agent, in base units."""

    spent: int
    """By the agent's books."""
    charged: int
    """By the payee's."""
    escrowed: int
    """By the chain: deposited, and not claimed."""
    arrived: int
    """By the chain: what the payee got."""
    left_agent: int
    """By the chain: what the agent has less."""


class Provider:
    """The provider's process, which always comes back on its port and store."""

    def __init__(self, chain: LocalChain, store: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}"
        self._chain = chain
        self._key = chain.new_key()
        self._store = str(store)
        self._process: subprocess.Popen[bytes] | None = None
        self.wallet = Wallet.from_key(self._key)

    async def start(self) -> None:
        module = [sys.executable, "-m", "tests.end_to_end.provider"]
        options = [self._chain.rpc_url, self._key, self._store, str(self.port)]
        self._process = subprocess.Popen([*module, *options], cwd=ROOT)  # noqa: S603, ASYNC220
        async with asyncio.timeout(30), httpx.AsyncClient() as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await client.get(self.base + "/free")
                    return
                await asyncio.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    async def close_the_books(self, agent: Agent) -> Books:
        """Kill it, then open its store as another process would, and claim all."""
        self.kill()
        chain = self._chain
        payee = Payee(
            self.wallet, network=chain.network, store=self._store, withdraw_delay=3600
        )
        await payee.start()
        ours = await agent.channels()
        store = payee._running.store.payee
        theirs = [await store.read(record.channel) for record in ours]
        for record in ours:
            await payee.settlement.claim_channels([record.channel])
        await payee.settlement.settle()
        await payee.stop()
        states = [await on_chain(agent, record.channel) for record in ours]
        return Books(
            spent=sum(record.ledger.spent for record in ours),
            charged=sum(record.ledger.charged for record in theirs if record),
            escrowed=sum(state.balance - state.claimed for state in states),
            arrived=await chain.balance(self.wallet.address),
            left_agent=FUNDS - await chain.balance(agent.payer.keys.account),
        )


async def on_chain(agent: Agent, channel: str) -> ChannelOnChain:
    ledger = agent.payer.ledger
    (record,) = [r for r in await agent.channels() if r.channel == channel]
    assert not record.ledger.open
    assert ledger.account == agent.payer.keys.account
    calls = contract.channel_state_calls(record.channel)
    return contract.decode_channel_state(await agent._chain.read(calls))


@pytest.fixture
async def provider(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> AsyncIterator[Provider]:
    found = Provider(agentpay_shared_chain, tmp_path / "payee.db")
    await agentpay_shared_chain.fund(found.wallet.address, 0, ether=1)
    await found.start()
    yield found
    found.kill()


async def test_p1_a_killed_provider_charges_everything_once(
    agentpay_shared_chain: LocalChain, provider: Provider, tmp_path: Path
) -> None:
    wallet = await agentpay_shared_chain.funded_wallet(FUNDS, ether=0)
    store = str(tmp_path / "agent.db")
    kills = 0
    async with make_agent(wallet, chain=agentpay_shared_chain, store=store) as agent:
        spree = Spree(agent, provider.base)
        running = asyncio.create_task(spree.run(REQUESTS))
        for answers in (200, 500, 800):
            while spree.outcomes.total() < answers:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            provider.kill()
            kills += 1
            await provider.start()
        await running
        # One more, so that nothing is under way any more on either side.
        assert (await agent.get(provider.base + "/fixed")).status_code == 200
        spending = await agent.spending()
        books = await provider.close_the_books(agent)
        channels = await agent.channels()

    outcomes = spree.outcomes
    assert kills == 3
    assert outcomes.total() == REQUESTS
    assert set(outcomes) <= {"200", "lost", "cut off"}
    assert REQUESTS - outcomes["200"] <= AT_ONCE * kills
    assert len(channels) == 1
    assert spending.held == 0
    assert books.spent == books.charged == books.arrived
    assert books.left_agent == books.arrived + books.escrowed
    assert books.charged == REQUESTS // 2 * (FIXED + METERED) + FIXED


async def test_c8_a_killed_agent_goes_on_where_it_was(
    agentpay_shared_chain: LocalChain, provider: Provider, tmp_path: Path
) -> None:
    chain, key = agentpay_shared_chain, agentpay_shared_chain.new_key()
    wallet = Wallet.from_key(key)
    await chain.fund(wallet.address, FUNDS)
    store = str(tmp_path / "agent.db")
    module = [sys.executable, "-m", "tests.end_to_end.spender"]
    options = [chain.rpc_url, key, store, provider.base, "1000"]
    for answers in (1, 60):
        with subprocess.Popen(  # noqa: S603, ASYNC220
            [*module, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            await asyncio.to_thread(_read_until, iter(process.stdout or ()), answers)
            process.kill()
    async with make_agent(wallet, chain=chain, store=store) as agent:
        spree = Spree(agent, provider.base)
        await spree.run(50)
        spending = await agent.spending()
        books = await provider.close_the_books(agent)

    assert spree.outcomes == {"200": 50}
    assert spending.held == 0
    assert books.spent == books.charged == books.arrived
    assert books.left_agent == books.arrived + books.escrowed


def _read_until(lines: Iterator[str], answers: int) -> None:
    for line in lines:
        if int(line) >= answers:
            return
