"""
Lists the threats of `docs/threats.md` and the tests that carry their ids.

    python tools/threats.py [--mutants]

A threat without a test is an error. With `--mutants`, so is one without a planted bug
(a patch in `tests/mutants` with a line `# threat: P1`) whose tests carry its id.
"""

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| ([CPFKT]\d+) \| (.+?) \|", re.MULTILINE)
TEST = re.compile(
    r"\b(?:def|function) ((?:test|testFuzz|invariant)_((?:[cpfkt]\d+_)+)\w+)"
)
HEAD = re.compile(r"^# (threat|tests|forge): (.+)$", re.MULTILINE)


def threats() -> dict[str, str]:
    """Ids and what they are, in their order."""
    text = (ROOT / "docs" / "threats.md").read_text(encoding="utf-8")
    return dict(ROW.findall(text))


def tests_by_threat() -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for path in _test_files():
        place = path.relative_to(ROOT).as_posix()
        for name, carried in TEST.findall(path.read_text(encoding="utf-8")):
            for threat in carried.upper().strip("_").split("_"):
                found[threat].append(f"{place}::{name}")
    return found


def _test_files() -> Iterator[Path]:
    yield from sorted((ROOT / "tests").rglob("test_*.py"))
    yield from sorted((ROOT / "contracts" / "test").glob("*.sol"))


def mutants_by_threat() -> dict[str, list[str]]:
    """Planted bugs by threat; one counts only if its tests carry the id."""
    found: dict[str, list[str]] = defaultdict(list)
    for patch in sorted((ROOT / "tests" / "mutants").glob("*.patch")):
        head = patch.read_text(encoding="utf-8").partition("--- ")[0]
        words: dict[str, list[str]] = defaultdict(list)
        for key, value in HEAD.findall(head):
            words[key] += value.split()
        for threat in words["threat"]:
            named = re.compile(rf"_{threat.lower()}_.*")
            carried = [*words["tests"], *words["forge"]]
            if any(named.search(test.rpartition("::")[2]) for test in carried):
                found[threat].append(patch.stem)
    return found


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Threats and their tests.")
    parser.add_argument("--mutants", action="store_true", help="planted bugs as well")
    wanted: bool = parser.parse_args(arguments).mutants
    tests, mutants = tests_by_threat(), mutants_by_threat()
    empty: list[str] = []
    for threat, attack in threats().items():
        carried = tests.get(threat, [])
        print(f"{threat:4} {attack}")
        for test in carried:
            print(f"       {test}")
        if not carried:
            empty.append(f"{threat} has no test")
        if wanted:
            for mutant in mutants.get(threat, []):
                print(f"       planted: {mutant}")
            if threat not in mutants:
                empty.append(f"{threat} has no planted bug")
    count = sum(len(tests.get(threat, [])) for threat in threats())
    print(f"{len(threats())} threats, {count} tests")
    for problem in empty:
        print(problem, file=sys.stderr)
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
