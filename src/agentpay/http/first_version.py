"""
Reads the 402s of servers that speak x402's first version, whose terms are in the body.
"""

from typing import Final

import httpx

from agentpay.errors import MalformedMessage
from agentpay.http.reread import read_ahead
from agentpay.wire.headers import encode_json
from agentpay.wire.x402 import PAYMENT_REQUIRED, PAYMENT_RESPONSE
from agentpay.wire.x402_v1 import X_PAYMENT_RESPONSE
from agentpay.wire.x402_v1_pay import FirstRequired, read_required

_READ: Final = "agentpay.x402_v1"


async def read_first(response: httpx.Response) -> None:
    """
    Find the terms in the body of a 402 that has none in its headers.

    Raises:
        httpx.TransportError: The body does not come.
    """
    kind = response.headers.get("Content-Type", "")
    if response.status_code != 402 or PAYMENT_REQUIRED in response.headers:
        return
    body = await read_ahead(response) if "json" in kind else None
    if body is None:
        return
    try:
        response.extensions[_READ] = read_required(body)
    except MalformedMessage:
        return  # the application's own 402, or nobody's


def first_of(response: httpx.Response) -> FirstRequired | None:
    """The terms of a 402 of version 1, if it was one."""
    found = response.extensions.get(_READ)
    return found if isinstance(found, FirstRequired) else None


def in_second(response: httpx.Response) -> dict[str, str]:
    """The headers by which an answer is judged, in words of version 2."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    receipt = headers.get(X_PAYMENT_RESPONSE.lower())
    if receipt is not None:
        headers.setdefault(PAYMENT_RESPONSE.lower(), receipt)
    first = first_of(response)
    if first is not None:
        headers[PAYMENT_REQUIRED.lower()] = encode_json(first.message)
    return headers
