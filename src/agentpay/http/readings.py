"""
What a request and its answers are to a payer.
"""

import httpx

from agentpay.http.first_version import in_second
from agentpay.http.reread import problem_of
from agentpay.payer.payment import Answer, Payment, Target
from agentpay.wire.mpp.idempotency import IDEMPOTENCY_KEY


def target_of(request: httpx.Request) -> Target:
    """What a request would buy."""
    url = request.url
    host = url.netloc.decode("ascii")
    return Target(
        method=request.method,
        url=str(url.copy_with(fragment=None, userinfo=b"")),  # told to others too
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
    """The header fields of a payment; a name that the caller gave a request stays."""
    fields = {payment.header: payment.credential}
    if payment.idempotency_key and IDEMPOTENCY_KEY not in request.headers:
        fields[IDEMPOTENCY_KEY] = payment.idempotency_key
    return fields
