"""
How a payer's MPP session changes: the rules of a channel, where its contract differs.

Rules 21 to 24, the counterpart of `session_rules`. The escrow pays a whole voucher, so
a session is closed by one of exactly what was spent; a running request may come to cost
more, by a further voucher; vouchers of an untagged session only rise. What is not said
here is as in `payer_rules`. Pure; the caller records the result before it signs.
"""

from dataclasses import dataclass, replace

from agentpay.core import payer_rules
from agentpay.core.payer_channel import (
    Booked,
    CloseWanted,
    Issued,
    PayerChannel,
    PayerEvent,
    PayerStatus,
    PendingDeposit,
    Ticket,
    TicketWanted,
    Unusable,
    Wait,
)
from agentpay.core.payer_checks import check
from agentpay.core.payer_rules import (
    PayerTransition,
    answered,
    deposit_to_carry,
    next_amount,
    remember,
    stopped,
    too_much_in_flight,
    uncovered,
    unusable,
    window_full,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RaiseWanted:
    """
    The request of this ticket is under way, and may come to cost `more` than it could.

    It may carry a deposit, as `TicketWanted` may.
    """

    cumulative: int
    more: int
    deposit: PendingDeposit | None = None
    low_water: int = 0
    rise: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketDelivered:
    """An answer is coming in: what we have of it by now is worth so much."""

    cumulative: int
    delivered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseCorrected:
    """The payee closes with another amount: what it says that it charged in all."""

    charged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedReported:
    """The highest voucher that the payee says it has from us."""

    cumulative: int


OnlyOfSessions = RaiseWanted | TicketDelivered | CloseCorrected | AcceptedReported
PayerSessionEvent = PayerEvent | OnlyOfSessions


def apply(before: PayerChannel, event: PayerSessionEvent) -> PayerTransition:
    """
    Decide what an event does to a session.

    Raises:
        InvariantViolated: A bug here; nothing may be saved, let alone signed.
    """
    transition = _decide(before, event)
    check(before, transition.channel)
    return transition


def _decide(channel: PayerChannel, event: PayerSessionEvent) -> PayerTransition:
    match event:
        case TicketWanted() if not channel.tagged:
            return _issue_rising(channel, event)
        case RaiseWanted():
            return _raise(channel, event)
        case TicketDelivered():
            return _receive(channel, event)
        case CloseWanted():
            return _close(channel)
        case CloseCorrected():
            return _correct(channel, event.charged)
        case AcceptedReported():
            return _compare(channel, event.cumulative)
        case _:
            return payer_rules.apply(channel, event)


# Rule 22: untagged sessions.


def _issue_rising(channel: PayerChannel, event: TicketWanted) -> PayerTransition:
    """A higher voucher, or the highest once more where there is no room above it."""
    if (no := unusable(channel, event.maximum)) is not None:
        return answered(channel, no)
    outstanding = channel.outstanding + event.maximum
    need = channel.spent + outstanding
    higher = _higher(channel, need, event.rise)
    least = need if channel.highest >= need else higher
    ceiling = channel.owed + channel.headroom
    if least > ceiling:
        why = f"its vouchers must rise by {event.rise}, above the headroom"
        return answered(channel, Unusable(reason=why))
    deposit = deposit_to_carry(channel, event.deposit, least, event.low_water)
    balance = channel.balance + (deposit.amount if deposit else 0)
    if least > balance:
        return answered(channel, uncovered(channel, least - balance))
    if (wait := too_much_in_flight(channel, outstanding)) is not None:
        return answered(channel, wait)
    reach = min(ceiling, balance)
    if event.whole and event.most is not None:
        reach = min(reach, channel.spent + event.most)
    again = higher > reach and channel.highest >= need
    cumulative = channel.highest if again else higher
    maximum = cumulative - channel.spent if event.whole else event.maximum
    wanted = replace(event, maximum=maximum)
    return payer_rules.sign(channel, wanted, cumulative, deposit)


def _higher(channel: PayerChannel, need: int, rise: int) -> int:
    return max(need, channel.highest + max(1, rise))


# A request that goes on.


def _raise(channel: PayerChannel, event: RaiseWanted) -> PayerTransition:
    if channel.status is not PayerStatus.OPEN:
        return answered(channel, Unusable(reason=f"the session is {channel.status}"))
    ticket = channel.ticket(event.cumulative)
    if ticket is None:
        return answered(channel, Unusable(reason="that request is over"))
    need = channel.spent + channel.outstanding + event.more
    ceiling = channel.owed + channel.headroom
    if need > ceiling:
        return answered(channel, Wait(reason="the headroom is in flight"))
    least = need if channel.tagged else _higher(channel, need, event.rise)
    deposit = deposit_to_carry(channel, event.deposit, least, event.low_water)
    balance = channel.balance + (deposit.amount if deposit else 0)
    if least > balance:
        return answered(channel, uncovered(channel, least - balance))
    cumulative = least if least <= ceiling else None
    if channel.tagged:
        cumulative = next_amount(channel, need, balance)
    if cumulative is None:
        return answered(channel, Wait(reason="no amount is free within the headroom"))
    if channel.tagged and window_full(channel, cumulative):
        return answered(channel, Wait(reason="the payee's window is full"))
    return _sign_raise(channel, ticket, event.more, cumulative, deposit)


def _sign_raise(
    channel: PayerChannel,
    ticket: Ticket,
    more: int,
    cumulative: int,
    deposit: PendingDeposit | None,
) -> PayerTransition:
    """The voucher that raises buys nothing itself, and is open until it is answered."""
    raised = replace(ticket, maximum=ticket.maximum + more)
    tickets = [raised if t is ticket else t for t in channel.open]
    after = replace(
        channel,
        open=(*tickets, Ticket(cumulative=cumulative, maximum=0)),
        signed=remember(channel, cumulative),
        deposit=deposit or channel.deposit,
    )
    return answered(after, Issued(cumulative=cumulative, deposit=deposit))


def _receive(channel: PayerChannel, event: TicketDelivered) -> PayerTransition:
    """Never less than before, and never more than it may cost."""
    ticket = channel.ticket(event.cumulative)
    if ticket is None or event.delivered <= ticket.delivered:
        return answered(channel, Booked())
    delivered = min(event.delivered, ticket.maximum)
    received = replace(ticket, delivered=delivered, arrived=True)
    tickets = [received if t is ticket else t for t in channel.open]
    return answered(replace(channel, open=tuple(tickets)), Booked())


# Rule 23: the contract pays all of the voucher that closes.


def _close(channel: PayerChannel) -> PayerTransition:
    if channel.status not in (PayerStatus.OPEN, PayerStatus.CLOSING):
        return answered(channel, Unusable(reason=f"the session is {channel.status}"))
    if channel.open:
        return answered(channel, Wait(reason="requests are in flight"))
    return _close_with(channel, channel.spent)


def _correct(channel: PayerChannel, charged: int) -> PayerTransition:
    """The payee may have charged less than we had to assume, and never more."""
    if channel.status is not PayerStatus.CLOSING:
        return answered(channel, Booked())
    if charged > channel.spent:
        why = f"claims to have charged {charged}, we spent {channel.spent} at most"
        return stopped(channel, why)
    return _close_with(channel, charged)


def _close_with(channel: PayerChannel, amount: int) -> PayerTransition:
    signed = remember(channel, amount)
    after = replace(channel, status=PayerStatus.CLOSING, signed=signed)
    return answered(after, Issued(cumulative=amount))


def _compare(channel: PayerChannel, accepted: int) -> PayerTransition:
    """Our books may be older than the vouchers: of a restored backup, say."""
    if accepted <= channel.highest:
        return answered(channel, Booked())
    why = f"claims a voucher of {accepted}, the highest we know is {channel.highest}"
    return stopped(channel, why)
