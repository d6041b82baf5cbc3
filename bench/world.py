"""
Everything that runs while it is measured: a chain, databases, the servers, the clients.

Each is a process of its own, and all are up before the first sample is taken, so that
ours and the peer's meet the same machine. What no row asks for is not started.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from bench.cases import World, priced
from bench.crowd import PAYING, Crowd, clones, config_of, fill, silent
from bench.goods import PATHS
from bench.lines import Json
from bench.program import (
    PEERS,
    PEERS_MPP,
    PROGRAMS,
    WITHOUT_COINCURVE,
    Program,
    find_node,
)
from bench.purses import DOLLARS, Purse
from bench.rows import (
    AGENTPAY,
    CHANNEL,
    CHARGE,
    CROWDS,
    DEFAULT,
    EXACT,
    FREE,
    LIBRARIES,
    MPPX,
    PYMPP,
    THEIRS,
    Client,
    Load,
    Primitive,
    Row,
    Stream,
    crowded,
)
from bench.shops import Shop, our_shop, their_shop
from bench.stream import open_readers
from tests.postgres_server import PostgresServer

_BATCH_SECONDS: Final = 0.2
_VOUCHERS: Final = 2000
_OPENED: Final = 2
"""Requests that each client pays for before it is measured."""
_CHARGED_BY: Final = (AGENTPAY, PYMPP, MPPX)
_PAYERS: Final = {
    "none": ("fastapi none", "none", "httpx"),
    "memory": ("fastapi memory", "memory", "httpx"),
    "sqlite": ("fastapi sqlite", "sqlite", "httpx"),
    "x402": ("x402", "", "httpx"),
    "x402, many": ("x402", "", "httpx"),
    **{
        f"{store} {library}": (f"fastapi {store}", store, library)
        for store in ("none", "memory")
        for library in LIBRARIES
    },
    **{f"{sdk} charge": (f"{sdk} charge", "memory", "httpx") for sdk in _CHARGED_BY},
}
"""A client's name, its shop, its store if it is ours, and its HTTP library."""


@dataclass(slots=True, kw_only=True)
class _Site:
    """Where things are put while a world is made."""

    stack: AsyncExitStack
    chain: LocalChain
    folder: Path
    rows: Sequence[Row]
    _postgres: list[PostgresServer] = field(default_factory=list[PostgresServer])
    _files: int = 0

    def store(self, kind: str) -> str:
        """A new and empty store, as its URL."""
        if kind == "postgres":
            return self._server().new_database()
        self._files += 1
        places = {
            "none": "none",
            "least": "least",
            "memory": "memory:",
            "sqlite": str(self.folder / f"{self._files}.db"),
        }
        return places[kind]

    def _server(self) -> PostgresServer:
        if not self._postgres:
            server = PostgresServer(durable=True)
            self.stack.callback(server.stop)
            server.start()
            self._postgres.append(server)
        return self._postgres[0]

    def shops(self) -> set[str]:
        """Those that the rows are about, and those that they borrow payments of."""
        named = {
            row.shop for row in self.rows if not isinstance(row, Primitive | Stream)
        }
        for row in self.rows:
            if isinstance(row, Primitive):
                named.add("asgi memory")
            elif isinstance(row, Load):
                named.add(priced(row.shop))
        return named


@asynccontextmanager
async def open_world(rows: Sequence[Row]) -> AsyncIterator[World]:
    """All that these rows need."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        chain = await stack.enter_async_context(LocalChain())
        site = _Site(stack=stack, chain=chain, folder=Path(folder), rows=rows)
        load = await stack.enter_async_context(Program.running("bench.load", {}))
        world = World(load=load, shops={})
        for name in sorted(site.shops()):
            world.shops[name] = await _open_shop(site, name)
        await _open_purses(world, site)
        await _open_payers(world, site)
        await _open_primitives(world, site)
        if any(isinstance(row, Stream) for row in rows):
            readers = await stack.enter_async_context(open_readers(chain))
            world.readers = dict(zip((AGENTPAY, FREE), readers, strict=True))
        yield world


async def _open_shop(site: _Site, name: str) -> Shop:
    if name == THEIRS:
        shop = await their_shop(
            site.chain,
            name,
            module="bench.peers.serve",
            by=PEERS,
            facilitator=await _their_facilitator(site),
        )
        return await site.stack.enter_async_context(shop.opened())
    if name.endswith(" charge"):
        return await _open_charging(site, name)
    for store in ("SQLite", "PostgreSQL"):
        for channels, count in CROWDS.items():
            if name == crowded(store, channels):
                return await _open_crowd(site, name, store=store, channels=count)
    sold, _, workers = name.partition(", ")
    framework, _, store = sold.partition(" ")
    how = {"batched": "memory", "gathered": "memory"}
    shop = await our_shop(
        site.chain,
        name,
        framework=framework,
        store=site.store(how.get(store, store)),
        workers=2 if workers else 1,
        facilitator=await _our_facilitator(site) if store == "gathered" else "",
        batch_seconds=_BATCH_SECONDS if store == "batched" else 0,
    )
    return await site.stack.enter_async_context(shop.opened())


async def _open_charging(site: _Site, name: str) -> Shop:
    """Sells for charges of MPP, whoever's it is, and our facilitator settles them."""
    facilitator = await _our_facilitator(site, batch_seconds=0)
    sdk = name.removesuffix(" charge")
    if sdk == AGENTPAY:
        shop = await our_shop(
            site.chain,
            name,
            framework="fastapi",
            store=site.store("memory"),
            facilitator=facilitator,
            mpp=True,
        )
    else:
        module, by = {
            PYMPP: (PROGRAMS / "mpp_server.py", PEERS_MPP),
            MPPX: (PROGRAMS / "mppx" / "server.mjs", find_node()),
        }[sdk]
        shop = await their_shop(
            site.chain, name, module=module, by=by, facilitator=facilitator
        )
    return await site.stack.enter_async_context(shop.opened())


