"""
An httpx transport that pays: put it under any `httpx.AsyncClient`.

It sits below redirects, so that a credential never leaves for another origin. The first
request to a route learns its price from a 402; the next ones carry their payment, and
cost one round trip.
"""

import asyncio
import random
from collections.abc import Mapping
from functools import partial
from typing import Any

import httpx

from agentpay.core.exchange import Next
from agentpay.errors import (
    AnswerLost,
    ChallengeUsed,
    NoAcceptableOffer,
    PaymentOutcomeUnknown,
    PaymentRejected,
    PriceRose,
)
from agentpay.http.bodies import copied, read_body
from agentpay.http.first_version import read_first
from agentpay.http.guard import NetworkGuard, check_redirect, note_origin
from agentpay.http.memory import Memory
from agentpay.http.offered import allowed, choose, costs, request_of
from agentpay.http.paid_stream import carry
from agentpay.http.places import check_network
from agentpay.http.pools import NEVER_SENT, Unsendable
from agentpay.http.readings import answer_of, fields_of, target_of
from agentpay.http.receipts import Receipts
from agentpay.http.refused import Refused, price_of, read_refused
from agentpay.http.reread import read_problem_of
from agentpay.payer.mpp_offers import preference
from agentpay.payer.offer import Offer
from agentpay.payer.payer import Payer
from agentpay.payer.payment import Answer, Judgement, Payment, Target
from agentpay.payer.receipts import KeepReceipt
from agentpay.wire import sign_in
from agentpay.wire.mpp.preference import ACCEPT_PAYMENT
from agentpay.wire.x402 import PAYMENT_SIGNATURE
from agentpay.wire.x402_v1 import X_PAYMENT

_CHALLENGE_SECONDS = (0.05, 0.1, 0.2, 0.4)
_RESEND_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
_NOT_SENT = frozenset({PAYMENT_SIGNATURE.lower(), "transfer-encoding"})
_NOT_SENT_V1 = _NOT_SENT | {X_PAYMENT.lower()}


