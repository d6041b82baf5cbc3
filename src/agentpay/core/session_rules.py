"""
How a payee's MPP session changes: the rules of a channel, where its contract differs.

Rules 21 to 24. The escrow pays a whole voucher and not what was charged; vouchers may
come without a request; a close is final. What is not said here is as in `payee_rules`.
"""

from dataclasses import dataclass, replace

from agentpay.core import payee_rules
from agentpay.core.payee_channel import (
    HELD_MAX,
    Fate,
    HeldVoucher,
    PayeeChannel,
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
    Closing,
    Event,
    LeaseLost,
    Noted,
    OutcomeAsked,
    OwnersDied,
    RefundAsked,
    RefundDone,
    Refused,
    VoucherRefused,
    VoucherVerified,
)
from agentpay.core.payee_rules import Transition, refuse, reserve
from agentpay.core.payee_window import use
from agentpay.errors import InvariantViolated

LOWER = "below_highest_voucher"
"""An older voucher: the draft answers it with 200 and no content."""
NOT_RUNNING = "request_not_running"
"""A voucher was for a request that is over, or never was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raises:
    """Which running request a voucher is for, and the most that may cost from now."""

    cumulative: int
    maximum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherRaised:
    """A verified voucher came without a request (`HEAD`): it raises what is held."""

    cumulative: int
    signature: bytes
    raises: Raises | None = None
    """On a tagged session: what other requests signed is not this one's."""
    exposure_max: int | None = None
    """As of `VoucherVerified`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended:
    """A stream would cost up to `maximum`, if what is signed covers that (untagged)."""

    cumulative: int
    owner: str
    maximum: int
    exposure_max: int | None = None
    """As of `VoucherVerified`: it grows up to that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseAsked:
    """The payer asks to close, with a verified voucher of exactly what is charged."""

    cumulative: int
    signature: bytes
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalized:
    """The contract has closed the session, for whatever reason, and for ever."""


SessionEvent = Event | VoucherRaised | Extended | CloseAsked | Finalized


def apply(before: PayeeChannel, event: SessionEvent) -> Transition:
    """
    Decide what an event does to a session.

    Raises:
        InvariantViolated: A bug here; nothing may be saved.
    """
    if not before.pays_whole:
        raise InvariantViolated("not a session's books")
    transition = _decide(before, event)
    check(before, transition.channel)
    _check_vouchers(before, transition.channel)
    return transition


def _decide(channel: PayeeChannel, event: SessionEvent) -> Transition:
    match event:
        case VoucherVerified() if not channel.tagged:
            return _admit_rising(channel, event)
        case VoucherRaised():
            return _raise(channel, event)
        case Extended():
            return _extend(channel, event)
        case CloseAsked():
            return _start_close(channel, event)
        case Finalized():
            closed = replace(channel, status=Status.CLOSED)
            return Transition(channel=closed, answer=Noted())
        case RefundAsked() | RefundDone() | OutcomeAsked():
            raise InvariantViolated(f"a session knows no {type(event).__name__}")
        case _:
            return payee_rules.apply(channel, event)


def _check_vouchers(before: PayeeChannel, channel: PayeeChannel) -> None:
    fair = channel.settle_voucher()
    rules = {
        "a routine settle takes nothing that is not due": (
            fair is None or fair.amount <= channel.due
        ),
        # But for what the chain took back of a session that we found settled.
        "whatever is due can be had": (
            channel.claimed < before.claimed or _lost(channel) <= _lost(before)
        ),
        "few vouchers are held": len(channel.held) <= HELD_MAX,
    }
    for sentence, holds in rules.items():
        if not holds:
            raise InvariantViolated(f"{sentence}: {channel}")


def _lost(channel: PayeeChannel) -> int:
    """What is due, and no voucher that we hold pays."""
    highest = channel.held[-1].amount if channel.held else 0
    return max(0, channel.due - max(highest, channel.claimed))


def _admit_rising(channel: PayeeChannel, event: VoucherVerified) -> Transition:
    """Rule 22: one request at a time, on a higher voucher or the very same one."""
    cumulative = event.cumulative
    if channel.running:
        if not all(channel.is_dead(r, event.owner) for r in channel.running):
            return refuse(channel, BUSY)
        return _after_the_dead(channel, event)
    if channel.status is not Status.OPEN:
        return refuse(channel, CLOSING)
    if cumulative < channel.highest:
        return refuse(channel, LOWER)
    if cumulative == channel.highest and not _may_repeat(channel, event):
        return refuse(channel, MISMATCH)
    if cumulative > channel.spendable:
        return refuse(channel, EXCEEDS_BALANCE)
    if channel.charged + event.maximum > cumulative:
        return refuse(channel, NOT_COVERED)
    if channel.is_exposed(event.maximum, event.exposure_max):
        return refuse(channel, EXPOSED)
    return reserve(channel, event)


def _after_the_dead(channel: PayeeChannel, event: VoucherVerified) -> Transition:
    """Its owner died: its own request runs again, and any other one ends it first."""
    if channel.is_public(event.cumulative):
        lower = event.cumulative < channel.highest
        return refuse(channel, LOWER if lower else MISMATCH)  # of whom is not known
    running = channel.reservation(event.cumulative)
    same = (event.resource, event.maximum)
    if running is not None and (running.resource, running.maximum) == same:
        return payee_rules.apply(channel, event)
    expired = payee_rules.apply(channel, OwnersDied(owner=event.owner))
    then = _admit_rising(expired.channel, event)
    return replace(then, touched=expired.touched + then.touched)


