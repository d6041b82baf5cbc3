"""
What a run of the peer matrix showed, and how people read it.
"""

from dataclasses import dataclass

from peer_burst import AT_ONCE, AtOnce, holds
from peer_evidence import CHANNEL, Json
from peer_parties import PRICE


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One way to pay, between one of our parties and one of theirs."""

    ours: str
    peer: str
    scheme: str
    variant: str
    passed: bool
    version: str
    status: int
    transaction: str
    voucher: Json
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run showed."""

    cells: list[Cell]
    at_once: list[AtOnce]
    supported: Json
    """What our facilitator says it does."""
    missing: list[str]
    """What it does and does not say."""

    @property
    def passed(self) -> bool:
        cells = all(cell.passed for cell in self.cells)
        return cells and holds(self.at_once[0]) and not self.missing


def table(report: Report) -> str:
    lines = [f"{'ours':20}{'peer':28}{'scheme':18}{'variant':12}{'passed':8}evidence"]
    for cell in report.cells:
        shown = cell.transaction or cell.voucher.get("signature", "")
        proof = f"{cell.status} {shown[:18]}…" if cell.passed else cell.why
        passed = "yes" if cell.passed else "NO"
        lines.append(
            f"{cell.ours:20}{cell.peer:28}{cell.scheme:18}{cell.variant:12}"
            f"{passed:8}{proof}"
        )
    lines.append("")
    lines.append(f"{AT_ONCE} requests at once to the official {CHANNEL} server:")
    for burst in report.at_once:
        budget = f" of a budget of {burst.budget}" if burst.budget else ""
        lines.append(
            f"  {burst.client:16}{burst.ok:3} ok {burst.failed:3} failed"
            f" {burst.seconds:6.2f} s, deposited {burst.deposited}{budget},"
            f" signed {burst.signed}"
        )
    kinds = [f"{k['scheme']} on {k['network']}" for k in report.supported["kinds"]]
    listed = [*kinds, *report.supported["extensions"]]
    lines.append(f"agentpay facilitator lists {', '.join(listed)}")
    if report.missing:
        lines.append(f"  and NOT {', '.join(report.missing)}")
    good = sum(cell.passed for cell in report.cells)
    lines.append(f"{good} of {len(report.cells)} cells passed, at {PRICE} a request")
    return "\n".join(lines)
