"""
How a payee's channel changes: `apply` takes a channel and an event and decides.

Pure, so that a store may run it twice; every transition is checked against sentences
that must always hold. `docs/parallel-channels.md` has the rules (numbered as here) and
why each is needed. Signatures are not checked here: an event says that somebody did.
"""

from dataclasses import dataclass, replace
from typing import assert_never

from agentpay.core import refund_rules
from agentpay.core.evolve import evolve
from agentpay.core.payee_channel import (
    Fate,
    HeldVoucher,
    PayeeChannel,
    Reservation,
    Status,
    Used,
)
from agentpay.core.payee_checks import check
from agentpay.core.payee_events import (
    BUSY,
    CLOSING,
    EXCEEDS_BALANCE,
    EXPOSED,
    MISMATCH,
    NOT_COVERED,
    REFUND_AMOUNT,
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
    PartBegun,
    RefundAsked,
    RefundDone,
    Refused,
    Spent,
    VoucherPublished,
    VoucherRefused,
    VoucherVerified,
)
from agentpay.core.payee_window import publish, use


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
    check(before, transition.channel)
    return transition


def _decide(channel: PayeeChannel, event: Event) -> Transition:
    match event:
        case VoucherVerified():
            return _admit_any(channel, event)
        case OutcomeAsked():
            return _tell(channel, event)
        case VoucherRefused():
            if not channel.tagged or _seen(channel, event.cumulative):
                return Transition(channel=channel, answer=Noted())
            return _burn(channel, event.cumulative, "terms_mismatch")
        case Charged() | Delivered() | GivenBack():
            return _carry_on(channel, event)
        case RefundAsked():
            return _start_refund(channel, event)
        case OwnersDied():
            return _expire(channel, event)
        case ChainSeen():
            seen = evolve(
                channel,
                balance=event.balance,
                claimed=event.claimed,
                pending_withdrawal=event.pending_withdrawal,
            )
            return Transition(channel=seen, answer=Noted())
        case VoucherPublished():
            shown = publish(channel, event.amount)
            touched = (event.amount,)
            return Transition(channel=shown, answer=Noted(), touched=touched)
        case PartBegun():
            begun = refund_rules.begin_part(channel, event)
            return Transition(channel=begun, answer=Noted())
        case RefundDone():
            ended = refund_rules.end(channel, event)
            return Transition(channel=ended, answer=Noted())
        case _:
            assert_never(event)


# Rules 2 to 6: a channel that serves in parallel. Rule 7: one that does not.


def _admit_any(channel: PayeeChannel, event: VoucherVerified) -> Transition:
    running = channel.reservation(event.cumulative)
    if running and _may_run_again(channel, running, event):
        return _run_again(channel, running, event)
    if not channel.tagged:
        return _admit_strict(channel, event)
    if running is not None:
        still = Spent(fate=Fate.RUNNING, charged=running.charged)
        return Transition(channel=channel, answer=still)
    return _admit(channel, event)


def _may_run_again(
    channel: PayeeChannel, running: Reservation, event: VoucherVerified
) -> bool:
    """Whether it is the very request that died, and comes from who made it."""
    if running.resource != event.resource or running.maximum != event.maximum:
        return False
    return running.resource != "" and channel.is_dead(running, event.owner)


def _run_again(
    channel: PayeeChannel, running: Reservation, event: VoucherVerified
) -> Transition:
    """
    It was paid for and perhaps not answered; it costs what it did.

    A fixed price's receipt may have left without a trace, so that charge stands now.
    """
    answered = running.answered or running.prepaid
    taken = replace(running, owner=event.owner, answered=answered)
    after = evolve(channel, running=channel.with_changed(taken))
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
    if _in_flight(channel, event.owner) >= channel.in_flight_max:
        return _burn(channel, event.cumulative, BUSY)
    need = channel.charged + channel.reserved + event.maximum
    if need > min(authorized, channel.spendable):
        return _burn(channel, event.cumulative, NOT_COVERED)
    if channel.is_exposed(event.maximum, event.exposure_max):
        return _burn(channel, event.cumulative, EXPOSED)
    return reserve(channel, event)


