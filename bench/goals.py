"""
What the figures are to be: ratios within one run, and a few limits.

A ratio compares two figures of one run, so that the machine hardly matters; they are
what `make bench-check` compares between runs. A limit is an absolute figure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bench.measure import Sample, spread
from bench.rows import (
    AGENTPAY,
    ASGI,
    BATCHED,
    CHANNELS,
    CHARGES,
    CLIENT_MANY,
    CLIENT_ONE,
    COLD,
    DEFAULT,
    FREE,
    HOT,
    LEAST,
    LIBRARIES,
    MANY,
    MPPX,
    OURS,
    POSTGRES,
    PYMPP,
    SIGN,
    SQLITE,
    STREAM,
    THEIRS,
    TRANSFERS,
    TWO_WORKERS,
    VERIFY,
    crowded,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number of one case of one variant."""

    case: str
    variant: str
    field: str = "rate"

    def of(self, samples: Sequence[Sample]) -> float | None:
        found = spread(samples, self.case, self.variant, self.field)
        return None if found is None else found.median


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How two figures of one run compare: more is better, unless there is a `most`."""

    name: str
    above: Figure
    below: Figure
    least: float | None = None
    most: float | None = None
    """The goal; none is information."""

    def of(self, samples: Sequence[Sample]) -> float | None:
        above, below = self.above.of(samples), self.below.of(samples)
        return round(above / below, 3) if above is not None and below else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A figure, or by how much it is above another, that is to stay within a bound."""

    name: str
    figure: Figure
    less: Figure | None = None
    most: float | None = None
    least: float | None = None
    unit: str

    def of(self, samples: Sequence[Sample]) -> float | None:
        figure = self.figure.of(samples)
        less = 0 if self.less is None else self.less.of(samples)
        return None if figure is None or less is None else round(figure - less, 1)


def _rate(case: str, variant: str) -> Figure:
    return Figure(case=case, variant=variant)


def _cpu(case: str, variant: str) -> Figure:
    return Figure(case=case, variant=variant, field="cpu_us")


def _crowds(name: str, case: str, store: str) -> Ratio:
    """With a million channels against a thousand."""
    few, many = (
        Figure(case=case, variant=crowded(store, channels), field="p50_ms")
        for channels in ("1,000", "1,000,000")
    )
    return Ratio(name=f"{store}, {name}", above=many, below=few, most=1.2)


RATIOS: Final = (
    Ratio(
        name="verifying a voucher, against x402 with coincurve",
        above=_cpu(VERIFY, THEIRS),
        below=_cpu(VERIFY, AGENTPAY),
        least=4,
    ),
    Ratio(
        name="verifying a voucher, against x402 as installed by default",
        above=_cpu(VERIFY, DEFAULT),
        below=_cpu(VERIFY, AGENTPAY),
        least=60,
    ),
    Ratio(
        name="signing a voucher, against x402 with coincurve",
        above=_cpu(SIGN, THEIRS),
        below=_cpu(SIGN, AGENTPAY),
    ),
    Ratio(
        name="FastAPI, paid against unpaid, 32 at once on one channel",
        above=_rate(MANY, OURS),
        below=_rate(MANY, FREE),
        least=0.42,
    ),
    Ratio(
        name="the same, the least that a paywall can do against unpaid",
        above=_rate(MANY, LEAST),
        below=_rate(MANY, FREE),
    ),
    Ratio(
        name="FastAPI, 32 at once on one channel, against x402's best (32 channels)",
        above=_rate(MANY, OURS),
        below=_rate(CHANNELS, THEIRS),
        least=8,
    ),
    Ratio(
        name="server, SQLite against memory, 32 at once on one channel",
        above=_rate(MANY, SQLITE),
        below=_rate(MANY, OURS),
        least=0.75,
    ),
    Ratio(
        name="the same, p99",
        above=Figure(case=MANY, variant=SQLITE, field="p99_ms"),
        below=Figure(case=MANY, variant=OURS, field="p99_ms"),
        most=3,
    ),
    Ratio(
        name="server, PostgreSQL against memory, 32 at once on one channel",
        above=_rate(MANY, POSTGRES),
        below=_rate(MANY, OURS),
    ),
    Ratio(
        name="PostgreSQL, 2 workers against 1, 32 channels",
        above=_rate(CHANNELS, TWO_WORKERS),
        below=_rate(CHANNELS, POSTGRES),
    ),
    Ratio(
        name="whole client, paid against unpaid, memory on both sides",
        above=_rate(CLIENT_ONE, OURS),
        below=_rate(CLIENT_ONE, FREE),
        least=0.70,
    ),
    Ratio(
        name="whole client, paid against unpaid, SQLite on both sides",
        above=_rate(CLIENT_ONE, SQLITE),
        below=_rate(CLIENT_ONE, FREE),
        least=0.38,
    ),
    *(
        Ratio(
            name=f"whole client over {library}, paid against unpaid, memory",
            above=_rate(CLIENT_ONE, f"{OURS}, {library}"),
            below=_rate(CLIENT_ONE, f"{FREE}, {library}"),
        )
        for library in LIBRARIES
    ),
    Ratio(
        name="whole client, one after the other, against x402",
        above=_rate(CLIENT_ONE, OURS),
        below=_rate(CLIENT_ONE, THEIRS),
        least=4,
    ),
    Ratio(
        name="whole client, 32 at once on one channel, against x402",
        above=_rate(CLIENT_MANY, OURS),
        below=_rate(CLIENT_MANY, THEIRS),
        least=25,
    ),
    Ratio(
        name="exact settled one by one, against x402",
        above=_rate(TRANSFERS, OURS),
        below=_rate(TRANSFERS, THEIRS),
    ),
    Ratio(
        name="exact settled in batches, against one by one",
        above=_rate(TRANSFERS, BATCHED),
        below=_rate(TRANSFERS, OURS),
    ),
    Ratio(
        name="server CPU of an MPP charge, pympp against ours",
        above=_cpu(CHARGES, PYMPP),
        below=_cpu(CHARGES, AGENTPAY),
    ),
    Ratio(
        name="server CPU of an MPP charge, mppx against ours",
        above=_cpu(CHARGES, MPPX),
        below=_cpu(CHARGES, AGENTPAY),
    ),
    *(
        _crowds(name, case, store)
        for store in ("SQLite", "PostgreSQL")
        for name, case in (
            ("a paid request's median, 1,000,000 channels against 1,000", HOT),
            ("the same, on a channel that is not in memory", COLD),
        )
    ),
)

