"""An agent in a process of its own, to be killed: see `test_kill_nine`."""

import asyncio
import sys
from collections import Counter

import httpx

from agentpay import Agent, AnswerLost, Budget, Policy, Wallet
from agentpay.testing.local_chain import LocalChain

POLICY = Policy(deposit="$3", headroom="$0.2", give_up_seconds=20)
BUDGET = Budget(total="$5", per_request="$0.01")
AT_ONCE = 32


def make_agent(wallet: Wallet, *, chain: LocalChain, store: str) -> Agent:
    return Agent(
        wallet,
        budget=BUDGET,
        policy=POLICY,
        network=chain.network,
        store=store,
        allow_private_networks=True,
    )


class Spree:
    """Many requests, so many at once; every second one is metered."""

    def __init__(self, agent: Agent, base: str) -> None:
        self.outcomes: Counter[str] = Counter()
        self._agent = agent
        self._base = base
        self._room = asyncio.Semaphore(AT_ONCE)

    async def run(self, count: int) -> None:
        await asyncio.gather(*(self._ask(number) for number in range(count)))

    async def _ask(self, number: int) -> None:
        path = ("/metered", "/fixed")[number % 2]
        async with self._room:
            try:
                answer = await self._agent.get(self._base + path)
                self.outcomes[str(answer.status_code)] += 1
            except AnswerLost:
                self.outcomes["lost"] += 1
            except httpx.TransportError:  # paid, and cut off between head and body
                self.outcomes["cut off"] += 1


async def spend(rpc_url: str, key: str, store: str, base: str, count: str) -> None:
    """Print how many answers there are, for whoever is going to kill us."""
    chain = LocalChain(rpc_url=rpc_url)
    async with make_agent(Wallet.from_key(key), chain=chain, store=store) as agent:
        spree = Spree(agent, base)
        running = asyncio.create_task(spree.run(int(count)))
        while not running.done():
            print(spree.outcomes.total(), flush=True)
            await asyncio.sleep(0.01)
        await running


if __name__ == "__main__":
    rpc_url, key, store, base, count = sys.argv[1:]
    asyncio.run(spend(rpc_url, key, store, base, count))
