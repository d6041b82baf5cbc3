"""What was sent, what it was answered, and what must never happen."""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from agentpay.records import AnswerRecord, PayeeRecord, PaymentRecord
from agentpay.stores.memory import MemoryPayeeStore
from agentpay.types import Hash32


@dataclass
class Tally:
    """Counts inputs and answers; `wrong` has the first of what must not be."""

    inputs: int = 0
    parsed: int = 0
    signed: int = 0
    """Parsed, and all of its payer's signatures are right."""
    accepted: int = 0
    """Paid for, settled, or delivered."""
    compared: int = 0
    """Stores that were compared before and after, where nothing was accepted."""
    answers: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    """Of stores, the same before and after all that they had refused came again."""
    slowest: float = 0.0

    def blame(self, what: str, sent: object) -> None:
        """Note what must not be, and what it was sent."""
        if len(self.wrong) < 20:
            self.wrong.append(f"{what}\n    {str(sent)[:3000]}")

    def compare_hashes(self, before: str, after: str) -> None:
        """Of a store that was shown nothing but what it refuses."""
        if before == after:
            self.hashes.append(before)
        else:
            self.blame(f"the store's hash was {before}, is {after}", "refusals")

    def took(self, seconds: float) -> None:
        self.inputs += 1
        self.slowest = max(self.slowest, seconds)

    def lines(self) -> list[str]:
        """For people."""
        of = max(1, self.inputs)
        said = ", ".join(f"{k} {n:,}" for k, n in sorted(self.answers.items()))
        kinds = ", ".join(f"{k} {n:,}" for k, n in sorted(self.kinds.items()))
        return [
            f"{self.inputs:,} inputs: {kinds}",
            f"past parsing: {self.parsed:,} ({self.parsed / of:.1%})",
            f"rightly signed: {self.signed:,} ({self.signed / of:.1%})",
            f"accepted: {self.accepted:,}",
            f"answers: {said}",
            f"stores compared where nothing was accepted: {self.compared:,}",
            f"hashes that held: {len(self.hashes)}, as {' '.join(self.hashes[:1])}",
            f"slowest: {self.slowest:.2f} s",
        ]


@dataclass(frozen=True)
class Content:
    """All that a payee's store keeps, but what it read from the chain and when."""

    records: dict[Hash32, PayeeRecord]
    payments: dict[str, PaymentRecord]
    answers: dict[str, AnswerRecord]

    @classmethod
    def of(cls, store: MemoryPayeeStore) -> Self:
        return cls({**store._records}, {**store._payments}, {**store._answers})

    def digest(self) -> str:
        """The same for the same content."""
        aged = {k: replace(r, chain_seen_at=0) for k, r in self.records.items()}
        parts = (aged, self.payments, self.answers)
        told = [sorted(map(repr, part.items())) for part in parts]
        return hashlib.sha256(repr(told).encode()).hexdigest()

    @property
    def deposited(self) -> int:
        """What is in all channels together."""
        return sum(record.ledger.balance for record in self.records.values())


def resident() -> int:
    """How much memory this process has, in bytes."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
