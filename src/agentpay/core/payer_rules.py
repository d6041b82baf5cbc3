"""
How a payer's channel changes: which amount the next request may sign, and what it cost.

The counterpart of `payee_rules`, with the rule numbers of `docs/parallel-channels.md`.
Pure; the caller records the result before it signs.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from typing import assert_never

from agentpay.core.payer_channel import (
    Booked,
    ChannelEmptied,
    CloseWanted,
    DepositArrived,
    DepositLapsed,
    DepositNeeded,
    ExitWanted,
    Issued,
    Misbehaved,
    PayerAnswer,
    PayerChannel,
    PayerEvent,
    PayerStatus,
    PendingDeposit,
    SpentReported,
    Ticket,
    TicketArrived,
    TicketCharged,
    TicketOld,
    TicketVoid,
    TicketWanted,
    Unusable,
    Wait,
)
from agentpay.errors import InvariantViolated


@dataclass(frozen=True, slots=True, kw_only=True)
class PayerTransition:
    """A channel after an event, and what the payer does now."""

    channel: PayerChannel
    answer: PayerAnswer


def apply(before: PayerChannel, event: PayerEvent) -> PayerTransition:
    """
    Decide what an event does to a channel.

    Raises:
        InvariantViolated: A bug here; nothing may be saved, let alone signed.
    """
    transition = _decide(before, event)
    _check(before, transition.channel)
    return transition


def _decide(channel: PayerChannel, event: PayerEvent) -> PayerTransition:
    match event:
        case TicketWanted():
            return _issue(channel, event)
        case TicketCharged():
            return _book(channel, event.cumulative, event.charged, admitted=True)
        case TicketVoid():
            return _book(channel, event.cumulative, 0)
        case TicketOld():
            ticket = channel.ticket(event.cumulative)
            return _book(channel, event.cumulative, ticket.maximum if ticket else 0)
        case TicketArrived():
            return _arrive(channel, event.cumulative)
        case SpentReported():
            return _compare(channel, event.charged)
        case DepositArrived():
            return _fund(channel, event)
        case DepositLapsed():
            pending = channel.deposit
            lapsed = pending is not None and pending.salt == event.salt
            after = replace(channel, deposit=None) if lapsed else channel
            return PayerTransition(channel=after, answer=Booked())
        case CloseWanted():
            return _ask_refund(channel)
        case ExitWanted():
            leaving = channel.status is not PayerStatus.CLOSED
            stopped = replace(channel, status=PayerStatus.STOPPED)
            return _answer(stopped if leaving else channel, Booked())
        case ChannelEmptied():
            after = replace(
                channel,
                status=PayerStatus.CLOSED,
                open=(),
                balance=max(0, channel.balance - event.returned),
            )
            return PayerTransition(channel=after, answer=Booked())
        case _:
            assert_never(event)


# Rules 12 to 15, and 20 for a payee that serves one request at a time.


def _issue(channel: PayerChannel, event: TicketWanted) -> PayerTransition:
    if channel.status is not PayerStatus.OPEN:
        return _answer(channel, Unusable(reason=f"the channel is {channel.status}"))
    if event.maximum > channel.headroom:
        why = f"a price of {event.maximum} is above the headroom of {channel.headroom}"
        return _answer(channel, Unusable(reason=why))
    outstanding = channel.outstanding + event.maximum
    need = channel.spent + outstanding
    deposit = _deposit_to_carry(channel, event, need)
    balance = channel.balance + (deposit.amount if deposit else 0)
    if need > balance:
        if channel.deposit is not None:
            return _answer(channel, Wait(reason="a deposit is on its way"))
        return _answer(channel, DepositNeeded(short=need - balance))
    if (wait := _too_much_in_flight(channel, outstanding)) is not None:
        return _answer(channel, wait)
    if not channel.tagged:
        return _sign(channel, event, need, deposit)
    cumulative = _next_amount(channel, need, balance)
    if cumulative is None:
        if channel.open:
            return _answer(
                channel, Wait(reason="no amount is free within the headroom")
            )
        return _answer(channel, Unusable(reason="its amounts are used up"))
    if _window_full(channel, cumulative):
        return _answer(channel, Wait(reason="the payee's window is full"))
    return _sign(channel, event, cumulative, deposit)


def _deposit_to_carry(
    channel: PayerChannel, event: TicketWanted, need: int
) -> PendingDeposit | None:
    """One deposit at a time (rule 18), when it is needed or soon will be."""
    if event.deposit is None or channel.deposit is not None:
        return None
    return event.deposit if channel.balance - need < event.low_water else None


def _too_much_in_flight(channel: PayerChannel, outstanding: int) -> Wait | None:
    in_flight_max = channel.in_flight_max if channel.tagged else 1
    if len(channel.open) >= in_flight_max:
        return Wait(reason="the payee serves no more at once")
    if outstanding > channel.headroom:
        return Wait(reason="the headroom is in flight")
    return None


def _floor(channel: PayerChannel) -> int:
    """The payee may have forgotten every amount up to here (rule 13)."""
    behind = len(channel.signed) - channel.window - 1
    return channel.signed[behind] if behind >= 0 else 0


def _next_amount(channel: PayerChannel, need: int, balance: int) -> int | None:
    floor = _floor(channel)
    ceiling = min(balance, channel.spent + channel.headroom)
    lowest = _first_free(channel.signed, max(need, floor + 1), ceiling)
    if lowest is not None or channel.acknowledged < need:
        return lowest
    # Rule 14: the payee already holds enough, so a lower amount is a ticket too.
    ceiling = min(balance, max(channel.highest, ceiling))
    return _last_free(channel.signed, ceiling, floor)


def _first_free(signed: tuple[int, ...], lowest: int, highest: int) -> int | None:
    at = bisect_left(signed, lowest)
    amount = lowest
    while at < len(signed) and signed[at] == amount:
        at, amount = at + 1, amount + 1
    return amount if amount <= highest else None


def _last_free(signed: tuple[int, ...], highest: int, floor: int) -> int | None:
    at = bisect_right(signed, highest) - 1
    amount = highest
    while at >= 0 and signed[at] == amount:
        at, amount = at - 1, amount - 1
    return amount if amount > floor else None


def _window_full(channel: PayerChannel, cumulative: int) -> bool:
    """Would the payee forget a voucher before it arrives (rule 15)?"""
    waiting = [t.cumulative for t in channel.open if not t.arrived]
    if not waiting:
        return False
    lowest = min(waiting)
    above = len(channel.signed) - bisect_right(channel.signed, lowest)
    return above + (cumulative > lowest) >= channel.window


def _sign(
    channel: PayerChannel,
    event: TicketWanted,
    cumulative: int,
    deposit: PendingDeposit | None,
) -> PayerTransition:
    ticket = Ticket(cumulative=cumulative, maximum=event.maximum)
    after = replace(
        channel,
        open=(*channel.open, ticket),
        signed=_remember(channel, cumulative),
        deposit=deposit or channel.deposit,
    )
    return _answer(after, Issued(cumulative=cumulative, deposit=deposit))


def _remember(channel: PayerChannel, cumulative: int) -> tuple[int, ...]:
    signed = channel.signed
    if not _was_signed(channel, cumulative):
        at = bisect_left(signed, cumulative)
        signed = (*signed[:at], cumulative, *signed[at:])
    surplus = max(0, len(signed) - channel.window - 1)
    kept = [a for a in signed[:surplus] if a == cumulative or channel.ticket(a)]
    return (*kept, *signed[surplus:]) if len(kept) < surplus else signed


# Rule 16: booking answers.


def _book(
    channel: PayerChannel, cumulative: int, charged: int, *, admitted: bool = False
) -> PayerTransition:
    ticket = channel.ticket(cumulative)
    if ticket is None:
        return _answer(channel, Booked())
    if charged > ticket.maximum:
        why = f"charged {charged} for a request of at most {ticket.maximum}"
        booked = _without(channel, ticket, spent=ticket.maximum)
        stopped = replace(booked, status=PayerStatus.STOPPED)
        return _answer(stopped, Misbehaved(reason=why))
    booked = _without(channel, ticket, spent=charged)
    proven = cumulative if admitted else 0
    after = replace(booked, acknowledged=max(booked.acknowledged, proven))
    return _answer(after, Booked())


def _without(channel: PayerChannel, ticket: Ticket, *, spent: int) -> PayerChannel:
    return replace(
        channel,
        open=tuple([t for t in channel.open if t is not ticket]),
        spent=channel.spent + spent,
    )


def _arrive(channel: PayerChannel, cumulative: int) -> PayerTransition:
    tickets = tuple(
        replace(t, arrived=True) if t.cumulative == cumulative else t
        for t in channel.open
    )
    known = any(t.cumulative == cumulative for t in channel.open)
    acknowledged = max(channel.acknowledged, cumulative if known else 0)
    after = replace(channel, open=tickets, acknowledged=acknowledged)
    return _answer(after, Booked())


def _compare(channel: PayerChannel, charged: int) -> PayerTransition:
    most = channel.spent + channel.outstanding
    if charged <= most:
        return _answer(channel, Booked())
    why = f"claims to have charged {charged}, our vouchers bought at most {most}"
    stopped = replace(channel, status=PayerStatus.STOPPED)
    return _answer(stopped, Misbehaved(reason=why))


def _fund(channel: PayerChannel, event: DepositArrived) -> PayerTransition:
    pending = channel.deposit
    if pending is None or pending.salt != event.salt:
        return _answer(channel, Booked())
    after = replace(channel, balance=channel.balance + pending.amount, deposit=None)
    return _answer(after, Booked())


def _ask_refund(channel: PayerChannel) -> PayerTransition:
    """A fresh amount asks on a tagged channel, S itself on another (rule 10)."""
    if channel.status not in (PayerStatus.OPEN, PayerStatus.CLOSING):
        return _answer(channel, Unusable(reason=f"the channel is {channel.status}"))
    if channel.status is PayerStatus.CLOSING and channel.open:
        return _answer(channel, Issued(cumulative=channel.open[0].cumulative))
    if channel.open:
        return _answer(channel, Wait(reason="requests are in flight"))
    if not channel.tagged:
        return _closing(channel, channel.spent)
    floor = _floor(channel)
    ceiling = max(channel.highest, channel.spent + channel.headroom)
    ceiling = min(channel.balance, ceiling)
    lowest = max(channel.spent, floor) + 1
    amount = _first_free(channel.signed, lowest, ceiling)
    if amount is None:
        amount = _last_free(channel.signed, ceiling, floor)
    if amount is None:
        return _answer(channel, Unusable(reason="its amounts are used up"))
    return _closing(channel, amount)


def _closing(channel: PayerChannel, amount: int) -> PayerTransition:
    """The ticket that asks costs nothing, and is the same when it is asked again."""
    after = replace(
        channel,
        status=PayerStatus.CLOSING,
        open=(Ticket(cumulative=amount, maximum=0),),
        signed=_remember(channel, amount),
    )
    return _answer(after, Issued(cumulative=amount))


def _answer(channel: PayerChannel, answer: PayerAnswer) -> PayerTransition:
    return PayerTransition(channel=channel, answer=answer)


def _check(before: PayerChannel, after: PayerChannel) -> None:
    if after is before:
        return
    stopped = after.status is PayerStatus.STOPPED
    outstanding, exposure = after.outstanding, after.exposure
    rules = {
        "what was spent never shrinks": after.spent >= before.spent,
        "open requests stay within the headroom": (
            outstanding <= after.headroom or outstanding <= before.outstanding
        ),
        "the exposure stays within the headroom": (
            stopped or exposure <= after.headroom or exposure <= before.exposure
        ),
        "a new request takes an amount of its own": (
            len(after.open) <= len(before.open) or _takes_its_own(before, after)
        ),
    }
    for sentence, holds in rules.items():
        if not holds:
            raise InvariantViolated(f"{sentence}: {before} -> {after}")


def _takes_its_own(before: PayerChannel, after: PayerChannel) -> bool:
    """On a tagged channel, one that was never signed; on another, not one in use."""
    taken = after.open[-1].cumulative
    if not _was_signed(after, taken) or before.ticket(taken) is not None:
        return False
    return not (after.tagged and _was_signed(before, taken))


def _was_signed(channel: PayerChannel, cumulative: int) -> bool:
    at = bisect_left(channel.signed, cumulative)
    return channel.signed[at : at + 1] == (cumulative,)
