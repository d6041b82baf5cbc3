"""
Whether the official SDK of MPP takes what our paywall says of its prices.

It asks mppx to validate our `/openapi.json`, with sessions and without, and ends with
its answer. `make peers-mpp` runs it, in the environment of the other SDKs.
"""

import asyncio
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from agentpay import Discovery, MppTerms, Payee, Paywall, Route, Wallet
from agentpay.http.paywall import Receive, Scope, Send
from contracts import find_node, install

PROGRAMS = Path(__file__).parents[1] / "tests" / "peers" / "mppx"
MPPX = PROGRAMS / "node_modules" / "mppx" / "dist" / "bin.js"


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application without pages."""
    del scope, receive
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def our_document() -> bytes:
    """What a shop with every kind of route says."""
    mpp = MppTerms(realm="shop.example", secrets=(secrets.token_bytes(32),))
    wall = Paywall(
        nothing,
        payee=Payee(Wallet.create(), network="local", mpp=mpp),
        routes={
            "GET /report": 1000,
            "POST /ask/{topic}": Route(price="$0.02", metered=True),
            "/once": Route(price=5, schemes=("exact",)),
        },
        origin="https://shop.example",
        discovery=Discovery(title="A shop", categories=("data",)),
    )
    through = httpx.ASGITransport(app=wall)
    async with httpx.AsyncClient(transport=through) as client:
        answer = await client.get("https://shop.example/openapi.json")
    return answer.raise_for_status().content


def main() -> int:
    """Its verdict, and what it says."""
    install(PROGRAMS)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(asyncio.run(our_document()))
        file.flush()
        verdict = subprocess.run(
            [find_node(), MPPX, "discover", "validate", file.name],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    said = verdict.stdout + verdict.stderr
    sys.stdout.write(f"mppx of our /openapi.json: {said.strip()}\n")
    return verdict.returncode


if __name__ == "__main__":
    sys.exit(main())
