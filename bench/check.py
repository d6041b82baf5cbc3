"""
Compares the ratios of the last run with those of the baseline: information, not a gate.

Times differ between machines, ratios within one run much less. One that is worse than
the baseline by more than the margin is pointed out.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.report import RATIOS

HERE = Path(__file__).parent
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
        word = "WORSE" if change < -MARGIN else "better" if change > MARGIN else "same"
        yield f"{word:6} {name}: {now[name]:g}, was {before[name]:g} ({change:+.0%})"


def main() -> None:
    try:
        now = json.loads((HERE / "results.json").read_text())["ratios"]
        before = json.loads((HERE / "baseline.json").read_text())["ratios"]
    except FileNotFoundError as error:
        print(f"nothing to compare: {Path(error.filename).name} is missing")
        return
    print("\n".join(compare(now, before)))


if __name__ == "__main__":
    main()
