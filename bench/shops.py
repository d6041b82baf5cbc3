"""
The servers that are measured, and their books after each case.

What a shop was paid is counted here, from answers; what it says it was paid is asked of
its ledger; and what it got is asked of the chain.
"""

import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from agentpay.evm.hashing import checksummed
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from bench.crowd import Crowd
from bench.goods import PRICE, UNPAID
from bench.lines import Json, listening
from bench.measure import cpu_seconds
from bench.program import OURS, Program


class BooksDisagree(Exception):
    """A ledger, or the chain, says something else than the answers."""


@dataclass(slots=True, kw_only=True)
class Shop:
    """A server and what it sold, and to which channels."""

    name: str
    chain: LocalChain
    module: str | Path
    settings: Json
    by: Path = OURS
    workers: int = 1
    pay_to: Address | None
    """None where nothing costs."""
    receipts: bool = True
    """Whether its answers have one."""
    ours: bool
    channels: list[str] = field(default_factory=list[str])
    by_channel: int = 0
    by_transfer: int = 0
    crowd: Crowd | None = None
    """Who pays where there are many channels, which are on no chain."""
    programs: list[Program] = field(default_factory=list[Program])
    _running: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def url(self) -> str:
        return self.programs[0].url

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Self]:
        await self.open()
        try:
            yield self
        finally:
            await self.close()

    async def open(self) -> None:
        """Start its workers, all on one socket, as uvicorn starts its own."""
        with listening() as listener:
            inherited = listener.fileno()
            for _ in range(self.workers):
                running = Program.running(
                    self.module,
                    {**self.settings, "inherited": inherited},
                    by=self.by,
                    inherited=(inherited,),
                )
                program = await self._running.enter_async_context(running)
                self.programs.append(program)

    async def close(self) -> None:
        """End them."""
        self.programs.clear()
        await self._running.aclose()

    def cpu_seconds(self) -> float:
        """Of all its processes, and of nobody else's."""
        return sum(cpu_seconds(program.pid) for program in self.programs)

    async def check_books(self) -> None:
        """
        Every answer was charged, and what was charged is claimed or due.

        Raises:
            BooksDisagree: It is not.
        """
        if not self.ours or self.pay_to is None:
            return
        if self.crowd is not None:
            wrong = await self.crowd.check_books()
            if wrong:
                raise BooksDisagree(f"{self.name}: {wrong}")
            return
        books = await self.programs[0].ask(do="books", channels=self.channels)
        wanted = self.by_channel * PRICE
        if books["charged"] != wanted or books["due"] != wanted:
            raise BooksDisagree(f"{self.name}: {books}, sold for {wanted}")

    async def close_books(self) -> Json:
        """
        Claim and settle: what the answers cost is what arrived.

        Raises:
            BooksDisagree: It is not.
        """
        if self.pay_to is None:
            return {}
        await self.check_books()
        if self.crowd is not None:
            return {}
        if self.by_channel:
            await self.programs[0].ask(do="settle")
        arrived = await self.chain.balance(self.pay_to)
        wanted = (self.by_channel + self.by_transfer) * PRICE
        if arrived != wanted and self.ours:
            raise BooksDisagree(f"{self.name}: {arrived} arrived, sold for {wanted}")
        return {"shop": self.name, "answers cost": wanted, "arrived": arrived}


async def our_shop(
    chain: LocalChain,
    name: str,
    *,
    framework: str,
    store: str,
    workers: int = 1,
    facilitator: str = "",
    batch_seconds: float = 0,
    mpp: bool = False,
) -> Shop:
    """Ours; with a "store" of `UNPAID`, the goods without a paywall."""
    wallet = await chain.funded_wallet(0, ether=10)
    return Shop(
        name=name,
        chain=chain,
        module="bench.serve",
        settings={
            "key": wallet.gas_key().hex(),
            "rpc_url": chain.rpc_url,
            "framework": framework,
            "store": store,
            "facilitator": facilitator,
            "batch_seconds": batch_seconds,
            "mpp": mpp,
        },
        workers=workers,
        pay_to=None if store in UNPAID else wallet.address,
        receipts=store != "none",
        ours=True,
    )


async def their_shop(
    chain: LocalChain, name: str, *, module: str | Path, by: Path, facilitator: str
) -> Shop:
    """An official SDK's, which has no gas."""
    wallet = await chain.funded_wallet(0, ether=0)
    return Shop(
        name=name,
        chain=chain,
        module=module,
        settings={
            "key": "0x" + wallet.gas_key().hex(),
            "chain_id": chain.chain_id,
            "facilitator": facilitator,
            "pay_to": checksummed(wallet.address),
            "token": checksummed(chain.usdc.address),
            "name": chain.usdc.name,
            "version": chain.usdc.version,
            "decimals": chain.usdc.decimals,
            "price": str(PRICE),
            "secret": secrets.token_hex(32),
            "quiet": True,
        },
        by=by,
        pay_to=wallet.address,
        ours=False,
    )
