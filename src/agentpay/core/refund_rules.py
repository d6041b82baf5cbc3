"""
How a channel without our extension is refunded: all that is left, or a part of it.

It is asked for by exactly what was charged, as the specification has it, and the
channel goes on afterwards. The contract numbers a channel's refunds, and gives each
number once; so a part is given once if its number is kept before it is sent. Each costs
its payee gas, and is asked for by the same voucher until something is charged: so of
each total that was charged there is one part, and asking again is told of that. Source:
x402 `specs/schemes/batch-settlement/scheme_batch_settlement_evm.md`, "Cooperative
refund flow".
"""

from dataclasses import replace

from agentpay.core.evolve import evolve
from agentpay.core.payee_channel import (
    HeldVoucher,
    PartRefund,
    PayeeChannel,
    Status,
)
from agentpay.core.payee_events import (
    BUSY,
    CLOSING,
    MISMATCH,
    REFUND_AMOUNT,
    Answer,
    Closing,
    PartBegun,
    PartGiven,
    RefundAsked,
    RefundDone,
    Refused,
)


def ask(channel: PayeeChannel, event: RefundAsked) -> tuple[PayeeChannel, Answer]:
    """The channel stops until what is asked for is given; asked again, it is told."""
    same = channel.closing_voucher == event.cumulative
    part = channel.part if same else None
    asked = part.amount if part is not None else None
    if channel.status is not Status.OPEN:
        if same and event.part == asked:
            return channel, Closing(ready=not channel.running)
        return channel, Refused(reason=CLOSING, burnt=False)
    if part is not None and event.part == asked:
        return channel, PartGiven(part=part)
    wrong = _wrong(channel, event, again=part is not None)
    if wrong is not None:
        return channel, Refused(reason=wrong, burnt=False)
    voucher = HeldVoucher(amount=event.cumulative, signature=event.signature)
    closing = evolve(
        channel,
        status=Status.CLOSING,
        closing_voucher=event.cumulative,
        part=None if event.part is None else PartRefund(amount=event.part),
        highest=max(channel.highest, event.cumulative),
        held=channel.keep((*channel.held, voucher), channel.due, channel.running),
    )
    return closing, Closing(ready=True)


def _wrong(channel: PayeeChannel, event: RefundAsked, *, again: bool) -> str | None:
    """Why it is refused; `again` is after a part, with nothing charged since."""
    if channel.running:
        return MISMATCH if channel.is_public(event.cumulative) else BUSY
    if event.cumulative != channel.charged:
        return MISMATCH
    if event.part is None:
        return None
    return REFUND_AMOUNT if again or event.part == 0 else None


def begin_part(channel: PayeeChannel, event: PartBegun) -> PayeeChannel:
    """The first number stands: by another it could be given twice."""
    part = channel.part
    if channel.status is not Status.CLOSING or part is None or part.nonce is not None:
        return channel
    if channel.closing_voucher != event.cumulative:
        return channel  # this number was read before the last part was given
    return evolve(channel, part=replace(part, nonce=event.nonce))


def end(channel: PayeeChannel, event: RefundDone) -> PayeeChannel:
    """A tagged channel is never used again; this one is, from the next look on."""
    if channel.tagged:
        return evolve(channel, status=Status.CLOSED)
    part = channel.part
    if channel.status is not Status.CLOSING:
        return channel
    if part is not None:
        if part.nonce is None or part.nonce != event.nonce:
            return channel  # it is another that is done, of a process that is late
        part = replace(part, refunded=event.refunded, transaction=event.transaction)
    elif event.nonce is not None:
        return channel
    left = min(channel.balance, max(channel.due, channel.claimed))
    return evolve(channel, status=Status.OPEN, balance=left, part=part)
