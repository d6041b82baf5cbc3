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
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import httpx

from agentpay import Agent, Budget, PaidStream, Policy
from agentpay.testing.local_chain import LocalChain
from bench.program import Program
from bench.words import PER_TOKEN

INCREMENT: Final = "$0.005"
AHEAD: Final = "$0.02"
_FIRST_BYTES: Final = 15
"""How many short streams the time to a first byte is the median of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One stream that was read to its end."""

    tokens: int
    seconds: float
    first_ms: float
    cpu: float
    """Seconds of the server's."""


@dataclass(slots=True, kw_only=True)
class Reader:
    """Reads streams of one server, and pays for them if its client can."""

    client: httpx.AsyncClient
    server: Program
    tokens: int = 0
    """All that it has read."""

    async def read(self, tokens: int) -> tuple[Read, PaidStream]:
        """
        Read one to its end.

        Raises:
            StreamDisagrees: It has another length, or did not cost what came of it.
        """
        before = (await self.server.ask(do="cpu"))["cpu"]
        begun = time.perf_counter()
        first, seen = 0.0, 0
        url = f"{self.server.url}/words?tokens={tokens}"
        async with self.client.stream("GET", url) as response:
            async for chunk in response.aiter_bytes():
                first = first or time.perf_counter() - begun
                seen += chunk.count(b"data:")
        seconds = time.perf_counter() - begun
        after = (await self.server.ask(do="cpu"))["cpu"]
        self.tokens += seen
        stream = PaidStream(response)
        wanted = seen * PER_TOKEN if isinstance(self.client, Agent) else None
        if seen != tokens or stream.charged != wanted:
            raise StreamDisagrees(f"{seen} of {tokens} tokens cost {stream.charged}")
        read = Read(
            tokens=seen, seconds=seconds, first_ms=first * 1000, cpu=after - before
        )
        return read, stream

    async def first_ms(self) -> float:
        """The median time to a first byte, in milliseconds."""
        reads = [(await self.read(5))[0] for _ in range(_FIRST_BYTES)]
        return statistics.median(read.first_ms for read in reads)

    async def close(self) -> int:
        """
        Close the session of an agent; returns what it was closed with.

        Raises:
            StreamDisagrees: Not with what all that was read costs.
        """
        if not isinstance(self.client, Agent):
            return 0
        (session,) = await self.client.channels()
        closed = await self.client.close_channel(session.channel)
        due = self.tokens * PER_TOKEN
        if closed.spent != due:
            raise StreamDisagrees(f"closed with {closed.spent}, and {due} is due")
        return closed.spent


class StreamDisagrees(Exception):
    """A stream, or the session that pays for it, does not cost what came of it."""


@asynccontextmanager
async def open_readers(
    chain: LocalChain, *, increment: str = INCREMENT, ahead: str = AHEAD
) -> AsyncIterator[tuple[Reader, Reader]]:
    """One that pays by the token, and one that need not; both have read a little."""
    async with AsyncExitStack() as stack:
        gas = await chain.funded_wallet(0)
        sold = {
            "key": gas.gas_key().hex(),
            "rpc_url": chain.rpc_url,
            "increment": increment,
        }
        running = [Program.running("bench.words", s) for s in (sold, {"free": True})]
        paid, free = [await stack.enter_async_context(r) for r in running]
        agent = Agent(
            await chain.funded_wallet("$200", ether=0),
            network=chain.network,
            budget=Budget(total="$100", per_request="$1"),
            policy=Policy(prefer=("session",), ahead=ahead),
            allow_private_networks=True,
        )
        paying = Reader(client=await stack.enter_async_context(agent), server=paid)
        plain = await stack.enter_async_context(httpx.AsyncClient(timeout=60))
        reading = Reader(client=plain, server=free)
        await paying.read(5)  # opens the session
        await reading.read(5)
        yield paying, reading


async def main(tokens: int, *, increment: str, ahead: str) -> None:
    async with (
        LocalChain() as chain,
        open_readers(chain, increment=increment, ahead=ahead) as (paid, free),
    ):
        with_paywall, without = await paid.first_ms(), await free.first_ms()
        one, stream = await paid.read(tokens)
        other, _ = await free.read(tokens)
        due = paid.tokens * PER_TOKEN
        closed = await paid.close()
        chunk = (one.cpu - other.cpu) / tokens * 1e6
        print(f"tokens read                        {one.tokens}")
        print(f"charged                            {stream.charged}")
        print(f"vouchers                           {stream.vouchers}")
        print(f"server CPU a chunk, paid           {one.cpu / tokens * 1e6:.1f} µs")
        print(f"server CPU a chunk, free           {other.cpu / tokens * 1e6:.1f} µs")
        print(f"the difference                     {chunk:.1f} µs")
        print(f"time to first byte, paid           {with_paywall:.1f} ms")
        print(f"time to first byte, free           {without:.1f} ms")
        print(f"signed and not counted, at worst   {stream.ahead_most}")
        print(f"closed with                        {closed} (due: {due})")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    options.add_argument("--tokens", type=int, default=10_000)
    options.add_argument("--increment", default=INCREMENT)
    options.add_argument("--ahead", default=AHEAD)
    asyncio.run(main(**vars(options.parse_args())))
