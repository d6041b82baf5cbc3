"""
The same for httpx2, which goes on where httpx stopped, with the same words.

`Httpx2Transport` lets its clients pay, and `ThroughHttpx2` is what an agent sends
through instead of httpx. Requests and answers of one library are made into those of the
other, with their bodies unread; so are errors, to the one of the same name. What this
library raises itself passes as it is.
"""

from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager

import httpx
import httpx2


class Httpx2Transport(httpx2.AsyncBaseTransport):
    """What an `httpx2.AsyncClient` sends through to have a transport of httpx pay."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        """`inner` pays: see `Agent.transport`."""
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """
        Send a request, and pay for it if it costs something.

        Raises:
            AgentPayError: As `PaymentTransport.handle_async_request`.
            httpx2.TransportError: It could not be sent, or not answered.
        """
        copy = httpx.Request(
            request.method,
            str(request.url),
            headers=request.headers.raw,
            stream=_FromHttpx2(request.stream),
        )
        copy.extensions = request.extensions  # a redirected request inherits its notes
        with _told_to_httpx2():
            response = await self._inner.handle_async_request(copy)
        if isinstance(copy.stream, httpx.ByteStream):  # it was read, to be sent again
            request.stream = httpx2.ByteStream(copy.content)
        return httpx2.Response(
            response.status_code,
            headers=response.headers.raw,
            stream=_ToHttpx2(response.stream),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


class ThroughHttpx2(httpx.AsyncBaseTransport):
    """What an `Agent` sends through to have a transport of httpx2 send."""

    def __init__(self, inner: httpx2.AsyncBaseTransport | None = None) -> None:
        """`inner` is httpx2's own if not given, with as many connections as asked."""
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        self._inner = inner or httpx2.AsyncHTTPTransport(limits=limits)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; raises what httpx raises."""
        copy = httpx2.Request(
            request.method,
            str(request.url),
            headers=request.headers.raw,
            stream=_ToHttpx2(request.stream),
        )
        copy.extensions = request.extensions
        with _told_to_httpx():
            response = await self._inner.handle_async_request(copy)
        return httpx.Response(
            response.status_code,
            headers=response.headers.raw,
            stream=_FromHttpx2(response.stream),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


class _FromHttpx2(httpx.AsyncByteStream):
    """A body of httpx2's."""

    def __init__(self, stream: object) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if not isinstance(self._stream, httpx2.AsyncByteStream):
            raise TypeError("an asynchronous client has asynchronous streams")
        with _told_to_httpx():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        if isinstance(self._stream, httpx2.AsyncByteStream):
            with _told_to_httpx():
                await self._stream.aclose()


class _ToHttpx2(httpx2.AsyncByteStream):
    """A body of httpx's."""

    def __init__(self, stream: object) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if not isinstance(self._stream, httpx.AsyncByteStream):
            raise TypeError("an asynchronous client has asynchronous streams")
        with _told_to_httpx2():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        if isinstance(self._stream, httpx.AsyncByteStream):
            with _told_to_httpx2():
                await self._stream.aclose()


@contextmanager
def _told_to_httpx() -> Generator[None]:
    try:
        yield
    except httpx2.TransportError as error:
        named = getattr(httpx, type(error).__name__, httpx.TransportError)
        raise named(str(error)) from error


@contextmanager
def _told_to_httpx2() -> Generator[None]:
    try:
        yield
    except httpx.TransportError as error:
        named = getattr(httpx2, type(error).__name__, httpx2.TransportError)
        raise named(str(error)) from error
