"""
Measures ours and the peers in one run, interleaved, and writes what came out: into
`bench/` and the README if all was measured, into `bench/partial/` otherwise.

Run it as `make bench`; `make bench ARGS=--quick` tries everything with few requests,
and its figures mean little. `make bench-check` compares the ratios of the last run with
those of `bench/baseline.json`, which `make bench ARGS=--baseline` writes.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agentpay.testing.anvil_binary import ANVIL_VERSION
from bench.cases import measure
from bench.check import HERE, PARTIAL
from bench.goals import ratios
from bench.lines import Json, versions
from bench.measure import Sample
from bench.plot import svg
from bench.program import PEERS, PEERS_MPP, find_node
from bench.report import markdown, put_summary, summary
from bench.rows import Row, rows
from bench.world import open_world
from tests.postgres_server import find_programs

REPETITIONS = 5
QUICK_REPETITIONS, QUICK_SCALE = 2, 0.05


def chosen(scale: float, only: str) -> list[Row]:
    return [row for row in rows(scale) if only in f"{row.case}: {row.variant}"]


@dataclass(slots=True, kw_only=True)
class Run:
    """One run, and what it has measured so far."""

    rows: Sequence[Row]
    repetitions: int
    scale: float
    seed: int
    began: float = field(default_factory=time.monotonic)
    load: tuple[float, float, float] = field(default_factory=os.getloadavg)
    samples: list[Sample] = field(default_factory=list[Sample])
    books: list[Json] = field(default_factory=list[Json])
    versions: Json = field(default_factory=dict[str, Any])

    async def measure(self) -> None:
        """Every row once in each repetition, each time in another order."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _cancel())
        shuffle = random.Random(self.seed).shuffle
        async with open_world(self.rows) as world:
            self.versions = {"ours": versions(), **world.versions, **programs()}
            for repetition in range(self.repetitions):
                order = list(self.rows)
                shuffle(order)
                for number, row in enumerate(order, 1):
                    where = f"{repetition + 1}/{self.repetitions} {number}/{len(order)}"
                    seconds = time.monotonic() - self.began
                    _say(f"{seconds:4.0f} s {where} {row.case}: {row.variant}")
                    self.samples.append(await measure(world, row))
            self.books = await world.close_books()

    def results(self) -> Json:
        return {
            "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "machine": f"{os.cpu_count()} CPUs, {platform.machine()},"
            f" {platform.system()} {platform.release().split('-')[0]}",
            "repetitions": self.repetitions,
            "scale": self.scale,
            "seed": self.seed,
            "seconds": round(time.monotonic() - self.began),
            "load average before": self.load,
            "load average after": os.getloadavg(),
            "versions": self.versions,
            "books": self.books,
            "ratios": ratios(self.samples),
            "samples": [asdict(sample) for sample in self.samples],
        }


def programs() -> Json:
    """What runs beside all of them."""
    said = {
        "node": [str(find_node()), "--version"],
        "postgresql": [str(find_programs() / "postgres"), "--version"],
    }
    found: Json = {"anvil": ANVIL_VERSION}
    for name, command in said.items():
        line = subprocess.check_output(command, text=True)
        found[name] = "".join(re.findall(r"[0-9]+[.][0-9.]+", line)[:1])
    return found


def _cancel() -> Callable[[], object]:
    """What ends this task, so that whatever it started ends too."""
    task = asyncio.current_task()
    return task.cancel if task is not None else sys.exit


def write(results: Json, *, whole: bool) -> str:
    """Three files, and the README's part where all was measured; returns the table."""
    samples, facts = read(results)
    table = markdown(samples, facts)
    place = HERE if whole else PARTIAL
    place.mkdir(exist_ok=True)
    _dump(place / "results.json", results)
    (place / "results.md").write_text(table)
    (place / "results.svg").write_text(svg(samples))
    if whole:
        readme = HERE.parent / "README.md"
        readme.write_text(put_summary(readme.read_text(), summary(samples, facts)))
    return table


def read(results: Json) -> tuple[list[Sample], dict[str, str]]:
    """The samples of a run, and what is to be said of it."""
    facts = {name: str(results[name]) for name in ("when", "machine", "repetitions")}
    before, after = results["load average before"], results["load average after"]
    facts["load"] = f"{before[0]:.1f} before and {after[0]:.1f} after"
    return [Sample(**sample) for sample in results["samples"]], facts


def _dump(place: Path, message: Json) -> None:
    place.write_text(json.dumps(message, indent=1) + "\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Ours and the peers, measured.")
    parser.add_argument("--quick", action="store_true", help="few requests")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--baseline", action="store_true", help="keep the ratios")
    parser.add_argument("--repetitions", type=int, help=f"{REPETITIONS} if not given")
    parser.add_argument("--seed", type=int, default=1, help="of the order")
    wanted: Any = parser.parse_args(arguments)
    if not (PEERS.exists() and PEERS_MPP.exists()):
        _say("the peers have no environments: run `make bench`")
        return 1
    usual = QUICK_REPETITIONS if wanted.quick else REPETITIONS
    scale = QUICK_SCALE if wanted.quick else 1
    run = Run(
        rows=chosen(scale, wanted.only),
        repetitions=wanted.repetitions or usual,
        scale=scale,
        seed=wanted.seed,
    )
    try:
        asyncio.run(run.measure())
    except BaseException:
        write(run.results(), whole=False)  # what there is
        raise
    results, whole = run.results(), not (wanted.quick or wanted.only)
    print(write(results, whole=whole))
    if wanted.baseline and whole:
        kept = {name: results[name] for name in ("when", "machine", "ratios")}
        _dump(HERE / "baseline.json", kept)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
