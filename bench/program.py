"""
Runs the benchmark's programs as children, spoken to by lines of JSON.

Each ends when its input does, and by its process id if it does not.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from bench.lines import Json

ROOT = Path(__file__).parents[1]
OURS = Path(sys.executable)
PEERS = ROOT / ".venv-peers" / "bin" / "python"
WITHOUT_COINCURVE = {"ECC_BACKEND_CLASS": "eth_keys.backends.NativeECCBackend"}
"""What the official SDK does as it is installed by default: curves in pure Python."""
_ANSWER_SECONDS = 300
_STOP_SECONDS = 10


class ProgramFailed(Exception):
    """A program said that it could not, or ended, or says nothing."""


class Program:
    """A running program, and what it said when it started."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self._asking = asyncio.Lock()
        self.facts: Json = {}

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        """Where it serves, if it does."""
        return str(self.facts["url"])

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls,
        module: str,
        settings: Json,
        *,
        python: Path = OURS,
        environment: Mapping[str, str] | None = None,
    ) -> AsyncIterator["Program"]:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            log = Path(folder, "log")
            with log.open("wb") as errors:  # noqa: ASYNC230 - it is given to a child
                process = await asyncio.create_subprocess_exec(
                    *(python, "-m", module),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                    limit=2**26,
                    cwd=ROOT,
                    env={**os.environ, **(environment or {})},
                )
            program = cls(process, log)
            try:
                program.facts = await program.ask(**settings, started=True)
                yield program
            finally:
                await program._stop()

    async def ask(self, **command: Any) -> Json:
        """
        Send a line and read the answer.

        Raises:
            ProgramFailed: It could not, or ended, or says nothing.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise ProgramFailed("it has no pipes")
        try:
            async with self._asking, asyncio.timeout(_ANSWER_SECONDS):
                stdin.write(json.dumps(command).encode() + b"\n")
                await stdin.drain()
                line = await stdout.readline()
        except (TimeoutError, OSError) as error:
            raise ProgramFailed(f"no answer: {error!r}; {self._tail()}") from error
        if not line:
            raise ProgramFailed(f"it ended; {self._tail()}")
        answer: Json = json.loads(line)
        if "error" in answer:
            raise ProgramFailed(f"{answer['error']}; {self._tail()}")
        return answer

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
