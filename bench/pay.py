"""
Our whole client: an `Agent` that pays, or a plain client where nothing costs.

Over each HTTP library in `LIBRARIES`; what costs nothing uses the same one.
"""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
import httpx2

from agentpay import Agent, Budget, Policy, Wallet
from agentpay.evm.networks import LOCAL
from agentpay.http.aiohttp import ThroughAiohttp
from agentpay.http.httpx2 import ThroughHttpx2
from bench.lines import Json, obey, read, run
from bench.many import many

DEPOSIT = "$100"


def _policy(settings: Json) -> Policy:
    """A channel that is never short; or charges of MPP, as one of its servers asks."""
    if not settings["charge"]:
        return Policy(deposit=DEPOSIT, low_water=0)
    by_json = ("127.0.0.1",) if settings["charge"] == "pympp" else ()
    return Policy(prefer=("charge",), json_nonces=by_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """Who makes the requests, and the agent that pays them, if they cost something."""

    http: Any
    agent: Agent | None = None


@asynccontextmanager
async def an_agent(
    settings: Json, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[Agent]:
    with tempfile.TemporaryDirectory(prefix="bench-agent-") as folder:
        on_disk = settings["store"] == "sqlite"
        async with Agent(
            Wallet.from_key(settings["key"]),
            budget=Budget(total="$1000", per_request="$0.01"),
            network=replace(LOCAL, rpc_url=settings["rpc_url"]),
            store=str(Path(folder, "agent.db")) if on_disk else "memory:",
            policy=_policy(settings),
            allow_private_networks=True,
            transport=transport,
        ) as agent:
            yield agent


@asynccontextmanager
async def over_httpx(settings: Json) -> AsyncIterator[Payer]:
    if settings["store"] == "none":
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=60) as plain:
            yield Payer(http=plain)
        return
    async with an_agent(settings) as agent:
        yield Payer(http=agent, agent=agent)


@asynccontextmanager
async def over_httpx2(settings: Json) -> AsyncIterator[Payer]:
    """A client of httpx2, and an agent that sends through httpx2 as well."""
    if settings["store"] == "none":
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(limits=limits, timeout=60) as plain:
            yield Payer(http=plain)
        return
    async with (
        an_agent(settings, ThroughHttpx2()) as agent,
        httpx2.AsyncClient(transport=agent.httpx2_transport(), timeout=60) as client,
    ):
        yield Payer(http=client, agent=agent)


@asynccontextmanager
async def over_aiohttp(settings: Json) -> AsyncIterator[Payer]:
    """A client of httpx, whose requests are sent by aiohttp."""
    if settings["store"] == "none":
        transport = ThroughAiohttp()
        async with httpx.AsyncClient(transport=transport, timeout=60) as plain:
            yield Payer(http=plain)
        return
    async with an_agent(settings, ThroughAiohttp()) as agent:
        yield Payer(http=agent, agent=agent)


LIBRARIES: Final[dict[str, Callable[[Json], AbstractAsyncContextManager[Payer]]]] = {
    "httpx": over_httpx,
    "httpx2": over_httpx2,
    "aiohttp": over_aiohttp,
}


async def main() -> None:
    settings = read()
    async with LIBRARIES[settings["library"]](settings) as payer:

        async def act(command: Json) -> Json:
            if command["do"] == "channels" and payer.agent is not None:
                channels = await payer.agent.channels()
                return {"channels": [record.channel for record in channels]}
            return await many(payer.http, command)

        await obey(act)


if __name__ == "__main__":
    run(main())
