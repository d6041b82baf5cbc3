"""
What samples say: tables of every case, what became of each goal, and the README's part.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from bench.goals import outcomes
from bench.measure import Sample, Spread, spread
from bench.rows import (
    COLD,
    CROWDS,
    HOT,
    SIGN,
    START,
    STREAM,
    TICK,
    VERIFY,
    crowded,
)

OPENS: Final = "<!-- What `make bench` wrote begins here. -->"
CLOSES: Final = "<!-- What `make bench` wrote ends here. -->"
_ELSEWHERE: Final = frozenset({VERIFY, SIGN, STREAM, HOT, COLD, TICK, START})
"""Cases that have tables of their own."""


def markdown(samples: Sequence[Sample], facts: dict[str, str]) -> str:
    """The whole report."""
    lines = [
        "# Measured",
        "",
        _about(facts),
        "",
        *_primitives(samples),
        *_requests(samples),
        *_crowds(samples),
        *_goals(samples),
    ]
    return "\n".join(lines) + "\n"


def summary(samples: Sequence[Sample], facts: dict[str, str]) -> str:
    """What the README has of it: the goals, as they came out."""
    lines = [
        OPENS,
        "",
        _about(facts),
        "",
        *_goals(samples),
        "![Answered requests a second](bench/results.svg)",
        "",
        CLOSES,
    ]
    return "\n".join(lines)


def put_summary(readme: str, said: str) -> str:
    """
    The README with this summary in the place of the one it has.

    Raises:
        ValueError: It has no place for one.
    """
    before, opens, rest = readme.partition(OPENS)
    _, closes, after = rest.partition(CLOSES)
    if not opens or not closes:
        raise ValueError("the README has no place for what was measured")
    return before + said + after


def _about(facts: dict[str, str]) -> str:
    return (
        f"{facts['when']}, {facts['machine']}, {facts['repetitions']} repetitions,"
        f" load average {facts['load']}. Medians; least and most in brackets. What each"
        " figure is, and what limits it: `docs/performance.md`."
    )


def _named(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((s.case, s.variant) for s in samples))


def _shown(found: Spread | None, digits: int = 0) -> str:
    if found is None:
        return ""
    low, mid, high = (
        f"{value:,.{digits}f}" for value in (found.least, found.median, found.most)
    )
    return f"{mid} ({low} to {high})"


def _table(head: str, lines: Iterator[str]) -> list[str]:
    """With its head, if there is anything in it."""
    found = list(lines)
    if not found:
        return []
    return [head, "|" + "---|" * (head.count("|") - 1), *found, ""]


def _primitives(samples: Sequence[Sample]) -> list[str]:
    return _table(
        "| one operation | by | µs of CPU |",
        (
            f"| {case} | {variant} |"
            f" {_shown(spread(samples, case, variant, 'cpu_us'), 1)} |"
            for case, variant in sorted(_named(samples))
            if case in (VERIFY, SIGN, STREAM)
        ),
    )


def _requests(samples: Sequence[Sample]) -> list[str]:
    return _table(
        "| case | by | answered a second | server CPU µs | p50 ms | p99 ms | failed |",
        (
            _request(samples, case, variant)
            for case, variant in sorted(_named(samples))
            if case not in _ELSEWHERE
        ),
    )


def _request(samples: Sequence[Sample], case: str, variant: str) -> str:
    mine = [s for s in samples if (s.case, s.variant) == (case, variant)]
    rate, cpu, p50, p99 = (
        spread(mine, case, variant, name)
        for name in ("rate", "cpu_us", "p50_ms", "p99_ms")
    )
    asked, failed = sum(s.asked for s in mine), sum(s.failed for s in mine)
    medians = " | ".join(f"{x.median:,.1f}" for x in (p50, p99) if x is not None)
    return (
        f"| {case} | {variant} | {_shown(rate)} | {_shown(cpu)} | {medians}"
        f" | {failed} of {asked} |"
    )


def _crowds(samples: Sequence[Sample]) -> list[str]:
    """Everything that may depend on how many channels are open."""
    cells = (
        (HOT, "p50_ms"),
        (COLD, "p50_ms"),
        (COLD, "p99_ms"),
        (TICK, "p50_ms"),
        (TICK, "p99_ms"),
        (START, "p50_ms"),
        (START, "megabytes"),
    )
    rows = [
        (name, [_shown(spread(samples, case, name, field), 1) for case, field in cells])
        for store in ("SQLite", "PostgreSQL")
        for name in (crowded(store, channels) for channels in CROWDS)
    ]
    return _table(
        "| channels that are open | paid request, 100 of them pay: p50 ms"
        " | any pays: p50 ms | p99 ms | keeper's round ms | in which nothing else ran"
        " | start ms | memory MB |",
        (f"| {name} | {' | '.join(said)} |" for name, said in rows if any(said)),
    )


def _goals(samples: Sequence[Sample]) -> list[str]:
    return _table(
        "| | measured | goal | met |",
        (
            f"| {one.name} | {one.measured} | {one.goal} |"
            f" {('yes' if one.met else '**no**') if one.goal else ''} |"
            for one in outcomes(samples)
        ),
    )
