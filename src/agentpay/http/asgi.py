"""
ASGI's words, and how a whole answer is sent in them.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from agentpay.payee.sales import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


async def send_refusal(send: Send, refusal: Refusal) -> None:
    """Send a refusal as it is."""
    headers = [(n.encode(), v.encode("latin-1")) for n, v in refusal.headers.items()]
    headers.append((b"content-length", str(len(refusal.body)).encode()))
    await send_whole(send, refusal.status, headers, refusal.body)


async def send_whole(
    send: Send, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes
) -> None:
    """Send an answer that is all there."""
    start = {"type": "http.response.start", "status": status, "headers": [*headers]}
    await send(start)
    await send({"type": "http.response.body", "body": body})


def headers_of(message: Message) -> Headers:
    """The headers of a message, as bytes."""
    return [(bytes(n), bytes(v)) for n, v in message.get("headers", ())]
