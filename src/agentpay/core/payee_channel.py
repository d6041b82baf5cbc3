"""
The payee's end of a channel: what each voucher bought, and what may still be spent.

Values only. How they change is in `payee_rules`, by the events of `payee_events`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from operator import attrgetter
from typing import Final

from agentpay.errors import InvariantViolated

HELD_MAX: Final = 16
"""The most vouchers that are kept of one session."""


class Status(StrEnum):
    """Where a channel is in its life."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Fate(StrEnum):
    """What became of a voucher's cumulative amount, which buys at most one request."""

    RUNNING = "running"
    CHARGED = "charged"
    VOID = "void"
    OLD = "old"


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """A cumulative amount that has been presented, and what it bought."""

    cumulative: int
    fate: Fate
    charged: int = 0
    shown: bool = False
    """The chain shows its voucher, or is about to: anybody may present it."""


by_cumulative: Callable[[Used], int] = attrgetter("cumulative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A request in flight. Only its owner may charge or close it."""

    cumulative: int
    maximum: int
    charged: int
    """Charged so far: all of a fixed price at once, a stream slice by slice."""
    prepaid: bool
    """A fixed price, charged before the handler runs and given back if it fails."""
    owner: str
    resource: str
    """What it may run again for; "" is nothing: anybody may present its voucher."""
    answered: bool = False
    """Its receipt may have left: the charge stands, and no more may be charged."""
    held: int = field(init=False, repr=False, compare=False)
    """What this may still charge; kept, because every event adds all of these up."""

    def __post_init__(self) -> None:
        if not 0 <= self.charged <= self.maximum:
            raise InvariantViolated(
                f"a reservation of {self.maximum} charges {self.charged}"
            )
        held = 0 if self.answered else self.maximum - self.charged
        object.__setattr__(self, "held", held)


_held: Callable[[Reservation], int] = attrgetter("held")
_charged: Callable[[Reservation], int] = attrgetter("charged")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldVoucher:
    """A voucher whose signature we keep, to claim with."""

    amount: int
    signature: bytes


_amount: Callable[[HeldVoucher], int] = attrgetter("amount")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRefund:
    """A part of what is left, as `closing_voucher` asked for it back."""

    amount: int
    """What was asked for; the contract gives no more than is left."""
    nonce: int | None = None
    """Which refund of its channel it is, from before it may be sent."""
    refunded: int | None = None
    """What came of it, once it is over."""
    transaction: str = ""
    """Where it is seen, as far as we know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeeChannel:
    """Everything a payee must remember of one channel. Amounts are base units."""

    tagged: bool
    """Serves requests in parallel; said by the channel's id, so never in doubt."""
    window: int
    in_flight_max: int
    status: Status = Status.OPEN
    balance: int = 0
    """Deposited less withdrawn and refunded, as last seen on chain."""
    claimed: int = 0
    """Claimed on chain, as last seen."""
    pending_withdrawal: int = 0
    charged: int = 0
    highest: int = 0
    """The highest amount any accepted voucher authorized."""
    floor: int = 0
    """Every amount up to here counts as used."""
    used: tuple[Used, ...] = ()
    running: tuple[Reservation, ...] = ()
    held: tuple[HeldVoucher, ...] = ()
    closing_voucher: int | None = None
    """The amount that asked for the refund, if one did."""
    part: PartRefund | None = None
    """How much of what is left it asked for, if not for all."""
    pays_whole: bool = False
    """A claim takes a whole voucher, as of MPP's sessions, and not what was charged."""
    living: frozenset[str] = field(default=frozenset(), repr=False, compare=False)
    """Other owners that are alive, as the store knows when it reads; never saved."""

    @property
    def reserved(self) -> int:
        return sum(map(_held, self.running))

    @property
    def spendable(self) -> int:
        """The most that vouchers may authorize now."""
        return max(0, self.balance - self.pending_withdrawal)

    @property
    def due(self) -> int:
        """Charged for requests that are over: what may be claimed on chain."""
        return self.charged - sum(map(_charged, self.running))

    def covered(self, running: Reservation) -> int:
        """The most that a slice of a stream may come to, with the money still there."""
        there = max(0, self.spendable - self.charged)
        return min(running.maximum, running.charged + there)

    @property
    def earned(self) -> int:
        """Due, and what running requests have used, which is not given back."""
        return self.due + sum(
            r.charged for r in self.running if r.answered or not r.prepaid
        )

    @property
    def unclaimed(self) -> int:
        """Due, not claimed, and still there: the contract pays nothing above."""
        if self.pays_whole:
            voucher = self.settle_voucher()
            return voucher.amount - self.claimed if voucher else 0
        return max(0, min(self.due, self.balance) - self.claimed)

    @property
    def owes(self) -> bool:
        """
        Whether anything may be unclaimed: cheaper than `unclaimed`, and never false
        where that is above 0. What runs counts as if it were over.
        """
        if self.pays_whole:
            return any(self.claimed < v.amount <= self.charged for v in self.held)
        return self.charged > self.claimed < self.balance

    def is_exposed(self, more: int, limit: int | None) -> bool:
        """Whether with so much more it would owe us more than `limit`, unclaimed."""
        if limit is None:
            return False
        return self.charged + self.reserved + more - self.claimed > limit

    @property
    def is_ending(self) -> bool:
        """
        Whether its payer wants it closed: it asked us; or, of a session, the contract,
        which its payer may still take back, and there is something to settle in time.
        """
        if self.status is Status.CLOSING:
            return True
        asked = self.pays_whole and self.pending_withdrawal > 0
        unpaid = self.charged > self.claimed
        return asked and unpaid and self.status is Status.OPEN

    def receipt_total(self, cumulative: int) -> int:
        """
        What a receipt for this amount may say was charged on the channel in all.

        Only what is final counts: a fixed price still running may be given back, and a
        receipt that counted it and came late would look like a false claim.
        """
        running = self.reservation(cumulative)
        if running is None or not running.answered:
            return self.due
        return self.due + running.charged

    def is_dead(self, reservation: Reservation, owner: str) -> bool:
        """Whether nobody carries on with it, as `owner` sees it."""
        return reservation.owner != owner and reservation.owner not in self.living

    def has_dead(self, owner: str) -> bool:
        """Whether anything that runs has nobody, as `owner` sees it."""
        return any(self.is_dead(running, owner) for running in self.running)

    def reservation(self, cumulative: int) -> Reservation | None:
        for reservation in self.running:
            if reservation.cumulative == cumulative:
                return reservation
        return None

    def with_changed(self, changed: Reservation) -> tuple[Reservation, ...]:
        """What runs, with one of them as it is now."""
        cumulative = changed.cumulative
        return tuple(
            [changed if r.cumulative == cumulative else r for r in self.running]
        )

    def find_used(self, cumulative: int) -> Used | None:
        at = self.place_used(cumulative)
        return None if at is None else self.used[at]

    def is_public(self, cumulative: int) -> bool:
        """
        Whether the chain may show this voucher: then it proves nobody its payer.

        It never shows one of nothing.
        """
        used = self.find_used(cumulative)
        return 0 < cumulative <= self.floor or (used is not None and used.shown)

    def with_shown(self, cumulative: int) -> tuple[Used, ...]:
        """What is remembered, once the chain shows this voucher."""
        at = self.place_used(cumulative)
        if at is None:
            return self.used
        shown = replace(self.used[at], shown=True)
        return (*self.used[:at], shown, *self.used[at + 1 :])

    def place_used(self, cumulative: int) -> int | None:
        """Where an amount is among those that are remembered."""
        at = bisect_left(self.used, cumulative, key=by_cumulative)
        found = at < len(self.used) and self.used[at].cumulative == cumulative
        return at if found else None

    def claim_voucher(self) -> HeldVoucher | None:
        """
        The smallest voucher we hold that covers what is due (rule 10): of a request
        that is over, if there is one.
        """
        covering = [voucher for voucher in self.held if voucher.amount >= self.due]
        over = [v for v in covering if self.reservation(v.amount) is None]
        return min(over or covering, key=_amount, default=None)

    def may_show(self, voucher: HeldVoucher) -> bool:
        """
        Whether a claim may be made with it now: while its request runs, it is what
        proves its payer, and shown only of one that leaves.
        """
        return self.pending_withdrawal > 0 or self.reservation(voucher.amount) is None

    def ready_voucher(self) -> HeldVoucher | None:
        """The highest we hold of a request that is over: it pays for what it covers."""
        over = [v for v in self.held if self.reservation(v.amount) is None]
        return max(over, key=_amount, default=None)

    def settle_voucher(self) -> HeldVoucher | None:
        """
        The most that can be had of a session without taking what is not due, and
        without a voucher whose request runs.
        """
        most = min(self.due, self.balance)
        fair = [v for v in self.held if self.claimed < v.amount <= most]
        over = [v for v in fair if self.reservation(v.amount) is None]
        return max(over, key=_amount, default=None)

    def last_voucher(self) -> HeldVoucher | None:
        """
        What to take of a session whose payer leaves: the smallest voucher that covers
        what is earned, or else the highest (rule 23).
        """
        if self.earned <= self.claimed:
            return None
        had = [v for v in self.held if self.claimed < v.amount <= self.balance]
        covering = [v for v in had if v.amount >= self.earned]
        if covering:
            return min(covering, key=_amount)
        return max(had, key=_amount, default=None)

    def keep(
        self,
        held: tuple[HeldVoucher, ...],
        due: int,
        running: tuple[Reservation, ...],
    ) -> tuple[HeldVoucher, ...]:
        """Which of these vouchers are worth keeping when so much is due and runs."""
        if self.pays_whole:
            return worth_keeping_whole(held, due, self.charged)
        return worth_keeping(held, due, running)


def worth_keeping(
    held: tuple[HeldVoucher, ...], due: int, running: tuple[Reservation, ...]
) -> tuple[HeldVoucher, ...]:
    """
    Five vouchers are enough. Of requests that are over, the smallest that covers what
    is due, and the highest; of those that run, the two smallest that cover it, as the
    first may be a long stream; and the highest of all.
    """
    if len(held) <= 1:
        return held
    ordered = sorted({v.amount: v for v in held}.values(), key=_amount)
    at_work = {reservation.cumulative for reservation in running}
    over = [v for v in ordered if v.amount not in at_work]
    ended = [v for v in over if v.amount >= due]
    run = [v for v in ordered if v.amount >= due and v.amount in at_work]
    kept = {*run[:2], *ended[:1], *over[-1:], ordered[-1]}
    return tuple(sorted(kept, key=_amount))


def worth_keeping_whole(
    held: tuple[HeldVoucher, ...], due: int, charged: int
) -> tuple[HeldVoucher, ...]:
    """
    Where a contract pays whole vouchers: the highest that is due, and those above.

    When they are too many, the one above what is due, those nearest to what is charged
    with all that runs, and the highest (rule 23).
    """
    ordered = sorted({v.amount: v for v in held}.values(), key=_amount)
    at = bisect_right(ordered, due, key=_amount)
    kept = ordered[max(0, at - 1) :]
    if len(kept) > HELD_MAX:
        between = sorted(kept[2:-1], key=lambda v: abs(v.amount - charged))
        between = sorted(between[: HELD_MAX - 3], key=_amount)
        kept = [*kept[:2], *between, kept[-1]]
    return tuple(kept)
