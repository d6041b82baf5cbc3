"""
A provider for `uvicorn --workers`: what it sells, and which process sold it.

Each worker imports this and makes a payee of its own. Where everything is, is in the
environment, since uvicorn's workers get nothing else.
"""

import asyncio
import json
import os

from agentpay import Payee, Paywall, Route, Wallet
from agentpay.http.paywall import Receive, Scope, Send
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Money
from tests.end_to_end.provider import Live
from tests.http.world import answer

PRICE = 1000
ROUTES: dict[str, Money | Route] = {
    "/channel": Route(price=PRICE, schemes=("batch-settlement",)),
    "/metered": Route(price=PRICE, schemes=("batch-settlement",), metered=True),
    "/transfer": Route(price=PRICE, schemes=("exact",)),
}


def say(words: str) -> None:
    """One line in the journal, whole, whoever else writes."""
    file = os.open(os.environ["SHOP_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{words}\n".encode())
    os.close(file)


class Shop(Live):
    """Says in the journal what it serves."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        if scope["path"] == "/who":
            owner = payee._running.store.payee.owner
            body = json.dumps({"process": os.getpid(), "owner": owner})
            await answer(send, 200, body.encode(), {"connection": "close"})
            return
        say(f"{os.getpid()} {scope['path']}")
        if scope["path"] == "/metered":
            scope["agentpay"].charge(700)
        await asyncio.sleep(0.05)
        await answer(send, 200, b"42")


def make_payee() -> Payee:
    chain = LocalChain(rpc_url=os.environ["SHOP_RPC"])
    return Payee(
        Wallet.from_key(os.environ["SHOP_KEY"]),
        network=chain.network,
        store=os.environ["SHOP_STORE"],
        withdraw_delay=3600,
        claim_every_seconds=3600,
        claim_at=os.environ["SHOP_CLAIM_AT"],
    )


if "SHOP_STORE" in os.environ:
    payee = make_payee()
    app = Paywall(Shop(), payee=payee, routes=ROUTES)
