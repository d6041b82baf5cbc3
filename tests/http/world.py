"""A payee, an application behind its paywall and agents that pay it, for these tests.

Nothing is mocked: the chain is a real Anvil, and HTTP is httpx's ASGI transport or a
real uvicorn.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import httpx
import uvicorn

from agentpay import Agent, Budget, Payee, Paywall, Policy, Route, Wallet
from agentpay.http.paywall import App, Message, Receive, Scope, Send
from agentpay.payee.pricing import Order
from agentpay.ports import Signer
from agentpay.records import PaymentRecord
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Money
from agentpay.wire.headers import decode_json, encode_json
from agentpay.wire.x402 import PAYMENT_REQUIRED

from .ways import WAYS, Chosen, in_process

BASE = "http://shop.example"
PRICE = 1000
BUDGET = Budget(total="$5", per_request="$0.10")
QUICK = Policy(deposit="$0.1", low_water="$0.01", give_up_seconds=3)
CHANNEL_ONLY = ("batch-settlement",)
EXACT_ONLY = ("exact",)


class Shop:
    """An application that does what the path says, and counts it."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.gate = asyncio.Event()
        """`/slow` waits for it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        path = str(scope["path"])
        self.begun[path] += 1
        query = {k: v[0] for k, v in parse_qs(scope["query_string"].decode()).items()}
        if "used" in query:
            scope["agentpay"].charge(int(query["used"]))
        if path.endswith("/raises"):
            raise RuntimeError("the handler failed")
        if path.endswith("/slow"):
            await self.gate.wait()
        status = int(query.get("status", "200"))
        await answer(send, status, b'{"answer":42}')
        if status < 400:
            self.served[path] += 1


class Heard:
    """What an application was sent that pays."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.credentials = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = [name for name, _ in scope.get("headers", [])]
        self.credentials += b"payment-signature" in names
        await self._app(scope, receive, send)


async def answer(
    send: Send, status: int, body: bytes, headers: Mapping[str, str] | None = None
) -> None:
    """A whole answer, which says how long it is as those of any framework do."""
    sized = {"content-length": str(len(body)), **(headers or {})}
    fields = [(name.encode(), value.encode()) for name, value in sized.items()]
    start = {"type": "http.response.start", "status": status, "headers": fields}
    await send(start)
    await send({"type": "http.response.body", "body": body})


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


ROUTES: dict[str, Money | Route] = {
    "/ok": PRICE,
    "/raises": PRICE,
    "/slow": PRICE,
    "/metered": Route(price=PRICE, metered=True),
    "/dear": "$0.05",
}
for _order in Order:
    for _kind, _schemes in {"channel": CHANNEL_ONLY, "exact": EXACT_ONLY}.items():
        for _what in ("ok", "raises", "slow"):
            ROUTES[f"/{_kind}/{_order}/{_what}"] = Route(
                price=PRICE, order=_order, schemes=_schemes
            )


async def open_payee(
    chain: LocalChain, *, wallet: Wallet | None = None, **options: Any
) -> Payee:
    """A payee that is not started, with gas and no dollars unless it is `wallet`."""
    wallet = wallet or await chain.funded_wallet(0)
    defaults: dict[str, Any] = {"network": chain.network, "withdraw_delay": 3600}
    return Payee(wallet, **{**defaults, **options})


@contextlib.asynccontextmanager
async def a_payee(chain: LocalChain, **options: Any) -> AsyncIterator[Payee]:
    """A started payee."""
    payee = await open_payee(chain, **options)
    await payee.start()
    try:
        yield payee
    finally:
        await payee.stop()


@contextlib.asynccontextmanager
async def a_shop(
    chain: LocalChain, shop: Shop | None = None, **options: Any
) -> AsyncIterator[tuple[Shop, Payee, Paywall]]:
    """An application behind the paywall of a started payee."""
    async with a_payee(chain, **options) as payee:
        shop = shop or Shop()
        yield shop, payee, Paywall(shop, payee=payee, routes=ROUTES)