class PaymentTransport(httpx.AsyncBaseTransport):
    """Pays 402s with a `Payer` and sends everything through `inner`."""

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport,
        *,
        allow_private_networks: bool = False,
        on_receipt: KeepReceipt | None = None,
    ) -> None:
        """
        `bind` gives it its payer, which asks questions through it. `on_receipt` is told
        of the receipts that payees sign.
        """
        self._inner = inner
        self._allow_private_networks = allow_private_networks
        self._guard = NetworkGuard()
        self._receipts = Receipts(on_receipt)
        self._payer: Payer | None = None
        self._v1 = False
        self._preference = ""
        self._memory = Memory()
        self.round_trips = 0

    def bind(self, payer: Payer) -> None:
        """Pay with this payer from now on."""
        self._payer = payer
        self._v1 = payer.policy.v1
        self._preference = preference(payer.policy)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        Send a request, and pay for it if it costs something.

        Raises:
            PaymentRefused: We would not pay; nothing was signed.
            PaymentRejected: The payee refused our payment.
            PaymentOutcomeUnknown: Sent and unanswered; it stays reserved.
            AnswerLost: It was paid once and its answer cannot be had.
            PayeeMisbehaved: The payee contradicted itself or our signatures.
        """
        await read_body(request, bytes_max=self._bound().policy.body_bytes_max)
        target = target_of(request)
        note_origin(request, target.origin)
        known = await self._memory.recall(target)
        offer = known.fits(lambda: request_of(request)) if known is not None else None
        returns = self._bound().policy.sign_in and self._bound().returns.may(target)
        if offer is None or returns:
            learned = await self._learn(request, target, alone=known is None)
            if isinstance(learned, httpx.Response):
                return learned
            offer = learned
            back = await self._come_back(request, target, offer) if returns else None
            if back is not None:
                return back
        for pause in _CHALLENGE_SECONDS:
            try:
                return await self._pay_and_send(request, target, offer)
            except ChallengeUsed:  # some servers repeat them within a millisecond
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311
            learned = await self._learn(request, target, alone=False)
            if isinstance(learned, httpx.Response):
                return learned
            offer = learned
        return await self._pay_and_send(request, target, offer)

    async def _come_back(
        self, request: httpx.Request, target: Target, offer: Offer
    ) -> httpx.Response | None:
        """Sign in where an answer was paid before; None if it is to be paid again."""
        returns = self._bound().returns
        proof = await returns.sign(offer, target)
        if proof is None:
            return None
        response = await self._send(request, target, {sign_in.HEADER: proof})
        if not costs(response):
            return response
        returns.refused(target)
        await response.aclose()
        return None

    async def _pay_and_send(
        self, request: httpx.Request, target: Target, offer: Offer
    ) -> httpx.Response:
        payer = self._bound()
        if not payer.policy.pay_redirected:
            check_redirect(request, target.origin)
        reason = ""
        for _ in range(payer.policy.pay_again_max + 1):
            try:
                payment = await payer.pay(offer, target)
            except PriceRose:
                self._memory.forget(target)  # it may fall again
                raise
            answered = await self._until_final(request, target, payment, offer)
            if isinstance(answered, httpx.Response):
                self._receipts.take(
                    answered,
                    payer=payer,
                    payment=payment,
                    offer=offer,
                    url=request.url,
                )
                if answered.status_code < 400:
                    self._memory.note_agreed(target, price_of(offer))
                    payer.returns.paid(offer, target)
                return answered
            reason, fresh = answered.reason, answered.fresh
            self._memory.forget(target)
            if fresh is None or answered.rose_from(offer):
                # A price that rose after we agreed is a new decision: the caller's.
                raise PaymentRejected(reason or "the offer changed", status=402)
            self._memory.remember(target, fresh)
            offer = fresh
        raise PaymentRejected(f"it kept refusing what it offers: {reason}", status=402)

    async def _until_final(
        self, request: httpx.Request, target: Target, payment: Payment, offer: Offer
    ) -> httpx.Response | Refused:
        """
        Send one payment until its answer is final: the answer to deliver, or why it
        bought nothing with the offer to pay instead.
        """
        books, policy = self._bound().ledger, self._bound().policy
        deadline = asyncio.get_running_loop().time() + policy.give_up_seconds
        sent_at, arrived = books.now(), False
        attempt, why, response = 0, "no answer", None
        paid = fields_of(payment, request)
        settled = False
        try:
            while await _have_time(attempt, deadline):
                attempt += 1
                try:
                    response = await self._send(request, target, paid)
                except httpx.TransportError as error:
                    why = f"{type(error).__name__}: {error}"
                    arrived = arrived or not isinstance(error, NEVER_SENT)
                    if isinstance(error, Unsendable):
                        break  # nor would it leave another time
                    continue
                copied, arrived = arrived, True
                answer = answer_of(response)
                judged = await payment.book(answer, resent=attempt > 1)
                why = judged.reason or f"status {response.status_code}"
                if judged.next is Next.DELIVER:
                    await self._note(target, judged, answer, sent_at)
                    settled = True
                    running = partial(self._bound().running, payment, offer, target)
                    carry(response, payment, judged, running)
                    return response
                refused = await self._read_again(
                    response, target, judged, payment, offer
                )
                if judged.next is Next.RENEW:
                    payment = await self._renew(payment, refused, target)
                    paid |= {payment.header: payment.credential}
                if judged.next in (Next.RESEND, Next.RENEW):
                    continue
                if copied and judged.next is Next.REJECTED and not judged.final:
                    self._memory.forget(target)
                    break  # the copy before it may be served
                settled = True
                if judged.charged or judged.next is Next.LOST:
                    await books.undelivered(target.host, sent_at=sent_at)
                self._check_bought(judged, payment, target, answer)
                return refused
            if arrived:  # for all we know
                await books.undelivered(target.host, sent_at=sent_at)
            raise PaymentOutcomeUnknown(payment.id, why)
        finally:
            if not settled:
                await payment.leave_open()
                if response is not None:
                    await response.aclose()

    def _check_bought(
        self, judged: Judgement, payment: Payment, target: Target, answer: Answer
    ) -> None:
        """
        Raises:
            AnswerLost: It was charged, and there is no answer to be had.
            PaymentRejected: It was refused in a way that paying anew would not mend.
        """
        if judged.next is Next.LOST:
            raise AnswerLost(payment.id, charged=judged.charged)
        if judged.next is Next.REJECTED:
            # Its terms may have changed: the next request learns them anew.
            self._memory.forget(target)
            raise PaymentRejected(judged.reason, status=answer.status)

    async def _renew(
        self, payment: Payment, refused: Refused, target: Target
    ) -> Payment:
        """
        What was signed, under a fresh offer; `PaymentRejected` if there is none for it.
        """
        fresh = refused.fresh
        renewed = await payment.renew(fresh) if fresh is not None else None
        if fresh is None or renewed is None:
            self._memory.forget(target)
            raise PaymentRejected(refused.reason or "no fresh offer", status=402)
        self._memory.remember(target, fresh)
        return renewed

    async def _note(
        self, target: Target, judged: Judgement, answer: Answer, sent_at: float
    ) -> None:
        """An error that cost money, or perhaps did, is no delivery (C15)."""
        books = self._bound().ledger
        if answer.status < 500:
            await books.delivered(target.host)
        elif judged.charged or not judged.final:
            await books.undelivered(target.host, sent_at=sent_at)

    async def _read_again(
        self,
        response: httpx.Response,
        target: Target,
        judged: Judgement,
        payment: Payment,
        offer: Offer,
    ) -> Refused:
        """What an answer says that is done with, and delivers nothing."""
        refused = await read_refused(
            response,
            target,
            judged,
            offer=offer,
            # What is carried on was signed for this URL.
            agreed=price_of(offer) if payment.again else self._memory.agreed(target),
            payer=self._bound(),
            receipts=self._receipts,
        )
        if refused.differs:
            self._memory.tell_apart(target)
        await response.aclose()
        return refused

    # Sending.

    async def _send(
        self, request: httpx.Request, target: Target, added: Mapping[str, str]
    ) -> httpx.Response:
        said = added or self._preferred(request, target)
        dropped = _NOT_SENT_V1 if self._v1 else _NOT_SENT
        copy = copied(request, said, dropped=dropped)
        copy.extensions = self._watched(request, target, paid=bool(added))
        self.round_trips += 1
        response = await self._inner.handle_async_request(copy)
        response.request = request
        if self._v1:
            await read_first(response)
        if added:
            await read_problem_of(response)
        return response

    def _preferred(self, request: httpx.Request, target: Target) -> dict[str, str]:
        """What we would rather be offered, told to an origin that charges."""
        if ACCEPT_PAYMENT in request.headers or not self._preference:
            return {}
        charges = self._memory.charges(target.origin)
        return {ACCEPT_PAYMENT: self._preference} if charges else {}

    def _watched(
        self, request: httpx.Request, target: Target, *, paid: bool
    ) -> dict[str, Any]:
        if self._allow_private_networks:
            return request.extensions
        return self._guard.watch(request.extensions, target.origin, paid=paid)

    async def ask(
        self, method: str, url: str, credential: str, *, field: str = PAYMENT_SIGNATURE
    ) -> Answer | None:
        """See `payer.payment.Asker`."""
        seconds = min(10.0, self._bound().policy.give_up_seconds)  # not for each read
        request = httpx.Request(method, url)
        try:
            async with asyncio.timeout(seconds):
                response = await self._send(
                    request, target_of(request), {field: credential}
                )
        except (httpx.TransportError, TimeoutError):
            return None
        await response.aclose()
        return answer_of(response)

    # Offers.

    async def look_up(self, url: str) -> tuple[tuple[Offer, ...], Target]:
        """
        All that a URL may be paid by, without paying.

        Raises:
            NoAcceptableOffer: It is free, or offers nothing we would pay.
        """
        request = httpx.Request("GET", url)
        target = target_of(request)
        response = await self._send(request, target, {})
        try:
            if not costs(response):
                raise NoAcceptableOffer(f"{url} answered {response.status_code}")
            return allowed(response, self._bound()), target
        finally:
            await response.aclose()

    async def _learn(
        self, request: httpx.Request, target: Target, *, alone: bool
    ) -> httpx.Response | Offer:
        """
        Ask without paying: the answer to deliver, or the offer of a 402.

        With `alone`, others that would ask the same of an origin that charges wait.
        """
        with self._memory.learning(target, alone=alone):
            response = await self._send(request, target, {})
            if not costs(response):
                self._memory.remember(target, None)
                return response
            try:
                if not self._allow_private_networks:
                    check_network(response, request.url)
                offer = await choose(
                    response, target, payer=self._bound(), receipts=self._receipts
                )
            finally:
                await response.aclose()
            self._memory.remember(target, offer)
            return offer

    def _bound(self) -> Payer:
        if self._payer is None:
            raise RuntimeError("PaymentTransport.bind was not called")
        return self._payer

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _have_time(attempts: int, deadline: float) -> bool:
    """Whether to send a payment once more, after a pause if it was sent before."""
    if attempts:
        await asyncio.sleep(_RESEND_SECONDS[min(attempts, len(_RESEND_SECONDS)) - 1])
    return asyncio.get_running_loop().time() < deadline
