"""Calls an ASGI application without a socket, as rudely as a socket would let one."""

import asyncio
from dataclasses import dataclass

from agentpay.http.asgi import App, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


async def call(
    app: App,
    method: str,
    path: str,
    *,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    body: bytes = b"",
    query: bytes = b"",
) -> Answer:
    """One request; its headers may have what no HTTP parser lets through."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"shop.example"), *headers],
    }
    sent: list[Message] = []
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if asked:
            await asyncio.Event().wait()
        asked = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    parts = [m.get("body", b"") for m in sent if m["type"] == "http.response.body"]
    return Answer(
        status=sent[0]["status"],
        headers={bytes(n).lower(): bytes(v) for n, v in sent[0]["headers"]},
        body=b"".join(parts),
    )
