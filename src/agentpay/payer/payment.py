"""
What a payer and its transport say to each other about one request.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from agentpay.core.exchange import Next
from agentpay.errors import MalformedMessage
from agentpay.payer.offer import Offer
from agentpay.wire.mpp.challenge import WWW_AUTHENTICATE, has_challenge
from agentpay.wire.mpp.problem import Problem
from agentpay.wire.mpp.receipt import (
    PAYMENT_RECEIPT,
    ChargeReceipt,
    Receipt,
    SessionReceipt,
    parse_receipt,
)
from agentpay.wire.x402 import (
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    PAYMENT_SIGNATURE,
    PaymentResponse,
    parse_payment_required,
    parse_response,
)

_SAY_NOTHING: Final = frozenset(
    {
        "accept-encoding",
        "accept-payment",
        "b3",
        "baggage",
        "connection",
        "content-length",
        "date",
        "host",
        "keep-alive",
        "payment-signature",
        "sentry-trace",
        "te",
        "traceparent",
        "tracestate",
        "transfer-encoding",
        "user-agent",
        "x-amzn-trace-id",
        "x-cloud-trace-context",
        "x-correlation-id",
        "x-payment",
        "x-request-id",
    }
)
"""Fields of a connection, of a trace and of payments: the next attempt has others."""

R = TypeVar("R", Receipt, ChargeReceipt, SessionReceipt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is being bought: one request to one resource."""

    method: str
    url: str
    origin: str
    host: str
    body: bytes = field(default=b"", repr=False)
    fields: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Its header fields, by their names in lower case."""

    @property
    def request(self) -> str:
        """
        The same for the same request: its method, URL, body, and the fields that say
        who asks, and how. An answer is told again to nobody else.
        """
        parts = [self.method.encode(), self.url.encode(), self.body]
        for name in sorted(self.fields):
            if name not in _SAY_NOTHING:
                parts += [name.encode(), self.fields[name].encode()]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()

    @property
    def route(self) -> tuple[str, str]:
        """Requests of one route are expected to cost the same, until one does not."""
        return self.method, self.url.partition("?")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The part of an HTTP answer that a payment is judged by."""

    status: int
    headers: Mapping[str, str]
    problem: Problem | None = None
    """What its body says went wrong, where it is a problem document (RFC 9457)."""

    @property
    def offers(self) -> bool:
        """Whether it asks to be paid, by either protocol."""
        said = self.headers.get(WWW_AUTHENTICATE.lower(), "")
        return PAYMENT_REQUIRED.lower() in self.headers or has_challenge([said])

    @property
    def error(self) -> str:
        """Why it asks to be paid, in the words of x402; "" if it does not say."""
        header = self.headers.get(PAYMENT_REQUIRED.lower())
        if header is None:
            return ""
        try:
            return parse_payment_required(header).error[:500]
        except MalformedMessage:
            return ""

    def mpp_receipt(self, model: type[R]) -> R | None:
        """Its receipt of MPP, which stands on a 2xx; None as of `receipt`."""
        header = self.headers.get(PAYMENT_RECEIPT.lower())
        if header is None or not 200 <= self.status < 300:
            return None
        try:
            return parse_receipt(header, model)
        except MalformedMessage:
            return None

    def receipt(self) -> PaymentResponse | None:
        """Its receipt of x402; None if it has none, or one that cannot be read."""
        header = self.headers.get(PAYMENT_RESPONSE.lower())
        if header is None:
            return None
        try:
            return parse_response(header)
        except MalformedMessage:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What to do with the request, and what it cost as far as that is known."""

    next: Next
    charged: int = 0
    reason: str = ""
    final: bool = True
    """Whether it is known what the request cost."""
    streams: bool = False
    """Whether it costs more while its answer flows; the last event says how much."""


class Payment(Protocol):
    """One signed credential for one request."""

    @property
    def id(self) -> str:
        """What it is called in errors and logs."""
        ...

    @property
    def header(self) -> str:
        """The header that it goes in."""
        ...

    @property
    def credential(self) -> str:
        """The value of that header."""
        ...

    @property
    def again(self) -> bool:
        """Whether an earlier request has presented it."""
        ...

    async def renew(self, offer: Offer) -> "Payment | None":
        """
        The same payment under a fresh offer, after `Next.RENEW`; None if it cannot be.
        """
        ...

    async def book(self, answer: Answer, *, resent: bool) -> Judgement:
        """
        Write into our ledger what an answer says, and say what comes next.

        Raises:
            PayeeMisbehaved: It contradicts our books; nothing more is signed for it.
        """
        ...

    async def broke_off(self) -> None:
        """Its answer began, and broke off while it was read."""
        ...

    async def leave_open(self) -> None:
        """The request ends here with its outcome unknown: find it out later."""
        ...


class Asker(Protocol):
    """Sends a request that buys nothing: a question, or a refund."""

    async def __call__(
        self, method: str, url: str, credential: str, *, field: str = PAYMENT_SIGNATURE
    ) -> Answer | None:
        """
        The answer, or None if there was none. `field` is the header of the credential.
        """
        ...
