"""An agent in a process of its own, that shares its account and budget with others."""

import asyncio
import json
import sys
from collections import Counter

from agentpay import Agent, BudgetExceeded, Wallet
from agentpay import Budget as Limits
from agentpay.testing.local_chain import LocalChain

AT_ONCE = 16


async def spend(rpc_url: str, key: str, store: str, url: str, attempts: int) -> None:
    """Try to pay so often, and print what came of it."""
    outcomes: Counter[str] = Counter()
    room = asyncio.Semaphore(AT_ONCE)
    agent = Agent(
        Wallet.from_key(key),
        budget=Limits(total="$0.1", per_request="$0.01"),
        network=LocalChain(rpc_url=rpc_url).network,
        store=store,
        allow_private_networks=True,
    )

    async def attempt() -> None:
        async with room:
            try:
                outcomes[str((await agent.get(url)).status_code)] += 1
            except BudgetExceeded:
                outcomes["refused"] += 1

    async with agent:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await asyncio.gather(*(attempt() for _ in range(attempts)))
    print(json.dumps(outcomes), flush=True)


if __name__ == "__main__":
    rpc_url, key, store, url, attempts = sys.argv[1:]
    asyncio.run(spend(rpc_url, key, store, url, int(attempts)))
