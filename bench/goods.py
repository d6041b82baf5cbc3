"""
What is sold in the benchmark: a number that was not sold before.

The same application behind every paywall, ours and the peer's, and behind none.
"""

import itertools
import os
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI

PRICE = 1000
SCHEMES = {"batch-settlement": "/channel", "exact": "/exact"}
"""By what scheme of x402 each path is paid for."""
PATHS = {**SCHEMES, "charge": "/charge"}
"""The same, and what is paid for by MPP's intent."""
UNPAID = ("none", "least")
"""What stands where others have a store: nobody is paid, though the least looks."""
_OF_EACH = 10**9
"""Numbers of each process: its workers sell none twice."""
App = Callable[[Any, Any, Any], Awaitable[None]]


def fastapi_goods() -> FastAPI:
    """As people write it."""
    app = FastAPI()
    numbers = itertools.count(os.getpid() * _OF_EACH)

    @app.get("/channel")
    @app.get("/exact")
    @app.get("/charge")
    async def sold() -> dict[str, int]:
        return {"number": next(numbers)}

    return app


def asgi_goods() -> App:
    """The least that answers: what is left is the server's and the paywall's."""
    numbers = itertools.count(os.getpid() * _OF_EACH)
    headers = [(b"content-type", b"application/json")]

    async def sold(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        body = b'{"number":%d}' % next(numbers)
        sized = [*headers, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": sized})
        await send({"type": "http.response.body", "body": body})

    return sold
