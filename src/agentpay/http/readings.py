"""
What a request and its answers are to a payer.
"""

import httpx

from agentpay.http.first_version import first_of, in_second
from agentpay.payer.payment import Answer, Target
from agentpay.wire.x402 import PAYMENT_REQUIRED


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
    return Answer(status=response.status_code, headers=in_second(response))


def costs(response: httpx.Response) -> bool:
    """Whether it is a 402 that offers something, in either version."""
    said = PAYMENT_REQUIRED in response.headers or first_of(response) is not None
    return response.status_code == 402 and said
