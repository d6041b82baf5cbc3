"""
How a payer's channel changes: which amount the next request may sign, and what it cost.

The counterpart of `payee_rules`, with the rule numbers of `docs/parallel-channels.md`.
Pure; the caller records the result before it signs.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from typing import assert_never

from agentpay.core.evolve import evolve
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
    TotalShown,
    Unusable,
    Wait,
)
from agentpay.core.payer_checks import check


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
    corrected = isinstance(event, TotalShown)
    check(before, transition.channel, corrected=corrected)
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
        case SpentReported() | TotalShown():
            return _hear_total(channel, event)
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
            left = replace(channel, status=PayerStatus.STOPPED)
            return answered(left if leaving else channel, Booked())
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
    if (no := unusable(channel, event.maximum)) is not None:
        return answered(channel, no)
    outstanding = channel.outstanding + event.maximum
    need = channel.spent + outstanding
    deposit = deposit_to_carry(channel, event.deposit, need, event.low_water)
    if event.carries and nobody_carries(channel) and need > channel.balance:
        deposit = channel.deposit
    balance = channel.balance + (deposit.amount if deposit else 0)
    if need > balance:
        return answered(channel, uncovered(channel, need - balance))
    if (wait := too_much_in_flight(channel, outstanding)) is not None:
        return answered(channel, wait)
    if not channel.tagged:
        return sign(channel, event, need, deposit)
    cumulative = next_amount(channel, need, balance)
    if cumulative is None:
        if channel.open:
            return answered(
                channel, Wait(reason="no amount is free within the headroom")
            )
        return answered(channel, Unusable(reason="its amounts are used up"))
    if window_full(channel, cumulative):
        return answered(channel, Wait(reason="the payee's window is full"))
    return sign(channel, event, cumulative, deposit)


def unusable(channel: PayerChannel, price: int) -> Unusable | None:
    """Why this channel will never sign for such a request."""
    if channel.status is not PayerStatus.OPEN:
        return Unusable(reason=f"the channel is {channel.status}")
    if price > channel.headroom:
        why = f"a price of {price} is above the headroom of {channel.headroom}"
        return Unusable(reason=why)
    return None


def uncovered(channel: PayerChannel, short: int) -> Wait | DepositNeeded:
    """What there is lacks so much."""
    if channel.deposit is not None:
        return Wait(reason="a deposit is on its way")
    return DepositNeeded(short=short)


def deposit_to_carry(
    channel: PayerChannel, deposit: PendingDeposit | None, need: int, low_water: int
) -> PendingDeposit | None:
    """One deposit at a time (rule 18), when it is needed or soon will be."""
    if channel.deposit is not None:
        return None
    return deposit if channel.balance - need < low_water else None


def nobody_carries(channel: PayerChannel) -> bool:
    """
    Whether the one request that a deposit went along with is over, and the deposit may
    not be made: a strict payee makes none for what it refuses (rule 18).
    """
    return not channel.tagged and channel.deposit is not None and not channel.open


def too_much_in_flight(channel: PayerChannel, outstanding: int) -> Wait | None:
    in_flight_max = channel.in_flight_max if channel.tagged else 1
    if len(channel.open) >= in_flight_max:
        return Wait(reason="the payee serves no more at once")
    if channel.spent + outstanding > channel.owed + channel.headroom:
        return Wait(reason="the headroom is in flight")
    return None


def _floor(channel: PayerChannel) -> int:
    """The payee may have forgotten every amount up to here (rule 13)."""
    behind = len(channel.signed) - channel.window - 1
    return channel.signed[behind] if behind >= 0 else 0


def next_amount(channel: PayerChannel, need: int, balance: int) -> int | None:
    floor = _floor(channel)
    ceiling = min(balance, channel.owed + channel.headroom)
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


def window_full(channel: PayerChannel, cumulative: int) -> bool:
    """Would the payee forget a voucher before it arrives (rule 15)?"""
    waiting = [t.cumulative for t in channel.open if not t.arrived]
    if not waiting:
        return False
    lowest = min(waiting)
    above = len(channel.signed) - bisect_right(channel.signed, lowest)
    return above + (cumulative > lowest) >= channel.window


def sign(
    channel: PayerChannel,
    event: TicketWanted,
    cumulative: int,
    deposit: PendingDeposit | None,
) -> PayerTransition:
    ticket = Ticket(cumulative=cumulative, maximum=event.maximum)
    again = deposit is not None and deposit == channel.deposit
    after = evolve(
        channel,
        open=(*channel.open, ticket),
        signed=remember(channel, cumulative),
        deposit=deposit or channel.deposit,
    )
    issued = Issued(cumulative=cumulative, deposit=deposit, again=again)
    return answered(after, issued)


def remember(channel: PayerChannel, cumulative: int) -> tuple[int, ...]:
    signed = channel.signed
    if not channel.was_signed(cumulative):
        at = bisect_left(signed, cumulative)
        # By `+`, which copies a thousand amounts once; a display copies them thrice.
        signed = signed[:at] + (cumulative,) + signed[at:]  # noqa: RUF005
    surplus = max(0, len(signed) - channel.window - 1)
    kept = [a for a in signed[:surplus] if a == cumulative or channel.ticket(a)]
    return tuple(kept) + signed[surplus:] if len(kept) < surplus else signed


# Rule 16: booking answers.


def _book(
    channel: PayerChannel, cumulative: int, charged: int, *, admitted: bool = False
) -> PayerTransition:
    ticket = channel.ticket(cumulative)
    if ticket is None:
        return answered(channel, Booked())
    if charged > ticket.maximum:
        why = f"charged {charged} for a request of at most {ticket.maximum}"
        return stopped(_without(channel, ticket, spent=ticket.maximum), why)
    proven = cumulative if admitted else 0
    return answered(_without(channel, ticket, spent=charged, proven=proven), Booked())


def _without(
    channel: PayerChannel, ticket: Ticket, *, spent: int, proven: int = 0
) -> PayerChannel:
    return evolve(
        channel,
        open=tuple([t for t in channel.open if t is not ticket]),
        spent=channel.spent + spent,
        acknowledged=max(channel.acknowledged, proven),
    )


def _arrive(channel: PayerChannel, cumulative: int) -> PayerTransition:
    tickets = tuple(
        replace(t, arrived=True) if t.cumulative == cumulative else t
        for t in channel.open
    )
    known = any(t.cumulative == cumulative for t in channel.open)
    acknowledged = max(channel.acknowledged, cumulative if known else 0)
    after = evolve(channel, open=tickets, acknowledged=acknowledged)
    return answered(after, Booked())


def _hear_total(
    channel: PayerChannel, event: SpentReported | TotalShown
) -> PayerTransition:
    if isinstance(event, SpentReported):
        return _compare(channel, event.charged, late=event.late)
    return _correct(channel, event)


def _compare(channel: PayerChannel, charged: int, *, late: bool) -> PayerTransition:
    bought = channel.spent + channel.outstanding
    most = max(bought, channel.highest) if late else bought
    if charged <= most:
        return answered(channel, Booked())
    why = f"claims to have charged {charged}, our vouchers bought at most {most}"
    return stopped(channel, why)


def _correct(channel: PayerChannel, event: TotalShown) -> PayerTransition:
    """Go on from a strict payee's total (rule 20): it serves but the next voucher."""
    ticket = channel.ticket(event.cumulative)
    if channel.tagged or ticket is None:
        return answered(channel, Booked())
    if event.total > max(channel.spent, channel.highest):
        why = f"shows that it charged {event.total}, by a voucher that our books"
        return stopped(channel, f"{why} do not know: are they an old copy?")
    others = tuple([t for t in channel.open if t is not ticket])
    return answered(evolve(channel, open=others, spent=event.total), Booked())


