"""
What all histories share: one chain, one PostgreSQL, and a few providers that come back.
"""

import asyncio
import contextlib
import json
import socket
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import SIGKILL
from types import TracebackType
from typing import Self

import httpx

from agentpay import Wallet
from agentpay.testing.faulty_rpc import FaultyRpc
from agentpay.testing.local_chain import LocalChain
from tests.faults.provider import Place
from tests.postgres_server import PostgresServer

ROOT = Path(__file__).parents[2]
_START_SECONDS = 300


async def run_module(
    module: str, told: object, *, log: Path
) -> asyncio.subprocess.Process:
    """A program of ours in a process of its own; what it says goes to a file."""
    with log.open("ab") as said:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, json.dumps(told), cwd=ROOT, stderr=said
        )


async def kill(process: asyncio.subprocess.Process) -> bool:
    """SIGKILL; False if it had ended by itself."""
    if process.returncode is not None:
        return False
    process.kill()
    await process.wait()
    return process.returncode == -SIGKILL


@dataclass(slots=True, kw_only=True)
class Provider:
    """A provider's process, which always comes back on its port and its store."""

    name: str
    place: Place
    rpc: FaultyRpc
    starts: int = 0
    process: asyncio.subprocess.Process | None = None
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.place.port}"

    @property
    def wallet(self) -> Wallet:
        return Wallet.from_key(self.place.key)

    async def start(self) -> None:
        """
        Start it, and again for as long as it cannot: it refuses to begin with an
        endpoint that fails, as it may for each fault that is planned.
        """
        async with (
            self.busy,
            asyncio.timeout(_START_SECONDS),
            httpx.AsyncClient() as client,
        ):
            while True:
                if self.process is None or self.process.returncode is not None:
                    self.starts += 1
                    told = asdict(self.place)
                    self.process = await run_module(
                        "tests.faults.provider",
                        told,
                        log=Path(self.place.served + ".log"),
                    )
                with contextlib.suppress(httpx.TransportError):
                    await client.get(self.base + "/free")
                    return
                await asyncio.sleep(0.05)

    async def kill(self) -> bool:
        """SIGKILL, whatever it is doing; False if it is dead already."""
        async with self.busy:
            return self.process is not None and await kill(self.process)


class Pool:
    """Everything that outlives a history, inside `async with`."""

    def __init__(
        self, directory: Path, *, providers: int, stores: tuple[str, ...]
    ) -> None:
        self.stores = stores
        self.chain = LocalChain()
        self.postgres = PostgresServer()
        self.providers: list[Provider] = []
        self.directory = directory
        self.database_busy = asyncio.Lock()
        self._count = providers
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            await opening.enter_async_context(self.chain)
            opening.callback(self.postgres.stop)
            if "postgres" in self.stores:
                await asyncio.to_thread(self.postgres.start)
            for number in range(self._count):
                rpc = FaultyRpc(self.chain.rpc_url)
                await opening.enter_async_context(rpc)
                provider = await self._make(number, rpc)
                opening.push_async_callback(provider.kill)
                self.providers.append(provider)
            await asyncio.gather(*(p.start() for p in self.providers))
            self._opened = opening.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._opened.aclose()

    async def _make(self, number: int, rpc: FaultyRpc) -> Provider:
        name = f"{self.stores[number % len(self.stores)]}-{number}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        place = Place(
            chain_url=self.chain.rpc_url,
            rpc_url=rpc.url,
            key=self.chain.new_key(),
            store=self.new_store(name),
            port=port,
            served=str(self.directory / f"{name}.served"),
        )
        provider = Provider(name=name, place=place, rpc=rpc)
        await self.chain.fund(provider.wallet.address, 0, ether=100)
        return provider

    def new_store(self, name: str) -> str:
        """A new database, by its first word: `sqlite` or `postgres`."""
        if name.startswith("postgres"):
            return self.postgres.new_database()
        return str(self.directory / f"{name}.db")
