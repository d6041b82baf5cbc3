"""
Compares the ratios of the last run with those of the baseline: information, not a gate.

Times differ between machines, ratios within one run much less. One that is worse than
the baseline by more than the margin is pointed out.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.goals import RATIOS

HERE = Path(__file__).parent
PARTIAL = HERE / "partial"
"""Where the results of a run are that did not measure everything."""
MARGIN = 0.25
"""Noise between two runs of one machine stays below it."""


def compare(now: Mapping[str, float], before: Mapping[str, float]) -> Iterator[str]:
    """A line for each ratio; those that became worse begin with WORSE."""
    for ratio in RATIOS:
        name = ratio.name
        if name not in now or name not in before:
            yield f"?      {name}: not in both runs"
            continue
        change = now[name] / before[name] - 1
        gain = -change if ratio.most is not None else change
        word = "WORSE" if gain < -MARGIN else "better" if gain > MARGIN else "same"
        yield f"{word:6} {name}: {now[name]:g}, was {before[name]:g} ({change:+.0%})"


def main() -> None:
    runs = [place / "results.json" for place in (HERE, PARTIAL)]
    found = [run for run in runs if run.exists()]
    kept = HERE / "baseline.json"
    if not (found and kept.exists()):
        print("nothing to compare: run `make bench`, and once with ARGS=--baseline")
        return
    last = max((json.loads(run.read_text()) for run in found), key=lambda r: r["when"])
    baseline = json.loads(kept.read_text())
    print(f"the run of {last['when']} against that of {baseline['when']}")
    print("\n".join(compare(last["ratios"], baseline["ratios"])))


if __name__ == "__main__":
    main()
