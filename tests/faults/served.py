"""
What a provider made and what left it: one file that all its processes add to.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from agentpay.http.paywall import App, Message, Receive, Scope, Send

REQUEST_ID = b"x-request"
_CALL = "tests.call"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One run of the handler."""

    request: str
    life: str
    """Which of the provider's processes it was."""
    at: float
    ended: float = 0.0
    """When the answer began to leave, or it was clear that none would; 0 is never."""
    status: int = 0
    """What was answered to the call; 0 is nothing."""

    @property
    def withheld_at(self) -> float | None:
        """When its caller was told something else than its answer, if that was so."""
        return self.ended if self.ended and not 200 <= self.status < 300 else None


class Door:
    """In front of a paywall: gives every call a number, and notes how it ended."""

    def __init__(self, app: App, file: str) -> None:
        self._app = app
        self._calls = count()
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call, started = next(self._calls), False

        async def noting(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _note(self._file, call, f"ended {message['status']}")
            await send(message)

        try:
            await self._app({**scope, _CALL: call}, receive, noting)
        finally:
            if not started:
                _note(self._file, call, "ended 0")


def made_by(file: str) -> Callable[[Scope], str]:
    """What a handler calls when it is done; it says which request that was."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def made(scope: Scope) -> str:
        name: str = dict(scope["headers"]).get(REQUEST_ID, b"").decode()
        _note(descriptor, scope[_CALL], f"made {name}")
        return name

    return made


def _note(file: int, call: int, words: str) -> None:
    os.write(file, f"{os.getpid()} {call} {time.time():.6f} {words}\n".encode())


def read_served(file: str) -> list[Served]:
    """All that was made, in order."""
    if not Path(file).exists():
        return []
    runs: list[tuple[str, Served]] = []
    ends: dict[str, tuple[float, int]] = {}
    for line in Path(file).read_text().splitlines():
        life, number, at, what, words = line.split(" ", 4)
        call = f"{life} {number}"
        if what == "made":
            runs.append((call, Served(request=words, life=life, at=float(at))))
        else:
            ends[call] = float(at), int(words)
    return [
        replace(run, ended=ended, status=status)
        for call, run in runs
        for ended, status in [ends.get(call, (0.0, 0))]
    ]
