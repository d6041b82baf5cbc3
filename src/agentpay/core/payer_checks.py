"""
What must hold of a payer's channel after every event, in sentences.

A broken one is a bug of ours, and nothing is signed after it.
"""

from agentpay.core.payer_channel import PayerChannel
from agentpay.errors import InvariantViolated


def check(
    before: PayerChannel, after: PayerChannel, *, corrected: bool = False
) -> None:
    """
    `corrected` says that a strict payee has told its own total.

    Raises:
        InvariantViolated: A sentence does not hold any more.
    """
    if after is before:
        return
    unpaid = after.spent + after.outstanding - after.owed
    allowed = max(after.headroom, before.exposure)
    rules = {
        "what was spent never shrinks by itself": (
            corrected or after.spent >= before.spent
        ),
        "open requests stay within the headroom": (
            unpaid <= allowed or after.outstanding <= before.outstanding
        ),
        "nothing is signed beyond the headroom": (
            after.exposure <= after.headroom or after.highest <= before.highest
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
    if not after.was_signed(taken) or before.ticket(taken) is not None:
        return False
    return not (after.tagged and before.was_signed(taken))
