"""
The judge of a history: notes, books, what was served and the chain must say the same.

Pure, so that it can be shown made-up histories in which something went wrong.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .charges import Charge
from .days import Strike
from .money import Money
from .served import Served
from .shopper import Note

_OPEN = ("begun", "unknown", "cut", "gateway", "store_unavailable", "store_closed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that is known of a history. Requests are named by their ids."""

    prices: Mapping[str, int]
    """What every request that was to be made costs."""
    notes: Mapping[str, Sequence[Note]]
    """What the agent noted of each, in order."""
    charges: Sequence[Charge]
    served: Sequence[Served]
    money: Money
    funds: int
    booked: int
    """What the agent spent, by its own books."""
    strikes: Sequence[Strike]

    def last(self, request: str) -> Note | None:
        notes = self.notes.get(request, ())
        return notes[-1] if notes else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """Something that is not right: `lost`, `doubled`, `unpaid`, `stuck` or `wrong`."""

    what: str
    amount: int
    """Base units of money; or 1."""
    words: str


def judge(facts: Facts) -> list[Blame]:
    """Everything that is not right."""
    return [
        *_judge_faults(facts),
        *_judge_requests(facts),
        *_judge_payments(facts),
        *_judge_answers(facts),
        *_judge_sums(facts),
    ]


def count(facts: Facts) -> Counter[str]:
    """How many requests ended in which way, of those that were begun."""
    ways = Counter[str]()
    for request in facts.prices:
        note = facts.last(request)
        if note is not None:
            ways[_way(note)] += 1
    return ways


def recovery(facts: Facts) -> tuple[float, int]:
    """
    The longest time from the end of a fault to the next answer to a request that began
    after the fault had struck; and how many faults no such answer came after.
    """
    times = [(n[0].at, n[-1].at) for n in facts.notes.values() if _is_paid(n)]
    worst, none = 0.0, 0
    for strike in facts.strikes:
        if not strike.moments:
            continue
        waits = [
            answered - strike.ended
            for begun, answered in times
            if begun > strike.moments[0] and answered > strike.ended
        ]
        none += not waits
        worst = max(worst, min(waits, default=0.0))
    return worst, none


def made_again(facts: Facts) -> tuple[int, int]:
    """Answers that were made again: where the first was withheld, and after a death."""
    same = [first.life == second.life for first, second in _runs_again(facts)]
    return sum(same), len(same) - sum(same)


def _runs_again(facts: Facts) -> Iterator[tuple[Served, Served]]:
    """Two runs of the handler for one request, one after the other."""
    last: dict[str, Served] = {}
    for served in sorted(facts.served, key=lambda served: served.at):
        if served.request in last:
            yield last[served.request], served
        last[served.request] = served


def given_away(facts: Facts) -> int:
    """
    Answers that were made and not charged for, whose agent does not have them: what a
    metered route and `exact` risk when their process dies.
    """
    charged = {r for c in facts.charges if c.amount for r in c.requests}
    return len({served.request for served in facts.served} - charged)


def _is_paid(notes: Sequence[Note]) -> bool:
    return bool(notes) and notes[-1].outcome == "paid"


def _way(note: Note) -> str:
    match note.outcome:
        case "paid":
            return "paid"
        case "lost":
            return "lost_answers"
        case outcome if outcome in _OPEN:
            return "unknown"
        case _:
            return "refused"


def _judge_faults(facts: Facts) -> Iterator[Blame]:
    if not any(strike.moments for strike in facts.strikes):
        yield Blame(what="wrong", amount=1, words="no fault has happened")


