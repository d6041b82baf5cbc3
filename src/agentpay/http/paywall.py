"""
A paywall for any ASGI application: no framework is imported, bodies stream untouched.

Rejected is 402 with a fresh offer, malformed 400, unknown 503 and never 402, paid is
the application's own answer with a receipt. What an application answers with a status
of 400 or more is not charged.
"""

import asyncio
from collections.abc import Mapping

from agentpay.errors import AgentPayError, ChainError, ConfigurationError, StoreError
from agentpay.http.asgi import App, Message, Receive, Scope, Send, send_refusal
from agentpay.http.delivery import Closings, Delivery, Hearing, Purchase, tell_again
from agentpay.http.routes import RouteTable
from agentpay.payee.payee import Payee, unavailable
from agentpay.payee.pricing import Route, Terms
from agentpay.payee.sales import Refusal, Sale
from agentpay.types import Address, Money, to_base_units
from agentpay.wire.x402 import PAYMENT_SIGNATURE

__all__ = ["App", "Message", "PaidRequest", "Paywall", "Receive", "Scope", "Send"]

SCOPE_KEY = "agentpay"

_CREDENTIAL = PAYMENT_SIGNATURE.lower().encode()


class PaidRequest:
    """Who paid for this request, and how a metered handler says what it used."""

    def __init__(self, sale: Sale, terms: Terms, decimals: int) -> None:
        self._sale = sale
        self._terms = terms
        self._decimals = decimals
        self._charged: int | None = None
        self._final = False

    @property
    def payer(self) -> Address:
        """The account that pays."""
        return self._sale.payer

    @property
    def maximum(self) -> int:
        """The most this request may cost, in base units."""
        return self._sale.maximum

    @property
    def charged(self) -> int:
        """What this request costs as things stand, in base units."""
        return self.maximum if self._charged is None else self._charged

    def charge(self, money: Money) -> None:
        """
        Say what the request really costs, before its answer starts.

        Raises:
            ConfigurationError: The route is not metered, the amount is above its
                maximum, or the answer has started and its receipt with it.
        """
        try:
            amount = to_base_units(money, self._decimals)
        except ValueError as error:
            raise ConfigurationError(f"{self._terms.resource}: {error}") from error
        if not self._terms.metered:
            raise ConfigurationError(f"{self._terms.resource} is not a metered route")
        if amount > self.maximum:
            raise ConfigurationError(
                f"{self._terms.resource} may cost {self.maximum} at most, not {amount}"
            )
        if self._final:
            raise ConfigurationError("the receipt is in the answer's headers: too late")
        self._charged = amount

    def close(self) -> int:
        """Fix the charge: the answer starts."""
        self._final = True
        return self.charged


class Paywall:
    """ASGI middleware that sells the routes in `routes` on behalf of a payee."""

    def __init__(
        self, app: App, *, payee: Payee, routes: Mapping[str, Money | Route]
    ) -> None:
        """
        Raises:
            ConfigurationError: A route's key or price cannot be used.
        """
        self._app = app
        self._payee = payee
        self._routes = RouteTable(routes)
        self._closings = Closings()
        for route in self._routes.all():
            payee.terms(route, resource="a route", url="")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._app(scope, self._starting(receive, send), self._stopping(send))
        elif kind == "http":
            await self._answer(scope, receive, send)
        elif kind == "websocket" and self._routes.costs(
            scope["path"], root=scope.get("root_path", "")
        ):
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    def _starting(self, receive: Receive, send: Send) -> Receive:
        async def receive_started() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._payee.start()
                except AgentPayError as error:
                    failed = {"type": "lifespan.startup.failed", "message": str(error)}
                    await send(failed)
                    raise
            return message

        return receive_started

    def _stopping(self, send: Send) -> Send:
        async def send_stopped(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown"):
                await self._payee.stop()
            await send(message)

        return send_stopped

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.find(
            scope["method"], scope["path"], root=scope.get("root_path", "")
        )
        if route is None:
            await self._app(scope, receive, send)
            return
        terms = self._payee.terms(
            route,
            resource=f"{scope['method']} {scope['path']}",
            url=_url_of(scope),
            query=scope.get("query_string", b"").decode("latin-1"),
        )
        credentials = [v for name, v in scope["headers"] if name == _CREDENTIAL]
        if len(credentials) > 1:
            await send_refusal(send, Refusal(status=400))
            return
        header = credentials[0].decode("latin-1") if credentials else None
        try:
            await self._payee.start()
        except (ChainError, StoreError) as error:
            await send_refusal(send, unavailable(error))
            return
        outcome = await self._payee.answer(header, terms)
        if isinstance(outcome, Refusal):
            await tell_again(receive, send, outcome)
            return
        await self._serve(scope, receive, send, outcome, terms)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, sale: Sale, terms: Terms
    ) -> None:
        paid = PaidRequest(sale, terms, self._payee.asset.decimals)
        hearing = Hearing(receive)
        delivery = Delivery(
            Purchase(sale=sale, terms=terms, charge=paid),
            answers=self._payee.answers,
            hearing=hearing,
            send=send,
            closings=self._closings,
        )
        try:
            await self._app({**scope, SCOPE_KEY: paid}, hearing.receive, delivery.send)
        except Exception:
            await asyncio.shield(delivery.abandon(failed=True))
            raise
        finally:
            await asyncio.shield(delivery.finish())


def _url_of(scope: Scope) -> str:
    """The requested resource. From `Host`, so a label for people, never a check."""
    host = next((v for n, v in scope["headers"] if n == b"host"), b"localhost")
    query = scope.get("query_string", b"")
    path = scope.get("raw_path") or scope["path"].encode()
    suffix = b"?" + query if query else b""
    scheme = scope.get("scheme", "http")
    return f"{scheme}://{(host + path + suffix).decode('latin-1')}"