def _in_flight(channel: PayeeChannel, owner: str) -> int:
    """Handlers that run now: the dead do not, and the answered have all but left."""
    if len(channel.running) < channel.in_flight_max:
        return len(channel.running)
    dead = channel.is_dead
    return sum([not (r.answered or dead(r, owner)) for r in channel.running])


def _admit_strict(channel: PayeeChannel, event: VoucherVerified) -> Transition:
    """The rule of the specification: one request at a time, at exactly S + m."""
    running = channel.reservation(event.cumulative)
    gone = running is None or channel.is_dead(running, event.owner)
    if gone and channel.is_public(event.cumulative):
        return refuse(channel, MISMATCH)  # and whether it is busy is not said
    if channel.running:
        if all(channel.is_dead(r, event.owner) for r in channel.running):
            expired = _expire(channel, OwnersDied(owner=event.owner))
            again = _admit_strict(expired.channel, event)
            return replace(again, touched=expired.touched + again.touched)
        return refuse(channel, BUSY)
    if channel.status is not Status.OPEN:
        return refuse(channel, CLOSING)
    if event.cumulative != channel.charged + event.maximum:
        return refuse(channel, MISMATCH)
    if event.cumulative <= channel.floor:
        return refuse(channel, MISMATCH)
    if event.cumulative > channel.spendable:
        return refuse(channel, EXCEEDS_BALANCE)
    if channel.is_exposed(event.maximum, event.exposure_max):
        return refuse(channel, EXPOSED)
    return reserve(channel, event)


