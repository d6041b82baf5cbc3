"""
What a store relies on: a step names every remembered amount that it changes.
"""

from agentpay.core.payee_channel import PayeeChannel
from agentpay.core.payee_rules import Transition


def check_touched(before: PayeeChannel, transition: Transition) -> None:
    """A store rewrites only what a step says it touched, so that must be the truth."""
    after = transition.channel
    if after.used is before.used:
        return
    known = {used.cumulative: used for used in before.used}
    for used in after.used:
        same = known.get(used.cumulative) == used
        assert same or used.cumulative in transition.touched, "a change is not named"
    kept = {used.cumulative for used in after.used}
    gone = [c for c in known if c not in kept]
    assert all(c <= after.floor for c in gone), "an amount was forgotten, not floored"
