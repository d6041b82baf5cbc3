"""
Live histories with faults and print what they came to: `make faults RUNS=60`.

With a journal, a run goes on where it was: what it says adds up over all of them.
Exits with 1 if anything was lost, doubled, served unpaid, or stuck.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from .history import History, Report
from .pool import Pool
from .served import read_served

_PROVIDERS = 4


async def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=60, help="how many in all")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--at-once", type=int, default=6)
    parser.add_argument("--stores", default="sqlite,postgres")
    parser.add_argument("--journal", type=Path, help="a file that is added to")
    parser.add_argument("--keep", type=Path, help="a directory for all files, to stay")
    asked = parser.parse_args()
    known = _read(asked.journal)
    done = {report.seed for report in known}
    seeds = [s for s in range(asked.first, asked.first + asked.runs) if s not in done]
    stores = tuple(asked.stores.split(","))
    started = time.monotonic()
    with _directory(asked.keep) as directory:
        async with Pool(directory, providers=_PROVIDERS, stores=stores) as pool:
            fresh = await _live_all(pool, seeds, asked.at_once, asked.journal)
            lost = await _reconcile(pool, fresh)
            made = [s for p in pool.providers for s in read_served(p.place.served)]
            starts = sum(p.starts for p in pool.providers)
    print(
        f"{len(fresh)} runs in {time.monotonic() - started:.0f} s: {len(made)} answers"
        f" made by {_PROVIDERS} providers, started {starts} times;"
        f" {lost} missing in their accounts"
    )
    nameless = sum(not served.request for served in made)
    if nameless:
        print(f"{nameless} answers were made for no request")
    return _summarize([*known, *fresh], lost) or int(nameless > 0)


@contextlib.contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="agentpay-faults-") as directory:
        yield Path(directory)


async def _live_all(
    pool: Pool, seeds: Sequence[int], at_once: int, journal: Path | None
) -> list[Report]:
    room = asyncio.Semaphore(at_once)
    reports: list[Report] = []

    async def live(seed: int) -> None:
        report = await History(seed, pool).live(room)
        reports.append(report)
        if journal is not None:
            with journal.open("a") as file:
                file.write(json.dumps(asdict(report)) + "\n")

    await asyncio.gather(*map(live, seeds))
    return reports


async def _reconcile(pool: Pool, reports: Sequence[Report]) -> int:
    """What the providers should have by the histories, and do not."""
    missing = 0
    for provider in pool.providers:
        due = sum(r.moved for r in reports if r.provider == provider.name)
        has, deadline = -1, time.monotonic() + 30
        while has != due and time.monotonic() < deadline:
            has = await pool.chain.balance(provider.wallet.address)
            await asyncio.sleep(0.2)
        if has != due:
            print(f"{provider.name} has {has} in its account, and should have {due}")
        missing += abs(due - has)
    return missing


def _read(journal: Path | None) -> list[Report]:
    if journal is None or not journal.exists():
        return []
    return [Report(**json.loads(line)) for line in journal.read_text().splitlines()]


def _summarize(reports: Sequence[Report], lost: int) -> int:
    kinds = Counter[str]()
    for report in reports:
        kinds.update(report.faults)
    total = _sums(reports, "requests", "paid", "lost_answers", "refused", "unknown")
    total |= _sums(reports, "moved", "withheld", "made_again", "given_away")
    print(f"{len(reports)} runs in all; {_listed(total)}")
    print(f"faults that happened: {kinds.total()}, planned in vain:", end=" ")
    print(sum(report.missed for report in reports))
    for kind, times in kinds.most_common():
        print(f"  {times:5} {kind}")
    for report in reports:
        for words in report.wrong:
            place = f"{report.provider}, {report.protocol}"
            print(f"seed {report.seed}, {place}, {report.faults}: {words}")
    bad = _sums(reports, "lost", "doubled", "unpaid", "stuck")
    bad["lost"] += lost
    bad["runs without a fault"] = sum(not report.faults for report in reports)
    wrong = sum(len(report.wrong) for report in reports)
    worst = max((report.recovery_seconds for report in reports), default=0.0)
    none = sum(report.no_recovery for report in reports)
    print(
        f"{_listed(bad)}; worst recovery {worst:.1f} s, no answer after {none} faults"
    )
    return 1 if wrong or lost or any(bad.values()) else 0


def _sums(reports: Sequence[Report], *names: str) -> dict[str, int]:
    return {name: sum(getattr(r, name) for r in reports) for name in names}


def _listed(figures: Mapping[str, int]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in figures.items()
    )


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
