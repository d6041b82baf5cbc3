"""
The official MPP server in Python: sells `/charge`, and `/body` to requests whose body
its challenges are bound to; settles by a facilitator.

It takes x402 as well, from clients that know nothing of MPP. No two answers are the
same. Told to be `quiet`, it keeps no notes, which cost time.
"""

import asyncio
import itertools
from decimal import Decimal

from lines import Json, mpp_note, named, note, read, serve
from mpp.methods.evm import server as evm
from mpp.server import Mpp, pay
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class Shop:
    """What is sold, and what was answered to each payment."""

    def __init__(self, settings: Json) -> None:
        self._price = Decimal(settings["price"]).scaleb(-settings["decimals"])
        self._server = Mpp(
            methods=evm.charge(
                currency=settings["token"],
                recipient=settings["pay_to"],
                chain_id=settings["chain_id"],
                decimals=settings["decimals"],
                authorization={
                    "name": settings["name"],
                    "version": settings["version"],
                },
                facilitator=settings["facilitator"],
                route_binding="resource",
            ),
            realm="peers",
            secret_key=settings["secret"],
        )
        self._numbers = itertools.count()
        self._quiet = settings.get("quiet", False)
        self.notes: list[Json] = []

    def app(self) -> Starlette:
        amount = f"{self._price:f}"

        @pay(self._server.charge(amount=amount))
        async def sold(request: Request, credential, receipt) -> Response:
            return self._sold()

        @pay(self._server.charge(amount=amount, body=lambda request: request.body))
        async def sold_to_body(request: Request, credential, receipt) -> Response:
            return self._sold()

        # The SDK wraps them in something whose arguments a route cannot read.
        async def charge(request: Request) -> Response:
            return await sold(request)

        async def body(request: Request) -> Response:
            return await sold_to_body(request)

        watch = [Middleware(BaseHTTPMiddleware, dispatch=self._watch)]
        routes = [Route("/charge", charge), Route("/body", body, methods=["POST"])]
        return Starlette(routes=routes, middleware=[] if self._quiet else watch)

    def _sold(self) -> Response:
        return JSONResponse({"sold": "a charge", "number": next(self._numbers)})

    async def _watch(self, request: Request, call_next) -> Response:
        response = await call_next(request)
        status = response.status_code
        if payment := request.headers.get("Authorization"):
            receipt = response.headers.get("Payment-Receipt")
            self.notes.append(mpp_note(status, payment, receipt))
        elif payment := request.headers.get("PAYMENT-SIGNATURE"):
            receipt = response.headers.get("PAYMENT-RESPONSE")
            self.notes.append(note(status, payment, receipt))
        return response

    async def act(self, command: Json) -> Json:
        del command
        notes, self.notes = self.notes, []
        return {"notes": notes}


async def main() -> None:
    shop = Shop(read() or {})
    await serve(shop.app(), shop.act, named("pympp", "pympp"))


if __name__ == "__main__":
    asyncio.run(main())
