"""
How a payee's channel changes: `apply` takes a channel and an event and decides.

Pure, so that a store may run it twice; every transition is checked against sentences
that must always hold. `docs/parallel-channels.md` has the rules (numbered as here) and
why each is needed. Signatures are not checked here: an event says that somebody did.
"""

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import assert_never

from agentpay.core.payee_channel import (
    Fate,
    HeldVoucher,
    PayeeChannel,
    Reservation,
    Status,
    Used,
    by_cumulative,
)
from agentpay.core.payee_events import (
    BUSY,
    CLOSING,
    EXCEEDS_BALANCE,
    MISMATCH,
    NOT_COVERED,
    Admitted,
    Answer,
    ChainSeen,
    Charged,
    Closing,
    Delivered,
    Event,
    GivenBack,
    LeaseLost,
    Noted,
    OutcomeAsked,
    OwnersDied,
    RefundAsked,
    RefundDone,
    Refused,
    Spent,
    VoucherPublished,
    VoucherRefused,
    VoucherVerified,
)
from agentpay.errors import InvariantViolated


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A channel after an event, the answer, and which amounts a store must rewrite."""

    channel: PayeeChannel
    answer: Answer
    touched: tuple[int, ...] = ()


def apply(before: PayeeChannel, event: Event) -> Transition:
    """
    Decide what an event does to a channel.

    Raises:
        InvariantViolated: A bug here; nothing may be saved.
    """
    transition = _decide(before, event)
    _check(before, transition.channel)
    return transition


def _decide(channel: PayeeChannel, event: Event) -> Transition:  # noqa: C901, PLR0912
    match event:
        case VoucherVerified():
            return _admit_any(channel, event)
        case OutcomeAsked():
            return _tell(channel, event)
        case VoucherRefused():
            if not channel.tagged or _seen(channel, event.cumulative):
                return Transition(channel=channel, answer=Noted())
            return _burn(channel, event.cumulative, "terms_mismatch")
        case Charged():
            return _charge(channel, event)
        case Delivered():
            return _deliver(channel, event)
        case GivenBack():
            return _give_back(channel, event)
        case RefundAsked():
            return _start_refund(channel, event)
        case OwnersDied():
            return _expire(channel, event)
        case ChainSeen():
            seen = replace(
                channel,
                balance=event.balance,
                claimed=event.claimed,
                pending_withdrawal=event.pending_withdrawal,
            )
            return Transition(channel=seen, answer=Noted())
        case VoucherPublished():
            # A tagged amount is in `used` already; an untagged one must not come back.
            floor = channel.floor if channel.tagged else event.amount
            published = replace(channel, floor=max(channel.floor, floor))
            return Transition(channel=published, answer=Noted())
        case RefundDone():
            # A tagged channel is never used again; the specification's may be.
            status = Status.CLOSED if channel.tagged else Status.OPEN
            done = replace(channel, status=status)
            return Transition(channel=done, answer=Noted())
        case _:
            assert_never(event)


# Rules 2 to 6: a channel that serves in parallel. Rule 7: one that does not.


def _admit_any(channel: PayeeChannel, event: VoucherVerified) -> Transition:
    running = channel.reservation(event.cumulative)
    if running is not None:
        return _meet_again(channel, running, event)
    return _admit(channel, event) if channel.tagged else _admit_strict(channel, event)


def _meet_again(
    channel: PayeeChannel, running: Reservation, event: VoucherVerified
) -> Transition:
    """The same voucher while its request runs; a dead owner's request runs again."""
    same = running.resource == event.resource and running.maximum == event.maximum
    if running.owner == event.owner or not same:
        still = Spent(fate=Fate.RUNNING, charged=running.charged)
        return Transition(channel=channel, answer=still)
    taken = replace(running, owner=event.owner)
    after = replace(channel, running=_swap(channel.running, taken))
    return Transition(
        channel=after, answer=Admitted(reservation=taken), touched=(taken.cumulative,)
    )


def _admit(channel: PayeeChannel, event: VoucherVerified) -> Transition:
    if (spent := _seen(channel, event.cumulative)) is not None:
        return Transition(channel=channel, answer=spent)
    authorized = max(channel.highest, event.cumulative)
    if channel.status is not Status.OPEN:
        return _burn(channel, event.cumulative, CLOSING)
    if event.cumulative > channel.spendable:
        return _burn(channel, event.cumulative, EXCEEDS_BALANCE)
    if len(channel.running) >= channel.in_flight_max:
        return _burn(channel, event.cumulative, BUSY)
    need = channel.charged + channel.reserved + event.maximum
    if need > min(authorized, channel.spendable):
        return _burn(channel, event.cumulative, NOT_COVERED)
    entry = Used(cumulative=event.cumulative, fate=Fate.RUNNING)
    return _reserve(_use(channel, entry), event)


