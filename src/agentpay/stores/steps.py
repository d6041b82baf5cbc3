"""
What all stores do alike: the checks of a decided step, and small choices of order.

A step that fails here is a bug of whoever decided; nothing of it is kept.
"""

from dataclasses import replace

from agentpay.errors import InvariantViolated
from agentpay.records import PayeeRecord, PayerRecord, PaymentRecord, PaymentStatus
from agentpay.types import Hash32

_AT_WORK = (PaymentStatus.STARTED, PaymentStatus.SETTLED, PaymentStatus.ANSWERING)


def check_payee_step(
    channel: Hash32, before: PayeeRecord | None, after: PayeeRecord | None
) -> None:
    _check(channel, before, after)


def check_payer_step(
    channel: Hash32 | None, before: PayerRecord | None, after: PayerRecord | None
) -> None:
    if channel is None:
        if after is not None:
            raise InvariantViolated("a step without a channel returned a record")
        return
    _check(channel, before, after)


def _check(
    channel: Hash32,
    before: PayeeRecord | PayerRecord | None,
    after: PayeeRecord | PayerRecord | None,
) -> None:
    if after is None:
        if before is not None:
            raise InvariantViolated(f"a step deletes channel {channel}")
        return
    if after.channel != channel:
        raise InvariantViolated(f"a step on {channel} returned {after.channel}")
    if before is None or before is after:
        return
    # As tuples: what is the very same is not compared word by word.
    if (after.chain, after.config) != (before.chain, before.config):
        raise InvariantViolated(f"a step changes the terms of {channel}")


def may_take(
    payment: PaymentRecord, owner: str, living: frozenset[str] = frozenset()
) -> bool:
    """Whether somebody else began it, died, and is not known to have answered it."""
    return payment.owner not in (owner, *living) and payment.status in _AT_WORK


def buried(
    payment: PaymentRecord,
    owner: str,
    begun_until: int,
    living: frozenset[str] = frozenset(),
) -> PaymentRecord | None:
    """What the dead were answering, as served and ours; None if it is anything else."""
    answering = payment.status is PaymentStatus.ANSWERING
    if not answering or payment.started_at > begun_until:
        return None
    if not may_take(payment, owner, living):
        return None
    return replace(payment, owner=owner, status=PaymentStatus.SERVED)


def finished(
    payment: PaymentRecord,
    *,
    owner: str,
    status: PaymentStatus,
    transaction: str,
    charged: int,
) -> PaymentRecord | None:
    """A payment as its owner says that it is; None if it has another, or is over."""
    if payment.owner != owner or payment.status is PaymentStatus.DELIVERED:
        return None
    return replace(payment, status=status, transaction=transaction, charged=charged)


def is_past(payment: PaymentRecord, now: int) -> bool:
    """Whether nothing of a payment is open, and what was signed has expired."""
    over = payment.status in (PaymentStatus.DELIVERED, PaymentStatus.FAILED)
    return over and 0 < payment.good_until < now


def channel_order(record: PayerRecord) -> tuple[str, int, Hash32]:
    return record.origin, record.index, record.channel
