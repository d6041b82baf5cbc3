"""
What a payment channel promises, in sentences: at every moment, and when all is at rest.
"""

from agentpay.core import payer_rules
from agentpay.core.payee_channel import Status
from agentpay.core.payer_channel import (
    PayerChannel,
    PayerStatus,
    TicketWanted,
    Unusable,
)

from .channel_messages import Kind
from .channel_world import VALID_SECONDS, World


def check(world: World) -> int:
    """What must hold between any two steps; returns how many sentences that is."""
    payer, payee = world.payer, world.payee
    at_most = payer.spent + payer.outstanding
    strict = not payee.tagged
    rules = {
        "the payee's charged and reserved never exceed what the payer agreed to": (
            strict
            or world.thief
            or world.left
            or payee.charged + payee.reserved <= at_most
        ),
        "nothing is charged beyond the highest amount the payer signed": (
            payee.charged + payee.reserved <= max(payer.highest, world.claimed)
        ),
        "the exposure never exceeds the headroom": (payer.exposure <= payer.headroom),
        "what open requests may cost and did not yet bring is within the headroom": (
            at_most <= payer.owed + payer.headroom
        ),
        "what is due can be claimed with a voucher we hold": (
            payee.due <= world.forgotten or payee.claim_voucher() is not None
        ),
        "the window is bounded": len(payee.used) <= payee.window,
        "the payee forgets nothing that the payer may still send": (
            strict or payee.floor <= payer_rules._floor(payer)
        ),
        "what the chain has closed stays closed": (
            payee.status is Status.CLOSED
            or not world.ended
            or not (payee.tagged or payee.pays_whole)
        ),
        "handlers at work are at most what was agreed": (
            sum(h.at_work for h in world.handlers.values()) <= payee.in_flight_max
        ),
    }
    for sentence, holds in rules.items():
        assert holds, (sentence, payer, payee)
    return len(rules)


def come_to_rest(world: World) -> None:
    """Nothing is lost any more; every open request is resolved."""
    for cumulative in list(world.handlers):
        world.finish(cumulative, world.handlers[cumulative].reservation.maximum)
        world.deliver(cumulative)
    world.bury()
    while world.network:
        world.arrive(0)
        for cumulative in list(world.handlers):
            world.fail(cumulative)
    _hear_all(world)
    for ticket in world.payer.open:
        world.repeat(ticket.cumulative, asking=world.payer.tagged)
        world.arrive(0)
        for cumulative in list(world.handlers):
            world.finish(cumulative, 0)
            world.deliver(cumulative)
    _hear_all(world)
    world.refund()
    world.wait(VALID_SECONDS + 1)
    world.watch_chain()
    check(world)
    _check_books(world)


def _hear_all(world: World) -> None:
    while world.replies:
        world.hear(0)


def _check_books(world: World) -> None:
    payer, payee = world.payer, world.payee
    lane_lost = not payee.tagged and (
        world.disturbed
        or payee.charged != payer.spent
        or any(payee.is_public(t.cumulative) for t in payer.open)
        or any(t.cumulative > payee.spendable for t in payer.open)
    )
    assert not payer.open or lane_lost, "a request stayed unresolved"
    assert payee.reserved == 0, "money stayed reserved"
    assert payee.due == payee.charged, "what was charged is not all due"
    if world.thief or not payee.tagged:
        return
    assert payee.charged <= payer.spent, "the payee charged what nobody agreed to"
    for cumulative, booked in world.booked.items():
        cost = world.cost.get(cumulative, 0)
        assert cost <= booked, ("an amount cost more than was booked", cumulative)
        exact = cumulative not in world.booked_as_old
        assert cost == booked or not exact, ("the books differ", cumulative)
    if not world.booked_as_old:
        assert payee.charged == payer.spent, "at rest the books are not equal"


def check_goes_on(world: World, maximum: int) -> None:
    """At rest, a further request is served unless the money or amounts are out."""
    payer = world.payer
    affordable = min(payer.balance - payer.spent, payer.headroom)
    idle = payer.deposit is None and world.payee.status is Status.OPEN
    if world.thief or world.disturbed or not idle or maximum > affordable:
        return
    if payer.open or payer.status is not PayerStatus.OPEN:
        return
    copy = world.want(maximum=maximum, kind=Kind.FIXED)
    if copy is None:
        assert _worn_out(world, payer, maximum), "a request could not be signed"
        return
    world.receive(copy, honest=True)
    if world.payee.tagged:
        assert copy.request.cumulative in world.handlers, "it was not served"


def _worn_out(world: World, payer: PayerChannel, maximum: int) -> bool:
    """No amount that the payee would accept is left unsigned."""
    answer = payer_rules.apply(payer, TicketWanted(maximum=maximum)).answer
    assert isinstance(answer, Unusable), answer
    need, floor = payer.spent + maximum, payer_rules._floor(payer)
    most = min(payer.balance, max(payer.highest, payer.spent + payer.headroom))
    if payer.acknowledged < need:
        most = min(most, payer.spent + payer.headroom)
    least = floor + 1 if payer.acknowledged >= need else max(need, floor + 1)
    return all(amount in world.seen for amount in range(least, most + 1))
