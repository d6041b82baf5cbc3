"""
What is measured, as data; and how one row of it becomes a sample.
"""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bench.goods import PATHS
from bench.lines import Json
from bench.measure import Sample, cpu_seconds, percentile
from bench.program import Program
from bench.purses import Purse
from bench.shops import Shop

CHANNEL, EXACT = "batch-settlement", "exact"
LANES = 32
VERIFY, SIGN = "verify one voucher", "sign one voucher"
ASGI = "bare ASGI app, 32 at once on one channel"
ONE, EIGHT, MANY, MOST = (
    f"FastAPI, {n} at once on one channel" for n in (1, 8, 32, 128)
)
CHANNELS = "FastAPI, 32 at once on 32 channels"
CLIENT_ONE = "whole client, one after the other"
CLIENT_MANY = "whole client, 32 at once on one channel"
TRANSFERS = "exact, settled on Anvil"


class NotAnswered(Exception):
    """A request of ours was not answered as it should be, or two answers are one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Signed payments to one shop, by the load generator."""

    case: str
    variant: str
    shop: str
    count: int
    at_once: int
    lanes: int = 1
    scheme: str = CHANNEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A whole client against one shop."""

    case: str
    variant: str
    shop: str
    payer: str
    count: int
    at_once: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Primitive:
    """One operation many times, in a process that does nothing else."""

    case: str
    variant: str
    does: str
    count: int


Row = Load | Client | Primitive
OURS, SQLITE, FREE, THEIRS = "agentpay, memory", "agentpay, SQLite", "unpaid", "x402"
BATCHED, DEFAULT = "agentpay, batched", "x402 without coincurve"


def _web(
    framework: str, case: str, count: int, at_once: int, lanes: int = 1
) -> list[Row]:
    return [
        Load(
            case=case,
            variant=variant,
            shop=f"{framework} {store}",
            count=count if store != "none" else 3 * count,
            at_once=at_once,
            lanes=lanes,
        )
        for variant, store in ((FREE, "none"), (OURS, "memory"), (SQLITE, "sqlite"))
    ]


def _clients(case: str, count: int, at_once: int, theirs: int) -> list[Row]:
    return [
        Client(
            case=case,
            variant=variant,
            shop=shop,
            payer=payer,
            count=count if payer[:4] != "x402" else theirs,
            at_once=at_once,
        )
        for variant, shop, payer in (
            (FREE, "fastapi none", "none"),
            (OURS, "fastapi memory", "memory"),
            (SQLITE, "fastapi sqlite", "sqlite"),
            (THEIRS, "x402", "x402" if at_once == 1 else "x402, many"),
        )
    ]


def rows(scale: float) -> list[Row]:
    """All of them, with as many requests as `scale` says."""

    def some(count: int, least: int = 32) -> int:
        return max(least, int(count * scale))

    primitives: list[Row] = [
        Primitive(case=case, variant=variant, does=does, count=count)
        for case, does in ((VERIFY, "verify"), (SIGN, "sign"))
        for variant, count in (
            ("agentpay", some(2000)),
            (THEIRS, some(1000)),
            (DEFAULT, some(50, 8)),
        )
    ]
    return [
        *primitives,
        *_web("asgi", ASGI, some(3000), 32),
        *_web("fastapi", ONE, some(1000), 1),
        *_web("fastapi", EIGHT, some(3000), 8),
        *_web("fastapi", MANY, some(3000), 32),
        *_web("fastapi", MOST, some(3000, 128), 128),
        *_web("fastapi", CHANNELS, some(3000), 32, LANES),
        Load(case=ONE, variant=THEIRS, shop="x402", count=some(500), at_once=1),
        Load(
            case=CHANNELS,
            variant=THEIRS,
            shop="x402",
            count=some(640),
            at_once=32,
            lanes=LANES,
        ),
        *_clients(CLIENT_ONE, some(500), 1, some(200)),
        *_clients(CLIENT_MANY, some(1000), 32, 32),
        *(
            Load(
                case=TRANSFERS,
                variant=variant,
                shop=shop,
                count=some(count),
                at_once=at_once,
                scheme=EXACT,
            )
            for variant, shop, count, at_once in (
                (OURS, "fastapi memory", 512, 64),
                (BATCHED, "fastapi batched", 512, 128),
                (THEIRS, "x402", 96, 32),
            )
        ),
    ]


@dataclass(slots=True, kw_only=True)
class World:
    """All that runs while it is measured."""

    load: Program
    shops: dict[str, Shop]
    payers: dict[str, Program] = field(default_factory=dict[str, Program])
    primitives: dict[str, Program] = field(default_factory=dict[str, Program])
    purses: dict[tuple[str, str], list[Purse]] = field(
        default_factory=dict[tuple[str, str], list[Purse]]
    )


async def measure(world: World, row: Row) -> Sample:
    """
    Run one row once.

    Raises:
        NotAnswered: A request to a shop of ours failed, or was answered like another.
        BooksDisagree: Its ledger says something else.
    """
    match row:
        case Primitive():
            return await _primitive(world, row)
        case Load():
            shop = world.shops[row.shop]
            place = urlsplit(shop.program.url)
            command = {
                "do": "load",
                "host": place.hostname,
                "port": place.port,
                "path": PATHS[row.scheme],
                "paid": shop.pay_to is not None,
                "lanes": await signed(world, row),
                "at_once": row.at_once,
            }
            return await _served(shop, row, lambda: world.load.ask(**command))
        case Client():
            shop, payer = world.shops[row.shop], world.payers[row.payer]
            url = shop.program.url + PATHS[CHANNEL]
            return await _served(
                shop,
                row,
                lambda: payer.ask(
                    do="many", url=url, count=row.count, at_once=row.at_once
                ),
            )


async def signed(world: World, row: Load) -> list[list[str]]:
    """The payments of each lane; where nothing costs, the headers are sent as well."""
    free = world.shops[row.shop].pay_to is None
    shop = row.shop.replace("none", "memory") if free else row.shop
    purses = world.purses[shop, row.scheme]
    chosen = purses[1 : row.lanes + 1] if row.lanes > 1 else purses[:1]
    each = row.count // row.lanes
    if free:
        return [await _copies(purse, each) for purse in chosen]
    if row.scheme == EXACT:
        return [await purse.transfers(each) for purse in chosen]
    return [await purse.headers(each) for purse in chosen]


async def _copies(purse: Purse, count: int) -> list[str]:
    """Headers of the same length, which nobody looks at."""
    paid = purse.paid
    made = await purse.headers(1)
    purse.paid = paid
    return made * count


async def _served(
    shop: Shop, row: Load | Client, act: Callable[[], Awaitable[Json]]
) -> Sample:
    before = cpu_seconds(shop.program.pid)
    answer = await act()
    cpu = cpu_seconds(shop.program.pid) - before
    answered, refused = len(answer["latencies"]), answer["refused"]
    if answered != answer["distinct"]:
        raise NotAnswered(f"{row}: {answered} answers, {answer['distinct']} distinct")
    if shop.ours and refused:
        raise NotAnswered(f"{row}: {len(refused)} refused: {refused[0]}")
    if isinstance(row, Load) and row.scheme == EXACT:
        shop.by_transfer += answered
    else:
        shop.by_channel += answered
    await shop.check_books()
    return Sample(
        case=row.case,
        variant=row.variant,
        asked=answered + len(refused),
        answered=answered,
        seconds=answer["seconds"],
        cpu=cpu,
        p50_ms=percentile(answer["latencies"], 0.5),
        p99_ms=percentile(answer["latencies"], 0.99),
        load_average=os.getloadavg()[0],
    )


async def _primitive(world: World, row: Primitive) -> Sample:
    answer = await world.primitives[row.variant].ask(do=row.does, count=row.count)
    seconds = answer["seconds"]
    return Sample(
        case=row.case,
        variant=row.variant,
        asked=row.count,
        answered=row.count,
        seconds=seconds,
        cpu=seconds,
        p50_ms=0,
        p99_ms=0,
        load_average=os.getloadavg()[0],
    )