async def _open_crowd(site: _Site, name: str, *, store: str, channels: int) -> Shop:
    """One channel is paid on for real; the others are put beside it."""
    url = site.store("sqlite" if store == "SQLite" else "postgres")
    shop = await our_shop(site.chain, name, framework="asgi", store=url)
    async with shop.opened():
        purse = await Purse.open(site.chain, shop.url, CHANNEL)
    made = clones(config_of(purse), site.chain.chain_id, min(channels, PAYING))
    others = silent(channels - len(made))
    await fill(url, Hash32(purse.channel), [*made, *others])
    shop.crowd = Crowd(url=url, purse=purse, clones=made)
    return await site.stack.enter_async_context(shop.opened())


async def _their_facilitator(site: _Site) -> str:
    gas = await site.chain.funded_wallet(0, ether=10)
    running = Program.running(
        PROGRAMS / "facilitator.py",
        {
            "rpc_url": site.chain.rpc_url,
            "chain_id": site.chain.chain_id,
            "key": "0x" + gas.gas_key().hex(),
        },
        by=PEERS,
    )
    return (await site.stack.enter_async_context(running)).url


async def _our_facilitator(
    site: _Site, *, batch_seconds: float = _BATCH_SECONDS
) -> str:
    """It sends each by itself if `batch_seconds` are 0."""
    gas = await site.chain.funded_wallet(0, ether=10)
    running = Program.running(
        "bench.facilitate",
        {
            "rpc_url": site.chain.rpc_url,
            "key": gas.gas_key().hex(),
            "batch_seconds": batch_seconds,
        },
    )
    return (await site.stack.enter_async_context(running)).url


async def _open_purses(world: World, site: _Site) -> None:
    paid = [
        shop
        for shop in world.shops.values()
        if shop.pay_to is not None and shop.crowd is None
    ]
    await asyncio.gather(*(_open_purses_of(world, site, shop) for shop in paid))


async def _open_purses_of(world: World, site: _Site, shop: Shop) -> None:
    mine = [
        row
        for row in site.rows
        if isinstance(row, Load) and priced(row.shop) == shop.name
    ]
    if any(row.scheme == CHANNEL for row in mine):
        lanes = max(row.lanes for row in mine)
        purses = await _open_channels(shop, 1 + lanes if lanes > 1 else 1)
        world.purses[shop.name, CHANNEL] = purses
        shop.channels += [purse.channel for purse in purses]
        shop.by_channel += sum(purse.paid for purse in purses)
    if any(row.scheme == EXACT for row in mine):
        purse = await Purse.open(site.chain, shop.url, EXACT)
        world.purses[shop.name, EXACT] = [purse]
        shop.by_transfer += purse.paid


async def _open_channels(shop: Shop, count: int) -> list[Purse]:
    """One after the other at the peer's, whose facilitator sends from one account."""
    if not shop.ours:
        return [await Purse.open(shop.chain, shop.url, CHANNEL) for _ in range(count)]
    opening = (Purse.open(shop.chain, shop.url, CHANNEL) for _ in range(count))
    return list(await asyncio.gather(*opening))


async def _open_payers(world: World, site: _Site) -> None:
    named = [row.payer for row in site.rows if isinstance(row, Client)]
    for name in dict.fromkeys(named):
        await _open_payer(world, site, name)


async def _open_payer(world: World, site: _Site, name: str) -> None:
    shop_name, store, library = _PAYERS[name]
    wallet = await site.chain.funded_wallet(DOLLARS, ether=0)
    settings: Json = {
        "key": "0x" + wallet.gas_key().hex(),
        "rpc_url": site.chain.rpc_url,
        "chain_id": site.chain.chain_id,
        "store": store,
        "library": library,
        "charge": name.removesuffix(" charge") if name.endswith(" charge") else "",
    }
    running = (
        Program.running("bench.pay", settings)
        if store
        else Program.running("bench.peers.pay", settings, by=PEERS)
    )
    shop = world.shops[shop_name]
    payer = world.payers[name] = await site.stack.enter_async_context(running)
    scheme = CHARGE if settings["charge"] else CHANNEL
    opened = await payer.ask(
        do="many", url=shop.url + PATHS[scheme], count=_OPENED, at_once=1
    )
    if scheme == CHARGE:
        shop.by_transfer += len(opened["latencies"])
        return
    shop.by_channel += len(opened["latencies"])
    if store not in ("", "none"):
        shop.channels += (await payer.ask(do="channels"))["channels"]


async def _open_primitives(world: World, site: _Site) -> None:
    """All are given the same vouchers, of a channel of their own."""
    if not any(isinstance(row, Primitive) for row in site.rows):
        return
    shop = world.shops["asgi memory"]
    purse = await Purse.open(site.chain, shop.url, CHANNEL)
    shop.channels.append(purse.channel)
    shop.by_channel += purse.paid
    settings = {
        "key": "0x" + purse.wallet.gas_key().hex(),
        "payer": purse.wallet.address,
        "chain_id": site.chain.chain_id,
        "vouchers": await purse.vouchers(_VOUCHERS),
    }
    theirs = "bench.peers.primitives"
    for name, running in {
        AGENTPAY: Program.running("bench.primitives", settings),
        THEIRS: Program.running(theirs, settings, by=PEERS),
        DEFAULT: Program.running(
            theirs, settings, by=PEERS, environment=WITHOUT_COINCURVE
        ),
    }.items():
        world.primitives[name] = await site.stack.enter_async_context(running)
