"""
An HTTP server that fails on demand: a proxy in front of a real one, for tests.

What a network does to a payment: a request that never arrives, an answer that is lost
after the server has acted, one that breaks off, comes late, or is asked for twice.
"""

import asyncio
import time
from dataclasses import dataclass, field
from enum import Enum, auto
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from agentpay.testing.listener import Listener

_CHUNK = 64 * 1024
_GATEWAY = (
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 11\r\n"
    b"Connection: close\r\n\r\nbad gateway"
)


class HttpFault(Enum):
    """What happens to a request. "Lost": the server never sees it."""

    REQUEST_DROPPED = auto()
    """Lost; the connection is closed."""
    ANSWER_DROPPED = auto()
    """The server acts; the connection is closed instead of its answer."""
    ANSWER_CUT = auto()
    """The server acts; its answer breaks off before its last byte."""
    ANSWER_DELAYED = auto()
    """The answer comes `delay_seconds` late."""
    REQUEST_REPEATED = auto()
    """The server gets it twice, one after the other; the second answer is given."""
    REQUEST_UNAVAILABLE = auto()
    """Lost; a gateway's 502 is answered."""
    ANSWER_UNAVAILABLE = auto()
    """The server acts; a gateway's 502 is answered all the same."""


@dataclass(slots=True)
class _Planned:
    fault: HttpFault
    times: int
    header: bytes
    happened: list[float] = field(default_factory=list[float])


class FaultyHttp:
    """
    A proxy in front of a server, inside `async with`; `url` is where it listens.

    `server_url` may be changed while it runs: a server that comes back elsewhere.
    """

    def __init__(self, server_url: str, *, delay_seconds: float = 0.5) -> None:
        self.url = ""
        self.server_url = server_url
        self.requests: list[bytes] = []
        """The request line and the headers of every request so far, in order."""
        self._delay_seconds = delay_seconds
        self._planned: list[_Planned] = []
        self._listener = Listener(self._serve_one)

    def plan(
        self, fault: HttpFault, *, times: int = 1, header: str = ""
    ) -> list[float]:
        """
        Let the next `times` requests fail, or those that have a `header`.

        The list that is returned grows by the time (Unix) each time it happens.
        """
        planned = _Planned(fault, times, header.lower().encode())
        self._planned.append(planned)
        return planned.happened

    @property
    def planned(self) -> int:
        """How many planned faults have not happened yet."""
        return sum(plan.times for plan in self._planned)

    def heal(self) -> None:
        """Forget every planned fault."""
        self._planned.clear()

    async def __aenter__(self) -> Self:
        self.url = await self._listener.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._listener.stop()

    async def _serve_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        await self._serve(await _read_request(reader), writer)
        return False

    async def _serve(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        head = request.partition(b"\r\n\r\n")[0]
        self.requests.append(head)
        match self._next_fault(head.lower()):
            case HttpFault.REQUEST_DROPPED:
                return
            case HttpFault.REQUEST_UNAVAILABLE:
                writer.write(_GATEWAY)
            case HttpFault.ANSWER_DROPPED:
                await self._ask(request)
                return
            case HttpFault.ANSWER_UNAVAILABLE:
                await self._ask(request)
                writer.write(_GATEWAY)
            case HttpFault.ANSWER_CUT:
                answer = await self._ask(request)
                writer.write(answer[:-1])
            case HttpFault.REQUEST_REPEATED:
                await self._ask(request)
                writer.write(await self._ask(request))
            case HttpFault.ANSWER_DELAYED:
                answer = await self._ask(request)
                await asyncio.sleep(self._delay_seconds)
                writer.write(answer)
            case None:
                await self._pass_on(request, writer)
        await writer.drain()

    def _next_fault(self, head: bytes) -> HttpFault | None:
        for plan in self._planned:
            if not plan.header or b"\r\n" + plan.header + b":" in head:
                plan.times -= 1
                plan.happened.append(time.time())
                if plan.times == 0:
                    self._planned.remove(plan)
                return plan.fault
        return None

    async def _ask(self, request: bytes) -> bytes:
        """All that the server answers to one request."""
        reader, writer = await self._connect(request)
        try:
            return await reader.read()
        finally:
            writer.close()

    async def _pass_on(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        """As it comes, so that a stream stays one."""
        reader, there = await self._connect(request)
        try:
            while part := await reader.read(_CHUNK):
                writer.write(part)
                await writer.drain()
        finally:
            there.close()

    async def _connect(
        self, request: bytes
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        place = urlsplit(self.server_url)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(request)
        return reader, writer


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    """A request with its body; the server is told to close after its answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = [
        line
        for line in head[:-4].split(b"\r\n")
        if not line.lower().startswith(b"connection:")
    ]
    fields = [line.lower() for line in lines]
    length = next((f for f in fields if f.startswith(b"content-length:")), b":0")
    body = await reader.readexactly(int(length.partition(b":")[2]))
    return b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body
