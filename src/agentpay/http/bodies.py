"""
Bodies: of requests, kept so that they can be sent again, and of paid answers.

A 402 comes after the body was sent, and a payment whose answer was lost is sent again
with the same request. A stream can be read once, so it is read first, up to a bound.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import httpx

from agentpay.errors import AgentPayError, BodyTooLarge


async def read_body(request: httpx.Request, *, bytes_max: int) -> None:
    """
    Have a request's whole body, whatever it was given as.

    Raises:
        BodyTooLarge: It is larger than that; nothing was sent.
    """
    if isinstance(request.stream, httpx.ByteStream):
        if len(await request.aread()) > bytes_max:
            raise _too_large(request, bytes_max)
        return
    said = request.headers.get("Content-Length", "")
    if said.isascii() and said.isdecimal() and int(said) > bytes_max:
        raise _too_large(request, bytes_max)
    request.stream = _Bounded(request, bytes_max)
    await request.aread()


def copied(
    request: httpx.Request, added: Mapping[str, str], *, dropped: frozenset[str]
) -> httpx.Request:
    """
    A request whose body was read, to be sent: with these fields instead of its own of
    those names, and without what is dropped (in lower case).
    """
    headers = request.headers.copy()
    for name in dropped:
        if name in headers:
            del headers[name]
    for name, value in added.items():
        headers[name] = value
    method, url, content = request.method, request.url, request.content
    if content and "Content-Length" not in headers:  # it was sent in chunks
        return httpx.Request(method, url, headers=headers, content=content)
    # The same bytes, so that what httpx has said of their length is true.
    copy = httpx.Request(method, url, headers=headers, stream=request.stream)
    copy.read()
    return copy


class _Bounded(httpx.AsyncByteStream):
    """A request's stream, up to a bound."""

    def __init__(self, request: httpx.Request, bytes_max: int) -> None:
        self._request = request
        self._stream = request.stream
        self._bytes_max = bytes_max

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if not isinstance(self._stream, httpx.AsyncByteStream):
            raise TypeError("an asynchronous client sends asynchronous streams")
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > self._bytes_max:
                raise _too_large(self._request, self._bytes_max)
            yield part


class PaidBody(httpx.AsyncByteStream):
    """The body of an answer that was paid for, or may have been: it may break off."""

    def __init__(
        self,
        response: httpx.Response,
        lost: Callable[[str], AgentPayError],
        *,
        broke_off: Callable[[], Awaitable[None]],
    ) -> None:
        """`lost` says what that means, where it breaks off, and `broke_off` is told."""
        self._stream = response.stream
        self._lost = lost
        self._broke_off = broke_off

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if not isinstance(self._stream, httpx.AsyncByteStream):
            raise TypeError("an asynchronous transport answers by asynchronous streams")
        try:
            async for part in self._stream:
                yield part
        except httpx.TransportError as error:
            await self._broke_off()
            raise self._lost(str(error)) from error

    async def aclose(self) -> None:
        if isinstance(self._stream, httpx.AsyncByteStream):
            await self._stream.aclose()


def _too_large(request: httpx.Request, bytes_max: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body of {request.method} {request.url.host}{request.url.path} is larger"
        f" than the {bytes_max} bytes that are kept to send it again: send less at"
        " once, raise body_bytes_max in the policy, or pay first with a small request"
        " and send the rest where it costs nothing"
    )
