"""Four agents with one account and one store spend one budget, to the last payment."""

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from agentpay import Payee, Paywall, Route, Wallet
from agentpay.stores import PostgresStore, SqliteStore, open_store
from agentpay.stores.checking import Books
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from tests.http.world import Shop
from tests.programs import serving

pytestmark = pytest.mark.timeout(110)

AGENTS = 4
ATTEMPTS = 1000
PAYMENTS = 100
PRICE = 1000
MONEY = 10**18 // 1000
"""The price in the units of a budget."""


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What the agents share."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/agents.db"


async def test_c9_a_budget_for_100_payments_buys_100_in_1000_attempts_of_4_processes(
    agentpay_shared_chain: LocalChain, place: str
) -> None:
    chain = agentpay_shared_chain
    key = chain.new_key()
    wallet = await chain.funded_wallet(0)
    payee = Payee(wallet, network=chain.network, withdraw_delay=3600)
    shop = Shop()
    route = Route(price=PRICE, schemes=("exact",))
    paywall = Paywall(shop, payee=payee, routes={"/ok": route})
    async with serving(paywall) as base:
        account = await fund(chain, key)
        each = str(ATTEMPTS // AGENTS)
        arguments = (chain.rpc_url, key, place, f"{base}/ok", each)
        agents = [await start(*arguments) for _ in range(AGENTS)]
        for agent in agents:
            assert agent.stdin is not None
            agent.stdin.write(b"go\n")
        said = [await agent.communicate() for agent in agents]
    outcomes: Counter[str] = Counter()
    for out, _ in said:
        outcomes.update(json.loads(out.decode().splitlines()[-1]))
    async with await open_store(place) as store:
        assert isinstance(store, SqliteStore | PostgresStore)
        budget = await store.payer.budget(account)
        books = Books(await store.all_rows())

    assert outcomes == {"200": PAYMENTS, "refused": ATTEMPTS - PAYMENTS}
    assert shop.served["/ok"] == PAYMENTS
    assert await chain.balance(wallet.address) == PAYMENTS * PRICE
    assert budget.exposure == PAYMENTS * MONEY
    assert books.check() == []
    print(place.partition(":")[0], dict(outcomes))


async def fund(chain: LocalChain, key: str) -> Address:
    wallet = Wallet.from_key(key)
    await chain.fund(wallet.address, 10 * PAYMENTS * PRICE)
    return wallet.address


async def start(*arguments: str) -> asyncio.subprocess.Process:
    """An agent that is ready, and waits for a line."""
    agent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.many_workers.spender",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert agent.stdout is not None
    assert await agent.stdout.readline() == b"ready\n"
    return agent
