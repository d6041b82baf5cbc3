"""
A JSON-RPC endpoint that fails on demand: a proxy in front of a real node, for tests.

Real faults, not patched clients: a dropped connection is dropped, and whether the node
saw the request is chosen. It speaks just enough HTTP/1.1 for JSON-RPC clients.
"""

import asyncio
import contextlib
import json
from dataclasses import dataclass
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self, assert_never

import httpx


class Fault(Enum):
    """What happens to a request. "Lost": the node never sees it."""

    REQUEST_DROPPED = auto()
    """Lost; the connection is closed."""
    ANSWER_DROPPED = auto()
    """The node acts; the connection is closed instead of its answer."""
    REQUEST_REFUSED = auto()
    """Lost; answered with a JSON-RPC internal error."""
    ANSWER_REFUSED = auto()
    """The node acts; answered with a JSON-RPC internal error all the same."""
    UNAVAILABLE = auto()
    """Lost; answered with HTTP 503."""
    NOT_JSON = auto()
    """Lost; answered with a page of HTML."""
    HANGS = auto()
    """Lost; no answer ever comes."""
    ANSWER_HANGS = auto()
    """The node acts; no answer ever comes."""


_ACTS = {Fault.ANSWER_DROPPED, Fault.ANSWER_REFUSED, Fault.ANSWER_HANGS}


@dataclass(slots=True)
class _Planned:
    method: str
    fault: Fault
    times: int


class FaultyRpc:
    """A proxy in front of a node, inside `async with`; `url` is where it listens."""

    def __init__(self, node_url: str) -> None:
        self.url = ""
        self.seen: list[list[str]] = []
        """The methods of every HTTP request so far, in order."""
        self._node_url = node_url
        self._planned: list[_Planned] = []
        self._client = httpx.AsyncClient(trust_env=False, verify=False)  # noqa: S501 - loopback
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def plan(self, method: str, fault: Fault, *, times: int = 1) -> None:
        """Let the next `times` HTTP requests that call `method` fail in this way."""
        self._planned.append(_Planned(method, fault, times))

    @property
    def planned(self) -> int:
        """How many planned faults have not happened yet."""
        return sum(plan.times for plan in self._planned)

    def heal(self) -> None:
        """Forget every planned fault."""
        self._planned.clear()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._client.aclose()

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._serve_one(reader, writer):
                    pass
        except asyncio.CancelledError:
            # Only `__aexit__` cancels, and start_server would report it as an error.
            return
        finally:
            writer.close()

    async def _serve_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        body = await reader.readexactly(length)
        answer = await self._answer(body)
        if answer is None:
            return False
        status, payload = answer
        writer.write(
            b"HTTP/1.1 %d -\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % (status, len(payload)) + payload
        )
        await writer.drain()
        return True

    async def _answer(self, body: bytes) -> tuple[int, bytes] | None:
        """The status and body to answer with, or None to close the connection."""
        request: list[dict[str, Any]] | dict[str, Any] = json.loads(body)
        calls = request if isinstance(request, list) else [request]
        methods = [str(call["method"]) for call in calls]
        self.seen.append(methods)
        fault = self._next_fault(methods)
        if fault is None:
            return 200, await self._forward(request)
        if fault in _ACTS:
            await self._forward(request)
        match fault:
            case Fault.REQUEST_DROPPED | Fault.ANSWER_DROPPED:
                return None
            case Fault.HANGS | Fault.ANSWER_HANGS:
                await asyncio.Event().wait()
                return None
            case Fault.UNAVAILABLE:
                return 503, b"no backend"
            case Fault.NOT_JSON:
                return 200, b"<html>welcome</html>"
            case Fault.REQUEST_REFUSED | Fault.ANSWER_REFUSED:
                error = {"code": -32603, "message": "planned fault"}
                answers = [
                    {"jsonrpc": "2.0", "id": c["id"], "error": error} for c in calls
                ]
                found = answers if isinstance(request, list) else answers[0]
                return 200, json.dumps(found).encode()
            case _:
                assert_never(fault)

    def _next_fault(self, methods: list[str]) -> Fault | None:
        for plan in self._planned:
            if plan.method in methods:
                plan.times -= 1
                if plan.times == 0:
                    self._planned.remove(plan)
                return plan.fault
        return None

    async def _forward(self, request: Any) -> bytes:
        body = json.dumps(request).encode()
        headers = {"Content-Type": "application/json"}
        answer = await self._client.post(
            self._node_url, content=body, headers=headers, timeout=30
        )
        return answer.content
