"""
Runs Anvil as a child: a private chain that starts in 50 ms and leaves nothing behind.

It listens on loopback only and mines every 0.1 s: with Anvil's default of mining at
each transaction, concurrent senders strand some of them for good.
"""

import asyncio
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from agentpay.errors import ChainUnreachable
from agentpay.testing.anvil_binary import find_anvil
from agentpay.testing.anvil_node import AnvilNode
from agentpay.types import ChainId

_LISTENING = re.compile(r"^Listening on 127\.0\.0\.1:([0-9]+)$", re.MULTILINE)
_STOP_SECONDS_MAX = 3.0
_POLL_SECONDS = 0.01
# Lives in a session of its own and waits for a line or for the end of our process.
# PR_SET_PDEATHSIG would not do: it fires when the *thread* that started the child ends.
_WATCHDOG = (
    "/bin/sh",
    "-c",
    'read -r _ || { kill -s KILL -- "-$1"; rm -f "$2/anvil.log"; rmdir "$2"; }',
    "sh",
)


class Anvil(AnvilNode):
    """A private Anvil, running inside `async with` and killed with this process."""

    def __init__(
        self,
        *,
        executable: Path | None = None,
        port: int = 0,
        chain_id: int = 31337,
        block_seconds: float = 0.1,
        no_mining: bool = False,
        start_seconds_max: float = 20,
        arguments: Sequence[str] = (),
    ) -> None:
        super().__init__("")
        self.chain_id = ChainId(chain_id)
        self._executable = executable
        self._start_seconds_max = start_seconds_max
        mining = ["--no-mining"] if no_mining else ["--block-time", f"{block_seconds}"]
        self._port = port
        self._arguments = [
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--chain-id", str(chain_id), *mining, *arguments),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    @property
    def url(self) -> str:
        """
        Raises:
            ChainUnreachable: It is not running.
        """
        if not self._url:
            raise ChainUnreachable("this Anvil is not running: start it first")
        return self._url

    @property
    def process_id(self) -> int:
        """
        Raises:
            ChainUnreachable: It is not running.
        """
        if self._process is None:
            raise ChainUnreachable("this Anvil is not running: start it first")
        return self._process.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """
        Start it, and return when it answers.

        Raises:
            ToolMissing: There is no Anvil, and it could not be fetched.
            ChainUnreachable: It ended at once (its port is taken?), or never answered.
        """
        executable = await asyncio.to_thread(find_anvil, self._executable)
        self._directory = tempfile.TemporaryDirectory(prefix="agentpay-anvil-")
        try:
            self._spawn(executable)
            await self._wait_until_ready()
        except BaseException:
            # Also cancelled, it must not stay behind.
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the process and forget its log; does nothing if it is not running."""
        process, self._process = self._process, None
        self._url = ""
        try:
            if process is not None:
                await _end(process)
        finally:
            self._dismiss_watchdog()
            if self._directory is not None:
                self._directory.cleanup()
                self._directory = None

    def kill(self) -> None:
        """Kill it without notice, as a crash would; `stop` is still to be called."""
        os.kill(self.process_id, signal.SIGKILL)

    def log(self) -> str:
        """What it has printed so far."""
        if self._directory is None:
            return ""
        path = Path(self._directory.name, "anvil.log")
        return path.read_text(encoding="utf-8", errors="replace")

    def _spawn(self, executable: Path) -> None:
        if self._directory is None:
            return
        # Old states go to the disk, by default to the home, where they stay for ever.
        old = ["--cache-path", self._directory.name, "--max-persisted-states", "512"]
        command = [str(executable), *self._arguments, *old]
        with Path(self._directory.name, "anvil.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own arguments
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "NO_COLOR": "1"},
            )
        if os.name == "posix":
            self._watchdog = subprocess.Popen(  # noqa: S603 - our own arguments
                [*_WATCHDOG, str(self._process.pid), self._directory.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    async def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._start_seconds_max
        while self._process is not None and self._process.poll() is None:
            # Only its own words say which port it has: the port may be somebody
            # else's chain, which would answer just as well.
            if match := _LISTENING.search(self.log()):
                self._url = f"http://127.0.0.1:{match[1]}"
                await self.rpc("eth_chainId")
                return
            if time.monotonic() > deadline:
                raise ChainUnreachable(
                    f"Anvil was not ready within {self._start_seconds_max:g} s;"
                    f" it said: {self.log()[-400:].strip()}"
                )
            await asyncio.sleep(_POLL_SECONDS)
        taken = f"port {self._port} may be taken, choose another"
        raise ChainUnreachable(
            f"Anvil ended at once ({taken}); it said: {self.log()[-400:].strip()}"
        )

    def _dismiss_watchdog(self) -> None:
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.communicate(b"done\n")


async def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    deadline = time.monotonic() + _STOP_SECONDS_MAX
    try:
        # A process that ends sets no Event.
        while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
