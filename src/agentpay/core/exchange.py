"""
What a payer makes of an answer: is it final, and what comes next?

Pure, and written for both kinds of channel: one whose payee names each voucher's fate
(rule 4: only such an answer is final), and one that follows the specification alone.
"""

from dataclasses import dataclass
from enum import StrEnum


class Next(StrEnum):
    """What the payer does with a request after an answer."""

    DELIVER = "deliver"
    """Hand the answer to the caller."""
    RESEND = "resend"
    """The same request with the same credential, a little later."""
    PAY_AGAIN = "pay-again"
    """This credential bought nothing, finally; a fresh one may."""
    LOST = "lost"
    """Charged once, and the answer cannot be had any more."""
    REJECTED = "rejected"
    """Refused in a way that paying again would not mend."""


class Booking(StrEnum):
    """What the payer writes into its own ledger."""

    CHARGED = "charged"
    VOID = "void"
    OLD = "old"
    ARRIVED = "arrived"
    OPEN = "open"
    """Not final: ask again before anything else is signed in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelAnswer:
    """What an answer to a voucher said, reduced to what decides."""

    status: int
    success: bool | None
    """Of its receipt; None without one."""
    fate: str | None
    """Of our voucher, where the answer names exactly ours."""
    charged: int | None
    repeated: bool = False
    """The payee says that it answered this voucher before, and not again."""
    corrected: int | None = None
    """What a corrective 402 says was charged in all, if our own voucher proves it."""
    busy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The next step and the booking."""

    next: Next
    booking: Booking
    charged: int = 0


def judge(
    answer: ChannelAnswer, *, tagged: bool, spent: int, maximum: int, resent: bool
) -> Verdict:
    """
    Decide about one answer; `spent` and `maximum` are our books, `resent` says that
    this credential was sent before.
    """
    named = tagged and answer.fate is not None
    if answer.status == 503 and not named:
        return Verdict(next=Next.RESEND, booking=Booking.OPEN)
    if tagged:
        return _judge_named(answer)
    return _judge_strict(answer, spent=spent, maximum=maximum, resent=resent)


def _judge_named(answer: ChannelAnswer) -> Verdict:
    match answer.fate:
        case "charged":
            return Verdict(
                next=Next.LOST if answer.repeated else Next.DELIVER,
                booking=Booking.CHARGED,
                charged=answer.charged or 0,
            )
        case "running":
            return Verdict(next=Next.RESEND, booking=Booking.ARRIVED)
        case "void":
            return Verdict(next=Next.PAY_AGAIN, booking=Booking.VOID)
        case "old":
            return Verdict(next=Next.LOST, booking=Booking.OLD)
        case _:
            refused = answer.status == 402
            return Verdict(
                next=Next.REJECTED if refused else Next.DELIVER, booking=Booking.OPEN
            )


def _judge_strict(
    answer: ChannelAnswer, *, spent: int, maximum: int, resent: bool
) -> Verdict:
    if answer.success and answer.charged is not None and answer.status != 409:
        return Verdict(
            next=Next.DELIVER, booking=Booking.CHARGED, charged=answer.charged
        )
    if answer.busy or answer.status == 409:
        return Verdict(next=Next.RESEND, booking=Booking.OPEN)
    if answer.corrected is not None:
        charged = answer.corrected - spent
        if not 0 <= charged <= maximum:
            return Verdict(next=Next.REJECTED, booking=Booking.OPEN)
        return Verdict(
            next=Next.LOST if charged and resent else Next.PAY_AGAIN,
            booking=Booking.CHARGED,
            charged=charged,
        )
    if answer.status == 402:
        return Verdict(next=Next.REJECTED, booking=Booking.OPEN)
    return Verdict(next=Next.DELIVER, booking=Booking.OPEN)
