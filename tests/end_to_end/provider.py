"""A provider in a process of its own, to be killed: see `test_kill_nine`."""

import asyncio
import sys

import uvicorn

from agentpay import Payee, Paywall, Route, Wallet
from agentpay.http.paywall import Receive, Scope, Send
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Money
from tests.http.world import answer


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    del receive
    if scope["path"] == "/metered":
        scope["agentpay"].charge(700)
    await asyncio.sleep(0.002)
    await answer(send, 200, b"42")


class Live:
    """Adds the lifespan that `application` leaves out."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await application(scope, receive, send)
            return
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return


def main(rpc_url: str, key: str, store: str, port: str) -> None:
    payee = Payee(
        Wallet.from_key(key),
        network=LocalChain(rpc_url=rpc_url).network,
        store=store,
        withdraw_delay=3600,
        claim_every_seconds=3600,
        claim_at="$1000",
    )
    routes: dict[str, Money | Route] = {
        "/fixed": 1000,
        "/metered": Route(price=1000, metered=True),
    }
    paywall = Paywall(Live(), payee=payee, routes=routes)
    uvicorn.run(paywall, port=int(port), log_level="critical", ws="none")


if __name__ == "__main__":
    main(*sys.argv[1:])
