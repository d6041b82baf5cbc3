"""
A paywall for any ASGI application: no framework is imported, bodies stream untouched.

Rejected is 402 with a fresh offer (412 where Permit2 may not move a payer's token),
malformed 400, unknown 503 and never 402, paid is the application's own answer with a
receipt. What an application answers with a status of 400 or more is not charged.
"""

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agentpay.errors import (
    AgentPayError,
    ChainError,
    ConfigurationError,
    MalformedMessage,
    StoreError,
)
from agentpay.http.asgi import (
    App,
    Message,
    Receive,
    Scope,
    Send,
    headers_of,
    send_refusal,
)
from agentpay.http.credentials import (
    Carried,
    NoCredential,
    RequestBody,
    brings_credential,
    header_lines,
    read_payment,
)
from agentpay.http.delivery import Delivery, Purchase
from agentpay.http.discovery import Discovery, DiscoveryPages
from agentpay.http.flow import open_flow
from agentpay.http.hearing import Hearing, tell_again
from agentpay.http.manners import check_origin, for_first_version, for_reader
from agentpay.http.paid_request import PaidRequest
from agentpay.http.price_list import PriceList
from agentpay.http.routes import RouteTable
from agentpay.http.withheld import told, withheld_for
from agentpay.payee.attestor import Attestor
from agentpay.payee.closings import Closings
from agentpay.payee.mpp_offers import Asked, problem
from agentpay.payee.offers import NO_PAYMENT, make_offers, malformed, unavailable
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Route, Terms
from agentpay.payee.sales import Refusal, Sale
from agentpay.payee.sign_in import FreeSale
from agentpay.stream_errors import StreamEnded
from agentpay.types import Address, Money
from agentpay.wire.mpp.evm_session import SESSION
from agentpay.wire.mpp.idempotency import IDEMPOTENCY_KEY
from agentpay.wire.mpp.preference import ACCEPT_PAYMENT
from agentpay.wire.mpp.problem import ProblemKind
from agentpay.wire.sign_in import HEADER
from agentpay.wire.x402 import PAYMENT_REQUIRED, PAYMENT_SIGNATURE
from agentpay.wire.x402_fitting import BYTES_MAX
from agentpay.wire.x402_v1 import X_PAYMENT, upgrade_payment

__all__ = ["App", "Message", "Paywall", "Receive", "Scope", "Send"]

SCOPE_KEY = "agentpay"

_BODY_BYTES_MAX = 1024 * 1024
"""Of a longer request, no answer that was withheld is told."""

_log = logging.getLogger(__name__)

_REQUIRED = PAYMENT_REQUIRED.lower()
_NO_STORE = {"content-type": "application/json", "cache-control": "no-store"}


