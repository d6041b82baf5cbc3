"""
What a payer makes of an answer: is it final, and what comes next?

Pure, and written for single transfers and for both kinds of channel: one whose payee
names each voucher's fate (rule 4: only such an answer is final), and one that follows
the specification alone. Sessions of MPP are channels with answers of their own.

What counts is what a paywall puts into headers, a receipt or an offer. A status without
either is the application's own word, or a proxy's, and goes to the caller: sending the
request again would run it again.
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class Next(StrEnum):
    """What the payer does with a request after an answer."""

    DELIVER = "deliver"
    """Hand the answer to the caller."""
    RESEND = "resend"
    """The same request with the same credential, a little later."""
    PAY_AGAIN = "pay-again"
    """This credential bought nothing, finally; a fresh one may."""
    RENEW = "renew"
    """What was signed stands, and nobody looked at it: once more, in a fresh frame."""
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
    TOTAL = "total"
    """It is over, and so much was charged on its channel in all."""
    OPEN = "open"
    """Not final: ask again before anything else is signed in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """The total of a corrective 402: no more than ours, or proven."""

    total: int
    voucher: int | None
    """The amount of the voucher that it shows, if we signed that."""


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
    corrected: Corrected | None = None
    offered: bool = False
    """It carries an offer, as the answer of a paywall that was not paid does."""
    busy: bool = False

    @property
    def by_paywall(self) -> bool:
        return self.success is not None or self.offered


class Trouble(StrEnum):
    """What a payee of a session says went wrong, reduced to what decides."""

    CHALLENGE = "challenge"
    """The challenge is over or unknown: the voucher was not looked at."""
    GONE = "gone"
    """It knows no such session, or the session is closed for ever."""
    REVERTED = "reverted"
    """The transaction that its deposit was for did nothing, and never will."""
    AGAIN = "again"
    """Not known yet, busy, or under way: the same once more."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAnswer:
    """What an answer to a voucher of MPP said, reduced to what decides."""

    status: int
    trouble: Trouble | None
    """None where no problem of the protocol is in it."""
    fate: str | None
    """Of our voucher, where the answer names exactly ours."""
    charged: int | None
    repeated: bool = False
    total: int | None = None
    """What its receipt says was charged in all."""
    offered: bool = False
    """It carries a challenge."""
    opened: bool = False
    """It confirms a deposit, and serves no request."""
    streams: bool = False
    """Its content flows, so that the receipt at its head is not the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferAnswer:
    """What an answer to a single transfer said, reduced to what decides."""

    status: int
    success: bool | None
    """Of its receipt; None without one."""
    pending: bool = False
    """Its receipt says that the payee does not know the outcome yet."""
    offered: bool = False
    problem: bool = False
    """It is a problem document (RFC 9457), as a paywall's own refusals are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The next step and the booking."""

    next: Next
    booking: Booking
    charged: int = 0
    total: int = 0
    """What was charged on the channel in all, where that is booked."""


class Underway(StrEnum):
    """Where a request may be that nobody heard of, where its payee does not say so."""

    COMING = "coming"
    """It may be on its way, or its payee has not looked at it to the end."""
    RUNNING = "running"
    """It has arrived if it ever will, and may run."""
    OVER = "over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """What was sent, and our books of its channel."""

    cumulative: int
    spent: int
    resent: bool
    """Whether this voucher was sent before; or it is only asked about."""
    underway: Underway = Underway.OVER
    """Where its request may still be, for all we heard of it."""


def judge(answer: ChannelAnswer, sent: Presented, *, tagged: bool) -> Verdict:
    """Decide about one answer."""
    if tagged:
        if answer.status == 503 and answer.fate is None:
            return Verdict(next=Next.RESEND, booking=Booking.OPEN)
        return _judge_named(answer)
    return _judge_strict(answer, sent)


def _judge_named(answer: ChannelAnswer) -> Verdict:
    verdict = _as_it_flows(answer)
    if verdict is not None:
        return verdict
    refused = answer.status == 402 and answer.by_paywall
    return Verdict(
        next=Next.REJECTED if refused else Next.DELIVER, booking=Booking.OPEN
    )


def _as_it_flows(answer: ChannelAnswer | SessionAnswer) -> Verdict | None:
    """The same as `_by_fate`, but an answer that begins while it runs is a stream's."""
    named = _by_fate(answer)
    if named is not None and answer.fate == "running" and answer.status < 300:
        return replace(named, next=Next.DELIVER)
    return named


def _by_fate(answer: ChannelAnswer | SessionAnswer) -> Verdict | None:
    """None if it does not say what became of our voucher."""
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
            return None


