"""A shop that takes both protocols, and what tests look at when charges are paid."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from agentpay import Agent, MppTerms, Payee, Paywall, Policy
from agentpay.http.paywall import App, Message, Receive, Scope, Send
from agentpay.payer.policy import scale
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.mpp.challenge import Challenge, format_challenge, parse_challenges
from agentpay.wire.mpp.credential import find_credential, parse_credential
from agentpay.wire.mpp.encoding import encode_object
from tests.http.world import (
    ROUTES,
    Shop,
    Wire,
    a_payee,
    through,
)
from tests.payee.mpp_hand import MPP

BASE = "https://shop.example"
BY_CHARGE = Policy(prefer=("charge",), give_up_seconds=3)
OK = f"{BASE}/exact/reserve-then-settle/ok"
SERVED_FIRST = f"{BASE}/exact/serve-then-settle/ok"


@contextlib.asynccontextmanager
async def a_market(
    chain: LocalChain, *, mpp: MppTerms = MPP, **options: Any
) -> AsyncIterator[tuple[Shop, Payee, Wire]]:
    """A shop that takes both protocols, and the wire to it."""
    async with a_payee(chain, mpp=mpp, **options) as payee:
        shop = Shop()
        yield shop, payee, Wire(through(Paywall(shop, payee=payee, routes=ROUTES)))


async def held(agent: Agent) -> int:
    """What an agent's signatures may still move, in base units."""
    return (await agent.spending()).held // scale(1, 6)


async def spent(agent: Agent) -> int:
    """What it knows to have spent, in base units."""
    return (await agent.spending()).spent // scale(1, 6)


def paid_with(credential: str) -> Any:
    """The credential that a header holds."""
    found = find_credential([credential])
    assert found is not None
    return parse_credential(found)


def challenging(app: App, change: Callable[[Challenge], Challenge | None]) -> App:
    """The same application, whose challenges were changed on their way."""

    async def changed(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_changed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: list[tuple[bytes, bytes]] = []
                for name, value in message["headers"]:
                    if name != b"www-authenticate":
                        headers.append((name, value))
                        continue
                    for challenge in parse_challenges([value.decode()]):
                        other = change(challenge)
                        if other is not None:
                            line = format_challenge(other).encode()
                            headers.append((name, line))
                message = {**message, "headers": headers}
            await send(message)

        await app(scope, receive, send_changed)

    return changed


def changed(challenge: Challenge, **asked: str) -> str:
    """What a challenge asks for, but for this."""
    return encode_object({**challenge.decode_request(), **asked})


def app_of(wire: Wire) -> App:
    assert isinstance(wire.inner, httpx.ASGITransport)
    return wire.inner.app
