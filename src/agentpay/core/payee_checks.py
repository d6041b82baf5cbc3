"""
What must hold of a payee's channel after every event, in sentences (rule 8).

A broken one is a bug of ours. What the chain says is a fact and breaks none of them.
"""

from agentpay.core.payee_channel import PayeeChannel, Status
from agentpay.errors import InvariantViolated


def check(before: PayeeChannel, after: PayeeChannel) -> None:
    """
    Raises:
        InvariantViolated: A sentence does not hold any more.
    """
    if after is before:
        return
    broken = _broken(before, after)
    if broken:
        raise InvariantViolated(f"{broken}: {before} -> {after}")


def _broken(before: PayeeChannel, after: PayeeChannel) -> str:
    """A sentence that does not hold any more; "" if all do."""
    if after.charged < 0:
        return "charged is never negative"
    if after.charged + after.reserved > after.highest:
        return "charged and reserved never exceed what was authorized"
    if after.highest < before.highest:
        return "the highest voucher never shrinks"
    uncovered = _uncovered(after)
    if uncovered and before.claimed <= after.claimed and uncovered > _uncovered(before):
        return "the highest voucher is held, until a claim of so much was seen"
    if after.floor < before.floor:
        return "the floor never sinks"
    used = after.used
    if len(used) > after.window:
        return "the window is bounded"
    if used and used[0].cumulative <= after.floor:
        return "every remembered amount is above the floor"
    if before.status is Status.CLOSED and after.status is not Status.CLOSED:
        return "a closed channel is not opened again"
    return _broken_part(before, after)


def _broken_part(before: PayeeChannel, after: PayeeChannel) -> str:
    was, part = before.part, after.part
    if part is not None and part.refunded is None and after.status is Status.OPEN:
        return "a channel is not used while a part of it is given back"
    if was is None or was.nonce is None or was.refunded is not None:
        return ""
    if part is None or part.amount != was.amount or part.nonce != was.nonce:
        return "a refund that may have been sent is not forgotten"
    return ""


def _uncovered(channel: PayeeChannel) -> int:
    held = channel.held[-1].amount if channel.held else 0
    return max(0, channel.highest - max(held, channel.claimed))