def _judge_requests(facts: Facts) -> Iterator[Blame]:
    """Each costs what its agent has reason to think, to the unit."""
    charged = Counter[str]()
    for charge in facts.charges:
        for request in charge.requests:
            charged[request] += charge.amount
    for request, price in facts.prices.items():
        note = facts.last(request)
        if note is None:
            yield Blame(what="stuck", amount=1, words=f"{request} was not begun")
            continue
        if note.outcome.startswith("wrong"):
            yield Blame(what="wrong", amount=1, words=f"{request}: {note.outcome}")
        least, most = _due(note, price)
        has, words = charged[request], f"{request} ({note.outcome}) was charged"
        if has < least:
            words = f"{words} {has}, not {least}"
            yield Blame(what="unpaid", amount=least - has, words=words)
        if has > most:
            what = "doubled" if most else "lost"
            yield Blame(
                what=what, amount=has - most, words=f"{words} {has}, not {most}"
            )


def _due(note: Note, price: int) -> tuple[int, int]:
    """The least and the most that a request may have cost."""
    match _way(note):
        case "paid":
            return price, price
        case "lost_answers":
            return note.charged, note.charged
        case "unknown":
            return 0, price
        case _:
            return 0, 0


def _judge_payments(facts: Facts) -> Iterator[Blame]:
    """A payment buys one request, and no other charges anything."""
    for charge in facts.charges:
        strange = charge.requests - set(facts.prices)
        words = f"{charge.payment} of {charge.amount} for {sorted(charge.requests)}"
        if len(charge.requests) > 1:
            yield Blame(what="unpaid", amount=charge.amount or 1, words=words)
        if charge.amount and (strange or not charge.requests):
            yield Blame(what="doubled", amount=charge.amount, words=words)


def _judge_answers(facts: Facts) -> Iterator[Blame]:
    """
    An answer is made again only where the first did not leave: because it was withheld
    (its settlement was not known, say), or because its process died and the agent does
    not have it. It costs no more then.
    """
    for first, second in _runs_again(facts):
        withheld_at = first.withheld_at
        if first.life != second.life:
            continue
        if withheld_at is None or withheld_at > second.at:
            price = facts.prices[first.request]
            words = f"{first} was made again at {second.at}"
            yield Blame(what="doubled", amount=price, words=words)
    made = Counter(served.request for served in facts.served)
    for request, price in facts.prices.items():
        note = facts.last(request)
        if note is None or note.outcome != "paid":
            continue
        if not made[request]:
            yield Blame(what="lost", amount=price, words=f"{request} was never made")
        late = [s for s in facts.served if s.request == request and s.at > note.at]
        if late:
            words = f"{request} was made again when the agent had it"
            yield Blame(what="doubled", amount=len(late) * price, words=words)


def _judge_sums(facts: Facts) -> Iterator[Blame]:
    """The chain has what the requests were charged, and nothing is between."""
    money, due = facts.money, sum(charge.amount for charge in facts.charges)
    if money.paid > due:
        words = f"{money} pays more than the {due} of all requests"
        yield Blame(what="doubled", amount=money.paid - due, words=words)
    if money.paid < due:
        words = f"{money} pays less than the {due} of all requests"
        yield Blame(what="unpaid", amount=due - money.paid, words=words)
    bounds = [
        _due(note, price)
        for request, price in facts.prices.items()
        if (note := facts.last(request)) is not None
    ]
    least, most = sum(low for low, _ in bounds), sum(high for _, high in bounds)
    if money.paid > most:
        words = f"{money} pays more than {most} by the notes"
        yield Blame(what="doubled", amount=money.paid - most, words=words)
    if money.paid < least:
        words = f"{money} pays less than {least} by the notes"
        yield Blame(what="unpaid", amount=least - money.paid, words=words)
    gone, there = facts.funds - money.left, money.paid + money.escrowed
    if gone != there:
        words = f"{gone} are gone, {there} are there"
        yield Blame(what="lost", amount=abs(gone - there), words=words)
    if facts.booked != money.paid:
        words = f"the agent's books say {facts.booked}, the chain {money.paid}"
        yield Blame(what="lost", amount=abs(facts.booked - money.paid), words=words)
