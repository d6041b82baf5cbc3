"""
What a request and its answers are to a payer.
"""

import secrets

import httpx

from agentpay.http.first_version import in_second
from agentpay.http.reread import problem_of
from agentpay.payer.payment import Answer, Payment, Target
from agentpay.wire.mpp.idempotency import IDEMPOTENCY_KEY
from agentpay.wire.x402 import PAYMENT_SIGNATURE
from agentpay.wire.x402_v1 import X_PAYMENT


def target_of(request: httpx.Request) -> Target:
    """What a request would buy."""
    url = request.url
    if url.userinfo or "#" in str(url):  # it is told to others too
        url = url.copy_with(fragment=None, userinfo=b"")
    host = url.netloc.decode("ascii")
    return Target(
        method=request.method,
        url=str(url),
        origin=f"{url.scheme}://{host}",
        host=host,
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
    Idempotency"), so that what is sent again is known as the same request.
    """
    paid = {payment.header: payment.credential}
    by_mpp = payment.header not in (PAYMENT_SIGNATURE, X_PAYMENT)
    if by_mpp and IDEMPOTENCY_KEY not in request.headers:
        paid[IDEMPOTENCY_KEY] = f'"{secrets.token_hex(16)}"'
    return paid
