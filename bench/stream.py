"""
One stream that is paid by the token over a session of MPP, and what that costs.

    python -m bench.stream [--tokens 10000] [--increment '$0.005'] [--ahead '$0.02']

The same stream is read from a server without a paywall beside it, from the same machine
in the same run; the difference is the price of being paid.
"""

import argparse
import asyncio
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import httpx

from agentpay import Agent, Budget, PaidStream, Policy
from agentpay.testing.local_chain import LocalChain
from bench.program import Program
from bench.words import PER_TOKEN

_FIRST_BYTES: Final = 15
"""How many short streams the time to a first byte is the median of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One stream that was read to its end."""

    tokens: int
    first_ms: float
    cpu: float
    """Seconds of the server's."""


async def read_one(
    client: httpx.AsyncClient, server: Program, tokens: int
) -> tuple[Read, PaidStream]:
    """Read a stream; `client` pays if it can."""
    before = (await server.ask(do="cpu"))["cpu"]
    begun = time.perf_counter()
    first, seen = 0.0, 0
    url = f"{server.url}/words?tokens={tokens}"
    async with client.stream("GET", url) as response:
        async for chunk in response.aiter_bytes():
            first = first or time.perf_counter() - begun
            seen += chunk.count(b"data:")
    after = (await server.ask(do="cpu"))["cpu"]
    read = Read(tokens=seen, first_ms=first * 1000, cpu=after - before)
    return read, PaidStream(response)


async def first_ms(client: httpx.AsyncClient, server: Program) -> float:
    """The median time to a first byte, in milliseconds."""
    reads = [(await read_one(client, server, 5))[0] for _ in range(_FIRST_BYTES)]
    return statistics.median(read.first_ms for read in reads)


async def main(tokens: int, *, increment: str, ahead: str) -> None:
    async with AsyncExitStack() as stack:
        chain = await stack.enter_async_context(LocalChain())
        gas = await chain.funded_wallet(0)
        sold = {
            "key": gas.gas_key().hex(),
            "rpc_url": chain.rpc_url,
            "increment": increment,
        }
        paid = await stack.enter_async_context(Program.running("bench.words", sold))
        free = await stack.enter_async_context(
            Program.running("bench.words", {"free": True})
        )
        plain = await stack.enter_async_context(httpx.AsyncClient(timeout=60))
        agent = await stack.enter_async_context(
            Agent(
                await chain.funded_wallet("$100", ether=0),
                network=chain.network,
                budget=Budget(total="$10", per_request="$1"),
                policy=Policy(prefer=("session",), ahead=ahead),
                allow_private_networks=True,
            )
        )
        await read_one(agent, paid, 5)  # opens the session
        await read_one(plain, free, 5)
        with_paywall = await first_ms(agent, paid)
        without = await first_ms(plain, free)
        trips = agent.round_trips
        one, stream = await read_one(agent, paid, tokens)
        trips = agent.round_trips - trips
        other, _ = await read_one(plain, free, tokens)
        (session,) = await agent.channels()
        closed = await agent.close_channel(session.channel)
        due = (tokens + 5 * (1 + _FIRST_BYTES)) * PER_TOKEN
        chunk = (one.cpu - other.cpu) / tokens * 1e6
        print(f"tokens read                        {one.tokens}")
        print(f"charged                            {stream.charged}")
        print(f"vouchers                           {stream.vouchers}")
        print(f"round trips                        {trips}")
        print(f"server CPU a chunk, paid           {one.cpu / tokens * 1e6:.1f} µs")
        print(f"server CPU a chunk, free           {other.cpu / tokens * 1e6:.1f} µs")
        print(f"the difference                     {chunk:.1f} µs")
        print(f"time to first byte, paid           {with_paywall:.1f} ms")
        print(f"time to first byte, free           {without:.1f} ms")
        print(f"signed and not counted, at worst   {stream.ahead_most}")
        print(f"closed with                        {closed.spent} (due: {due})")
        if (one.tokens, stream.charged) != (tokens, tokens * PER_TOKEN):
            raise SystemExit("the stream did not cost what came of it")
        if closed.spent != due:
            raise SystemExit("the session was not closed with what was spent")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    options.add_argument("--tokens", type=int, default=10_000)
    options.add_argument("--increment", default="$0.005")
    options.add_argument("--ahead", default="$0.02")
    asyncio.run(main(**vars(options.parse_args())))
