"""
What a payee promises when it admits a request: it is sold once, and can be paid for.
"""

from agentpay.core.payee_channel import PayeeChannel, Status


def check_sold(
    before: PayeeChannel,
    after: PayeeChannel,
    cumulative: int,
    exposure_max: int | None,
) -> None:
    """A request was admitted that nobody had begun before."""
    there = before.balance - before.pending_withdrawal
    owed = after.charged + after.reserved - after.claimed
    rules = {
        "a channel that is over, or closing, sold something": (
            before.status is Status.OPEN
        ),
        "a voucher above what is there was taken": cumulative <= there,
        "more is owed than the payee allows": (
            exposure_max is None or owed <= exposure_max
        ),
        "more was sold than there is": after.charged + after.reserved <= there,
    }
    for wrong, holds in rules.items():
        assert holds, (wrong, cumulative, before, after)