def _admit_strict(channel: PayeeChannel, event: VoucherVerified) -> Transition:
    """The rule of the specification: one request at a time, at exactly S + m."""
    if channel.running:
        if all(r.owner != event.owner for r in channel.running):
            expired = _expire(channel, OwnersDied(owner=event.owner))
            again = _admit_strict(expired.channel, event)
            touched = expired.touched + again.touched
            return replace(again, touched=touched)
        return _refuse(channel, BUSY)
    if event.cumulative != channel.charged + event.maximum:
        return _refuse(channel, MISMATCH)
    if event.cumulative <= channel.floor:
        return _refuse(channel, MISMATCH)
    if event.cumulative > channel.spendable:
        return _refuse(channel, EXCEEDS_BALANCE)
    return _reserve(channel, event)


def _reserve(channel: PayeeChannel, event: VoucherVerified) -> Transition:
    charged = event.maximum if event.prepaid else 0
    reservation = Reservation(
        cumulative=event.cumulative,
        maximum=event.maximum,
        charged=charged,
        prepaid=event.prepaid,
        owner=event.owner,
        resource=event.resource,
    )
    voucher = HeldVoucher(amount=event.cumulative, signature=event.signature)
    after = replace(
        channel,
        highest=max(channel.highest, event.cumulative),
        running=(*channel.running, reservation),
        charged=channel.charged + charged,
        held=(*channel.held, voucher),
    )
    return Transition(
        channel=_prune_held(after),
        answer=Admitted(reservation=reservation),
        touched=(event.cumulative,),
    )


def _seen(channel: PayeeChannel, cumulative: int) -> Spent | None:
    used = channel.find_used(cumulative)
    if used is not None:
        return Spent(fate=used.fate, charged=used.charged)
    return Spent(fate=Fate.OLD) if cumulative <= channel.floor else None


def _burn(channel: PayeeChannel, cumulative: int, reason: str) -> Transition:
    """A refused voucher must not be served to a late copy (rule 3)."""
    after = _use(channel, Used(cumulative=cumulative, fate=Fate.VOID))
    return Transition(
        channel=after,
        answer=Refused(reason=reason, burnt=True),
        touched=(cumulative,),
    )


def _refuse(channel: PayeeChannel, reason: str) -> Transition:
    return Transition(channel=channel, answer=Refused(reason=reason, burnt=False))


def _use(channel: PayeeChannel, entry: Used) -> PayeeChannel:
    """Remember an amount; what no longer fits the window goes under the floor."""
    at = bisect_left(channel.used, entry.cumulative, key=by_cumulative)
    used = (*channel.used[:at], entry, *channel.used[at:])
    floor = channel.floor
    if len(used) > channel.window:
        floor = max(floor, used[0].cumulative)
        used = used[1:]
    return replace(channel, used=used, floor=floor)


def _tell(channel: PayeeChannel, event: OutcomeAsked) -> Transition:
    running = channel.reservation(event.cumulative)
    if running is not None and running.owner == event.owner:
        still = Spent(fate=Fate.RUNNING, charged=running.charged)
        return Transition(channel=channel, answer=still)
    if running is not None:
        told = Spent(fate=Fate.CHARGED, charged=running.charged)
        return replace(_close(channel, running), answer=told)
    if (spent := _seen(channel, event.cumulative)) is not None:
        return Transition(channel=channel, answer=spent)
    if channel.tagged:
        return _burn(channel, event.cumulative, "asked")
    return _refuse(channel, MISMATCH)


# Rule 5: charging and closing a reservation.


def _owned(channel: PayeeChannel, cumulative: int, owner: str) -> Reservation | None:
    reservation = channel.reservation(cumulative)
    if reservation is None or reservation.owner != owner:
        return None
    return reservation


def _charge(channel: PayeeChannel, event: Charged) -> Transition:
    reservation = _owned(channel, event.cumulative, event.owner)
    if reservation is None:
        return Transition(channel=channel, answer=LeaseLost())
    charged = max(reservation.charged, event.charged)
    after = _recharge(channel, replace(reservation, charged=charged))
    return Transition(channel=after, answer=Noted(), touched=(reservation.cumulative,))


def _deliver(channel: PayeeChannel, event: Delivered) -> Transition:
    reservation = _owned(channel, event.cumulative, event.owner)
    if reservation is None:
        return Transition(channel=channel, answer=LeaseLost())
    return _close(channel, reservation)


def _give_back(channel: PayeeChannel, event: GivenBack) -> Transition:
    reservation = _owned(channel, event.cumulative, event.owner)
    if reservation is None:
        return Transition(channel=channel, answer=LeaseLost())
    returned = replace(reservation, charged=event.charged)
    return _close(_recharge(channel, returned), returned)


