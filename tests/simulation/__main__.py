"""
Run histories from seeds: `python -m tests.simulation --seeds 100000`.

Prints what was lived and checked; exits with 1 at the first promise that breaks, with
its seed. `--seed` lives one history again and prints every move.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from .histories import KINDS, HistoryFailed, kind_of, live
from .tally import Tally

_CHUNK = 500


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="live this one, and print every move")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    if asked.seed is not None:
        return _tell(asked.seed)
    started = time.monotonic()
    chunks = [
        range(first, min(first + _CHUNK, asked.first + asked.seeds))
        for first in range(asked.first, asked.first + asked.seeds, _CHUNK)
    ]
    try:
        tallies = list(_run(chunks, jobs=asked.jobs))
    except HistoryFailed as error:
        print(f"a promise was broken: {error}")
        print("see it again with --seed")
        return 1
    _report(tallies, time.monotonic() - started)
    return 0


def _run(chunks: list[range], *, jobs: int) -> Iterable[dict[str, Tally]]:
    if jobs == 1:
        yield from map(live_all, chunks)
        return
    with ProcessPoolExecutor(jobs) as pool:
        try:
            yield from pool.map(live_all, chunks)
        except HistoryFailed:
            pool.shutdown(cancel_futures=True)
            raise


def live_all(seeds: range) -> dict[str, Tally]:
    """Live a few histories; the counts of each kind."""
    tallies = {kind.__name__: Tally() for kind in KINDS}
    for seed in seeds:
        tallies[kind_of(seed).__name__].add(live(seed))
    return tallies


def _tell(seed: int) -> int:
    try:
        live(seed, told=True)
    except HistoryFailed as error:
        print(f"a promise was broken: {error}")
        return 1
    print("every promise was kept")
    return 0


def _report(tallies: list[dict[str, Tally]], seconds: float) -> None:
    total = Tally()
    print(f"{'kind':10} {'histories':>10} {'steps':>11} {'events':>11} {'checked':>12}")
    for kind in KINDS:
        sums = Tally()
        for tally in tallies:
            sums.add(tally[kind.__name__])
        _line(kind.__name__, sums)
        total.add(sums)
    _line("in all", total)
    rate = total.histories / seconds * 60
    print(f"0 violations, {seconds:.0f} s, {rate:,.0f} histories a minute")


def _line(name: str, tally: Tally) -> None:
    print(
        f"{name:10} {tally.histories:>10,} {tally.steps:>11,}"
        f" {tally.transitions:>11,} {tally.sentences:>12,}"
    )


if __name__ == "__main__":
    sys.exit(main())
