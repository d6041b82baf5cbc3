"""
How one row becomes a sample, in a world in which everything runs.
"""

import os
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bench.goods import PATHS, UNPAID
from bench.lines import Json
from bench.measure import Sample, percentile, resident_megabytes
from bench.program import Program
from bench.purses import Purse
from bench.rows import (
    CHANNEL,
    EXACT,
    MPPX,
    PYMPP,
    THEIRS,
    Client,
    Load,
    Primitive,
    Row,
    Start,
    Stream,
    Tick,
)
from bench.shops import Shop
from bench.stream import Reader


class NotAnswered(Exception):
    """A request of ours was not answered as it should be, or two answers are one."""


@dataclass(slots=True, kw_only=True)
class World:
    """All that runs while it is measured."""

    load: Program
    shops: dict[str, Shop]
    payers: dict[str, Program] = field(default_factory=dict[str, Program])
    primitives: dict[str, Program] = field(default_factory=dict[str, Program])
    readers: dict[str, Reader] = field(default_factory=dict[str, Reader])
    purses: dict[tuple[str, str], list[Purse]] = field(
        default_factory=dict[tuple[str, str], list[Purse]]
    )

    @property
    def versions(self) -> Json:
        """What is installed in the environments of the peers that run here."""
        programs = [*self.payers.items(), *self.primitives.items()]
        programs += [(n, p) for n, s in self.shops.items() for p in s.programs]
        found = {
            name.removesuffix(" charge"): program.facts.get("versions")
            or program.facts["version"]
            for name, program in programs
        }
        return {name: found[name] for name in (THEIRS, PYMPP, MPPX) if name in found}

    async def close_books(self) -> list[Json]:
        """
        Everybody's, against what arrived on chain.

        Raises:
            BooksDisagree, StreamDisagrees: They say something else than the answers.
        """
        books = [await shop.close_books() for shop in self.shops.values()]
        for reader in self.readers.values():
            await reader.close()
        return [book for book in books if book]


async def measure(world: World, row: Row) -> Sample:
    """
    Run one row once.

    Raises:
        NotAnswered: A request to a shop of ours failed, or was answered like another.
        BooksDisagree: Its ledger says something else.
    """
    match row:
        case Primitive():
            answer = await world.primitives[row.variant].ask(
                do=row.does, count=row.count
            )
            return _sample(row, count=row.count, seconds=answer["seconds"])
        case Load():
            shop = world.shops[row.shop]
            place = urlsplit(shop.url)
            command = {
                "do": "load",
                "host": place.hostname,
                "port": place.port,
                "path": PATHS[row.scheme],
                "paid": shop.receipts,
                "lanes": await _signed(world, row),
                "at_once": row.at_once,
            }
            return await _served(shop, row, lambda: world.load.ask(**command))
        case Client():
            shop, payer = world.shops[row.shop], world.payers[row.payer]
            url = shop.url + PATHS[row.scheme]
            return await _served(
                shop,
                row,
                lambda: payer.ask(
                    do="many", url=url, count=row.count, at_once=row.at_once
                ),
            )
        case Stream():
            return await _streamed(world, row)
        case Tick():
            return await _ticked(world.shops[row.shop], row)
        case Start():
            return await _started(world.shops[row.shop], row)


async def _signed(world: World, row: Load) -> list[list[str]]:
    """The payments of each lane; where nothing costs, the headers are sent as well."""
    shop = world.shops[row.shop]
    if shop.crowd is not None:
        return [await shop.crowd.headers(row.count, payers=row.payers)]
    purses = world.purses[priced(row.shop), row.scheme]
    chosen = purses[1 : row.lanes + 1] if row.lanes > 1 else purses[:1]
    each = row.count // row.lanes
    if shop.pay_to is None:
        return [await _copies(purse, each) for purse in chosen]
    if row.scheme == EXACT:
        return [await purse.transfers(each) for purse in chosen]
    return [await purse.headers(each) for purse in chosen]


def priced(shop: str) -> str:
    """The shop whose payments a free one gets, which it does not look at."""
    framework, _, store = shop.partition(" ")
    return f"{framework} memory" if store.startswith(UNPAID) else shop


async def _copies(purse: Purse, count: int) -> list[str]:
    """Headers of the same length, of which nobody remembers one."""
    paid = purse.paid
    made = await purse.headers(1)
    purse.paid = paid
    return made * count


async def _served(
    shop: Shop, row: Load | Client, act: Callable[[], Awaitable[Json]]
) -> Sample:
    before = shop.cpu_seconds()
    answer = await act()
    cpu = shop.cpu_seconds() - before
    answered, refused = len(answer["latencies"]), answer["refused"]
    if answered != answer["distinct"]:
        raise NotAnswered(f"{row}: {answered} answers, {answer['distinct']} distinct")
    if shop.ours and refused:
        raise NotAnswered(f"{row}: {len(refused)} refused: {refused[0]}")
    if row.scheme != CHANNEL:
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


async def _streamed(world: World, row: Stream) -> Sample:
    """Each chunk as if it were a request, of which nobody waits for the latency."""
    read, _ = await world.readers[row.variant].read(row.count)
    return _sample(row, count=row.count, seconds=read.seconds, cpu=read.cpu)


async def _ticked(shop: Shop, row: Tick) -> Sample:
    """The median round; as p99, the longest that one let nothing else run."""
    rounds = [await shop.programs[0].ask(do="tick") for _ in range(row.count)]
    seconds = [one["seconds"] for one in rounds]
    return _sample(
        row,
        count=row.count,
        seconds=sum(seconds),
        p50_ms=statistics.median(seconds) * 1000,
        p99_ms=max(one["stalled"] for one in rounds) * 1000,
    )


async def _started(shop: Shop, row: Start) -> Sample:
    """How long its payee takes to start, and the memory that it has then."""
    await shop.close()
    began = time.monotonic()
    await shop.open()
    program = shop.programs[0]
    return _sample(
        row,
        count=1,
        seconds=time.monotonic() - began,
        p50_ms=program.facts["seconds"] * 1000,
        megabytes=resident_megabytes(program.pid),
    )


def _sample(
    row: Row,
    *,
    count: int,
    seconds: float,
    cpu: float | None = None,
    p50_ms: float = 0,
    p99_ms: float = 0,
    megabytes: float = 0,
) -> Sample:
    """Of something that is no request."""
    return Sample(
        case=row.case,
        variant=row.variant,
        asked=count,
        answered=count,
        seconds=seconds,
        cpu=seconds if cpu is None else cpu,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        megabytes=megabytes,
        load_average=os.getloadavg()[0],
    )
