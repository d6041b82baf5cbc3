"""
Reads a stream from `streamed_inference`, and pays for it as it comes.

    python examples/buy_tokens.py http://127.0.0.1:8402/generate
"""

import asyncio
import os
import sys

from agentpay import Agent, Budget, Policy, Wallet


async def main(url: str) -> None:
    wallet = Wallet.from_key(os.environ["AGENT_KEY"])
    budget = Budget(total="$1", per_request="$0.05")
    policy = Policy(prefer=("session",), deposit="$0.1", ahead="$0.002")
    async with Agent(
        wallet, budget=budget, policy=policy, allow_private_networks=True
    ) as agent:
        async with agent.stream_paid("POST", url) as stream:
            words = [event.data async for event in stream]
        print(f"{len(words)} words for {stream.charged}: {' '.join(words[:8])} ...")
        print(f"{stream.vouchers} vouchers, {stream.ahead_most} ahead at most")
        for session in await agent.channels():
            closed = await agent.close_channel(session.channel)
            print(f"closed: {closed.spent} paid, {closed.returned} came back")


asyncio.run(main(sys.argv[1]))
