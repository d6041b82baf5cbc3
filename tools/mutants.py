"""
Plants known bugs, each in a copy without others, and expects the tests to notice it.

A mutant is a patch in `tests/mutants`. Its first lines say what it breaks and which
tests must fail:

    # breaks: a refused voucher is burnt
    # tests: tests/core/test_channel_holes.py::test_a tests/core/test_channel_machine.py
    # threat: K2 (if it takes the guard against a threat of docs/threats.md away)

One of a ledger that no history can show, though a test does, says why:

    # unseen by histories: only the reason of a refusal differs

One in a contract names it, and Solidity tests in place of Python ones:

    # contract: x402BatchSettlement
    # forge: Claim.t.sol::test_k2_claim_never_lowers_total

Run it as `python tools/mutants.py [part of a name ...]`; it exits with 1 if a mutant
survives, if a patch does not apply any more, or if the tests fail without it. With
`--simulate SEEDS`, the bugs of the ledgers are looked for by so many histories of
`tests.simulation` instead, and the seed that finds each is named.
"""

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

ROOT = Path(__file__).parents[1]
MUTANTS = ROOT / "tests" / "mutants"
COPIED = ("src", "tests", "vectors", "tools", "docs", "examples", "pyproject.toml")
SECONDS = 600
UNHARMED_SECONDS = 1800
LEDGERS = re.compile(r"src/agentpay/core/(budget|pay|refund|session)\w*\.py")

Run = Callable[[Path, "Mutant"], subprocess.CompletedProcess[str]]
"""What must fail once a mutant is planted."""


