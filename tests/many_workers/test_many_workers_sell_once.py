"""Four workers over one PostgreSQL sell each payment once, whoever gets it."""

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import httpx
import pytest

from agentpay import Agent, Budget, Policy, Wallet
from agentpay.stores import PostgresStore
from agentpay.stores.checking import Books
from agentpay.stores.postgres.connection import Connection, connect
from agentpay.stores.postgres.schema import key_of
from agentpay.testing.local_chain import LocalChain
from tests.http.world import eventually
from tests.many_workers.shop import PRICE
from tests.many_workers.workers import Workers, workers

pytestmark = pytest.mark.timeout(110)

COPIES = 500


class Replaying(httpx.AsyncBaseTransport):
    """Sends each paid request many times at once, and gives the first good answer."""

    def __init__(self, copies: int) -> None:
        self.statuses: Counter[int] = Counter()
        self._copies = copies
        limits = httpx.Limits(max_connections=copies, max_keepalive_connections=0)
        self._inner = httpx.AsyncHTTPTransport(limits=limits)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "payment-signature" not in request.headers:
            return await self._inner.handle_async_request(request)
        answers = await asyncio.gather(
            *(self._send(request) for _ in range(self._copies))
        )
        self.statuses.update(answer.status_code for answer in answers)
        return next(a for a in answers if a.status_code == 200)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        copy = httpx.Request(request.method, request.url, headers=request.headers)
        copy.extensions["timeout"] = dict.fromkeys(
            ("connect", "read", "write", "pool"), 60
        )
        answer = await self._inner.handle_async_request(copy)
        await answer.aread()
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()


def make_agent(
    chain: LocalChain, wallet: Wallet, transport: httpx.AsyncBaseTransport | None = None
) -> Agent:
    return Agent(
        wallet,
        budget=Budget(total="$5", per_request="$0.01"),
        policy=Policy(deposit="$3", headroom="$0.2", give_up_seconds=30),
        network=chain.network,
        allow_private_networks=True,
        transport=transport,
    )


@pytest.mark.parametrize("path", ["/channel", "/transfer"])
async def test_p1_of_500_copies_of_a_payment_at_four_workers_one_is_served(
    agentpay_shared_chain: LocalChain, postgres_url: str, tmp_path: Path, path: str
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet()
    replaying = Replaying(COPIES)
    async with (
        workers(chain, postgres_url, tmp_path) as shop,
        make_agent(chain, wallet, replaying) as agent,
    ):
        answer = await agent.get(shop.base + path)

    assert (answer.status_code, answer.content) == (200, b"42")
    assert shop.served().total() == 1
    assert replaying.statuses.total() == COPIES
    # Told again, presented before, or still running and to be asked for again.
    assert set(replaying.statuses) <= {200, 409, 503}
    print(path, dict(replaying.statuses), "served", shop.served().total())


async def test_many_requests_at_four_workers_are_each_served_and_charged_once(
    agentpay_shared_chain: LocalChain, postgres_url: str, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet()
    async with (
        workers(chain, postgres_url, tmp_path) as shop,
        make_agent(chain, wallet) as agent,
    ):
        await agent.get(shop.base + "/channel")
        answers = await asyncio.gather(
            *(agent.get(shop.base + "/channel") for _ in range(200))
        )
        (record,) = await agent.channels()
    async with await PostgresStore.open(postgres_url) as store:
        books = Books(await store.all_rows())

    assert books.check() == []
    assert {a.status_code for a in answers} == {200}
    assert shop.served().total() == 201
    assert len(shop.served()) > 1
    assert record.ledger.spent == 201 * PRICE


async def test_one_worker_keeps_the_books_and_another_takes_over_when_it_dies(
    agentpay_shared_chain: LocalChain, postgres_url: str, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet()
    async with (
        workers(chain, postgres_url, tmp_path, claim_at="$0.001") as shop,
        make_agent(chain, wallet) as agent,
    ):
        connection = await connect(postgres_url, settings={}, timeout=10)
        first = await leader(connection, chain)
        os.kill(await shop.process_of(first), signal.SIGKILL)
        second = await leader(connection, chain, but=first)
        await agent.get(shop.base + "/channel")
        await earned(chain, shop, PRICE)
        await connection.close(timeout=5)

    assert first != second


async def leader(connection: Connection, chain: LocalChain, *, but: str = "") -> str:
    """The one owner that holds the keeper's lock."""
    key = key_of(f"lead agentpay keeper {chain.chain_id}") % 2**64
    async with asyncio.timeout(20):
        while True:
            rows = await connection.fetch(
                "SELECT application_name FROM pg_locks"
                " JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory'"
                " AND granted AND objsubid = 1 AND classid = $1 AND objid = $2",
                key >> 32,
                key % 2**32,
            )
            owners = [str(row[0]).removeprefix("agentpay ") for row in rows]
            assert len(owners) <= 1
            if owners and owners[0] != but:
                return owners[0]
            await asyncio.sleep(0.1)


async def earned(chain: LocalChain, shop: Workers, amount: int) -> None:
    """Wait until so much was claimed and sent on."""

    async def all_of_it() -> bool:
        return await chain.balance(shop.wallet.address) >= amount

    await eventually(all_of_it, seconds=30)
