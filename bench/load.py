"""
The load generator: payments that were signed before, over raw sockets.

A process of its own. A connection sends its next request when the last was answered;
those on one lane share its payments, in the order in which they were signed.
"""

import asyncio
import base64
import json
import time
from collections import deque
from functools import partial
from typing import Any

from bench.lines import Json, obey, read, run


class Connection(asyncio.Protocol):
    """Sends requests one after the other, and keeps what is answered."""

    def __init__(self, lane: deque[bytes], *, paid: bool) -> None:
        self._lane = lane
        self._paid = paid
        self._buffer = b""
        self._sent_at = 0.0
        self._transport: Any = None
        loop = asyncio.get_running_loop()
        self.accepted: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.latencies: list[float] = []
        self.bodies: list[bytes] = []
        self.refused: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(b"GET /nothing HTTP/1.1\r\nhost: load\r\n\r\n")

    def start(self) -> None:
        """Once all are accepted: a payment that waits for that would become too old."""
        self._next()

    def _next(self) -> None:
        if not self._lane:
            self._transport.close()
            return
        request = self._lane.popleft()
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        fields = head.lower()
        _, _, after = fields.partition(b"\r\ncontent-length: ")
        if len(body) < int(after.partition(b"\r\n")[0] or 0):
            return
        self._buffer = b""
        if not self.accepted.done():
            self.accepted.set_result(None)
            return
        paid = b"\r\npayment-response: " in fields
        if head.startswith(b"HTTP/1.1 200 ") and paid == self._paid:
            self.latencies.append(time.perf_counter() - self._sent_at)
            self.bodies.append(body)
        else:
            self.refused.append(_reason(head, body))
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self.refused.append(repr(exc))
        if not self.accepted.done():
            self.accepted.set_result(None)
        if not self.done.done():
            self.done.set_result(None)


def _reason(head: bytes, body: bytes) -> str:
    """The status, and what a 402 says in its header or another answer in its body."""
    status, _, fields = head.partition(b"\r\n")
    _, _, after = fields.partition(b"payment-required: ")
    said = base64.b64decode(after.partition(b"\r\n")[0])
    why = json.loads(said)["error"] if said else body[:200].decode("latin-1")
    return f"{status.decode('latin-1')}: {why}"


def requests(command: Json) -> list[deque[bytes]]:
    """The requests of each lane, ready to send."""
    place = f"{command['host']}:{command['port']}"
    start = f"GET {command['path']} HTTP/1.1\r\nhost: {place}\r\n"
    return [
        deque(f"{start}payment-signature: {p}\r\n\r\n".encode() for p in lane)
        for lane in command["lanes"]
    ]


def _same(connection: Connection) -> Connection:
    return connection


async def load(command: Json) -> Json:
    lanes, paid = requests(command), command["paid"]
    loop, place = asyncio.get_running_loop(), (command["host"], command["port"])
    connections = [
        Connection(lanes[number % len(lanes)], paid=paid)
        for number in range(command["at_once"])
    ]
    await asyncio.gather(
        *(loop.create_connection(partial(_same, c), *place) for c in connections)
    )
    await asyncio.gather(*(connection.accepted for connection in connections))
    began = time.perf_counter()
    for connection in connections:
        connection.start()
    await asyncio.gather(*(connection.done for connection in connections))
    return {
        "seconds": time.perf_counter() - began,
        "latencies": [s for c in connections for s in c.latencies],
        "distinct": len({body for c in connections for body in c.bodies}),
        "refused": [why for c in connections for why in c.refused],
    }


async def main() -> None:
    read()
    await obey(load)


if __name__ == "__main__":
    run(main())