def _judge_strict(answer: ChannelAnswer, sent: Presented) -> Verdict:
    if answer.success and answer.charged is not None:
        return Verdict(
            next=Next.LOST if answer.repeated else Next.DELIVER,
            booking=Booking.CHARGED,
            charged=answer.charged,
        )
    if not answer.by_paywall:
        return Verdict(next=Next.DELIVER, booking=Booking.OPEN)
    if answer.busy or answer.status in (409, 503):
        return Verdict(next=Next.RESEND, booking=Booking.OPEN)
    if answer.corrected is not None:
        return _judge_corrected(answer.corrected, sent)
    if answer.status == 402:
        return Verdict(next=Next.REJECTED, booking=Booking.OPEN)
    return Verdict(next=Next.DELIVER, booking=Booking.OPEN)


def _judge_corrected(said: Corrected, sent: Presented) -> Verdict:
    """
    What a corrected total says of one request, which was the last on its channel.

    The voucher that is shown tells whether ours was taken: then a higher total is its
    price, and is not paid twice; and the old one says nothing while the request may
    still run (x402's own server looks at the total before it says that it is busy).
    Otherwise it bought nothing, whatever the total is; but the old one says nothing
    either while ours may come yet (that server keeps it once it has looked at it).

    Source: x402 `scheme_batch_settlement_evm.md`, "Corrective 402".
    """
    charged = said.total - sent.spent
    taken = said.voucher == sent.cumulative
    # Without a record of the channel there is no total: it is our question, echoed.
    echoed = said.total == said.voucher == 0
    silent = (Underway.COMING, Underway.RUNNING) if taken else (Underway.COMING,)
    if sent.underway in silent and (echoed or not charged):
        return Verdict(next=Next.RESEND, booking=Booking.OPEN)
    total = sent.spent if echoed else said.total
    if taken and charged > 0:
        return Verdict(
            next=Next.LOST, booking=Booking.TOTAL, charged=charged, total=total
        )
    forgotten = sent.resent and charged < 0
    return Verdict(
        next=Next.LOST if forgotten else Next.PAY_AGAIN,
        booking=Booking.TOTAL,
        charged=max(0, charged),  # for a request before it
        total=total,
    )


def next_of_carried(verdict: Verdict) -> Next:
    """
    What comes next for a voucher of an earlier request: if that cost nothing, as where
    its application failed, there is no answer to be had, and the same is bought now.
    """
    free = verdict.booking is Booking.CHARGED and not verdict.charged
    return Next.PAY_AGAIN if verdict.next is Next.LOST and free else verdict.next


def judge_session(
    answer: SessionAnswer, *, tagged: bool, spent: int, resent: bool
) -> Verdict:
    """
    Decide about one answer to a voucher of MPP; `spent` is our books, `resent` says
    that it was sent before.

    On a tagged session only a named fate is final. On another the receipt is, which
    says what was charged in all, and so what this one request cost; that of a stream
    comes last.
    """
    if tagged and (named := _as_it_flows(answer)) is not None:
        return named
    if not tagged and answer.streams and answer.total is not None:
        return Verdict(next=Next.DELIVER, booking=Booking.ARRIVED)
    if answer.opened:
        return Verdict(next=Next.RENEW, booking=Booking.OPEN)
    if not tagged and answer.total is not None:
        charged = max(0, answer.total - spent)
        return Verdict(next=Next.DELIVER, booking=Booking.CHARGED, charged=charged)
    match answer.trouble:
        case Trouble.CHALLENGE:
            renewed = Next.RENEW if answer.offered else Next.REJECTED
            return Verdict(next=renewed, booking=Booking.OPEN)
        case Trouble.GONE:
            return Verdict(next=Next.PAY_AGAIN, booking=Booking.VOID)
        case Trouble.AGAIN:
            # What was presented before is the request's name, or the fate were named.
            by_name = tagged and answer.status == 409 and not resent
            following = Next.REJECTED if by_name else Next.RESEND
            return Verdict(next=following, booking=Booking.OPEN)
        case Trouble.REVERTED | Trouble.REFUSED:
            return Verdict(next=Next.REJECTED, booking=Booking.OPEN)
        case None:
            unpaid = answer.status == 402 and answer.offered
            following = Next.REJECTED if unpaid else Next.DELIVER
            return Verdict(next=following, booking=Booking.OPEN)


def judge_transfer(answer: TransferAnswer, *, resent: bool) -> Verdict:
    """
    Decide about one answer to a single transfer; `resent` says that it was sent before.

    A refusal closes nothing: the signature is still out, and may still move money.
    """
    if answer.success:
        # The paywall's own 409 says that its answer was given before.
        gone = resent and answer.status == 409 and answer.problem
        return Verdict(
            next=Next.LOST if gone else Next.DELIVER, booking=Booking.CHARGED
        )
    if answer.success is None and not answer.offered:
        return Verdict(next=Next.DELIVER, booking=Booking.OPEN)
    if answer.pending or answer.status in (409, 503):
        return Verdict(next=Next.RESEND, booking=Booking.OPEN)
    # 412: Permit2 may not move its token (x402's `exact` on EVM, "Verification Logic").
    refused = answer.status in (400, 402, 412)
    return Verdict(
        next=Next.REJECTED if refused else Next.DELIVER, booking=Booking.OPEN
    )
