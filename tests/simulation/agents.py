"""
Histories of an agent: what leaves it stays within its budget, whoever cheats.
"""

import random
from collections.abc import Callable, Sequence

from agentpay.core.budget import Limits

from .agent_world import VALID_SECONDS, AgentWorld
from .tally import Tally

STEPS: Sequence[tuple[float, Callable[[AgentWorld], None]]] = (
    (30, AgentWorld.want),
    (2, AgentWorld.want_its_nonce),
    (4, AgentWorld.want_the_same),
    (30, AgentWorld.arrive),
    (25, AgentWorld.hear),
    (4, AgentWorld.lose),
    (4, AgentWorld.lose_reply),
    (8, AgentWorld.send_again),
    (4, AgentWorld.steal),
    (1, AgentWorld.crash),
    (6, AgentWorld.resolve),
    (8, AgentWorld.wait),
    (3, AgentWorld.give_back),
)


def agent(dice: random.Random, tally: Tally) -> None:
    """One budget, three hosts, of which some cheat."""
    total = dice.choice((10, 40, 100))
    limits = Limits(
        total=total,
        per_host=dice.choice((total, total // 2)),
        per_request=dice.choice((5, 20)),
    )
    hosts = ("one", "two", "three")
    cheats = frozenset(host for host in hosts if dice.random() < 0.3)
    world = AgentWorld(dice=dice, limits=limits, cheats=cheats, hosts=hosts)
    weights = [weight for weight, _ in STEPS]
    moves = [step for _, step in STEPS]
    for move in dice.choices(moves, weights, k=dice.randint(5, 90)):
        tally.move(move.__name__, world.budget)
        move(world)
        tally.sentences += check(world)
    tally.move("come_to_rest", world.budget)
    come_to_rest(world)
    tally.sentences += check(world)
    tally.transitions += world.events


def check(world: AgentWorld) -> int:
    """What must hold between any two steps; returns how many sentences that is."""
    budget, limits = world.budget, world.limits
    rules = {
        "what has left and may leave is within the limit": (
            budget.exposure <= limits.total
        ),
        "and so for every host": all(
            budget.exposure_to(host) <= limits.per_host for host in world.hosts
        ),
        "no request costs more than a request may": all(
            signed.amount <= limits.per_request for signed in world.signed.values()
        ),
        "what hosts have on chain is in the budget": all(
            gone <= budget.exposure_to(host) for host, gone in world.gone.items()
        ),
        "what a signature may still move is held": all(
            signed.id in world.moved
            or signed.id in world.booked
            or world.now > signed.valid_before
            or budget.hold(signed.id) is not None
            for signed in world.signed.values()
        ),
        "an honest seller answers a payment once": all(
            count == 1 for count in world.served.values()
        ),
        "and only when it has the money": all(
            name in world.moved for name in world.served
        ),
        "a host's lapses in a row are counted once each": all(
            lapse.count == world.broken[lapse.host][0] for lapse in budget.lapses
        ),
    }
    for sentence, holds in rules.items():
        assert holds, (sentence, world)
    return len(rules)


def come_to_rest(world: AgentWorld) -> None:
    """No signature is valid any more, and the chain is asked about each."""
    world.crash()
    world.now += 10 * VALID_SECONDS
    world.resolve()
    budget = world.budget
    held = sum(hold.amount for hold in budget.holds)
    assert not held, "money stays held for what can no longer move"
    assert all(hold.request for hold in budget.holds), "nobody waits for its answer"
    for host in world.hosts:
        lied = sum(
            world.signed[name].amount
            for name in world.booked
            if world.signed[name].host == host and name not in world.moved
        )
        more = budget.exposure_to(host) - world.gone.get(host, 0)
        assert more >= 0, ("the budget forgot money", host, more)
        exact = host not in world.returners
        assert more == lied or not exact, ("the books differ", host, more, lied)
