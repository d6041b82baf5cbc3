"""A provider in a process of its own, which notes what it served, and for whom."""

import asyncio
import hashlib
import json
import sys
from dataclasses import dataclass

import uvicorn

from agentpay import MppTerms, Payee, Paywall, Route, Wallet
from agentpay.http.paywall import Receive, Scope, Send
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32, Money
from tests.faults.served import Door, made_by
from tests.http.world import answer

PRICE, USED = 1000, 700
BOOKS = "/books/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a provider works, as its process is told."""

    chain_url: str
    rpc_url: str
    key: str
    store: str
    port: int
    served: str
    """The file in which it notes what it made; see `served`."""


class Application:
    """
    Answers with the id of the request, after noting that it did. `/books/CHANNEL` is
    free, and says what each voucher of a channel was charged.
    """

    def __init__(self, served: str, payee: Payee) -> None:
        self._made = made_by(served)
        self._payee = payee

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for moment in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{moment}.complete"})
            return
        if scope["path"] == "/free":
            await answer(send, 200, b"")
            return
        if scope["path"].startswith(BOOKS):
            channel = Hash32(scope["path"].removeprefix(BOOKS))
            await answer(send, 200, json.dumps(await self._charged(channel)).encode())
            return
        if scope["path"] == "/metered":
            scope["agentpay"].charge(USED)
        await asyncio.sleep(0.002)
        await answer(send, 200, self._made(scope).encode())

    async def _charged(self, channel: Hash32) -> dict[str, int]:
        record = await self._payee._running.store.payee.read(channel)
        if record is None:
            return {}
        used, running = record.ledger.used, record.ledger.running
        over = {str(voucher.cumulative): voucher.charged for voucher in used}
        return over | {str(voucher.cumulative): voucher.charged for voucher in running}


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
    paywall = Paywall(Application(place.served, payee), payee=payee, routes=routes)
    door = Door(paywall, place.served)
    uvicorn.run(door, port=place.port, log_level="error", ws="none")


if __name__ == "__main__":
    main(sys.argv[1])
