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
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.cases import measure
from bench.check import HERE, PARTIAL
from bench.goals import ratios
from bench.lines import Json, versions
from bench.measure import Sample
from bench.plot import svg
from bench.program import PEERS, PEERS_MPP
from bench.report import markdown, put_summary, summary
from bench.rows import Row, rows
from bench.world import open_world

REPETITIONS = 5
QUICK_REPETITIONS, QUICK_SCALE = 2, 0.05


def chosen(scale: float, only: str) -> list[Row]:
    return [row for row in rows(scale) if only in f"{row.case}: {row.variant}"]


async def run(*, repetitions: int, scale: float, only: str, seed: int) -> Json:
    """Every row once in each repetition, each time in another order."""
    samples: list[Sample] = []
    shuffle = random.Random(seed).shuffle
    load, began = os.getloadavg(), time.monotonic()
    wanted = chosen(scale, only)
    async with open_world(wanted) as world:
        for repetition in range(repetitions):
            order = list(wanted)
            shuffle(order)
            for number, row in enumerate(order, 1):
                where = f"{repetition + 1}/{repetitions} {number}/{len(order)}"
                seconds = time.monotonic() - began
                _say(f"{seconds:4.0f} s {where} {row.case}: {row.variant}")
                samples.append(await measure(world, row))
        books = await world.close_books()
        installed = {"ours": versions(), **world.versions}
    return {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, {platform.system()}",
        "repetitions": repetitions,
        "scale": scale,
        "seed": seed,
        "load average before": load,
        "load average after": os.getloadavg(),
        "versions": installed,
        "books": books,
        "ratios": ratios(samples),
        "samples": [asdict(sample) for sample in samples],
    }


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
    parser.add_argument(
        "--baseline",
        action="store_true",
        help="keep the ratios",
    )
    parser.add_argument("--repetitions", type=int, help=f"{REPETITIONS} if not given")
    parser.add_argument("--seed", type=int, default=1, help="of the order")
    wanted: Any = parser.parse_args(arguments)
    if not (PEERS.exists() and PEERS_MPP.exists()):
        _say("the peers have no environments: run `make bench`")
        return 1
    usual = QUICK_REPETITIONS if wanted.quick else REPETITIONS
    results = asyncio.run(
        run(
            repetitions=wanted.repetitions or usual,
            scale=QUICK_SCALE if wanted.quick else 1,
            only=wanted.only,
            seed=wanted.seed,
        )
    )
    print(write(results, whole=not (wanted.quick or wanted.only)))
    if wanted.baseline:
        kept = {name: results[name] for name in ("when", "machine", "ratios")}
        _dump(HERE / "baseline.json", kept)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
