"""
Our whole client: an `Agent` that pays, or a plain client where nothing costs.

Over each HTTP library in `LIBRARIES`; what costs nothing uses the same one.
"""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx

from agentpay import Agent, Budget, Policy, Wallet
from agentpay.evm.networks import LOCAL
from bench.lines import Json, obey, read, run
from bench.many import many

DEPOSIT = "$100"


def _policy(settings: Json) -> Policy:
    """A channel that is never short; or charges of MPP, as one of its servers asks."""
    if not settings["charge"]:
        return Policy(deposit=DEPOSIT, low_water=0)
    by_json = ("127.0.0.1",) if settings["charge"] == "pympp" else ()
    return Policy(prefer=("charge",), json_nonces=by_json)


@asynccontextmanager
async def over_httpx(settings: Json) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    if settings["store"] == "none":
        async with httpx.AsyncClient(limits=limits, timeout=60) as plain:
            yield plain
        return
    with tempfile.TemporaryDirectory(prefix="bench-agent-") as folder:
        on_disk = settings["store"] == "sqlite"
        async with Agent(
            Wallet.from_key(settings["key"]),
            budget=Budget(total="$1000", per_request="$0.01"),
            network=replace(LOCAL, rpc_url=settings["rpc_url"]),
            store=str(Path(folder, "agent.db")) if on_disk else "memory:",
            policy=_policy(settings),
            allow_private_networks=True,
        ) as agent:
            yield agent


LIBRARIES: Final[dict[str, Callable[[Json], AbstractAsyncContextManager[Any]]]] = {
    "httpx": over_httpx,
}


async def main() -> None:
    settings = read()
    async with LIBRARIES[settings["library"]](settings) as http:

        async def act(command: Json) -> Json:
            if command["do"] == "channels" and isinstance(http, Agent):
                return {"channels": [r.channel for r in await http.channels()]}
            return await many(http, command)

        await obey(act)


if __name__ == "__main__":
    run(main())