def _may_repeat(channel: PayeeChannel, event: VoucherVerified) -> bool:
    """The highest voucher, bit for bit, and not published by a settle of ours."""
    if not channel.held or event.cumulative <= max(channel.floor, channel.claimed):
        return False
    highest = channel.held[-1]
    return (highest.amount, highest.signature) == (event.cumulative, event.signature)


def _raise(channel: PayeeChannel, event: VoucherRaised) -> Transition:
    """It buys nothing by itself, and on a tagged channel nothing later."""
    cumulative = event.cumulative
    known = cumulative <= channel.highest
    if channel.tagged:
        known = cumulative <= channel.floor or channel.find_used(cumulative) is not None
    if known:
        return Transition(channel=channel, answer=Noted())
    reason = _why_not(channel, event)
    if reason:
        burnt = payee_rules.apply(channel, VoucherRefused(cumulative=cumulative))
        refused = Refused(reason=reason, burnt=channel.tagged)
        return replace(burnt, answer=refused)
    voucher = HeldVoucher(amount=cumulative, signature=event.signature)
    raised = replace(
        channel,
        highest=max(channel.highest, cumulative),
        held=channel.keep((*channel.held, voucher), channel.due, channel.running),
    )
    if not channel.tagged:
        return Transition(channel=raised, answer=Noted())
    spent = Used(cumulative=cumulative, fate=Fate.CHARGED)
    used, floor = use(raised, spent)
    raised = replace(raised, used=used, floor=floor)
    if event.raises is None:
        return Transition(channel=raised, answer=Noted(), touched=(cumulative,))
    grown = _grow(raised, event.raises.cumulative, event.raises.maximum)
    touched = (cumulative, event.raises.cumulative)
    return Transition(channel=grown, answer=Noted(), touched=touched)


def _why_not(channel: PayeeChannel, event: VoucherRaised) -> str:
    """Why a fresh voucher raises nothing; "" if it does."""
    if channel.status is not Status.OPEN:
        return CLOSING
    if event.cumulative > channel.spendable:
        return EXCEEDS_BALANCE
    if event.raises is None or not channel.tagged:
        return ""
    running = channel.reservation(event.raises.cumulative)
    if running is None or running.answered or running.prepaid:
        return NOT_RUNNING
    more = max(0, event.raises.maximum - running.maximum)
    authorized = min(max(channel.highest, event.cumulative), channel.spendable)
    if channel.charged + channel.reserved + more > authorized:
        return NOT_COVERED
    if more and channel.is_exposed(more, event.exposure_max):
        return EXPOSED
    return ""


def drawable(channel: PayeeChannel, exposure_max: int | None) -> int:
    """The most that all requests of an untagged session may come to, as it stands."""
    authorized = min(channel.highest, channel.spendable)
    if exposure_max is None:
        return authorized
    return min(authorized, channel.claimed + exposure_max)


def _extend(channel: PayeeChannel, event: Extended) -> Transition:
    """One request runs, so that all that is signed is signed for it (rule 22)."""
    if channel.tagged:
        raise InvariantViolated("a request of a tagged session grows by its voucher")
    running = channel.reservation(event.cumulative)
    if running is None or running.owner != event.owner:
        return Transition(channel=channel, answer=LeaseLost())
    if running.answered or channel.status is not Status.OPEN:
        return Transition(channel=channel, answer=Noted(charged=running.charged))
    authorized = drawable(channel, event.exposure_max)
    room = max(0, authorized - channel.charged - channel.reserved)
    grown = _grow(channel, event.cumulative, min(event.maximum, running.maximum + room))
    touched = (event.cumulative,) if grown is not channel else ()
    return Transition(
        channel=grown, answer=Noted(charged=running.charged), touched=touched
    )


def _grow(channel: PayeeChannel, cumulative: int, maximum: int) -> PayeeChannel:
    """The same, where one request may cost more; none may cost less than before."""
    running = tuple(
        replace(r, maximum=maximum)
        if r.cumulative == cumulative and r.maximum < maximum
        else r
        for r in channel.running
    )
    if running == channel.running:
        return channel
    return replace(channel, running=running)


def _start_close(channel: PayeeChannel, event: CloseAsked) -> Transition:
    """Rule 23: the contract pays all of it, so the payer signs exactly what is due."""
    if channel.status is not Status.OPEN:
        if channel.closing_voucher == event.cumulative:
            return Transition(channel=channel, answer=Closing(ready=True))
        return refuse(channel, CLOSING)
    expired = payee_rules.apply(channel, OwnersDied(owner=event.owner))
    after = expired.channel
    # By a voucher that the chain shows nothing is taken from what died.
    if after.running or (channel.running and channel.is_public(event.cumulative)):
        return refuse(channel, BUSY)
    if event.cumulative != after.charged:
        return refuse(channel, MISMATCH)
    voucher = HeldVoucher(amount=event.cumulative, signature=event.signature)
    closing = replace(
        after,
        status=Status.CLOSING,
        closing_voucher=event.cumulative,
        held=after.keep((*after.held, voucher), after.due, after.running),
    )
    return Transition(
        channel=closing, answer=Closing(ready=True), touched=expired.touched
    )