LIMITS: Final = (
    Limit(name="verify one voucher", figure=_cpu(VERIFY, AGENTPAY), most=75, unit="µs"),
    Limit(name="sign one voucher", figure=_cpu(SIGN, AGENTPAY), most=50, unit="µs"),
    Limit(
        name="CPU that the paywall adds to a request, memory",
        figure=_cpu(ASGI, OURS),
        less=_cpu(ASGI, FREE),
        most=160,
        unit="µs",
    ),
    Limit(
        name="CPU that the least that a paywall can do adds to a request",
        figure=_cpu(ASGI, LEAST),
        less=_cpu(ASGI, FREE),
        unit="µs",
    ),
    Limit(
        name="CPU that the paywall adds to a request, SQLite",
        figure=_cpu(ASGI, SQLITE),
        less=_cpu(ASGI, FREE),
        most=260,
        unit="µs",
    ),
    Limit(
        name="CPU that x402's adds to a request, memory, 32 channels",
        figure=_cpu(CHANNELS, THEIRS),
        less=_cpu(CHANNELS, FREE),
        unit="µs",
    ),
    Limit(
        name="CPU that being paid adds to a chunk of a stream",
        figure=_cpu(STREAM, AGENTPAY),
        less=_cpu(STREAM, FREE),
        most=15,
        unit="µs",
    ),
    Limit(
        name="whole client, 32 at once on one channel",
        figure=Figure(case=CLIENT_MANY, variant=OURS, field="failed"),
        most=0,
        unit="failed",
    ),
    Limit(
        name="the same, x402",
        figure=Figure(case=CLIENT_MANY, variant=THEIRS, field="failed"),
        unit="failed",
    ),
    Limit(
        name="exact settled and answered, one by one",
        figure=_rate(TRANSFERS, OURS),
        least=100,
        unit="/s",
    ),
    Limit(
        name="exact settled and answered, in batches",
        figure=_rate(TRANSFERS, BATCHED),
        least=100,
        unit="/s",
    ),
    Limit(
        name="the same, x402",
        figure=_rate(TRANSFERS, THEIRS),
        unit="/s",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one goal, in words."""

    name: str
    measured: str
    goal: str
    """Empty if there is none."""
    met: bool


def outcomes(samples: Sequence[Sample]) -> Iterator[Outcome]:
    """Of everything whose figures were measured."""
    for limit in LIMITS:
        value = limit.of(samples)
        if value is not None:
            yield _outcome(limit, value, digits=",.1f", unit=f" {limit.unit}")
    for ratio in RATIOS:
        found = ratio.of(samples)
        if found is not None:
            yield _outcome(ratio, found, digits=".3g", unit="")


def _outcome(goal: Limit | Ratio, value: float, *, digits: str, unit: str) -> Outcome:
    said, met = "", True
    if goal.most is not None:
        said, met = f"≤ {goal.most:g}{unit}", value <= goal.most
    if goal.least is not None:
        said, met = f"≥ {goal.least:g}{unit}", value >= goal.least
    measured = f"{value:{digits}}{unit}"
    return Outcome(name=goal.name, measured=measured, goal=said, met=met)


def ratios(samples: Sequence[Sample]) -> dict[str, float]:
    """Those whose figures were measured."""
    found = {ratio.name: ratio.of(samples) for ratio in RATIOS}
    return {name: value for name, value in found.items() if value is not None}
