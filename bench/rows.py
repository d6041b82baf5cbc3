"""
What is measured, as data: each row is one variant of one case.
"""

from dataclasses import dataclass
from typing import Final

from bench.crowd import PAYING

CHANNEL, EXACT, CHARGE = "batch-settlement", "exact", "charge"
LANES = 32
CROWDS: Final = {"1,000": 1000, "1,000,000": 1_000_000}
"""How many channels are open where that is what is measured."""

VERIFY, SIGN = "verify one voucher", "sign one voucher"
ASGI = "bare ASGI app, 32 at once on one channel"
ONE, EIGHT, MANY, MOST = (
    f"FastAPI, {n} at once on one channel" for n in (1, 8, 32, 128)
)
CHANNELS = "FastAPI, 32 at once on 32 channels"
CLIENT_ONE = "whole client, one after the other"
CLIENT_MANY = "whole client, 32 at once on one channel"
TRANSFERS = "exact, settled on Anvil"
HOT = "many channels open, 100 of them pay, one request at a time"
COLD = "many channels open, any of them pays, one request at a time"
STREAM = "a stream, for each chunk"
CHARGES = "MPP charge, settled on Anvil, 16 at once"
TICK = "many channels open, a round of the keeper"
START = "many channels open, the payee starts"

OURS, SQLITE, POSTGRES = (
    f"agentpay, {store}" for store in ("memory", "SQLite", "PostgreSQL")
)
AGENTPAY, FREE, THEIRS, PYMPP, MPPX = "agentpay", "unpaid", "x402", "pympp", "mppx"
LEAST = "the least there can be"
"""A voucher is read and verified, and answered with a receipt: see `bench.least`."""
LIBRARIES: Final = ("httpx2", "aiohttp")
"""What whole clients send by where it is not httpx."""
BATCHED, GATHERED = "agentpay, batched", "agentpay, batched by its facilitator"
DEFAULT = "x402 without coincurve"
TWO_WORKERS = "agentpay, PostgreSQL, 2 workers"
FREE_TWO_WORKERS = "unpaid, 2 workers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Signed payments to one shop, by the load generator."""

    case: str
    variant: str
    shop: str
    count: int
    at_once: int
    lanes: int = 1
    payers: int = 0
    """How many channels of a crowd pay, one after the other."""
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
    scheme: str = CHANNEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Primitive:
    """One operation many times, in a process that does nothing else."""

    case: str
    variant: str
    does: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Rounds of a shop's keeper."""

    case: str
    variant: str
    shop: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A shop that is stopped and started again."""

    case: str
    variant: str
    shop: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One long stream of server-sent events."""

    case: str
    variant: str
    count: int


Row = Load | Client | Primitive | Stream | Tick | Start


def crowded(store: str, channels: str) -> str:
    """The variant, and the shop, that has so many channels open."""
    return f"{store}, {channels}"


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
        for variant, store in (
            (FREE, "none"),
            (LEAST, "least"),
            (OURS, "memory"),
            (SQLITE, "sqlite"),
            (POSTGRES, "postgres"),
        )
        if variant != LEAST or case in (ASGI, MANY)
    ]


def _workers(case: str, count: int, lanes: int = 1) -> list[Row]:
    return [
        Load(case=case, variant=variant, shop=shop, count=many, at_once=32, lanes=lanes)
        for variant, shop, many in (
            (FREE_TWO_WORKERS, "fastapi none, 2 workers", 3 * count),
            (TWO_WORKERS, "fastapi postgres, 2 workers", count),
        )
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
            *(
                (f"{variant}, {library}", f"fastapi {store}", f"{store} {library}")
                for library in LIBRARIES
                for variant, store in ((FREE, "none"), (OURS, "memory"))
            ),
            (THEIRS, "x402", "x402" if at_once == 1 else "x402, many"),
        )
    ]


def _crowds(count: int) -> list[Row]:
    rows: list[Row] = []
    for store in ("SQLite", "PostgreSQL"):
        for channels, open_channels in CROWDS.items():
            name = crowded(store, channels)
            rows += [
                Load(
                    case=case,
                    variant=name,
                    shop=name,
                    count=count,
                    at_once=1,
                    payers=payers,
                )
                for case, payers in ((HOT, 100), (COLD, min(open_channels, PAYING)))
            ]
            rows += [
                Tick(case=TICK, variant=name, shop=name, count=5),
                Start(case=START, variant=name, shop=name),
            ]
    return rows


def rows(scale: float) -> list[Row]:
    """All of them, with as many requests as `scale` says."""

    def some(count: int, least: int = 32) -> int:
        return max(least, int(count * scale))

    primitives: list[Row] = [
        Primitive(case=case, variant=variant, does=does, count=count)
        for case, does in ((VERIFY, "verify"), (SIGN, "sign"))
        for variant, count in (
            (AGENTPAY, some(2000)),
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
        *_workers(MANY, some(3000)),
        *_web("fastapi", MOST, some(3000, 128), 128),
        *_web("fastapi", CHANNELS, some(3000), 32, LANES),
        *_workers(CHANNELS, some(3000), LANES),
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
                (BATCHED, "fastapi batched", 1024, 128),
                (GATHERED, "fastapi gathered", 512, 128),
                (THEIRS, "x402", 96, 32),
            )
        ),
        *(
            Client(
                case=CHARGES,
                variant=variant,
                shop=f"{variant} charge",
                payer=f"{variant} charge",
                count=some(96),
                at_once=16,
                scheme=CHARGE,
            )
            for variant in (AGENTPAY, PYMPP, MPPX)
        ),
        *(
            Stream(case=STREAM, variant=variant, count=some(10_000))
            for variant in (FREE, AGENTPAY)
        ),
        *_crowds(some(500)),
    ]
