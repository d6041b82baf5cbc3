"""
Buys records from `data_seller` until the budget says stop.

    python examples/buy_data.py http://127.0.0.1:8402/records
"""

import asyncio
import os
import sys

from agentpay import Agent, Budget, BudgetExceeded, Policy, Wallet


async def main(url: str) -> None:
    wallet = Wallet.from_key(os.environ["AGENT_KEY"])
    budget = Budget(total="$0.05", per_request="$0.01")
    policy = Policy(deposit="$0.05")
    bought = 0
    async with Agent(
        wallet, budget=budget, policy=policy, allow_private_networks=True
    ) as agent:
        try:
            for first in range(0, 1000, 200):
                answer = await agent.get(url, params={"first": first, "count": 200})
                bought += len(answer.json())
        except BudgetExceeded as error:
            print(f"stopped: {error}")
        print(f"bought {bought} records: {await agent.spending()}")
        for channel in await agent.channels():
            await agent.close_channel(channel.channel)
        print(f"after closing: {await agent.spending()}")


asyncio.run(main(sys.argv[1]))
