"""
Runs what every store promises on every store, and says how many promises each kept.

The tests are those of `tests/stores` that take whichever store they are given, and
those that kill the process of one that is durable. It exits with 1 if one fails, or if
a store was not asked for what the others were.

    python tools/conformance.py [pytest's options]
"""

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STORES = ROOT / "tests" / "stores"
CRASHES = STORES / "test_stores_survive_crashes.py"


class Passed:
    """Which tests passed. A plugin of pytest's, for one run."""

    def __init__(self) -> None:
        self.tests: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.tests.append(report.nodeid)


def by_kind(tests: Iterable[str], kinds: Iterable[str]) -> dict[str, set[str]]:
    """The tests that take any store, by the kind that they took; "" has all others."""
    # The longest first: the names of some begin with those of others.
    longest_first = sorted(kinds, key=len, reverse=True)
    found: dict[str, set[str]] = defaultdict(set)
    for test in tests:
        name, _, words = test.removesuffix("]").partition("[")
        given = f"-{words}-"
        kind = next((k for k in longest_first if f"-{k}-" in given), "")
        found[kind].add(name + given.replace(f"-{kind}-", "-", 1) if kind else test)
    return found


def main(options: list[str]) -> int:
    passed = Passed()
    promises = [str(path) for path in sorted(STORES.glob("test_stores_keep_*.py"))]
    failed = pytest.main(["-q", *options, *promises, str(CRASHES)], plugins=[passed])
    sys.path.insert(0, str(ROOT))
    from tests.stores.conftest import KINDS, SHARED

    killed = [test for test in passed.tests if CRASHES.name in test]
    survived = by_kind(killed, KINDS)
    kept = by_kind(set(passed.tests) - set(killed), KINDS + SHARED)
    print()
    for kind in KINDS + SHARED:
        crashes = f", {len(survived[kind])} crashes survived" if survived[kind] else ""
        print(f"{kind:26} {len(kept[kind]):4} promises kept{crashes}")
    asked = set[str]().union(*(kept[kind] for kind in KINDS))
    missed = [(kind, test) for kind in KINDS for test in sorted(asked - kept[kind])]
    for kind, test in missed:
        print(f"{kind} was not asked, or failed: {test}")
    return int(failed) or int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
