"""
What a run of the peer matrix showed, and how people read it.
"""

from dataclasses import dataclass

from peer_burst import AT_ONCE, AtOnce, Left, holds
from peer_evidence import CHANNEL, Evidence, Json, Variant
from peer_one_route import OneRoute
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

    @classmethod
    def of(
        cls,
        parties: tuple[str, str],
        version: str,
        variant: Variant,
        seen: Evidence | None,
        why: str,
    ) -> "Cell":
        """What was seen, and what is to be doubted about it; passed if nothing is."""
        return cls(
            ours=parties[0],
            peer=parties[1],
            scheme=variant[0],
            variant=variant[1],
            passed=not why,
            version=version,
            status=seen.status if seen else 0,
            transaction=seen.transaction if seen else "",
            voucher=seen.voucher if seen else {},
            why=why,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run showed."""

    cells: list[Cell]
    one_route: OneRoute
    at_once: list[AtOnce]
    left: Left
    supported: Json
    """What our facilitator says it does."""
    missing: list[str]
    """What it does and does not say."""

    @property
    def passed(self) -> bool:
        cells = all(cell.passed for cell in self.cells)
        complete = cells and self.one_route.passed and not self.missing
        return complete and holds(self.at_once[0]) and self.left.holds


def table(report: Report) -> str:
    lines = [f"{'ours':20}{'peer':28}{'scheme':18}{'variant':14}{'passed':8}evidence"]
    for cell in report.cells:
        shown = cell.transaction or cell.voucher.get("signature", "")
        proof = f"{cell.status} {shown[:18]}…" if cell.passed else cell.why
        passed = "yes" if cell.passed else "NO"
        lines.append(
            f"{cell.ours:20}{cell.peer:28}{cell.scheme:18}{cell.variant:14}"
            f"{passed:8}{proof}"
        )
    lines += ["", "one route of ours, paid by every client:"]
    lines += [
        f"  {visit.client:16}{visit.protocol:24}{visit.status:5}"
        f" {'with' if visit.receipt else 'WITHOUT'} its receipt, spent {visit.spent}"
        for visit in report.one_route.visits
    ]
    lines.append(
        f"  the payee received {report.one_route.received}, and"
        f" {report.one_route.in_channels} are left in channels"
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
    lines.append(
        "one of three requests to it left while it ran:"
        f" {report.left.served} served, {report.left.booked} counted,"
        f" {report.left.deposited - report.left.returned} paid on"
        f" {report.left.lanes} channel{'' if report.left.holds else ': WRONG'}"
    )
    kinds = [f"{k['scheme']} on {k['network']}" for k in report.supported["kinds"]]
    listed = [*kinds, *report.supported["extensions"]]
    lines.append(f"agentpay facilitator lists {', '.join(listed)}")
    if report.missing:
        lines.append(f"  and NOT {', '.join(report.missing)}")
    good = sum(cell.passed for cell in report.cells)
    lines.append(f"{good} of {len(report.cells)} cells passed, at {PRICE} a request")
    return "\n".join(lines)
