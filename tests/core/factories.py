"""Channels and events with everything filled in that a test does not care about."""

from collections.abc import Sequence

from agentpay.core import payee_rules, payer_rules
from agentpay.core.payee_channel import PayeeChannel
from agentpay.core.payee_events import (
    Answer,
    Charged,
    Delivered,
    Event,
    GivenBack,
    RefundAsked,
    VoucherVerified,
)
from agentpay.core.payer_channel import (
    Issued,
    PayerAnswer,
    PayerChannel,
    PayerEvent,
    PendingDeposit,
    TicketWanted,
)
from agentpay.types import Hash32

ALIVE = "owner 1"
REBORN = "owner 2"


def payee_channel(
    *,
    tagged: bool = True,
    window: int = 8,
    in_flight_max: int = 8,
    balance: int = 100,
    pending_withdrawal: int = 0,
) -> PayeeChannel:
    return PayeeChannel(
        tagged=tagged,
        window=window,
        in_flight_max=in_flight_max,
        balance=balance,
        pending_withdrawal=pending_withdrawal,
    )


def voucher(
    cumulative: int,
    maximum: int,
    *,
    prepaid: bool = False,
    owner: str = ALIVE,
    resource: str = "GET /",
) -> VoucherVerified:
    return VoucherVerified(
        cumulative=cumulative,
        signature=signature(cumulative),
        maximum=maximum,
        prepaid=prepaid,
        owner=owner,
        resource=resource,
    )


def signature(cumulative: int) -> bytes:
    return b"signed" + cumulative.to_bytes(32, "big")


def charged(cumulative: int, amount: int, *, more: bool = False) -> Charged:
    return Charged(cumulative=cumulative, owner=ALIVE, charged=amount, more=more)


def delivered(cumulative: int, *, owner: str = ALIVE) -> Delivered:
    return Delivered(cumulative=cumulative, owner=owner)


def given_back(cumulative: int, amount: int = 0, *, owner: str = ALIVE) -> GivenBack:
    return GivenBack(cumulative=cumulative, owner=owner, charged=amount)


def refund_asked(
    cumulative: int,
    *,
    owner: str = ALIVE,
    part: int | None = None,
) -> RefundAsked:
    return RefundAsked(
        cumulative=cumulative,
        signature=signature(cumulative),
        owner=owner,
        part=part,
    )


def sold(cumulative: int, maximum: int, amount: int) -> tuple[Event, ...]:
    """A request from its voucher to the end of its answer."""
    return (
        voucher(cumulative, maximum),
        charged(cumulative, amount),
        delivered(cumulative),
    )


def after(channel: PayeeChannel, *events: Event) -> PayeeChannel:
    for event in events:
        channel = payee_rules.apply(channel, event).channel
    return channel


def answer(channel: PayeeChannel, event: Event) -> Answer:
    return payee_rules.apply(channel, event).answer


def payer_channel(
    *,
    tagged: bool = True,
    window: int = 8,
    in_flight_max: int = 8,
    headroom: int = 100,
    balance: int = 100,
) -> PayerChannel:
    return PayerChannel(
        tagged=tagged,
        window=window,
        in_flight_max=in_flight_max,
        headroom=headroom,
        balance=balance,
    )


def wanted(maximum: int, *, deposit: PendingDeposit | None = None) -> TicketWanted:
    return TicketWanted(maximum=maximum, deposit=deposit)


def pending_deposit(amount: int, *, salt: int = 1) -> PendingDeposit:
    salted = Hash32.of(salt.to_bytes(32, "big"))
    return PendingDeposit(amount=amount, salt=salted, valid_before=600)


def payer_after(channel: PayerChannel, *events: PayerEvent) -> PayerChannel:
    for event in events:
        channel = payer_rules.apply(channel, event).channel
    return channel


def payer_answer(channel: PayerChannel, event: PayerEvent) -> PayerAnswer:
    return payer_rules.apply(channel, event).answer


def signed_for(channel: PayerChannel, maxima: Sequence[int]) -> list[int]:
    """The amounts that a payer signs for requests sent one after another."""
    amounts: list[int] = []
    for maximum in maxima:
        transition = payer_rules.apply(channel, wanted(maximum))
        channel = transition.channel
        if isinstance(transition.answer, Issued):
            amounts.append(transition.answer.cumulative)
    return amounts
