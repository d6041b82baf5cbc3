"""
Whether a client is still there while its answer flows.

A server says that a client left where a request's body is received, and only to who
asks. So somebody asks for as long as a stream runs; what comes meanwhile is kept for
the application, up to a bound.
"""

import asyncio
from collections import deque

from agentpay.http.asgi import Message, Receive

_KEPT_BYTES_MAX = 64 * 1024


class Presence:
    """Passes a request's messages on, and notices when its client leaves."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: deque[Message] = deque()
        self._kept_bytes = 0
        self._changed = asyncio.Condition()
        self._watching: asyncio.Task[None] | None = None
        self._left = asyncio.Event()

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return self._left.is_set()

    async def left(self) -> None:
        """Return when the client leaves."""
        await self._left.wait()

    async def receive(self) -> Message:
        """What comes next, for the application."""
        if self._watching is None:
            return self._noted(await self._receive())
        async with self._changed:
            await self._changed.wait_for(lambda: self._kept or self.gone)
            if not self._kept:
                return {"type": "http.disconnect"}
            message = self._kept.popleft()
            self._kept_bytes -= len(message.get("body", b""))
            self._changed.notify_all()
            return message

    def watch(self) -> None:
        """Notice from now on when the client leaves; `end` ends it."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="watch a client")

    async def _watch(self) -> None:
        while not self.gone:
            async with self._changed:
                await self._changed.wait_for(
                    lambda: self._kept_bytes <= _KEPT_BYTES_MAX
                )
            try:
                message = self._noted(await self._receive())
            except Exception:  # noqa: BLE001 - a server that fails here has no client
                message = self._noted({"type": "http.disconnect"})
            async with self._changed:
                if not self.gone:
                    self._kept.append(message)
                    self._kept_bytes += len(message.get("body", b""))
                self._changed.notify_all()

    def _noted(self, message: Message) -> Message:
        if message["type"] == "http.disconnect":
            self._left.set()
        return message

    def end(self) -> None:
        """Stop watching: the application is done with the request."""
        if self._watching is not None:
            self._watching.cancel()
