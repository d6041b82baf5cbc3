"""
A JSON-RPC endpoint that fails on demand: a proxy in front of a real node, for tests.

Real faults, not patched clients: a dropped connection is dropped, and whether the node
saw the request is chosen. It can be slow, lie, or be a replica that has stopped
following (`freeze`); what the chain itself takes back, an Anvil does
(`AnvilNode.reorg`). It speaks just enough HTTP/1.1 for JSON-RPC clients.
"""

import asyncio
import json
import time
from dataclasses import dataclass, field
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self, assert_never

import httpx

from agentpay.testing.listener import Listener


class Fault(Enum):
    """What happens to an HTTP request. "Lost": the node never sees it."""

    REQUEST_DROPPED = auto()
    """Lost; the connection is closed."""
    ANSWER_DROPPED = auto()
    """The node acts; the connection is closed instead of its answer."""
    REQUEST_REFUSED = auto()
    """Lost; answered with a JSON-RPC error."""
    ANSWER_REFUSED = auto()
    """The node acts; answered with a JSON-RPC error all the same."""
    REQUEST_BROKEN = auto()
    """Lost; answered with a JSON-RPC internal error."""
    ANSWER_BROKEN = auto()
    """The node acts; answered with a JSON-RPC internal error all the same."""
    UNAVAILABLE = auto()
    """Lost; answered with HTTP 503."""
    NOT_JSON = auto()
    """Lost; answered with a page of HTML."""
    HANGS = auto()
    """Lost; no answer ever comes."""
    ANSWER_HANGS = auto()
    """The node acts; no answer ever comes."""


_ACTS = {
    Fault.ANSWER_DROPPED,
    Fault.ANSWER_REFUSED,
    Fault.ANSWER_BROKEN,
    Fault.ANSWER_HANGS,
}


_NEWEST = ("latest", "pending", "safe", "finalized")
_OF_BLOCKS = (
    "eth_getBlockByNumber",
    "eth_getTransactionByHash",
    "eth_getTransactionReceipt",
)


@dataclass(slots=True)
class _Planned:
    method: str
    fault: Fault
    times: int
    happened: list[float] = field(default_factory=list[float])


@dataclass(slots=True)
class _Lie:
    method: str
    result: Any
    times: int


