"""
Bodies of answers that are read ahead, up to a bound, and can still be read by whoever
gets the answer: it may be the application's own.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Final

import httpx

from agentpay.wire.mpp.problem import PROBLEM_JSON, Problem, read_problem

BODY_BYTES_MAX: Final = 64 * 1024

_PROBLEM: Final = "agentpay.problem"
_STEP: Final = 1024
"""What is decompressed at once, so that little cannot become much."""


async def read_ahead(response: httpx.Response) -> bytes | None:
    """
    The body of an answer without its compression.

    None if it is larger than what we read, or not compressed in the way that it says.

    Raises:
        httpx.TransportError: It does not come.
    """
    stream = response.stream
    if not isinstance(stream, httpx.AsyncByteStream):
        return None
    again = _Again(stream)
    response.stream = again
    raw = await again.read()
    return _decoded(response, raw) if raw is not None else None


async def read_problem_of(response: httpx.Response) -> None:
    """
    Read what a refusal says went wrong; see `problem_of`.

    Raises:
        httpx.TransportError: Its body does not come.
    """
    if response.status_code < 400:
        return
    if response.headers.get("Content-Type", "").startswith(PROBLEM_JSON):
        body = await read_ahead(response)
        response.extensions[_PROBLEM] = read_problem(body) if body else None


def problem_of(response: httpx.Response) -> Problem | None:
    """What an answer said went wrong, if that was read and was a problem document."""
    found = response.extensions.get(_PROBLEM)
    return found if isinstance(found, Problem) else None


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


def _decoded(response: httpx.Response, raw: bytes) -> bytes | None:
    copy = httpx.Response(
        response.status_code, headers=response.headers, stream=_Steps(raw)
    )
    body = b""
    try:
        for part in copy.iter_bytes():
            body += part
            if len(body) > BODY_BYTES_MAX:
                return None
    except httpx.DecodingError:
        return None
    return body
