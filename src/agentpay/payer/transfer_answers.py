"""
What an answer to a single payment says, reduced to what decides.
"""

from agentpay.core.exchange import Next, TransferAnswer, Verdict
from agentpay.payer.payment import Answer
from agentpay.wire.mpp.problem import PROBLEM_JSON
from agentpay.wire.x402 import PaymentResponse

_PENDING = ("settlement_pending", "unexpected_settle_error")
"""Reasons that mean unknown: the second is the official server's, in a 402."""
_TAKEN = "payment_identifier_conflict"
"""Its name stands for another payment, or another request: a refusal, also in a 409."""


def read_answer(answer: Answer, receipt: PaymentResponse | None) -> TransferAnswer:
    """What decides of an answer, in words of x402."""
    reason = receipt.error_reason if receipt is not None else None
    return TransferAnswer(
        status=402 if reason == _TAKEN else answer.status,
        success=receipt.success if receipt else None,
        pending=reason in _PENDING,
        offered=answer.offers,
        problem=answer.headers.get("content-type", "").startswith(PROBLEM_JSON),
    )


def says_no(read: TransferAnswer, verdict: Verdict) -> bool:
    """Whether a payee will not have it. An error of its own is another lapse."""
    if verdict.next is Next.REJECTED:
        return True
    delivered = verdict.next is Next.DELIVER and read.status < 500
    return delivered and read.success is False


def why_of(answer: Answer) -> str:
    """What a refusal says of itself, in the payee's own words."""
    problem = answer.problem
    said = problem.detail or problem.title if problem else ""
    return said or answer.error or "refused"
