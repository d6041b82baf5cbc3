"""
Problem details: how a server of the `Payment` scheme says what went wrong.

Source: draft-httpauth-payment-00, "Error Codes"; draft-evm-session-00, "Error
Responses"; RFC 9457. Kinds that only the official SDKs know are marked as theirs.
"""

import json
from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

from agentpay.errors import MalformedMessage
from agentpay.types import parse_amount
from agentpay.wire.headers import JsonObject, read_object
from agentpay.wire.mpp.binding import EchoFault

PROBLEM_JSON: Final = "application/problem+json"
BODY_BYTES_MAX: Final = 64 * 1024
_BASE: Final = "https://paymentauth.org/problems/"
_TEXT_MAX = 1024


class ProblemKind(Enum):
    """What can be wrong: the end of its `type`, its status and its title."""

    PAYMENT_REQUIRED = ("payment-required", 402, "Payment Required")
    PAYMENT_INSUFFICIENT = ("payment-insufficient", 402, "Payment Insufficient")
    PAYMENT_EXPIRED = ("payment-expired", 402, "Payment Expired")
    VERIFICATION_FAILED = ("verification-failed", 402, "Verification Failed")
    METHOD_UNSUPPORTED = ("method-unsupported", 400, "Payment Method Unsupported")
    MALFORMED_CREDENTIAL = ("malformed-credential", 402, "Malformed Credential")
    INVALID_CHALLENGE = ("invalid-challenge", 402, "Invalid Challenge")

    # The SDKs' own.
    BAD_REQUEST = ("bad-request", 400, "Bad Request")
    INVALID_PAYLOAD = ("invalid-payload", 402, "Invalid Payload")
    ACTION_REQUIRED = ("payment-action-required", 402, "Payment Action Required")
    CREDENTIAL_REPLAYED = ("credential-replayed", 403, "Credential Replayed")
    INTERNAL_ERROR = ("internal-payment-error", 500, "Internal Payment Error")

    # Of a session.
    INVALID_SIGNATURE = ("session/invalid-signature", 402, "Invalid Signature")
    SIGNER_MISMATCH = ("session/signer-mismatch", 402, "Signer Mismatch")
    AMOUNT_EXCEEDS_DEPOSIT = (
        "session/amount-exceeds-deposit",
        402,
        "Amount Exceeds Deposit",
    )
    DELTA_TOO_SMALL = ("session/delta-too-small", 402, "Delta Too Small")
    CHALLENGE_NOT_FOUND = ("session/challenge-not-found", 402, "Challenge Not Found")
    INSUFFICIENT_BALANCE = ("session/insufficient-balance", 402, "Insufficient Balance")
    TRANSACTION_REVERTED = ("session/transaction-reverted", 409, "Transaction Reverted")
    CHANNEL_NOT_FOUND = ("session/channel-not-found", 410, "Channel Not Found")
    CHANNEL_FINALIZED = ("session/channel-finalized", 410, "Channel Finalized")

    def __init__(self, slug: str, status: int, title: str) -> None:
        self.type = _BASE + slug
        self.status = status
        self.title = title


_KINDS: Final = {kind.type: kind for kind in ProblemKind}


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """
    How a session stands, told with a problem to who has proven to be its payer.

    Ours: the draft has these members in receipts and in `payment-need-voucher`.
    """

    accepted: int
    spent: int
    deposit: int
    required: int | None = None
    """The least amount that would do, where that is what is wrong."""

    def members(self) -> dict[str, int]:
        """By the names that they have elsewhere in the draft."""
        known = {
            "acceptedCumulative": self.accepted,
            "spent": self.spent,
            "deposit": self.deposit,
        }
        if self.required is not None:
            known["requiredCumulative"] = self.required
        return known


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a server said. Every text is the server's, and bounded."""

    type: str
    kind: ProblemKind | None
    """None: a problem that we do not know."""
    title: str
    detail: str
    challenge_id: str | None
    channel_id: str | None
    accepted_cumulative: int | None = None
    spent: int | None = None
    required_cumulative: int | None = None
    deposit: int | None = None

    @property
    def of_a_paywall(self) -> bool:
        """Whether who sells says it: an application has problems of its own types."""
        return self.type.startswith(_BASE)


def write_problem(
    kind: ProblemKind,
    detail: str,
    *,
    status: int | None = None,
    challenge_id: str | None = None,
    channel_id: str | None = None,
    books: Books | None = None,
) -> bytes:
    """The body of an answer whose status is `status`, or else that of its kind."""
    problem: JsonObject = {
        "type": kind.type,
        "title": kind.title,
        "status": status or kind.status,
        "detail": detail,
    }
    if challenge_id is not None:
        problem["challengeId"] = challenge_id
    if channel_id is not None:
        problem["channelId"] = channel_id
    if books is not None:
        problem |= {name: str(amount) for name, amount in books.members().items()}
    return json.dumps(problem, separators=(",", ":")).encode("ascii")


def read_problem(body: bytes) -> Problem | None:
    """What a body says, if it is a problem at all; a client must not need one."""
    if len(body) > BODY_BYTES_MAX:
        return None
    try:
        message = read_object(body, name="problem")
    except MalformedMessage:
        return None
    kind = _text(message, "type") or "about:blank"
    return Problem(
        type=kind,
        kind=_KINDS.get(kind),
        title=_text(message, "title") or "",
        detail=_text(message, "detail") or "",
        challenge_id=_text(message, "challengeId"),
        channel_id=_text(message, "channelId"),
        accepted_cumulative=_amount(message, "acceptedCumulative"),
        spent=_amount(message, "spent"),
        required_cumulative=_amount(message, "requiredCumulative"),
        deposit=_amount(message, "deposit"),
    )


def _text(message: JsonObject, name: str) -> str | None:
    value = message.get(name)
    return value[:_TEXT_MAX] if isinstance(value, str) else None


def _amount(message: JsonObject, name: str) -> int | None:
    value = message.get(name)
    try:
        return parse_amount(value) if isinstance(value, str) else None
    except ValueError:
        return None


def problem_of(fault: EchoFault) -> ProblemKind:
    """How a server says that it does not honour an echoed challenge."""
    match fault:
        case EchoFault.EXPIRED:
            return ProblemKind.PAYMENT_EXPIRED
        case (
            EchoFault.NOT_OURS
            | EchoFault.REALM
            | EchoFault.METHOD
            | EchoFault.INTENT
            | EchoFault.REQUEST
            | EchoFault.DESCRIPTION
            | EchoFault.HEADER
            | EchoFault.OPAQUE
            | EchoFault.DIGEST
        ):
            return ProblemKind.INVALID_CHALLENGE
    assert_never(fault)
