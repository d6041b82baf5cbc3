"""
What a request and its answers are to a payer.
"""

import hashlib
import secrets

import httpx

from agentpay.http.first_version import in_second
from agentpay.http.reread import problem_of
from agentpay.payer.payment import Answer, Payment, Target
from agentpay.payer.session_payment import SessionPayment
from agentpay.payer.transfer_payment import TransferPayment
from agentpay.wire.mpp.idempotency import IDEMPOTENCY_KEY
from agentpay.wire.x402 import PAYMENT_SIGNATURE
from agentpay.wire.x402_v1 import X_PAYMENT


def target_of(request: httpx.Request) -> Target:
    """What a request would buy, whose body was read."""
    url = request.url
    if url.userinfo or "#" in str(url):  # it is told to others too
        url = url.copy_with(fragment=None, userinfo=b"")
    host = url.netloc.decode("ascii")
    return Target(
        method=request.method,
        url=str(url),
        origin=f"{url.scheme}://{host}",
        host=host,
        body=request.content,
        fields=request.headers,
    )


def answer_of(response: httpx.Response) -> Answer:
    """What a payment is judged by."""
    return Answer(
        status=response.status_code,
        headers=in_second(response),
        problem=problem_of(response),
    )


def fields_of(payment: Payment, request: httpx.Request) -> dict[str, str]:
    """
    The fields that pay for a request.

    MPP asks for a name beside the credential (draft-evm-session-00, "Request
    Idempotency"), so that what is sent again is known as the same request: also by a
    later one that carries on what paid for it.
    """
    paid = {payment.header: payment.credential}
    by_mpp = payment.header not in (PAYMENT_SIGNATURE, X_PAYMENT)
    if by_mpp and IDEMPOTENCY_KEY not in request.headers:
        name = secrets.token_hex(16)
        if _is_for_one(payment):
            name = hashlib.sha256(payment.id.encode()).hexdigest()[:32]
        paid[IDEMPOTENCY_KEY] = f'"{name}"'
    return paid


def _is_for_one(payment: Payment) -> bool:
    """Whether what was signed pays for one request ever: not so on a lane."""
    if isinstance(payment, SessionPayment):
        return payment.record.ledger.tagged
    return isinstance(payment, TransferPayment)
