"""
One answer on its way: charged before its first byte, kept and closed after its last.
"""

import asyncio
import json
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from agentpay.errors import ChainError, StoreError
from agentpay.http.asgi import (
    Headers,
    Message,
    Scope,
    Send,
    headers_of,
    send_refusal,
)
from agentpay.http.flow import Flow
from agentpay.http.hearing import Hearing
from agentpay.http.manners import for_first_version, keep_private
from agentpay.http.withheld import withheld_for
from agentpay.payee.attestor import Attestor
from agentpay.payee.closings import Closings
from agentpay.payee.mpp_offers import UNKNOWN, Asked, problem
from agentpay.payee.offers import unavailable
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Terms
from agentpay.payee.sales import Refusal, Sale
from agentpay.records import AnswerRecord
from agentpay.stream_errors import StreamEnded, StreamExhausted, StreamLost
from agentpay.wire.mpp.problem import ProblemKind
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT
from agentpay.wire.x402 import PAYMENT_RESPONSE
from agentpay.wire.x402_v1 import X_PAYMENT, X_PAYMENT_RESPONSE, downgrade_receipt

T = TypeVar("T")

_UNPAID = {"content-type": "application/json", "cache-control": "no-store"}
_LENGTH = b"content-length"
_RECEIPT = PAYMENT_RESPONSE.lower().encode()
_MPP_RECEIPT = PAYMENT_RECEIPT.lower().encode()
_FIRST_RECEIPT = X_PAYMENT_RESPONSE.lower().encode()


class Charge(Protocol):
    """How much an answer costs, once it starts."""

    def close(self) -> int: ...