def rewriting(app: App, header: str, change: Callable[[Any], Any]) -> App:
    """The same application, one of whose headers says something else."""
    named = header.lower().encode()

    async def rewritten(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_rewritten(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    (n, _rewritten(v, change) if n == named else v)
                    for n, v in message["headers"]
                ]
                message = {**message, "headers": headers}
            await send(message)

        await app(scope, receive, send_rewritten)

    return rewritten


def _rewritten(value: bytes, change: Callable[[Any], Any]) -> bytes:
    message = decode_json(value.decode(), name="a header of a test")
    return encode_json(change(message)).encode()


def through(app: App) -> httpx.AsyncBaseTransport:
    """A transport to an application in this process."""
    return in_process(app)


def client_of(app: App) -> httpx.AsyncClient:
    """A client of an application in this process, which pays for nothing itself."""
    return httpx.AsyncClient(transport=through(app), base_url=BASE)


def patient(options: dict[str, Any]) -> dict[str, Any]:
    """The same agent, that waits for a slow machine: what it does now must succeed."""
    return {**options, "policy": replace(options["policy"], give_up_seconds=20)}


async def an_agent(
    chain: LocalChain,
    transport: httpx.AsyncBaseTransport | None = None,
    *,
    wallet: Signer | None = None,
    **options: Any,
) -> Agent:
    """An agent that is not entered, with $100 unless `wallet` has something else."""
    defaults: dict[str, Any] = {
        "budget": BUDGET,
        "policy": QUICK,
        "network": chain.network,
    }
    return WAYS[Chosen.name](
        wallet or await chain.funded_wallet(ether=0),
        transport=transport,
        **{**defaults, **options},
    )


@contextlib.asynccontextmanager
async def serving(app: App, *, port: int = 0) -> AsyncIterator[str]:
    """A real server on a free port; yields its base URL."""
    config = uvicorn.Config(app, log_level="critical", port=port, ws="none")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        if task.done():
            raise RuntimeError("uvicorn did not start")
        await asyncio.sleep(0.005)
    bound = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{bound}"
    finally:
        server.should_exit = True
        await task


def cloud(rpc: FaultyRpc, payee: Payee) -> None:
    """What a payee sends from here on is mined, and it does not hear of that."""
    payee._running.sender._mined_within_seconds = 0.3
    rpc.plan("eth_sendRawTransaction", Fault.ANSWER_DROPPED, times=3)
    rpc.plan("eth_getTransactionReceipt", Fault.UNAVAILABLE, times=500)


async def clear(rpc: FaultyRpc, chain: LocalChain) -> None:
    """The chain tells all again."""
    rpc.heal()
    await chain.node.mine(2)


def called(rpc: FaultyRpc, method: str) -> int:
    """How often a method was called through a proxy."""
    return sum(call["method"] == method for calls in rpc.requests for call in calls)


async def until(holds: Callable[[], bool], *, seconds: float = 30) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def eventually(
    holds: Callable[[], Awaitable[bool]], *, seconds: float = 30
) -> None:
    """The same for a condition that is awaited."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


class Wire(httpx.AsyncBaseTransport):
    """A transport on which tests do harm, and see what passes."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.sent: list[httpx.Request] = []
        self.lose_requests = 0
        """So many paid requests do not arrive."""
        self.lose_answers = 0
        """So many paid requests arrive, and their answers do not."""
        self.hang: asyncio.Event | None = None
        """Paid requests wait for it before they are sent."""

    @property
    def credentials(self) -> list[str]:
        """What was paid with, in order."""
        return [c for request in self.sent if (c := _credential_of(request))]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(request)
        if not _credential_of(request):
            return await self.inner.handle_async_request(request)
        if self.hang is not None:
            await self.hang.wait()
        if self.lose_requests:
            self.lose_requests -= 1
            raise httpx.ConnectError("planned", request=request)
        response = await self.inner.handle_async_request(request)
        if self.lose_answers:
            self.lose_answers -= 1
            await response.aclose()
            raise httpx.ReadError("planned", request=request)
        return response

    async def aclose(self) -> None:
        await self.inner.aclose()


def _credential_of(request: httpx.Request) -> str:
    """What a request pays with, by either protocol; "" if it does not pay."""
    said = request.headers.get("authorization", "")
    by_mpp = said if said.startswith("Payment ") else ""
    return str(request.headers.get("payment-signature", by_mpp))


def required_header(response: httpx.Response) -> str:
    """The `PAYMENT-REQUIRED` header of a 402."""
    return str(response.headers[PAYMENT_REQUIRED])


def record_of(store: Any, payment_id: str) -> PaymentRecord:
    """A payment as a memory store has it."""
    found: PaymentRecord = store._payments[payment_id]
    return found