class Outcome(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "SURVIVED"
    STALE = "DOES NOT APPLY"
    UNTESTED = "NAMES NO TESTS"
    BROKEN = "TESTS DO NOT RUN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A patch, what it breaks, and the tests that must notice."""

    name: str
    patch: Path
    breaks: str
    tests: tuple[str, ...]
    threats: tuple[str, ...]
    contract: str
    forge: tuple[str, ...]
    unseen: str
    """Why no history of `tests.simulation` can show it; "" if one must."""

    @property
    def files(self) -> list[str]:
        """What it changes."""
        return re.findall(r"^\+\+\+ b/(\S+)", self.patch.read_text(), re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A mutant's outcome and the first test that failed."""

    mutant: Mutant
    outcome: Outcome
    killer: str
    seconds: float


def read_mutant(patch: Path) -> Mutant:
    head, _, _ = patch.read_text().partition("--- ")
    return Mutant(
        name=patch.stem,
        patch=patch,
        breaks=" ".join(said(head, "breaks")),
        tests=tuple(said(head, "tests")),
        threats=tuple(said(head, "threat")),
        contract=" ".join(said(head, "contract")),
        forge=tuple(said(head, "forge")),
        unseen=" ".join(said(head, "unseen by histories")),
    )


def said(head: str, key: str) -> list[str]:
    """The words after `# key:`, of every such line."""
    lines = [line for line in head.splitlines() if line.startswith(f"# {key}:")]
    return [word for line in lines for word in line.partition(":")[2].split()]


def copy_tree(place: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache", ".hypothesis", "*.pyc")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, place / name, ignore=ignored)
        elif source.exists():
            shutil.copy(source, place / name)


def run_tests(
    place: Path, *arguments: str, seconds: float = SECONDS
) -> subprocess.CompletedProcess[str]:
    how = ("-x", "-q", "-p", "no:cacheprovider")
    return run_module(place, "pytest", *how, *arguments, seconds=seconds)


def run_module(
    place: Path, module: str, *arguments: str, seconds: float = SECONDS
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(place / "src")}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def copy_contracts(place: Path) -> None:
    """With what was installed and compiled, so that little has to be again."""
    ignored = shutil.ignore_patterns("node_modules", "forge", "solc*")
    shutil.copytree(ROOT / "contracts", place / "contracts", ignore=ignored)
    shutil.copy(ROOT / "contracts" / "solc.cjs", place / "contracts")
    modules = place / "contracts" / "node_modules"
    modules.symlink_to(ROOT / "contracts" / "node_modules")


def run_forge(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tools/contracts.py", *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def applies(place: Path, patch: Path, *how: str) -> bool:
    """`git apply` minds no repository above: the copy is outside of any."""
    command = ["git", "apply", "--whitespace=nowarn", *how, str(patch)]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(place.parent)}
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, check=False
    )
    return done.returncode == 0


def run_own(place: Path, mutant: Mutant) -> subprocess.CompletedProcess[str]:
    """The tests that a mutant names."""
    if mutant.forge:
        return run_forge(place, "planted", mutant.contract, *names_of(mutant.forge))
    return run_tests(place, *mutant.tests)


def run_histories(seeds: int) -> Run:
    """So many histories, the same for every mutant."""

    def run(place: Path, mutant: Mutant) -> subprocess.CompletedProcess[str]:
        del mutant
        return run_module(place, "tests.simulation", "--seeds", str(seeds))

    return run


def judge(place: Path, mutant: Mutant, run: Run) -> tuple[Outcome, str]:
    """Plant it in the copy, run what must fail, and take it out again."""
    if not mutant.tests and not mutant.forge:
        return Outcome.UNTESTED, ""
    if mutant.forge:
        with tempfile.TemporaryDirectory(prefix="mutant-") as temporary:
            copy_tree(Path(temporary))
            copy_contracts(Path(temporary))
            return planted(Path(temporary), mutant, run)
    outcome = planted(place, mutant, run)
    if outcome[0] is not Outcome.STALE and not applies(place, mutant.patch, "-R"):
        raise RuntimeError(f"{mutant.name} cannot be taken out again")
    forget(place, mutant)
    return outcome


def planted(place: Path, mutant: Mutant, run: Run) -> tuple[Outcome, str]:
    if not applies(place, mutant.patch):
        return Outcome.STALE, ""
    forget(place, mutant)
    try:
        done = run(place, mutant)
    except subprocess.TimeoutExpired:
        return Outcome.KILLED, f"no end after {SECONDS} s"
    if done.returncode == 0:
        return Outcome.SURVIVED, ""
    killer = first_failure(done.stdout)
    if done.returncode != 1 or not killer:
        print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
        return Outcome.BROKEN, ""
    return Outcome.KILLED, killer


def forget(place: Path, mutant: Mutant) -> None:
    """What Python compiled of the patched files, however alike their times are."""
    for name in mutant.files:
        file = place / name
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            compiled.unlink()


def names_of(forge: Sequence[str]) -> list[str]:
    return [test.rpartition("::")[2] for test in forge]


def first_failure(output: str) -> str:
    for line in output.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            return line.split()[1].rpartition("/")[2]
        if line.startswith("[FAIL"):
            return next(word for word in line.split() if word.startswith("test"))
        if found := re.search(r"broken: (seed \d+ \(\w+\))", line):
            return found[1]
    return ""


def passes_unharmed(place: Path, mutants: Sequence[Mutant], *, at_once: int) -> bool:
    """Without a mutant every named test passes, or their failures say nothing."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    forge = names_of([test for mutant in mutants for test in mutant.forge])
    if forge:
        done = run_forge(ROOT, "test", "--", "--match-test", "|".join(forge))
        if done.returncode != 0:
            print(done.stdout[-4000:], done.stderr, file=sys.stderr)
            return False
    if not tests:
        return True
    done = run_tests(place, "-n", str(at_once), *tests, seconds=UNHARMED_SECONDS)
    if done.returncode != 0:
        print(done.stdout[-4000:], file=sys.stderr)
    return done.returncode == 0


def judge_all(
    places: Sequence[Path], mutants: Sequence[Mutant], run: Run
) -> list[Result]:
    """As many at once as there are copies."""
    width = max(len(mutant.name) for mutant in mutants)
    free: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for place in places:
        free.put(place)

    def result_of(mutant: Mutant) -> Result:
        place, began = free.get(), time.monotonic()
        try:
            outcome, killer = judge(place, mutant, run)
        finally:
            free.put(place)
        seconds = time.monotonic() - began
        line = f"{mutant.name:{width}}  {outcome:16} {seconds:5.1f} s  {killer}"
        print(line.rstrip(), flush=True)
        return Result(mutant=mutant, outcome=outcome, killer=killer, seconds=seconds)

    with ThreadPoolExecutor(len(places)) as executor:
        return list(executor.map(result_of, mutants))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Plant known bugs; tests must fail.")
    parser.add_argument("names", nargs="*", help="only mutants whose name has this")
    parser.add_argument("--threats", action="store_true", help="only guards")
    parser.add_argument("--simulate", type=int, metavar="SEEDS", help="by histories")
    parser.add_argument(
        "--at-once", type=int, default=os.cpu_count(), help="one for each core"
    )
    options = parser.parse_args(arguments)
    wanted: list[str] = options.names
    mutants = [read_mutant(patch) for patch in sorted(MUTANTS.glob("*.patch"))]
    if wanted:
        mutants = [m for m in mutants if any(part in m.name for part in wanted)]
    if options.threats:
        mutants = [m for m in mutants if m.threats]
    run: Run = run_own
    if options.simulate:
        run = run_histories(options.simulate)
        mutants = [m for m in mutants if all(map(LEDGERS.match, m.files))]
        unseen = [m for m in mutants if m.unseen]
        mutants = [m for m in mutants if not m.unseen]
        for mutant in unseen:
            print(f"{mutant.name}: no history shows it: {mutant.unseen}")
    if not mutants:
        print("no such mutants", file=sys.stderr)
        return 1
    at_once = min(options.at_once, len(mutants))
    with ExitStack() as stack:
        folders = [
            tempfile.TemporaryDirectory(prefix="mutant-") for _ in range(at_once)
        ]
        places = [Path(stack.enter_context(folder)) for folder in folders]
        for place in places:
            copy_tree(place)
        unharmed = options.simulate or passes_unharmed(
            places[0], mutants, at_once=at_once
        )
        if not unharmed:
            print("the tests fail without any mutant", file=sys.stderr)
            return 1
        results = judge_all(places, mutants, run)
    alive = [r for r in results if r.outcome is not Outcome.KILLED]
    print(f"{len(results) - len(alive)} of {len(results)} mutants killed")
    for result in alive:
        print(f"  {result.mutant.name} ({result.mutant.breaks}): {result.outcome}")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
