"""
Runs a program of a peer's (`tests/peers`) in that peer's environment, as a child.

It is spoken to by lines of JSON, and ends when its input does.
"""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from peer_evidence import Evidence, Json, read_note

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
MPP_PYTHON = ROOT / ".venv-peers-mpp" / "bin" / "python"
PROGRAMS = ROOT / "tests" / "peers"
_ANSWER_SECONDS = 60
_STOP_SECONDS = 10


class PeerFailed(Exception):
    """A program of the peer's said that it could not, or ended."""


class Peer:
    """A program in the peer's environment."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self._asking = asyncio.Lock()
        self.version = ""
        self.url = ""

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, program: str, settings: Json, *, by: Path = PYTHON
    ) -> AsyncIterator["Peer"]:
        """Start it by an interpreter, and end it by its process id."""
        with tempfile.TemporaryDirectory(prefix="peer-") as folder:
            log = Path(folder, "log")
            with log.open("wb") as errors:  # noqa: ASYNC230 - it is given to a child
                process = await asyncio.create_subprocess_exec(
                    *(by, PROGRAMS / program),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                    limit=2**24,
                )
            peer = cls(process, log)
            try:
                started = await peer.ask(**settings)
                peer.version, peer.url = started["version"], started.get("url", "")
                yield peer
            finally:
                await peer._stop()

    async def ask(self, **command: Any) -> Json:
        """
        Send a line and read the answer.

        Raises:
            PeerFailed: It could not, or ended, or says nothing.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise PeerFailed("it has no pipes")
        try:
            async with self._asking, asyncio.timeout(_ANSWER_SECONDS):
                stdin.write(json.dumps(command).encode() + b"\n")
                await stdin.drain()
                line = await stdout.readline()
        except (TimeoutError, OSError) as error:
            raise PeerFailed(f"no answer: {error!r}; {self._tail()}") from error
        if not line:
            raise PeerFailed(f"it ended; {self._tail()}")
        answer: Json = json.loads(line)
        if "error" in answer:
            raise PeerFailed(f"{answer['error']}; {self._tail()}")
        return answer

    async def notes(self) -> list[Evidence]:
        """What it saw since it was last asked: every exchange with a payment."""
        answer = await self.ask(do="notes")
        return [read_note(note) for note in answer["notes"]]

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-1500:].strip()

    async def _stop(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
