"""
The servers that are measured, and their books after each case.

What a shop was paid is counted here, from answers; what it says it was paid is asked of
its ledger; and what it got is asked of the chain.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from agentpay.evm.hashing import checksummed
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from bench.goods import PRICE
from bench.lines import Json
from bench.program import PEERS, Program


class BooksDisagree(Exception):
    """A ledger, or the chain, says something else than the answers."""


@dataclass(slots=True, kw_only=True)
class Shop:
    """A server process, what it sold, and to which channels."""

    name: str
    program: Program
    chain: LocalChain
    pay_to: Address | None
    """None where nothing costs."""
    ours: bool
    channels: list[str] = field(default_factory=list[str])
    by_channel: int = 0
    by_transfer: int = 0

    async def check_books(self) -> None:
        """
        Every answer was charged, and what was charged is claimed or due.

        Raises:
            BooksDisagree: It is not.
        """
        if not self.ours or self.pay_to is None:
            return
        books = await self.program.ask(do="books", channels=self.channels)
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
        await self.program.ask(do="settle")
        arrived = await self.chain.balance(self.pay_to)
        wanted = (self.by_channel + self.by_transfer) * PRICE
        if arrived != wanted and self.ours:
            raise BooksDisagree(f"{self.name}: {arrived} arrived, sold for {wanted}")
        return {"shop": self.name, "answers cost": wanted, "arrived": arrived}


@contextlib.asynccontextmanager
async def our_shop(
    chain: LocalChain, name: str, *, framework: str, store: str, facilitator: str = ""
) -> AsyncIterator[Shop]:
    """Ours; with the store "none", the goods without a paywall."""
    wallet = await chain.funded_wallet(0, ether=10)
    settings = {
        "key": wallet.gas_key().hex(),
        "rpc_url": chain.rpc_url,
        "framework": framework,
        "store": store,
        "facilitator": facilitator,
    }
    async with Program.running("bench.serve", settings) as program:
        yield Shop(
            name=name,
            program=program,
            chain=chain,
            pay_to=None if store == "none" else wallet.address,
            ours=True,
        )


@contextlib.asynccontextmanager
async def their_shop(
    chain: LocalChain, name: str, *, facilitator: str
) -> AsyncIterator[Shop]:
    """The official SDK's."""
    wallet = await chain.funded_wallet(0, ether=0)
    settings = {
        "key": "0x" + wallet.gas_key().hex(),
        "chain_id": chain.chain_id,
        "facilitator": facilitator,
        "pay_to": checksummed(wallet.address),
        "token": checksummed(chain.usdc.address),
        "name": chain.usdc.name,
        "version": chain.usdc.version,
    }
    running = Program.running("bench.peers.serve", settings, python=PEERS)
    async with running as program:
        yield Shop(
            name=name,
            program=program,
            chain=chain,
            pay_to=wallet.address,
            ours=False,
        )
