"""
Samples and what is made of them: medians, spreads, and CPU as the system accounts it.
"""

import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One case of one variant, measured once."""

    case: str
    variant: str
    asked: int
    answered: int
    """Asked, answered as they should be, and told apart."""
    seconds: float
    cpu: float
    """Seconds of CPU that the server took, all its threads, user and system."""
    p50_ms: float
    p99_ms: float
    load_average: float
    megabytes: float = 0
    """What the server had in memory afterwards, where that is measured."""

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return self.answered / self.seconds

    @property
    def failed(self) -> int:
        """Requests that were not answered as they should be."""
        return self.asked - self.answered

    @property
    def cpu_us(self) -> float:
        """Microseconds of the server's CPU for one answered request."""
        return self.cpu / max(1, self.answered) * 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A median, and the least and most of the repetitions."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(
            median=statistics.median(values), least=min(values), most=max(values)
        )


def cpu_seconds(pid: int) -> float:
    """
    User and system time of a process and its threads so far, from Linux's /proc.

    It counts in ticks of 10 ms: a sample has to be a second of work to mean something.
    """
    line = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    fields = line.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_megabytes(pid: int) -> float:
    """What of a process is in memory now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return round(pages * _PAGE / 2**20, 1)


def percentile(latencies: Iterable[float], share: float) -> float:
    """In milliseconds; 0 if there are none."""
    ordered = sorted(latencies)
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 3)


def spread(
    samples: Iterable[Sample], case: str, variant: str, field: str
) -> Spread | None:
    """Of one figure of one case; None if it was not measured."""
    found = [
        float(getattr(sample, field))
        for sample in samples
        if (sample.case, sample.variant) == (case, variant)
    ]
    return Spread.of(found) if found else None
