"""
The amounts that a payee has seen on a channel: a window of the last ones and a floor.

What is below the floor counts as used, so that nothing is sold twice (rule 3). What a
claim shows of a strict channel is remembered here as well (rule 7).
"""

from bisect import bisect_left, bisect_right

from agentpay.core.evolve import evolve
from agentpay.core.payee_channel import Fate, PayeeChannel, Used, by_cumulative


def use(channel: PayeeChannel, entry: Used) -> tuple[tuple[Used, ...], int]:
    """Remember an amount; what no longer fits the window goes under the floor."""
    used, floor = channel.used, channel.floor
    at = bisect_left(used, entry.cumulative, key=by_cumulative)
    full = len(used) >= channel.window
    if full and at == 0:
        return used, max(floor, entry.cumulative)
    # A list is changed in place: thousands of amounts are copied twice, and not thrice.
    after = list(used)
    after.insert(at, entry)
    if full:
        floor = max(floor, after.pop(0).cumulative)
    return tuple(after), floor


def publish(channel: PayeeChannel, amount: int) -> PayeeChannel:
    """
    Remember that the chain shows a voucher. Of a strict channel just this one must not
    come back, until so much is due that it cannot; a session's takes all below with it.

    If its request runs, nobody runs that again: also once it has left the window.
    """
    if (running := channel.reservation(amount)) is not None:
        for_nothing = evolve(running, resource="")
        channel = evolve(channel, running=channel.with_changed(for_nothing))
    if channel.tagged:
        return evolve(channel, used=channel.with_shown(amount))
    if channel.pays_whole:
        return evolve(channel, floor=max(channel.floor, amount))
    used, floor = channel.used, channel.floor
    if not channel.is_public(amount):
        used, floor = use(channel, Used(cumulative=amount, fate=Fate.OLD, shown=True))
    past = bisect_right(used, channel.due, key=by_cumulative)
    floor = max(floor, used[past - 1].cumulative) if past else floor
    return evolve(channel, used=used[past:], floor=floor)
