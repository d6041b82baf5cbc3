"""
What a request pays with, and its body where a challenge must know that beforehand.

One request carries one payment: x402's `PAYMENT-SIGNATURE`, or one `Payment` credential
(draft-httpauth-payment-00) in `Authorization` or in the field that challenges name.
Other schemes in that field are the application's own and are not looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agentpay.errors import MalformedMessage
from agentpay.http.asgi import Message, Receive, Scope
from agentpay.wire.mpp.credential import (
    Credential,
    SeveralCredentials,
    find_credential,
    parse_credential,
)
from agentpay.wire.x402 import PAYMENT_SIGNATURE
from agentpay.wire.x402_v1 import X_PAYMENT


class SeveralPayments(MalformedMessage):
    """A request carries more than one payment."""

    code = "several_payments"


class NoCredential(MalformedMessage):
    """What stands where a `Payment` credential should is none: the draft's 402."""

    code = "no_credential"


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What a request pays with: one of these, or nothing."""

    x402: str | None = None
    first: str | None = None
    """By x402's first version."""
    mpp: Credential | None = None


def read_payment(scope: Scope, *, v1: bool, mpp_field: str | None) -> Carried:
    """
    Find a request's one payment, unread; no `mpp_field` means that MPP is not spoken.

    Raises:
        SeveralPayments: There is more than one.
        NoCredential: There is a `Payment` credential that is none.
    """
    second = header_lines(scope, PAYMENT_SIGNATURE)
    first = header_lines(scope, X_PAYMENT) if v1 else ()
    credential = None
    if mpp_field is not None:
        try:
            encoded = find_credential(header_lines(scope, mpp_field))
            credential = parse_credential(encoded) if encoded is not None else None
        except SeveralCredentials as error:
            raise SeveralPayments(str(error)) from error
        except MalformedMessage as error:
            raise NoCredential(str(error)) from error
    if len(second) + len(first) + (credential is not None) > 1:
        raise SeveralPayments(
            f"a request carries more than one payment: one {PAYMENT_SIGNATURE} header"
            " or one Payment credential"
        )
    return Carried(
        x402=second[0] if second else None,
        first=first[0] if first else None,
        mpp=credential,
    )


def brings_credential(scope: Scope, mpp_field: str) -> bool:
    """Whether a request has a `Payment` credential, whatever is in it."""
    try:
        return find_credential(header_lines(scope, mpp_field)) is not None
    except MalformedMessage:
        return True


def header_lines(scope: Scope, name: str) -> Sequence[str]:
    """The lines of a request's header field."""
    wanted = name.lower().encode()
    found = (value for field, value in scope["headers"] if field.lower() == wanted)
    return [value.decode("latin-1") for value in found]


class RequestBody:
    """A request's body, read ahead where it must be, and received as if it were not."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ahead: list[Message] = []
        self._size = 0
        self._ended = False
        self._gone = False

    async def receive(self) -> Message:
        """What comes next."""
        return self._ahead.pop(0) if self._ahead else await self._receive()

    async def read(self, bytes_max: int) -> bytes | None:
        """
        All of it, which is still there to be received; None if it is longer than
        `bytes_max`, or its client left. It is read before any of it is received.
        """
        while not self._ended and self._size <= bytes_max:
            message = await self._receive()
            self._ahead.append(message)
            self._size += len(message.get("body", b""))
            self._gone = message["type"] != "http.request"
            self._ended = self._gone or not message.get("more_body")
        if self._gone or self._size > bytes_max:
            return None
        return b"".join(message.get("body", b"") for message in self._ahead)
