"""
What an agent may spend, and on whom: limits, reserved before anything is signed.

Amounts are in 10^-18 of the budget's currency, so that tokens of different decimals
share one budget exactly. Exposure counts money that has left (spent, or deposited in a
channel and not back) and money that a signature of ours may still move.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

from agentpay.errors import BudgetExceeded, InvariantViolated, NonceBusy


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most an agent may be exposed to. Every limit is required."""

    total: int
    per_host: int
    per_request: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Money set aside for one signature whose outcome is not final."""

    id: str
    host: str
    amount: int
    valid_before: int
    """After this time the signature can no longer move money."""
    detail: str
    """What was signed, so that it can be sent again or looked up (JSON)."""
    request: str = ""
    """The request that it may still be answered for, as a hash; "" is none."""
    presented_until: int = 0
    """
    Until then somebody may be at it (Unix time). The same below 0 was left: nobody is,
    and who takes it up says a later time, so that no two take up the same.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSpending:
    """What has left for one host."""

    host: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapse:
    """A host took payments and delivered nothing, so often in a row (C15)."""

    host: str
    count: int
    last: int
    """When that was last noticed. Milliseconds, as all times of lapses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """All of an agent's exposure, and the hosts that lately gave nothing for it."""

    spent: tuple[HostSpending, ...] = ()
    holds: tuple[Hold, ...] = ()
    lapses: tuple[Lapse, ...] = ()

    @property
    def exposure(self) -> int:
        return sum(s.amount for s in self.spent) + sum(h.amount for h in self.holds)

    def exposure_to(self, host: str) -> int:
        gone = sum(s.amount for s in self.spent if s.host == host)
        return gone + sum(h.amount for h in self.holds if h.host == host)

    def hold(self, hold_id: str) -> Hold | None:
        return next((hold for hold in self.holds if hold.id == hold_id), None)

    def lapse(self, host: str) -> Lapse | None:
        return next((lapse for lapse in self.lapses if lapse.host == host), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """A signature is about to be made."""

    hold: Hold
    contested: bool = False
    """Whether another process may be about to hold the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """A hold's money has left: `amount` of it, the rest is free again."""

    id: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The same, and nobody has had the answer that it paid for: that is still due."""

    id: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """
    Somebody presents a hold's signature, until then at the latest; below 0 is nobody
    any more, and nobody knows what became of it. That is said by who was at it, and
    says nothing of who has taken it up meanwhile.
    """

    id: str
    until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Its request had an answer, or a refusal: the same again is another purchase."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What answered a hold's request broke off: its answer is due, and nothing else."""

    hold: Hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """A hold's signature can no longer move money, and did not."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """Money came back from a host: a refund or a withdrawal."""

    host: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Money that had left before the budget knew of it: counted, never refused."""

    host: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Undelivered:
    """
    A host had a payment and gave no answer for it, or an error.

    What was sent before the last lapse was noticed is part of that one: many requests
    that one broken connection takes along are one lapse. After `within` milliseconds
    counting begins anew.
    """

    host: str
    sent_at: int
    noticed_at: int
    within: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """A host gave an answer for a payment: whatever it lapsed before is forgotten."""

    host: str


BudgetEvent = (
    Reserved
    | Spent
    | Moved
    | Presented
    | Answered
    | Due
    | Released
    | Returned
    | Found
    | Undelivered
    | Delivered
)


def check_request(limits: Limits, amount: int) -> None:
    """
    Raises:
        BudgetExceeded: One request may not cost this much.
    """
    if amount > limits.per_request:
        raise BudgetExceeded(
            limit="per-request", wanted=amount, left=limits.per_request
        )


def left_for(budget: Budget, host: str, limits: Limits) -> int:
    """The most that may be reserved for a host now."""
    total = limits.total - budget.exposure
    return max(0, min(total, limits.per_host - budget.exposure_to(host)))


def carried_on(
    budget: Budget, request: str, is_free: Callable[[Hold], bool]
) -> Hold | None:
    """
    The oldest that was signed for the same request and has brought no answer yet (C8).

    It is presented again instead of another one, if nobody is at it (`is_free`): two
    that run at the same time are two purchases.
    """
    same = (hold for hold in budget.holds if request and hold.request == request)
    return next((hold for hold in same if is_free(hold)), None)


def apply(before: Budget, event: BudgetEvent, limits: Limits) -> Budget:
    """
    Move a budget by one event. Only a reservation can be refused.

    Raises:
        BudgetExceeded: The total or the host's limit does not allow the reservation.
        NonceBusy: It is contested, and there is one.
        InvariantViolated: A bug; nothing may be saved.
    """
    after = _decide(before, event, limits)
    _check(before, after, event, limits)
    return after


def _decide(budget: Budget, event: BudgetEvent, limits: Limits) -> Budget:
    match event:
        case Reserved():
            if event.contested and budget.hold(event.hold.id) is not None:
                raise NonceBusy(f"{event.hold.id} is another payment's: try again")
            return _reserve(budget, event.hold, limits)
        case Spent() | Moved() | Presented() | Answered():
            hold = budget.hold(event.id)
            return budget if hold is None else _say_of(budget, hold, event)
        case Due():
            return _owe(budget, event.hold)
        case Released():
            return _without(budget, event.id)
        case Found():
            return _move(budget, event.host, event.amount)
        case Undelivered():
            return _lapse(budget, event)
        case Delivered():
            return _without_lapse(budget, event.host)
        case Returned():
            gone = budget.exposure_to(event.host) - sum(
                h.amount for h in budget.holds if h.host == event.host
            )
            return _move(budget, event.host, -min(event.amount, gone))
        case _:
            assert_never(event)


def _say_of(
    budget: Budget, hold: Hold, event: Spent | Moved | Presented | Answered
) -> Budget:
    match event:
        case Spent():
            gone = min(event.amount, hold.amount)
            return _move(_without(budget, hold.id), hold.host, gone)
        case Moved():
            gone = min(event.amount, hold.amount)
            return _move(_changed(budget, replace(hold, amount=0)), hold.host, gone)
        case Presented():
            if event.until < 0 and hold.presented_until != -event.until:
                return budget  # somebody else has taken it up, and is at it
            return _changed(budget, replace(hold, presented_until=event.until))
        case Answered():
            return _changed(budget, replace(hold, request="", presented_until=0))
        case _:
            assert_never(event)


def _owe(budget: Budget, hold: Hold) -> Budget:
    """Where its money is gone, nothing is held."""
    known = budget.hold(hold.id)
    amount = known.amount if known is not None else 0
    due = replace(hold, amount=amount, presented_until=-abs(hold.presented_until))
    if known is not None:
        return _changed(budget, due)
    return replace(budget, holds=(*budget.holds, due))


def _reserve(budget: Budget, hold: Hold, limits: Limits) -> Budget:
    if budget.hold(hold.id) is not None:
        raise InvariantViolated(f"hold {hold.id} is reserved twice")
    left = limits.total - budget.exposure
    if hold.amount > left:
        raise BudgetExceeded(limit="total", wanted=hold.amount, left=max(0, left))
    left = limits.per_host - budget.exposure_to(hold.host)
    if hold.amount > left:
        limit = f"per-host ({hold.host})"
        raise BudgetExceeded(limit=limit, wanted=hold.amount, left=max(0, left))
    return replace(budget, holds=(*budget.holds, hold))


def _lapse(budget: Budget, event: Undelivered) -> Budget:
    before = budget.lapse(event.host)
    count = 1
    if before is not None:
        if event.sent_at < before.last:
            return budget
        if event.noticed_at <= before.last + event.within:
            count = before.count + 1
    lapse = Lapse(host=event.host, count=count, last=event.noticed_at)
    others = _without_lapse(budget, event.host).lapses
    return replace(budget, lapses=(*others, lapse))


def _without_lapse(budget: Budget, host: str) -> Budget:
    kept = tuple(lapse for lapse in budget.lapses if lapse.host != host)
    return replace(budget, lapses=kept) if len(kept) < len(budget.lapses) else budget


def _without(budget: Budget, hold_id: str) -> Budget:
    return replace(budget, holds=tuple(h for h in budget.holds if h.id != hold_id))


def _changed(budget: Budget, after: Hold) -> Budget:
    """In its place: the oldest is carried on first."""
    holds = tuple([after if hold.id == after.id else hold for hold in budget.holds])
    return replace(budget, holds=holds)


def _move(budget: Budget, host: str, amount: int) -> Budget:
    others = tuple(s for s in budget.spent if s.host != host)
    before = sum(s.amount for s in budget.spent if s.host == host)
    return replace(
        budget, spent=(*others, HostSpending(host=host, amount=before + amount))
    )


def _check(before: Budget, after: Budget, event: BudgetEvent, limits: Limits) -> None:
    rules = {
        "no hold is negative": all(hold.amount >= 0 for hold in after.holds),
        "no host was paid less than nothing": all(s.amount >= 0 for s in after.spent),
        "nobody is paid a negative amount": (
            not isinstance(event, Spent | Moved) or event.amount >= 0
        ),
        "a reservation keeps the total": (
            not isinstance(event, Reserved) or after.exposure <= limits.total
        ),
        "what is presented, and what was answered, moves no money": (
            not isinstance(event, Presented | Answered | Due)
            or after.exposure == before.exposure
        ),
        "only a reservation adds exposure": (
            isinstance(event, Reserved | Found) or after.exposure <= before.exposure
        ),
    }
    for sentence, holds in rules.items():
        if not holds:
            raise InvariantViolated(f"{sentence}: {before} -> {after}")
