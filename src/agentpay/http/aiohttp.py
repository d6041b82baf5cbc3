"""
What an agent sends through to send by aiohttp, which takes a fraction of httpx's time.

`Agent(transport=ThroughAiohttp())`. aiohttp is a plain wire here: it keeps no cookie,
follows no redirect, changes no URL, decompresses nothing and sends nothing a second
time. What fails, fails as httpx says it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from ssl import SSLContext
from typing import Any, Final, Never

import aiohttp
import httpx
from yarl import URL

from agentpay.http.pools import Unsendable

_HEADERS_BYTES_MAX: Final = 128 * 1024
"""Of one line: an offer can be long."""

_HEADERS_MAX: Final = 1024

_BYTES_AT_ONCE: Final = 32 * 1024
"""A larger body is sent in parts, each of which has to leave in time."""

_NOT_PASSED_ON: Final = "expect"
"""By it, aiohttp would wait for a word before the body, and without any timeout."""

_ADDED_BY_AIOHTTP: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")

Trace = Callable[[str, Mapping[str, Any]], Awaitable[None]]


class ThroughAiohttp(httpx.AsyncBaseTransport):
    """Sends requests of httpx by aiohttp, over HTTP/1.1."""

    def __init__(self, *, ssl: SSLContext | None = None) -> None:
        """`ssl` says whom to trust over TLS; as httpx does, if not given."""
        self._ssl = ssl
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; raises what httpx raises."""
        if request.url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"not HTTP: {request.url.scheme!r}")
        content = await request.aread()
        timeout: dict[str, float | None] = request.extensions.get("timeout") or {}
        errand = _Errand(request.extensions.get("trace"))
        _errand.set(errand)
        with _told_to_httpx(errand):
            response = await self._opened().request(
                request.method,
                _url(request.url),
                headers=_fields(request.headers),
                data=_body(content, errand, timeout.get("write")),
                timeout=_timeout(timeout),
                skip_auto_headers=_ADDED_BY_AIOHTTP,
                allow_redirects=False,
            )
        return httpx.Response(
            response.status,
            headers=list(response.raw_headers),
            stream=_Body(response, errand),
            extensions={
                "http_version": b"HTTP/1.1",
                "reason_phrase": (response.reason or "").encode("latin-1", "replace"),
                "network_stream": errand.peer,
            },
        )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            ssl = self._ssl or httpx.create_ssl_context()
            self._session = aiohttp.ClientSession(
                connector=_Connector(ssl=ssl, limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                max_line_size=_HEADERS_BYTES_MAX,
                max_field_size=_HEADERS_BYTES_MAX,
                max_headers=_HEADERS_MAX,
            )
        return self._session

    async def aclose(self) -> None:
        """Close every connection; as with httpx's own, what is sent later opens one."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class _Errand:
    """One request on its way."""

    def __init__(self, trace: Trace | None) -> None:
        self.trace = trace
        self.peer: _Peer | None = None
        """Whom it was connected to; None until it was, so that nothing was sent."""
        self.uploading = False


_errand: ContextVar[_Errand] = ContextVar("agentpay.aiohttp")


class _Peer:
    """A connection, as far as those look at it who guard where payments go."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        transport = connection.transport
        self._address = transport.get_extra_info("peername") if transport else None

    def get_extra_info(self, name: str) -> Any:
        """As streams of httpcore have it."""
        return self._address if name == "server_addr" else None

    async def aclose(self) -> None:
        """Use it for nothing any more."""
        self._connection.close()


class _Connector(aiohttp.TCPConnector):
    """Shows each connection to who watches a request, before anything is sent."""

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:
        errand = _errand.get()
        if errand.peer is not None:  # aiohttp would send it again on a fresh one
            raise aiohttp.ServerDisconnectedError
        connection = await super().connect(req, traces, timeout)
        errand.peer = peer = _Peer(connection)
        if errand.trace is not None:
            try:
                connected = {"return_value": peer}
                await errand.trace("connection.connect_tcp.complete", connected)
                await errand.trace("http11.send_request_headers.started", {})
            except BaseException:
                connection.close()
                raise
        return connection


class _Upload(aiohttp.Payload):
    """
    A large body. The timeout of reading starts when all of it is on its way, and until
    then each part has the timeout of writing.
    """

    def __init__(self, content: bytes, errand: _Errand, seconds: float | None) -> None:
        super().__init__(content)
        self._size = len(content)
        self._errand = errand
        self._seconds = seconds

    async def write(self, writer: Any) -> None:
        """Send it; aiohttp starts the timeout of reading after that."""
        protocol, transport = writer.protocol, writer.transport
        if transport is None:
            raise aiohttp.ServerDisconnectedError
        read_timeout, protocol.read_timeout = protocol.read_timeout, self._seconds
        self._errand.uploading = True
        transport.set_write_buffer_limits(high=0)  # what is ours has not been sent
        for start in range(0, len(self._value), _BYTES_AT_ONCE):
            protocol.start_timeout()
            await writer.write(self._value[start : start + _BYTES_AT_ONCE], drain=False)
            await writer.drain()
        transport.set_write_buffer_limits()
        self._errand.uploading = False
        protocol.read_timeout = read_timeout

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> Never:
        raise NotImplementedError("a body is bytes")


class _Body(httpx.AsyncByteStream):
    """The body of an answer, as it comes."""

    def __init__(self, response: aiohttp.ClientResponse, errand: _Errand) -> None:
        self._response = response
        self._errand = errand

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _told_to_httpx(self._errand):
            async for part in self._response.content.iter_any():
                yield part

    async def aclose(self) -> None:
        self._response.release()  # a connection with an unread rest is closed by that


def _url(url: httpx.URL) -> URL:
    """The same, byte for byte; httpx has made a header of who asks."""
    origin, target = url.netloc.decode("ascii"), url.raw_path.decode("ascii")
    return URL(f"{url.scheme}://{origin}{target}", encoded=True)


def _fields(headers: httpx.Headers) -> list[tuple[str, str]]:
    """One spelling per name: of several, aiohttp sends the last alone."""
    spellings: dict[str, str] = {}
    fields: list[tuple[str, str]] = []
    try:
        for raw_name, value in headers.raw:
            name = raw_name.decode("ascii")
            if name.lower() != _NOT_PASSED_ON:
                name = spellings.setdefault(name.lower(), name)
                fields.append((name, value.decode()))
    except UnicodeDecodeError as error:
        raise Unsendable(f"a header is not UTF-8: {error}") from error
    return fields


def _body(
    content: bytes, errand: _Errand, seconds: float | None
) -> _Upload | bytes | None:
    if len(content) > _BYTES_AT_ONCE:
        return _Upload(content, errand, seconds)
    return content or None


def _timeout(seconds: Mapping[str, float | None]) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=None, sock_connect=seconds.get("connect"), sock_read=seconds.get("read")
    )


@contextmanager
def _told_to_httpx(errand: _Errand) -> Generator[None]:
    """
    Say what went wrong as httpx does: what may have been sent is no failure to connect.
    """
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise _named(error, errand)(why) from error


def _named(error: Exception, errand: _Errand) -> type[httpx.TransportError]:
    sent = errand.peer is not None
    match error:
        case aiohttp.InvalidURL():
            return httpx.UnsupportedProtocol
        case TimeoutError():
            late = httpx.WriteTimeout if errand.uploading else httpx.ReadTimeout
            return late if sent else httpx.ConnectTimeout
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError():
            return httpx.RemoteProtocolError
        case aiohttp.ClientResponseError():
            return httpx.RemoteProtocolError
        case OSError() | aiohttp.ClientError():
            return httpx.ReadError if sent else httpx.ConnectError
        case _:
            return httpx.LocalProtocolError if sent else Unsendable
