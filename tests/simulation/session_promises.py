"""
What a session of MPP promises, beside what every channel does.
"""

from tests.core import channel_promises
from tests.core.channel_world import VALID_SECONDS

from .session_payee_side import GRACE_SECONDS
from .session_world import SessionWorld


def check(world: SessionWorld) -> int:
    """What must hold between any two steps; returns how many sentences that is."""
    payer, payee = world.payer, world.payee
    rules = {
        "the payer's books are never below what was charged": (
            world.thief
            or (world.ended and world.left)
            or payee.charged + payee.reserved <= payer.spent + payer.outstanding
        ),
        "more is settled than is due only of a payer that left": (
            world.left or world.claimed <= payee.due
        ),
        "it owes no more than its payee allows": (
            world.exposure_max is None
            or world.reorganized
            or payee.charged + payee.reserved - payee.claimed <= world.exposure_max
        ),
        "no more is settled than was signed": (
            world.claimed <= max(payer.highest, payer.spent)
        ),
        "a fixed price stays what it was": all(
            r.charged == r.maximum for r in payee.running if r.prepaid
        ),
    }
    for sentence, holds in rules.items():
        assert holds, (sentence, payer, payee, world.claimed)
    return len(rules) + channel_promises.check(world)


def come_to_rest(world: SessionWorld) -> None:
    """Nothing is lost any more; every open request is resolved, the session closed."""
    for cumulative in list(world.handlers):
        world.finish(cumulative, world.handlers[cumulative].reservation.maximum)
        if cumulative in world.handlers:
            world.deliver(cumulative)
    world.bury()
    _empty(world)
    for ticket in world.payer.open:
        world.repeat(ticket.cumulative, asking=True)
        _empty(world)
    world.wait(VALID_SECONDS + GRACE_SECONDS)
    world.watch_chain()
    world.withdraw()
    if not world.ended:
        _close(world)
    check(world)
    _check_books(world)


def _empty(world: SessionWorld) -> None:
    while world.network or world.replies:
        while world.network:
            world.arrive(0)
            for cumulative in list(world.handlers):
                world.fail(cumulative)
        while world.replies:
            world.hear(0)


def _close(world: SessionWorld) -> None:
    world.want_refund()
    _empty(world)
    world.refund()


def _check_books(world: SessionWorld) -> None:
    payer, payee = world.payer, world.payee
    assert payee.reserved == 0, "money stayed reserved"
    assert payee.due == payee.charged, "what was charged is not all due"
    if world.thief:
        return
    assert not payer.open, "a request stayed unresolved"
    if world.left:
        return
    assert world.ended, "a session could not be closed"
    assert world.claimed == payee.charged, "a close took another amount than was due"
    assert payee.charged <= payer.spent, "the payee charged what nobody agreed to"
    if not world.unsure:
        assert payee.charged == payer.spent, "at rest the books are not equal"