def reserve(channel: PayeeChannel, event: VoucherVerified) -> Transition:
    """Admit what every rule allows: also those of sessions."""
    charged = event.maximum if event.prepaid else 0
    reservation = Reservation(
        cumulative=event.cumulative,
        maximum=event.maximum,
        charged=charged,
        prepaid=event.prepaid,
        owner=event.owner,
        resource=event.resource,
    )
    used, floor = channel.used, channel.floor
    if channel.tagged:
        entry = Used(cumulative=event.cumulative, fate=Fate.RUNNING)
        used, floor = use(channel, entry)
    voucher = HeldVoucher(amount=event.cumulative, signature=event.signature)
    running = (*channel.running, reservation)
    after = evolve(
        channel,
        highest=max(channel.highest, event.cumulative),
        running=running,
        charged=channel.charged + charged,
        used=used,
        floor=floor,
        held=channel.keep((*channel.held, voucher), channel.due, running),
    )
    return Transition(
        channel=after,
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
    used, floor = use(channel, Used(cumulative=cumulative, fate=Fate.VOID))
    return Transition(
        channel=evolve(channel, used=used, floor=floor),
        answer=Refused(reason=reason, burnt=True),
        touched=(cumulative,),
    )


def refuse(channel: PayeeChannel, reason: str) -> Transition:
    """Nothing changes."""
    return Transition(channel=channel, answer=Refused(reason=reason, burnt=False))


def _tell(channel: PayeeChannel, event: OutcomeAsked) -> Transition:
    running = channel.reservation(event.cumulative)
    if running is not None and not channel.is_dead(running, event.owner):
        still = Spent(fate=Fate.RUNNING, charged=running.charged)
        return Transition(channel=channel, answer=still)
    if running is not None:
        told = Spent(fate=Fate.CHARGED, charged=running.charged)
        return replace(_close(channel, running), answer=told)
    if (spent := _seen(channel, event.cumulative)) is not None:
        return Transition(channel=channel, answer=spent)
    if channel.tagged:
        return _burn(channel, event.cumulative, "asked")
    return refuse(channel, MISMATCH)


# Rule 5: charging and closing a reservation.


def _carry_on(
    channel: PayeeChannel, event: Charged | Delivered | GivenBack
) -> Transition:
    reservation = channel.reservation(event.cumulative)
    if reservation is None or reservation.owner != event.owner:
        return Transition(channel=channel, answer=LeaseLost())
    match event:
        case Charged():
            return _charge(channel, reservation, event)
        case GivenBack() if not reservation.answered:
            returned = replace(reservation, charged=event.charged)
            return _close(_recharge(channel, reservation, returned), returned)
        case Delivered() | GivenBack():
            return _close(channel, reservation)
        case _:
            assert_never(event)


def _charge(
    channel: PayeeChannel, reservation: Reservation, event: Charged
) -> Transition:
    if reservation.answered:
        stands = Noted(charged=reservation.charged)
        return Transition(channel=channel, answer=stands)
    most = channel.covered(reservation) if event.more else event.charged
    charged = max(reservation.charged, min(event.charged, most))
    changed = evolve(reservation, charged=charged, answered=not event.more)
    return Transition(
        channel=_recharge(channel, reservation, changed),
        answer=Noted(charged=charged),
        touched=(reservation.cumulative,),
    )


def _recharge(
    channel: PayeeChannel, before: Reservation, after: Reservation
) -> PayeeChannel:
    return evolve(
        channel,
        running=channel.with_changed(after),
        charged=channel.charged + after.charged - before.charged,
    )


def _close(channel: PayeeChannel, reservation: Reservation) -> Transition:
    cumulative, charged = reservation.cumulative, reservation.charged
    running = tuple([r for r in channel.running if r.cumulative != cumulative])
    used = channel.used
    if (at := channel.place_used(cumulative)) is not None:
        changed = list(used)
        changed[at] = evolve(used[at], fate=Fate.CHARGED, charged=charged)
        used = tuple(changed)
    held = channel.keep(channel.held, channel.due + charged, running)
    after = evolve(channel, running=running, used=used, held=held)
    return Transition(
        channel=after, answer=Noted(charged=charged), touched=(cumulative,)
    )


def _expire(channel: PayeeChannel, event: OwnersDied) -> Transition:
    dead = [r for r in channel.running if channel.is_dead(r, event.owner)]
    after = channel
    for reservation in dead:
        after = _close(after, reservation).channel
    touched = tuple(r.cumulative for r in dead)
    return Transition(channel=after, answer=Noted(), touched=touched)


# Rule 10: refund.


def _start_refund(channel: PayeeChannel, event: RefundAsked) -> Transition:
    if not channel.tagged:
        return _start_strict_refund(channel, event)
    spent = _seen(channel, event.cumulative)
    if channel.status is not Status.OPEN:
        if spent is None or channel.closing_voucher == event.cumulative:
            ready = not channel.running
            return Transition(channel=channel, answer=Closing(ready=ready))
        return refuse(channel, CLOSING)
    if spent is not None:
        return Transition(channel=channel, answer=spent)
    if event.part is not None:
        return _burn(channel, event.cumulative, REFUND_AMOUNT)
    burnt = _burn(channel, event.cumulative, CLOSING)
    closing = evolve(
        burnt.channel, status=Status.CLOSING, closing_voucher=event.cumulative
    )
    return Transition(
        channel=closing,
        answer=Closing(ready=not closing.running),
        touched=burnt.touched,
    )


def _start_strict_refund(channel: PayeeChannel, event: RefundAsked) -> Transition:
    """What died is buried for its payer, and for nobody who read the chain (rule 7)."""
    buried = Transition(channel=channel, answer=Noted())
    if not channel.is_public(event.cumulative):
        buried = _expire(channel, OwnersDied(owner=event.owner))
    after, answer = refund_rules.ask(buried.channel, event)
    return Transition(channel=after, answer=answer, touched=buried.touched)