class _Copy:
    """A copy of an answer as it passes, until it is larger than what is kept."""

    def __init__(self, bytes_max: int) -> None:
        self._left = bytes_max
        self._parts: list[bytes] = []
        self.status = 0
        self.headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def whole(self) -> bool:
        return self._left >= 0

    @property
    def body(self) -> bytes:
        return b"".join(self._parts)

    def start(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, tuple(headers)

    def add(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            self._left = -1  # a file or trailers, which we do not see
        part = message.get("body", b"")
        self._left -= len(part)
        if self.whole:
            self._parts.append(part)
        else:
            self._parts.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """What one request bought, and on which terms."""

    sale: Sale
    terms: Terms
    charge: Charge
    request: Scope
    flow: Flow | None = None
    """How its answer is paid while it flows, if it is."""
    v1: bool = False
    """Paid for by a client of x402's first version, which looks elsewhere."""
    mpp: Asked | None = None
    """Paid for by MPP, with a challenge for this."""


class Delivery:
    """Carries one answer: charges before its first byte, closes after its last."""

    def __init__(
        self,
        purchase: Purchase,
        *,
        payee: Payee,
        attestor: Attestor | None,
        hearing: Hearing,
        send: Send,
        closings: Closings,
    ) -> None:
        self._purchase = purchase
        self._sale = purchase.sale
        self._flow = purchase.flow
        self._payee = payee
        self._answers = payee.answers
        self._sign_ins = payee.sign_ins
        self._attestor = attestor
        self._hearing = hearing
        self._send = send
        self._closings = closings
        self._copy = _Copy(self._answers.policy.bytes_each)
        self._head: Message | None = None
        """Held back, of an answer that may come whole."""
        self._started = False
        self._closed = False
        self._replaced = False

    @property
    def closed(self) -> bool:
        """Whether nothing is left to `finish`."""
        return self._closed

    async def send(self, message: Message) -> None:
        head, self._head = self._head, None
        if head is not None and message["type"] != "http.response.start":
            if await self._send_whole(head, message):
                return
            await self._start(head)
        if self._replaced:
            await self._withhold(message)
            return
        if message["type"] == "http.response.start":
            if self._may_come_whole(message):
                self._head = message
                return
            await self._start(message)
            return
        if self._flow is not None and not self._closed:
            await self._flow_on(self._flow, message)
            return
        last = _is_last(message)
        if self._copy.whole and not self._closed:
            self._copy.add(message)
            if last:
                await self._keep()
        await self._send(message)
        if last:
            await self._deliver()

    def _may_come_whole(self, head: Message) -> bool:
        """Whether it says that it is short, and its charge needs nothing but a step."""
        sale, paid = self._sale, self._purchase
        if sale.whole is None or head["status"] >= 400 or self._flow is not None:
            return False
        if self._attestor is not None or paid.terms.access_seconds or paid.v1:
            return False
        headers = headers_of(head)
        size = sum([len(name) + len(value) for name, value in headers])
        lengths = [value for name, value in headers if name == _LENGTH]
        if len(lengths) != 1 or not lengths[0].isdigit():
            return False
        # Half of what is kept of an answer: its receipt is to come.
        return size + int(lengths[0]) < self._answers.policy.bytes_each // 2

    async def _send_whole(self, head: Message, message: Message) -> bool:
        """Charge, close and keep an answer in one step; False if this is not all."""
        deliver, content = self._sale.whole, self._hearing.content
        body = message.get("body", b"")
        if deliver is None or content is None or not _is_last(message):
            return False
        if len(body) > self._answers.policy.bytes_each // 2:
            return False
        self._purchase.charge.close()

        def answer(receipt: str) -> AnswerRecord:
            return self._answers.make(
                self._sale,
                self._purchase.terms,
                content=content,
                status=head["status"],
                headers=tuple(self._paid_headers(head, receipt)),
                body=body,
            )

        told: AnswerRecord | Refusal
        try:
            told = await self._closing(deliver(answer))
        except (ChainError, StoreError) as error:
            told = self._unknown(error)
        if isinstance(told, Refusal):
            await self._replace(head, told)
            return True
        self._started = True
        self._answers.grow(told)
        await self._send({**head, "headers": list(told.headers)})
        await self._send(message)
        return True

    async def _withhold(self, message: Message) -> None:
        """Instead of it, its payer was told that it may not be paid for: it is kept."""
        if self._closed:
            return
        self._copy.add(message)
        if not self._copy.whole:  # nor will it be: its payer need not wait for the rest
            await self.abandon(failed=False)
        elif not message.get("more_body"):
            paid = self._purchase
            wanted = withheld_for(paid.sale, paid.terms, headers_of(paid.request))
            await self._keep(withheld=wanted)

    async def _keep(self, *, withheld: bytes = b"") -> None:
        """Before the last byte leaves, so that whoever misses it may ask again."""
        content = self._hearing.content
        if content is None or not self._copy.whole:
            return
        answer = self._answers.make(
            self._sale,
            self._purchase.terms,
            content=content,
            status=self._copy.status,
            headers=self._copy.headers,
            body=self._copy.body,
            withheld=withheld,
        )
        await self._answers.keep(answer, durable=bool(withheld))

    async def _flow_on(self, flow: Flow, message: Message) -> None:
        """Answers that flow are not kept to be told again: only their charge is."""
        await flow.send(message)
        if _is_last(message):
            await self._close_flow(flow)

    async def _close_flow(self, flow: Flow) -> None:
        async def close() -> None:
            await flow.close()
            await self._sale.delivered()

        await self._closing(self._closings.close(close))

    async def _closing(self, close: Awaitable[T]) -> T:
        """Cut short, it is open still: `finish` closes it, which nobody cuts short."""
        self._closed = True
        try:
            return await close
        except asyncio.CancelledError:
            self._closed = False
            raise

    async def _start(self, message: Message) -> None:
        charged = self._purchase.charge.close()
        receipt: str | Refusal
        withheld = False
        try:
            if message["status"] >= 400:
                receipt = await self._closing(self._take_back())
            elif self._flow is not None:
                receipt = await self._flow.begin()
            else:
                receipt = await self._commit(charged)
                withheld = self._sale.withheld != ""
        except (ChainError, StoreError) as error:
            receipt = self._unknown(error)
        if isinstance(receipt, Refusal):
            await self._replace(message, receipt, withheld=withheld)
            return
        self._started = True
        headers = self._paid_headers(message, receipt)
        if self._purchase.v1 and receipt:
            first = downgrade_receipt(receipt, self._answers.chain)
            headers.append((_FIRST_RECEIPT, first.encode("ascii")))
            headers.append((b"vary", X_PAYMENT.encode()))
        if self._flow is not None and not self._closed:
            headers = self._flow.start(headers)
        self._copy.start(message["status"], headers)
        await self._send({**message, "headers": headers})

    def _unknown(self, error: ChainError | StoreError) -> Refusal:
        """Nobody knows whether it is charged: it is given back as soon as may be."""
        self._closings.add(lambda: self._give_back(failed=True))
        return unavailable(error, self._answers.chain, payment=self._sale.id)

    async def _replace(
        self, head: Message, receipt: Refusal, *, withheld: bool = False
    ) -> None:
        """The answer does not leave: its payer is told this instead."""
        self._replaced, self._closed = True, not withheld
        self._copy.start(head["status"], headers_of(head))
        mpp, terms = self._purchase.mpp, self._purchase.terms
        refusal = self._payee.refuse(
            receipt, terms, mpp or Asked(), by_mpp=mpp is not None
        )
        if self._purchase.v1:
            refusal = for_first_version(refusal, self._answers.chain)
        await send_refusal(self._send, refusal)

    async def _commit(self, charged: int) -> str | Refusal:
        receipt = await self._sale.commit(charged)
        if isinstance(receipt, Refusal) or not receipt:
            return receipt
        terms, payer = self._purchase.terms, self._sale.payer
        if terms.access_seconds:
            await self._sign_ins.grant(payer, terms)
        if self._attestor is None or self._purchase.mpp:
            return receipt
        chain = self._answers.chain
        return await self._attestor.sign_receipt(
            receipt, terms, payer=payer, chain=chain
        )

    async def _deliver(self) -> None:
        if not self._closed:
            await self._closing(self._closings.close(self._sale.delivered))

    async def _take_back(self) -> str | Refusal:
        """An answer that costs nothing: of what is lost, that is not known."""
        receipt = await self._give_back(failed=True)
        if receipt or self._flow is None or not self._flow.lost:
            return receipt
        lost = StreamLost("another has taken this payment over")
        return unavailable(lost, self._answers.chain, payment=self._sale.id)

    async def _give_back(self, *, failed: bool) -> str:
        """Nothing was delivered; unless some of it was before a crash."""
        before = self._flow.tab.left if self._flow is not None else 0
        return await self._sale.abandon(charged=before, failed=failed)

    async def abandon(self, *, failed: bool) -> None:
        """The application raised: nothing is charged unless the answer had started."""
        if not self._closed and not self._started:
            self._closed = True
            await self._closings.close(lambda: self._give_back(failed=failed))

    async def cut_short(self, ended: StreamEnded) -> None:
        """The application gave up where nothing more is paid for."""
        if not self._started:
            await self._refuse(ended)
        elif self._flow is None:
            await self.send({"type": "http.response.body", "body": b""})
        elif isinstance(ended, StreamExhausted):
            await self._flow.end()
            await self._close_flow(self._flow)

    async def _refuse(self, ended: StreamEnded) -> None:
        """Not even the first piece is paid for."""
        status = 402 if isinstance(ended, StreamExhausted) else 503
        refusal = self._unpaid(status, str(ended))
        headers = [(name.encode(), v.encode()) for name, v in refusal.headers.items()]
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": refusal.body})

    def _unpaid(self, status: int, detail: str) -> Refusal:
        """By MPP, a 402 has a challenge, and its problem is not its application's."""
        terms, asked = self._purchase.terms, self._purchase.mpp
        if asked is None:
            body = json.dumps({"title": "Not paid for", "detail": detail}).encode()
            return Refusal(status=status, headers=_UNPAID, body=body)
        kind = ProblemKind.INSUFFICIENT_BALANCE if status == 402 else UNKNOWN
        refusal = problem(self._payee.settings, terms, kind, detail, status=status)
        return self._payee.refuse(refusal, terms, asked, by_mpp=True)

    async def finish(self) -> None:
        """The application returned, or was cancelled."""
        if self._started and self._flow is not None:
            await self._close_flow(self._flow)
        elif self._started:
            await self._deliver()
        else:
            await self.abandon(failed=False)

    def _paid_headers(self, message: Message, receipt: str) -> Headers:
        headers, by_mpp = headers_of(message), self._purchase.mpp is not None
        # The draft: on answers of 2xx only.
        if receipt and (not by_mpp or 200 <= message["status"] < 300):
            name = _MPP_RECEIPT if by_mpp else _RECEIPT
            headers.append((name, receipt.encode("ascii")))
        beside = self._sale.headers.items()
        headers += [(name.encode(), value.encode("ascii")) for name, value in beside]
        keep_private(headers, signs_in=self._purchase.terms.access_seconds > 0)
        if self._payee.mpp is not None:
            headers.append((b"vary", self._payee.mpp.credential_field.encode()))
        return headers


def _is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body")
