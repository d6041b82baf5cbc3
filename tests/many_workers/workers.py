"""Starts a provider as its operator would, and the agents that pay it."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from agentpay import Wallet
from agentpay.testing.local_chain import LocalChain

ROOT = Path(__file__).parents[2]
WORKERS = 4


class Workers:
    """`uvicorn --workers 4` over one store."""

    def __init__(
        self, chain: LocalChain, store: str, journal: Path, *, claim_at: str = "$1000"
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}"
        self.key = chain.new_key()
        self.wallet = Wallet.from_key(self.key)
        self._journal = journal
        self._environment = {
            **os.environ,
            "SHOP_RPC": chain.rpc_url,
            "SHOP_KEY": self.key,
            "SHOP_STORE": store,
            "SHOP_JOURNAL": str(journal),
            "SHOP_CLAIM_AT": claim_at,
        }
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        program = [sys.executable, "-m", "uvicorn", "tests.many_workers.shop:app"]
        options = ["--workers", str(WORKERS), "--port", str(self.port)]
        quiet = ["--log-level", "critical", "--ws", "none"]
        self._process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own interpreter
            [*program, *options, *quiet], cwd=ROOT, env=self._environment
        )
        async with asyncio.timeout(60):
            while len(await self.processes()) < WORKERS:
                pass  # it waits for answers

    async def processes(self) -> dict[int, str]:
        """The processes that answer now, with their owners."""
        found: dict[int, str] = {}
        for _ in range(6 * WORKERS):
            # A connection each: whichever worker takes it, answers.
            await asyncio.sleep(0.02)
            with contextlib.suppress(httpx.TransportError):
                async with httpx.AsyncClient() as client:
                    said = (await client.get(self.base + "/who", timeout=10)).json()
                found[said["process"]] = said["owner"]
            if len(found) == WORKERS:
                break
        return found

    async def process_of(self, owner: str) -> int:
        """The process that is this owner."""
        async with asyncio.timeout(30):
            while True:
                for process, named in (await self.processes()).items():
                    if named == owner:
                        return process

    def served(self) -> Counter[int]:
        """How many requests each process ran."""
        if not self._journal.exists():
            return Counter()
        lines = self._journal.read_text().splitlines()
        return Counter(int(line.split()[0]) for line in lines)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=30)
            self._process = None


@asynccontextmanager
async def workers(
    chain: LocalChain, store: str, directory: Path, *, claim_at: str = "$1000"
) -> AsyncIterator[Workers]:
    """A provider with four workers, from start to stop."""
    provider = Workers(chain, store, directory / "journal", claim_at=claim_at)
    await chain.fund(provider.wallet.address, 0, ether=1)
    try:
        await provider.start()
        yield provider
    finally:
        provider.stop()
