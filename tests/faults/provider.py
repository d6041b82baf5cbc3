"""A provider in a process of its own, which notes what it served, and for whom."""

import asyncio
import hashlib
import json
import os
import sys
from dataclasses import dataclass

import uvicorn

from agentpay import MppTerms, Payee, Paywall, Route, Wallet
from agentpay.http.paywall import Receive, Scope, Send
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Money
from tests.http.world import answer

PRICE, USED = 1000, 700
REQUEST_ID = b"x-request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a provider works, as its process is told."""

    chain_url: str
    rpc_url: str
    key: str
    store: str
    port: int
    served: str
    """The file that it adds a line to for each answer that it made."""


class Application:
    """Answers with the id of the request, after noting that it did."""

    def __init__(self, served: str) -> None:
        self._served = os.open(served, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for moment in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{moment}.complete"})
            return
        name = dict(scope["headers"]).get(REQUEST_ID, b"")
        if scope["path"] == "/metered":
            scope["agentpay"].charge(USED)
        await asyncio.sleep(0.002)
        os.write(self._served, name + b"\n")
        await answer(send, 200, name)


def main(told: str) -> None:
    place = Place(**json.loads(told))
    chain = LocalChain(rpc_url=place.chain_url)
    secret = hashlib.sha256(place.key.encode()).digest()  # the same after a restart
    payee = Payee(
        Wallet.from_key(place.key),
        network=chain.network,
        rpc_url=place.rpc_url,
        store=place.store,
        withdraw_delay=3600,
        claim_every_seconds=2,
        claim_at=1,
        poll_seconds=0.5,
        mpp=MppTerms(realm="127.0.0.1", secrets=(secret,)),
    )
    routes: dict[str, Money | Route] = {
        "/exact": Route(price=PRICE, schemes=("exact",)),
        "/fixed": Route(price=PRICE, schemes=("batch-settlement",)),
        "/metered": Route(price=PRICE, metered=True, schemes=("batch-settlement",)),
    }
    paywall = Paywall(Application(place.served), payee=payee, routes=routes)
    uvicorn.run(paywall, port=place.port, log_level="critical", ws="none")


if __name__ == "__main__":
    main(sys.argv[1])
