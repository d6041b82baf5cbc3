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
    uncovered = _uncovered(after)
    rules = {
        "charged is never negative": after.charged >= 0,
        "charged and reserved never exceed what was authorized": (
            after.charged + after.reserved <= after.highest
        ),
        "the highest voucher never shrinks": after.highest >= before.highest,
        "the highest voucher is held, until a claim of so much was seen": (
            uncovered == 0
            or after.claimed < before.claimed
            or uncovered <= _uncovered(before)
        ),
        "the floor never sinks": after.floor >= before.floor,
        "the window is bounded": len(after.used) <= after.window,
        "every remembered amount is above the floor": (
            not after.used or not after.tagged or after.used[0].cumulative > after.floor
        ),
        "a closed channel is not opened again": (
            before.status is not Status.CLOSED or after.status is Status.CLOSED
        ),
    }
    for sentence, holds in rules.items():
        if not holds:
            raise InvariantViolated(f"{sentence}: {before} -> {after}")


def _uncovered(channel: PayeeChannel) -> int:
    held = channel.held[-1].amount if channel.held else 0
    return max(0, channel.highest - max(held, channel.claimed))