class Paywall:
    """ASGI middleware that sells the routes in `routes` on behalf of a payee."""

    def __init__(
        self,
        app: App,
        *,
        payee: Payee,
        routes: Mapping[str, Money | Route | None],
        origin: str | None = None,
        protected: Sequence[str] = (),
        attestor: Attestor | None = None,
        v1: bool = False,
        discovery: Discovery | None = None,
    ) -> None:
        """
        `origin` is where clients reach the application (`"https://api.example.com"`);
        without it, offers name the `Host` that a request names. What is in no line of
        `routes` is free, or denied under one of the `protected` prefixes; there a line
        with the price None says what is free. An `attestor` signs offers and receipts.
        With `v1`, clients of x402's first version can pay too, by `exact`; with
        `discovery`, `/openapi.json` and `/llms.txt` say what is sold, free of charge.

        Raises:
            ConfigurationError: A route's key or price, the origin or a prefix cannot be
                used.
        """
        self._app = app
        self._payee = payee
        self._routes = RouteTable(routes, protected)
        origin = None if origin is None else check_origin(origin)
        self._prices = PriceList(self._routes, payee=payee, origin=origin)
        self._attestor = attestor
        self._v1 = v1
        if attestor is not None and origin is None:
            raise ConfigurationError("offers are signed for an origin: pass origin=")
        self._pages = None
        if discovery is not None:
            self._pages = DiscoveryPages(
                app, discovery, payee=payee, routes=self._routes, origin=origin
            )
        self._closings = Closings()
        own = [payee.mpp.credential_field] if payee.mpp else []
        self._paid_in = ", ".join([PAYMENT_SIGNATURE, *own])
        self._too_long = set[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._app(scope, self._starting(receive, send), self._stopping(send))
        elif kind == "http":
            await self._answer(scope, receive, send)
        elif kind == "websocket" and self._keeps_out(scope):
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    def _keeps_out(self, scope: Scope) -> bool:
        """A websocket pays for nothing, so it gets nothing that costs."""
        path, root = scope["path"], scope.get("root_path", "")
        return self._routes.costs(path, root=root) or self._routes.denies(
            "GET", path, root=root
        )

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
        method, path, root = scope["method"], scope["path"], scope.get("root_path", "")
        if self._pages is not None and self._pages.has(scope):
            await self._pages.answer(scope, receive, send)
            return
        terms = self._priced(scope)
        if terms is not None:
            asking = _Asking(
                scope=scope,
                body=RequestBody(receive),
                send=send,
                terms=terms,
                carried=self._carried(scope, terms),
            )
            outcome = await self._decide(asking)
            if isinstance(outcome, Refusal):
                await self._refuse(asking, outcome)
            else:
                await self._serve(asking, outcome)
        elif self._routes.denies(method, path, root=root):
            await send_refusal(send, Refusal(status=403, headers=_NO_STORE))
        else:
            await self._app(scope, receive, send)

    def _priced(self, scope: Scope) -> Terms | None:
        """
        The terms of what is asked for; None where it costs nothing.

        A `HEAD` may bring a voucher to a path that costs by another method only.
        """
        terms = self._prices.find(scope)
        if terms is not None:
            return terms
        mpp = self._payee.mpp
        if mpp is None or scope["method"] != "HEAD":
            return None
        if not brings_credential(scope, mpp.credential_field):
            return None
        return next(iter(self._prices.find_all(scope)), None)

    async def _refuse(self, asking: "_Asking", refusal: Refusal) -> None:
        asset, paid_in = self._payee.asset, self._paid_in
        if asking.terms.access_seconds:
            paid_in = f"{paid_in}, {HEADER}"
        asked = await self._asked(asking) if refusal.status == 402 else Asked()
        refusal = self._payee.refuse(refusal, asking.terms, asked, by_mpp=asking.by_mpp)
        if len(refusal.headers.get(_REQUIRED, "")) > BYTES_MAX:
            self._warn_of_length(asking, len(refusal.headers[_REQUIRED]))
        if self._v1:
            refusal = for_first_version(refusal, asset.chain)
        readable = for_reader(refusal, asking.scope, asset, paid_in=paid_in)
        await tell_again(asking.body.receive, asking.send, readable)

    def _warn_of_length(self, asking: "_Asking", size: int) -> None:
        """Once for each line of the table: anybody may ask for a long URL of it."""
        scope = asking.scope
        method, path, root = scope["method"], scope["path"], scope.get("root_path", "")
        found = self._routes.find(method, path, root=root)
        line = found.template if found else ""
        if line not in self._too_long:
            self._too_long.add(line)
            _log.warning(
                "the 402 of %s has a header of %d bytes (its URL has %d), and many"
                " clients read 8190: offer fewer ways to pay there, or say less of it",
                line,
                size,
                len(asking.terms.url),
            )

    async def _asked(self, asking: "_Asking", *, session: bool = False) -> Asked:
        """
        What a challenge for a request is bound to, beside its route.

        That of a session is for any body: it streams past, unread.
        """
        mpp, scope = self._payee.mpp, asking.scope
        head = scope["method"] == "HEAD"
        body: bytes | None = None
        if mpp is not None and not session:
            body = await asking.body.read(mpp.body_bytes_max)
        return Asked(
            body=body,
            preference=header_lines(scope, ACCEPT_PAYMENT),
            keys=header_lines(scope, IDEMPOTENCY_KEY),
            content=not head,
            alternatives=self._prices.find_all(scope) if session and head else (),
        )

    def _carried(self, scope: Scope, terms: Terms) -> Carried | Refusal:
        """What a request pays with, or what is wrong with that."""
        chain, mpp = self._payee.asset.chain, self._payee.mpp
        try:
            field = mpp.credential_field if mpp else None
            return read_payment(scope, v1=self._v1, mpp_field=field)
        except NoCredential as error:
            kind = ProblemKind.MALFORMED_CREDENTIAL
            return problem(self._payee.settings, terms, kind, str(error))
        except MalformedMessage as error:
            return malformed(str(error), chain)

    async def _decide(self, asking: "_Asking") -> Sale | Refusal:
        chain, terms, carried = self._payee.asset.chain, asking.terms, asking.carried
        if isinstance(carried, Refusal):
            return carried
        try:
            header = self._second_version(carried, terms)
        except MalformedMessage as error:
            return malformed(str(error), chain)
        try:
            await self._payee.start()
        except (ChainError, StoreError) as error:
            return unavailable(error, chain)
        if carried.mpp is not None:
            session = carried.mpp.challenge.intent == SESSION
            asking.asked = asked = await self._asked(asking, session=session)
            return await self._payee.answer_credential(carried.mpp, terms, asked)
        if terms.access_seconds:
            outcome = await self._let_in(asking.scope, header, terms)
        else:
            outcome = await self._payee.answer(header, terms)
        if self._attestor is None or not isinstance(outcome, Refusal):
            return outcome
        return await self._attestor.sign_offers(outcome, terms, chain=chain)

    def _second_version(self, carried: Carried, terms: Terms) -> str | None:
        """
        What a request pays with by x402, in version 2.

        Raises:
            MalformedMessage: It is not a payment of version 1.
        """
        if carried.first is None:
            return carried.x402
        offers = make_offers(self._payee.settings, terms)
        return upgrade_payment(carried.first, offers, terms.url)

    async def _let_in(
        self, scope: Scope, header: str | None, terms: Terms
    ) -> Sale | Refusal:
        """Who pays, or who has paid and signs that it is them."""
        sign_ins, chain = self._payee.sign_ins, self._payee.asset.chain
        proofs = header_lines(scope, HEADER)
        error = NO_PAYMENT
        if header is None and proofs:
            try:
                found = await sign_ins.admit(proofs[0], terms)
            except (ChainError, StoreError) as why:
                return unavailable(why, chain)
            if isinstance(found, Address):
                return FreeSale(found)
            error = found
        asking = replace(terms, challenge=sign_ins.challenge(terms))
        return await self._payee.answer(header, asking, why=error)

    async def _serve(self, asking: "_Asking", sale: Sale) -> None:
        receive = asking.body.receive
        flow = open_flow(sale, asking.terms, receive=receive, send=asking.send)
        decimals = self._payee.asset.decimals
        paid = PaidRequest(sale, asking.terms, decimals, flow=flow)
        hearing = Hearing(flow.presence.receive if flow else receive)
        delivery = Delivery(
            Purchase(
                sale=sale,
                terms=asking.terms,
                charge=paid,
                request=asking.scope,
                flow=flow,
                v1=self._v1 and bool(header_lines(asking.scope, X_PAYMENT)),
                mpp=asking.asked,
            ),
            payee=self._payee,
            attestor=self._attestor,
            hearing=hearing,
            send=asking.send,
            closings=self._closings,
        )
        scope = {**asking.scope, SCOPE_KEY: paid}
        try:
            app = await self._answering(asking, sale)
            await app(scope, hearing.receive, delivery.send)
        except StreamEnded as ended:
            await asyncio.shield(delivery.cut_short(ended))
        except Exception:
            await asyncio.shield(delivery.abandon(failed=True))
            raise
        finally:
            if flow is not None:
                flow.presence.end()
            # Most have been closed with their last byte; a task costs more than a look.
            if not delivery.closed:
                await asyncio.shield(delivery.finish())

    async def _answering(self, asking: "_Asking", sale: Sale) -> App:
        """The application; or what it answered to this payment, and was withheld."""
        if not sale.withheld:
            return self._app
        wanted = withheld_for(sale, asking.terms, headers_of(asking.scope))
        try:
            earlier = await self._payee.answers.find(sale.withheld, wanted)
        except StoreError as error:
            _log.warning("a withheld answer cannot be read: %s", error)
            return self._app
        if earlier is None:
            return self._app
        if earlier.content:
            body = await asking.body.read(_BODY_BYTES_MAX)
            if body is None or hashlib.sha256(body).digest() != earlier.content:
                return self._app
        return told(earlier)


@dataclass(slots=True, kw_only=True)
class _Asking:
    """One request for something that costs money, and where its answer goes."""

    scope: Scope
    body: RequestBody
    send: Send
    terms: Terms
    carried: Carried | Refusal
    """What it pays with, or what is wrong with that."""
    asked: Asked | None = None
    """What it is, to MPP, where it pays by that."""

    @property
    def by_mpp(self) -> bool:
        """Whether it brings a credential of MPP, and is answered in its words."""
        return isinstance(self.carried, Carried) and self.carried.mpp is not None
