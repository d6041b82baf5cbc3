"""
An agent that pays. Run `agentpay chain` and a provider first, then:

    python examples/agent.py http://127.0.0.1:8402/joke
"""

import asyncio
import os
import sys

from agentpay import Agent, Budget, Wallet


async def main(url: str) -> None:
    wallet = Wallet.from_key(os.environ["AGENT_KEY"])
    budget = Budget(total="$2", per_request="$0.01")
    async with Agent(wallet, budget=budget, allow_private_networks=True) as agent:
        for _ in range(3):
            answer = await agent.get(url)
            print(answer.json(), await agent.spending())
        for channel in await agent.channels():
            closed = await agent.close_channel(channel.channel)
            print(f"spent {closed.spent}, got {closed.returned} back")


asyncio.run(main(sys.argv[1]))