class FaultyRpc:
    """A proxy in front of a node, inside `async with`; `url` is where it listens."""

    def __init__(self, node_url: str) -> None:
        self.url = ""
        self.requests: list[list[dict[str, Any]]] = []
        """The JSON-RPC calls of every HTTP request so far, in order."""
        self.delay_seconds = 0.0
        """How late every answer comes."""
        self.outage: Fault | None = None
        """How every request fails, until `heal`."""
        self._frozen_at: int | None = None
        self._node_url = node_url
        self._planned: list[_Planned] = []
        self._lies: list[_Lie] = []
        self._client = httpx.AsyncClient(trust_env=False, verify=False)  # noqa: S501 - loopback
        self._listener = Listener(self._serve_one)

    def plan(self, method: str, fault: Fault, *, times: int = 1) -> list[float]:
        """
        Let the next `times` HTTP requests that call `method` fail in this way.

        The list that is returned grows by the time (Unix) each time it happens.
        """
        planned = _Planned(method, fault, times)
        self._planned.append(planned)
        return planned.happened

    def lie(self, method: str, result: object, *, times: int = 1) -> None:
        """Answer the next `times` calls of `method` with `result`, as JSON."""
        self._lies.append(_Lie(method, result, times))

    async def freeze(self, *, behind: int = 0) -> int:
        """
        Know no block after the present one, or after one that is so many `behind` it,
        as a replica that lags; which one that is.
        """
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber"})
        answer = json.loads(await self._forward(body.encode()))
        self._frozen_at = int(answer["result"], 16) - behind
        return self._frozen_at

    @property
    def planned(self) -> int:
        """How many planned faults and lies have not happened yet."""
        faults = sum(plan.times for plan in self._planned)
        return faults + sum(lie.times for lie in self._lies)

    def heal(self) -> None:
        """Forget every planned fault and lie, be quick, and follow the chain."""
        self._planned.clear()
        self._lies.clear()
        self._frozen_at, self.outage, self.delay_seconds = None, None, 0.0

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
        await self._client.aclose()

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
        self.requests.append(calls)
        methods = [str(call["method"]) for call in calls]
        fault = self.outage or self._next_fault(methods)
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        if fault is None:
            return 200, self._with_lies(calls, await self._ask(request))
        if fault in _ACTS:
            await self._forward(body)
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
                return 200, _errors(request, -32000)
            case Fault.REQUEST_BROKEN | Fault.ANSWER_BROKEN:
                return 200, _errors(request, -32603)
            case _:
                assert_never(fault)

    def _next_fault(self, methods: list[str]) -> Fault | None:
        for plan in self._planned:
            if plan.method in methods:
                plan.times -= 1
                plan.happened.append(time.time())
                if plan.times == 0:
                    self._planned.remove(plan)
                return plan.fault
        return None

    def _with_lies(self, calls: list[dict[str, Any]], payload: bytes) -> bytes:
        results: dict[Any, Any] = {}
        for call in calls:
            for lie in self._lies:
                if lie.method == call["method"]:
                    results[call["id"]] = lie.result
                    lie.times -= 1
                    break
            self._lies = [lie for lie in self._lies if lie.times > 0]
        if not results:
            return payload
        answers: list[dict[str, Any]] | dict[str, Any] = json.loads(payload)
        for answer in answers if isinstance(answers, list) else [answers]:
            if answer["id"] in results:
                answer["result"] = results[answer["id"]]
        return json.dumps(answers).encode()

    async def _ask(self, request: list[dict[str, Any]] | dict[str, Any]) -> bytes:
        if self._frozen_at is None:
            return await self._forward(json.dumps(request).encode())
        calls = request if isinstance(request, list) else [request]
        before = [_before(call, self._frozen_at) for call in calls]
        asked = before if isinstance(request, list) else before[0]
        answered: list[dict[str, Any]] | dict[str, Any] = json.loads(
            await self._forward(json.dumps(asked).encode())
        )
        answers = answered if isinstance(answered, list) else [answered]
        methods = {call["id"]: str(call["method"]) for call in calls}
        for answer in answers:
            _forget_after(answer, methods[answer["id"]], self._frozen_at)
        return json.dumps(answers if isinstance(request, list) else answers[0]).encode()

    async def _forward(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        answer = await self._client.post(
            self._node_url, content=body, headers=headers, timeout=30
        )
        return answer.content


def _errors(request: list[dict[str, Any]] | dict[str, Any], number: int) -> bytes:
    error = {"code": number, "message": "planned fault"}
    calls = request if isinstance(request, list) else [request]
    answers = [{"jsonrpc": "2.0", "id": call["id"], "error": error} for call in calls]
    return json.dumps(answers if isinstance(request, list) else answers[0]).encode()


def _before(call: dict[str, Any], block: int) -> dict[str, Any]:
    """A call as a node takes it that has no later block."""
    params = [
        hex(block) if isinstance(param, str) and param in _NEWEST else param
        for param in call.get("params", [])
    ]
    if call["method"] == "eth_getLogs" and params:
        asked: dict[str, Any] = dict(call["params"][0])
        for edge in ("fromBlock", "toBlock"):
            said = asked.get(edge, "latest")
            last = said in _NEWEST or int(said, 16) > block
            asked[edge] = hex(block) if last else said
        params = [asked]
    return {**call, "params": params}


def _forget_after(answer: dict[str, Any], method: str, block: int) -> None:
    """Take out of an answer what happened in later blocks."""
    if method == "eth_blockNumber":
        answer["result"] = hex(block)
    elif method in _OF_BLOCKS:
        fields: dict[str, Any] = answer.get("result") or {}
        number = fields.get("blockNumber") or fields.get("number")
        if number is not None and int(number, 16) > block:
            answer["result"] = None