def stopped(channel: PayerChannel, why: str) -> PayerTransition:
    """The payee contradicts what we signed: nothing more is signed for it."""
    after = replace(channel, status=PayerStatus.STOPPED)
    return answered(after, Misbehaved(reason=why))


def _fund(channel: PayerChannel, event: DepositArrived) -> PayerTransition:
    pending = channel.deposit
    if pending is None or pending.salt != event.salt:
        return answered(channel, Booked())
    after = replace(channel, balance=channel.balance + pending.amount, deposit=None)
    return answered(after, Booked())


def _ask_refund(channel: PayerChannel) -> PayerTransition:
    """A fresh amount asks on a tagged channel, S itself on another (rule 10)."""
    if channel.status not in (PayerStatus.OPEN, PayerStatus.CLOSING):
        return answered(channel, Unusable(reason=f"the channel is {channel.status}"))
    if channel.status is PayerStatus.CLOSING and channel.open:
        return answered(channel, Issued(cumulative=channel.open[0].cumulative))
    if channel.open:
        return answered(channel, Wait(reason="requests are in flight"))
    if not channel.balance:
        return _close_empty(channel)
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
        return answered(channel, Unusable(reason="its amounts are used up"))
    return _closing(channel, amount)


def _close_empty(channel: PayerChannel) -> PayerTransition:
    """No deposit came, and so none can come back: there is nobody to ask."""
    if channel.deposit is not None:
        return answered(channel, Wait(reason="a deposit is on its way"))
    return answered(replace(channel, status=PayerStatus.CLOSED), Booked())


def _closing(channel: PayerChannel, amount: int) -> PayerTransition:
    """The ticket that asks costs nothing, and is the same when it is asked again."""
    after = replace(
        channel,
        status=PayerStatus.CLOSING,
        open=(Ticket(cumulative=amount, maximum=0),),
        signed=remember(channel, amount),
    )
    return answered(after, Issued(cumulative=amount))


def answered(channel: PayerChannel, answer: PayerAnswer) -> PayerTransition:
    return PayerTransition(channel=channel, answer=answer)
