"""
What is sold in the benchmark: a number that was not sold before.

The same application behind every paywall, ours and the peer's, and behind none.
"""

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI

PRICE = 1000
PATHS = {"batch-settlement": "/channel", "exact": "/exact"}
"""By what each path is paid for."""
App = Callable[[Any, Any, Any], Awaitable[None]]


def fastapi_goods() -> FastAPI:
    """As people write it."""
    app = FastAPI()
    numbers = itertools.count()

    @app.get("/channel")
    @app.get("/exact")
    async def sold() -> dict[str, int]:
        return {"number": next(numbers)}

    return app


def asgi_goods() -> App:
    """The least that answers: what is left is the server's and the paywall's."""
    numbers = itertools.count()
    headers = [(b"content-type", b"application/json")]

    async def sold(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        body = b'{"number":%d}' % next(numbers)
        sized = [*headers, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": sized})
        await send({"type": "http.response.body", "body": body})

    return sold