def _recharge(channel: PayeeChannel, reservation: Reservation) -> PayeeChannel:
    before = channel.reservation(reservation.cumulative)
    if before is None:
        raise InvariantViolated("a charge has no reservation")
    return replace(
        channel,
        running=_swap(channel.running, reservation),
        charged=channel.charged + reservation.charged - before.charged,
    )


def _close(channel: PayeeChannel, reservation: Reservation) -> Transition:
    cumulative = reservation.cumulative
    running = tuple(r for r in channel.running if r.cumulative != cumulative)
    used = channel.used
    at = bisect_left(used, cumulative, key=by_cumulative)
    if at < len(used) and used[at].cumulative == cumulative:
        entry = Used(
            cumulative=cumulative, fate=Fate.CHARGED, charged=reservation.charged
        )
        used = (*used[:at], entry, *used[at + 1 :])
    after = _prune_held(replace(channel, running=running, used=used))
    return Transition(channel=after, answer=Noted(), touched=(cumulative,))


def _expire(channel: PayeeChannel, event: OwnersDied) -> Transition:
    dead = [r for r in channel.running if r.owner != event.owner]
    after = channel
    for reservation in dead:
        after = _close(after, reservation).channel
    touched = tuple(r.cumulative for r in dead)
    return Transition(channel=after, answer=Noted(), touched=touched)


# Rule 10: refund.


def _start_refund(channel: PayeeChannel, event: RefundAsked) -> Transition:
    if channel.status is not Status.OPEN:
        if channel.closing_voucher == event.cumulative:
            ready = not channel.running
            return Transition(channel=channel, answer=Closing(ready=ready))
        return _refuse(channel, CLOSING)
    if not channel.tagged:
        return _start_strict_refund(channel, event)
    if (spent := _seen(channel, event.cumulative)) is not None:
        return Transition(channel=channel, answer=spent)
    burnt = _burn(channel, event.cumulative, CLOSING)
    closing = replace(
        burnt.channel, status=Status.CLOSING, closing_voucher=event.cumulative
    )
    return Transition(
        channel=closing,
        answer=Closing(ready=not closing.running),
        touched=burnt.touched,
    )


def _start_strict_refund(channel: PayeeChannel, event: RefundAsked) -> Transition:
    """By c = S, as the specification has it; the channel can be funded again."""
    if channel.running:
        return _refuse(channel, BUSY)
    if event.cumulative != channel.charged:
        return _refuse(channel, MISMATCH)
    voucher = HeldVoucher(amount=event.cumulative, signature=event.signature)
    closing = replace(
        channel,
        status=Status.CLOSING,
        closing_voucher=event.cumulative,
        highest=max(channel.highest, event.cumulative),
        held=(*channel.held, voucher),
    )
    return Transition(channel=_prune_held(closing), answer=Closing(ready=True))


def _swap(
    running: tuple[Reservation, ...], changed: Reservation
) -> tuple[Reservation, ...]:
    return tuple(changed if r.cumulative == changed.cumulative else r for r in running)


def _prune_held(channel: PayeeChannel) -> PayeeChannel:
    """Two vouchers are enough: the smallest that covers what is due, the highest."""
    if len(channel.held) <= 1:
        return channel
    ordered = sorted(channel.held, key=lambda voucher: voucher.amount)
    covering = [voucher for voucher in ordered if voucher.amount >= channel.due]
    kept = (covering[0], ordered[-1]) if covering else (ordered[-1],)
    if kept[0] == kept[-1]:
        kept = kept[:1]
    return replace(channel, held=kept)


def _check(before: PayeeChannel, after: PayeeChannel) -> None:
    """Rule 8: what must hold after every event, whatever the chain said."""
    if after is before:
        return
    rules = {
        "charged is never negative": after.charged >= 0,
        "no reservation charges more than its maximum": all(
            0 <= r.charged <= r.maximum for r in after.running
        ),
        "charged and reserved never exceed what was authorized": (
            after.charged + after.reserved <= after.highest
        ),
        "the highest voucher never shrinks": after.highest >= before.highest,
        "the floor never sinks": after.floor >= before.floor,
        "the window is bounded": len(after.used) <= after.window,
        "every remembered amount is above the floor": (
            not after.used or not after.tagged or after.used[0].cumulative > after.floor
        ),
        "what is due is covered by a voucher we hold or was claimed": (
            after.due <= max(after.claimed, *(v.amount for v in after.held), 0)
        ),
        "a closed channel is not opened again": (
            before.status is not Status.CLOSED or after.status is Status.CLOSED
        ),
    }
    for sentence, holds in rules.items():
        if not holds:
            raise InvariantViolated(f"{sentence}: {before} -> {after}")
