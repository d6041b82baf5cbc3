"""
Reads the 402s of servers that speak x402's first version, whose terms are in the body.

A body is read up to a bound and can be read again: it may be the application's own.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Final

import httpx

from agentpay.errors import MalformedMessage
from agentpay.wire.headers import encode_json
from agentpay.wire.x402 import PAYMENT_REQUIRED, PAYMENT_RESPONSE
from agentpay.wire.x402_v1 import X_PAYMENT_RESPONSE
from agentpay.wire.x402_v1_pay import FirstRequired, read_required

BODY_BYTES_MAX: Final = 64 * 1024

_READ: Final = "agentpay.x402_v1"
_STEP: Final = 1024
"""What is decompressed at once, so that little cannot become much."""


async def read_first(response: httpx.Response) -> None:
    """
    Find the terms in the body of a 402 that has none in its headers.

    Raises:
        httpx.TransportError: The body does not come.
    """
    kind = response.headers.get("Content-Type", "")
    if response.status_code != 402 or PAYMENT_REQUIRED in response.headers:
        return
    stream = response.stream
    if "json" not in kind or not isinstance(stream, httpx.AsyncByteStream):
        return
    again = _Again(stream)
    response.stream = again
    raw = await again.read()
    if raw is None:
        return
    try:
        response.extensions[_READ] = read_required(_decoded(response, raw))
    except (MalformedMessage, httpx.DecodingError):
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


class _Again(httpx.AsyncByteStream):
    """A stream whose beginning was read, from its beginning."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream
        self._rest = aiter(stream)
        self._parts: list[bytes] = []

    async def read(self) -> bytes | None:
        """All of it; None if it is larger than what we read."""
        size = 0
        async for part in self._rest:
            self._parts.append(part)
            size += len(part)
            if size > BODY_BYTES_MAX:
                return None
        return b"".join(self._parts)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part
        async for part in self._rest:
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Steps(httpx.SyncByteStream):
    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._raw), _STEP):
            yield self._raw[start : start + _STEP]


def _decoded(response: httpx.Response, raw: bytes) -> bytes:
    """
    A body without its compression.

    Raises:
        MalformedMessage: It is larger than what we read.
        httpx.DecodingError: It is not compressed in the way that it says.
    """
    copy = httpx.Response(402, headers=response.headers, stream=_Steps(raw))
    body = b""
    for part in copy.iter_bytes():
        body += part
        if len(body) > BODY_BYTES_MAX:
            raise MalformedMessage("the body of a 402 is too large")
    return body
