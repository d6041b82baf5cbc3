"""
Everything that runs while it is measured: a chain, the servers, the clients.

Each is a process of its own, and all are up before the first sample is taken, so that
ours and the peer's meet the same machine.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from agentpay.testing.local_chain import LocalChain
from bench.cases import CHANNEL, DEFAULT, EXACT, LANES, THEIRS, World
from bench.goods import PATHS
from bench.lines import Json
from bench.program import PEERS, ROOT, WITHOUT_COINCURVE, Program
from bench.purses import DOLLARS, Purse
from bench.shops import Shop, our_shop, their_shop

_BATCH_SECONDS: Final = 0.2
_VOUCHERS: Final = 2000
_OPENED: Final = 2
"""Requests that each client pays for before it is measured."""
_OURS: Final = (
    ("asgi", "none"),
    ("asgi", "memory"),
    ("asgi", "sqlite"),
    ("fastapi", "none"),
    ("fastapi", "memory"),
    ("fastapi", "sqlite"),
)
_WITH_LANES: Final = ("fastapi memory", "fastapi sqlite", "x402")
_WITH_TRANSFERS: Final = ("fastapi memory", "fastapi batched", "x402")
_PAYERS: Final = {
    "none": ("fastapi none", "none", "httpx"),
    "memory": ("fastapi memory", "memory", "httpx"),
    "sqlite": ("fastapi sqlite", "sqlite", "httpx"),
    "x402": ("x402", "", "httpx"),
    "x402, many": ("x402", "", "httpx"),
}
"""A client's name, its shop, its store if it is ours, and its HTTP library."""


@asynccontextmanager
async def open_world() -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        chain = await stack.enter_async_context(LocalChain())
        shops = await _open_shops(stack, chain)
        load = await stack.enter_async_context(Program.running("bench.load", {}))
        world = World(load=load, shops=shops)
        await _open_purses(world, chain)
        await _open_payers(stack, world, chain)
        await _open_primitives(stack, world, chain)
        yield world


async def _open_shops(stack: AsyncExitStack, chain: LocalChain) -> dict[str, Shop]:
    settings = {"rpc_url": chain.rpc_url, "chain_id": chain.chain_id}
    gas = await chain.funded_wallet(0, ether=10)
    theirs = await stack.enter_async_context(
        Program.running(
            "tests.peers.facilitator",
            {**settings, "key": "0x" + gas.gas_key().hex()},
            python=PEERS,
            environment={"PYTHONPATH": str(ROOT / "tests" / "peers")},
        )
    )
    gas = await chain.funded_wallet(0, ether=10)
    batched = await stack.enter_async_context(
        Program.running(
            "bench.facilitate",
            {
                **settings,
                "key": gas.gas_key().hex(),
                "batch_seconds": _BATCH_SECONDS,
            },
        )
    )
    opening = [
        our_shop(chain, f"{framework} {store}", framework=framework, store=store)
        for framework, store in _OURS
    ]
    opening.append(
        our_shop(
            chain,
            "fastapi batched",
            framework="fastapi",
            store="memory",
            facilitator=batched.url,
        )
    )
    opening.append(their_shop(chain, "x402", facilitator=theirs.url))
    shops = [await stack.enter_async_context(shop) for shop in opening]
    return {shop.name: shop for shop in shops}


async def _open_purses(world: World, chain: LocalChain) -> None:
    paid = [shop for shop in world.shops.values() if shop.pay_to is not None]
    await asyncio.gather(*(_open_purses_of(world, chain, shop) for shop in paid))


async def _open_purses_of(world: World, chain: LocalChain, shop: Shop) -> None:
    if shop.name != "fastapi batched":
        count = 1 + LANES if shop.name in _WITH_LANES else 1
        purses = await _open_channels(shop, chain, count)
        world.purses[shop.name, CHANNEL] = purses
        shop.channels += [purse.channel for purse in purses]
        shop.by_channel += sum(purse.paid for purse in purses)
    if shop.name in _WITH_TRANSFERS:
        purse = await Purse.open(chain, shop.program.url, EXACT)
        world.purses[shop.name, EXACT] = [purse]
        shop.by_transfer += purse.paid


async def _open_channels(shop: Shop, chain: LocalChain, count: int) -> list[Purse]:
    """One after the other at the peer's, whose facilitator sends from one account."""
    url = shop.program.url
    if not shop.ours:
        return [await Purse.open(chain, url, CHANNEL) for _ in range(count)]
    opening = (Purse.open(chain, url, CHANNEL) for _ in range(count))
    return list(await asyncio.gather(*opening))


async def _open_payers(stack: AsyncExitStack, world: World, chain: LocalChain) -> None:
    for name, (shop_name, store, library) in _PAYERS.items():
        wallet = await chain.funded_wallet(DOLLARS, ether=0)
        settings: Json = {
            "key": "0x" + wallet.gas_key().hex(),
            "rpc_url": chain.rpc_url,
            "chain_id": chain.chain_id,
            "store": store,
            "library": library,
        }
        shop = world.shops[shop_name]
        running = (
            Program.running("bench.pay", settings)
            if store
            else Program.running("bench.peers.pay", settings, python=PEERS)
        )
        payer = world.payers[name] = await stack.enter_async_context(running)
        url = shop.program.url + PATHS[CHANNEL]
        opened = await payer.ask(do="many", url=url, count=_OPENED, at_once=1)
        shop.by_channel += len(opened["latencies"])
        if store not in ("", "none"):
            shop.channels += (await payer.ask(do="channels"))["channels"]


async def _open_primitives(
    stack: AsyncExitStack, world: World, chain: LocalChain
) -> None:
    """All are given the same vouchers, of a channel of their own."""
    shop = world.shops["asgi memory"]
    purse = await Purse.open(chain, shop.program.url, CHANNEL)
    shop.channels.append(purse.channel)
    shop.by_channel += purse.paid
    settings = {
        "key": "0x" + purse.wallet.gas_key().hex(),
        "payer": purse.wallet.address,
        "chain_id": chain.chain_id,
        "vouchers": await purse.vouchers(_VOUCHERS),
    }
    theirs = "bench.peers.primitives"
    for name, running in {
        "agentpay": Program.running("bench.primitives", settings),
        THEIRS: Program.running(theirs, settings, python=PEERS),
        DEFAULT: Program.running(
            theirs, settings, python=PEERS, environment=WITHOUT_COINCURVE
        ),
    }.items():
        world.primitives[name] = await stack.enter_async_context(running)
