"""
Our whole client: an `Agent` that pays, or a plain client where nothing costs.

Over httpx, over httpx2 (whose own client pays through the agent), or over aiohttp,
which the agent, or a plain client of httpx, sends through.
"""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import httpx2

from agentpay import Agent, Budget, Policy, Wallet
from agentpay.evm.networks import LOCAL
from agentpay.http.aiohttp import ThroughAiohttp
from agentpay.http.httpx2 import ThroughHttpx2
from bench.lines import Json, obey, read, run
from bench.many import many

DEPOSIT = "$100"
_SECONDS = 60


def plain(library: str) -> Any:
    """A client of a library, as it is."""
    if library == "httpx2":
        unlimited = httpx2.Limits(max_connections=None)
        return httpx2.AsyncClient(limits=unlimited, timeout=_SECONDS)
    if library == "aiohttp":
        return httpx.AsyncClient(transport=ThroughAiohttp(), timeout=_SECONDS)
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(limits=limits, timeout=_SECONDS)


def wire(library: str) -> httpx.AsyncBaseTransport | None:
    """What an agent sends through; its own if None."""
    if library == "httpx2":
        return ThroughHttpx2()
    return ThroughAiohttp() if library == "aiohttp" else None


@asynccontextmanager
async def agent_of(settings: Json) -> AsyncIterator[Agent]:
    """Pays from a channel that is never short; or MPP, as one of its servers asks."""
    policy = Policy(deposit=DEPOSIT, low_water=0)
    if settings["charge"]:
        by_json = ("127.0.0.1",) if settings["charge"] == "pympp" else ()
        policy = Policy(prefer=("charge",), json_nonces=by_json)
    with tempfile.TemporaryDirectory(prefix="bench-agent-") as folder:
        on_disk = settings["store"] == "sqlite"
        async with Agent(
            Wallet.from_key(settings["key"]),
            budget=Budget(total="$1000", per_request="$0.01"),
            network=replace(LOCAL, rpc_url=settings["rpc_url"]),
            store=str(Path(folder, "agent.db")) if on_disk else "memory:",
            policy=policy,
            allow_private_networks=True,
            transport=wire(settings["library"]),
        ) as agent:
            yield agent


@asynccontextmanager
async def clients(settings: Json) -> AsyncIterator[tuple[Any, Agent | None]]:
    """What requests are made with, and the agent that pays for them, if any does."""
    library = settings["library"]
    if settings["store"] == "none":
        async with plain(library) as client:
            yield client, None
        return
    async with agent_of(settings) as agent:
        if library != "httpx2":
            yield agent, agent
            return
        paying = agent.httpx2_transport()
        async with httpx2.AsyncClient(transport=paying, timeout=_SECONDS) as client:
            yield client, agent


async def main() -> None:
    async with clients(read()) as (client, agent):

        async def act(command: Json) -> Json:
            if command["do"] == "channels" and agent is not None:
                return {"channels": [r.channel for r in await agent.channels()]}
            return await many(client, command)

        await obey(act)


if __name__ == "__main__":
    run(main())
