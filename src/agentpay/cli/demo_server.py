"""
The demo's provider: a real uvicorn process with three priced routes.

It reads its settings as one line of JSON on standard input, says where it listens on
standard output, and then obeys: each line asks for something, each answer is a line.
"""

import asyncio
import json
import logging
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI

from agentpay.evm.networks import LOCAL
from agentpay.http.fastapi import paid_request
from agentpay.http.paid_request import PaidRequest
from agentpay.http.paywall import Paywall
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Route
from agentpay.signers.wallet import Wallet
from agentpay.types import ChainId

PRICE = "$0.001"
METERED_ACTUAL = "$0.0004"
EXACT_PRICE = "$0.01"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What the demo tells its provider."""

    key: str
    rpc_url: str
    chain: int
    store: str
    access_log: str
    port: int = 0


def make_app(payee: Payee) -> FastAPI:
    """Three routes: one transfer each, a fixed price, and a price known afterwards."""
    app = FastAPI()

    @app.get("/report")
    async def report() -> dict[str, str]:
        return {"report": "all is well"}

    @app.get("/answer")
    async def answer(number: int) -> dict[str, int]:
        return {"answer": number * number}

    @app.get("/metered")
    async def metered(
        number: int, paid: Annotated[PaidRequest, Depends(paid_request)]
    ) -> dict[str, int]:
        paid.charge(METERED_ACTUAL)
        return {"metered": number * number}

    app.add_middleware(
        Paywall,
        payee=payee,
        routes={
            "GET /report": Route(price=EXACT_PRICE, schemes=("exact",)),
            "GET /answer": PRICE,
            "GET /metered": Route(price=PRICE, metered=True),
        },
    )
    return app


async def serve(settings: ServerSettings) -> None:
    """Serve until standard input ends."""
    network = replace(
        LOCAL,
        chain=ChainId(settings.chain),
        usdc=replace(LOCAL.usdc, chain=ChainId(settings.chain)),
        rpc_url=settings.rpc_url,
    )
    payee = Payee(
        Wallet.from_key(settings.key),
        network=network,
        store=settings.store,
        withdraw_delay=3600,
        claim_at="$1000000",
    )
    # With its protocol named, asyncio turns off Nagle's delay of 40 ms an answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", settings.port))
    _log_to(Path(settings.access_log))
    config = uvicorn.Config(make_app(payee), log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.01)
    if serving.done():
        await serving
        sys.exit("the provider did not start")
    _say({"port": listener.getsockname()[1]})
    await _obey(payee)
    server.should_exit = True
    await serving


def _log_to(path: Path) -> None:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


async def _obey(payee: Payee) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        match line.strip():
            case "settle":
                claimed = await payee.settlement.claim()
                settled = await payee.settlement.settle()
                _say({"claimed": claimed, "settled": settled})
            case _:
                return


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(ServerSettings(**json.loads(sys.stdin.readline()))))
