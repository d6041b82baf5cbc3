"""
What samples say: a table of every case, and the ratios that are compared between runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.cases import (
    ASGI,
    BATCHED,
    CHANNELS,
    CLIENT_MANY,
    CLIENT_ONE,
    DEFAULT,
    FREE,
    MANY,
    OURS,
    SIGN,
    SQLITE,
    THEIRS,
    TRANSFERS,
    VERIFY,
)
from bench.measure import Sample, Spread, spread


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
    """How two figures of one run compare; more is better."""

    name: str
    above: Figure
    below: Figure
    goal: float


def _rate(case: str, variant: str) -> Figure:
    return Figure(case=case, variant=variant)


def _cpu(case: str, variant: str) -> Figure:
    return Figure(case=case, variant=variant, field="cpu_us")


RATIOS: Final = (
    Ratio(
        name="verifying a voucher, against x402 with coincurve",
        above=_cpu(VERIFY, THEIRS),
        below=_cpu(VERIFY, "agentpay"),
        goal=4,
    ),
    Ratio(
        name="verifying a voucher, against x402 as installed by default",
        above=_cpu(VERIFY, DEFAULT),
        below=_cpu(VERIFY, "agentpay"),
        goal=60,
    ),
    Ratio(
        name="signing a voucher, against x402 with coincurve",
        above=_cpu(SIGN, THEIRS),
        below=_cpu(SIGN, "agentpay"),
        goal=4,
    ),
    Ratio(
        name="FastAPI, paid against unpaid, 32 at once on one channel",
        above=_rate(MANY, OURS),
        below=_rate(MANY, FREE),
        goal=0.42,
    ),
    Ratio(
        name="FastAPI, 32 at once on one channel, against x402's best (32 channels)",
        above=_rate(MANY, OURS),
        below=_rate(CHANNELS, THEIRS),
        goal=8,
    ),
    Ratio(
        name="server, SQLite against memory, 32 at once on one channel",
        above=_rate(MANY, SQLITE),
        below=_rate(MANY, OURS),
        goal=0.75,
    ),
    Ratio(
        name="whole client, paid against unpaid, memory on both sides",
        above=_rate(CLIENT_ONE, OURS),
        below=_rate(CLIENT_ONE, FREE),
        goal=0.70,
    ),
    Ratio(
        name="whole client, paid against unpaid, SQLite on both sides",
        above=_rate(CLIENT_ONE, SQLITE),
        below=_rate(CLIENT_ONE, FREE),
        goal=0.38,
    ),
    Ratio(
        name="whole client, one after the other, against x402",
        above=_rate(CLIENT_ONE, OURS),
        below=_rate(CLIENT_ONE, THEIRS),
        goal=4,
    ),
    Ratio(
        name="whole client, 32 at once on one channel, against x402",
        above=_rate(CLIENT_MANY, OURS),
        below=_rate(CLIENT_MANY, THEIRS),
        goal=25,
    ),
    Ratio(
        name="exact settled one by one, against x402",
        above=_rate(TRANSFERS, OURS),
        below=_rate(TRANSFERS, THEIRS),
        goal=4,
    ),
    Ratio(
        name="exact settled in batches, against x402",
        above=_rate(TRANSFERS, BATCHED),
        below=_rate(TRANSFERS, THEIRS),
        goal=4,
    ),
)


def ratios(samples: Sequence[Sample]) -> dict[str, float]:
    """Those whose figures were measured."""
    found: dict[str, float] = {}
    for ratio in RATIOS:
        above, below = ratio.above.of(samples), ratio.below.of(samples)
        if above is not None and below:
            found[ratio.name] = round(above / below, 3)
    return found


def markdown(samples: Sequence[Sample], facts: dict[str, str]) -> str:
    """The whole report."""
    run = (
        f"{facts['when']}, {facts['machine']}, {facts['repetitions']} repetitions,"
        f" load average {facts['load']}. Medians; least and most in brackets. What each"
        " figure is: `docs/performance.md`."
    )
    lines = [
        "# Measured",
        "",
        run,
        "",
        *_primitives(samples),
        *_requests(samples),
        *_added(samples),
        *_ratios(samples),
    ]
    return "\n".join(lines) + "\n"


def _named(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((s.case, s.variant) for s in samples))


def _shown(found: Spread | None, digits: int = 0) -> str:
    if found is None:
        return ""
    low, mid, high = (
        f"{value:,.{digits}f}" for value in (found.least, found.median, found.most)
    )
    return f"{mid} ({low} to {high})"


def _primitives(samples: Sequence[Sample]) -> list[str]:
    lines = ["| one operation | by | µs of CPU |", "|---|---|---|"]
    for case, variant in sorted(_named(samples)):
        if case in (VERIFY, SIGN):
            cpu = spread(samples, case, variant, "cpu_us")
            lines.append(f"| {case} | {variant} | {_shown(cpu, 1)} |")
    return [*lines, ""]


def _requests(samples: Sequence[Sample]) -> list[str]:
    lines = [
        "| case | by | answered a second | server CPU µs | p50 ms | p99 ms | failed |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, variant in sorted(_named(samples)):
        if case in (VERIFY, SIGN):
            continue
        mine = [s for s in samples if (s.case, s.variant) == (case, variant)]
        rate, cpu, p50, p99 = (
            spread(mine, case, variant, name)
            for name in ("rate", "cpu_us", "p50_ms", "p99_ms")
        )
        asked = sum(s.asked for s in mine)
        failed = asked - sum(s.answered for s in mine)
        medians = " | ".join(f"{x.median:,.1f}" for x in (p50, p99) if x is not None)
        lines.append(
            f"| {case} | {variant} | {_shown(rate)} | {_shown(cpu)} | {medians}"
            f" | {failed} of {asked} |"
        )
    return [*lines, ""]


def _added(samples: Sequence[Sample]) -> list[str]:
    """CPU that the paywall adds to a request: a difference of medians of one run."""
    lines = ["| CPU that the paywall adds to a request | µs |", "|---|---|"]
    for case in (ASGI, MANY):
        free = _cpu(case, FREE).of(samples)
        for variant in (OURS, SQLITE):
            paid = _cpu(case, variant).of(samples)
            if free is not None and paid is not None:
                lines.append(f"| {case}: {variant} | {paid - free:,.0f} |")
    free, theirs = _cpu(CHANNELS, FREE).of(samples), _cpu(CHANNELS, THEIRS).of(samples)
    if free is not None and theirs is not None:
        lines.append(f"| {CHANNELS}: {THEIRS} | {theirs - free:,.0f} |")
    return [*lines, ""]


def _ratios(samples: Sequence[Sample]) -> list[str]:
    found = ratios(samples)
    lines = ["| ratio of medians | measured | goal |", "|---|---|---|"]
    measured = [ratio for ratio in RATIOS if ratio.name in found]
    lines += [f"| {r.name} | {found[r.name]} | {r.goal:g} |" for r in measured]
    return lines
