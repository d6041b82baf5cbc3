"""
Histories of one channel: a payer, a payee, a network that loses and repeats, a chain.

The state machine in `tests/core` drives the same world, explores fewer histories, and
shrinks what it finds.
"""

import random
from collections.abc import Callable, Sequence

from agentpay.core.payee_channel import Status
from tests.core.channel_messages import Kind
from tests.core.channel_promises import check, check_goes_on, come_to_rest
from tests.core.channel_world import World, make_world

from .tally import Tally

KINDS = tuple(Kind)

Step = Callable[[World, random.Random], object]
Steps = Sequence[tuple[float, Step]]


def want(world: World, dice: random.Random) -> None:
    maximum = dice.choice((1, 1, 2, 3, 10))
    top_up = dice.choice((0, 0, 0, 5, 30))
    copy = world.want(maximum=maximum, kind=dice.choice(KINDS), top_up=top_up)
    if copy is not None and dice.random() < 0.9:
        world.send(copy)


def arrive(world: World, dice: random.Random) -> None:
    if world.network:
        at = dice.randrange(len(world.network))
        world.arrive(at, keep=dice.random() < 0.2)


def lose(world: World, dice: random.Random) -> None:
    if world.network:
        world.lose(dice.randrange(len(world.network)))


def hear(world: World, dice: random.Random) -> None:
    if world.replies:
        at = dice.randrange(len(world.replies))
        world.hear(at, again=dice.random() < 0.2)


def lose_reply(world: World, dice: random.Random) -> None:
    if world.replies:
        world.replies.pop(dice.randrange(len(world.replies)))


def replay(world: World, dice: random.Random) -> None:
    if world.seen:
        world.replay(
            dice.choice(sorted(world.seen)),
            maximum=dice.choice((0, 0, 1, 3, 10)),
            kind=dice.choice(KINDS),
            purpose=dice.choices(("buy", "ask", "refund"), (20, 2, 1))[0],
        )


def reuse(world: World, dice: random.Random) -> None:
    if world.published:
        world.reuse(dice.choice(sorted(world.published)), maximum=1)


def repeat(world: World, dice: random.Random) -> None:
    if world.payer.open:
        ticket = dice.choice(world.payer.open)
        world.repeat(ticket.cumulative, asking=dice.random() < 0.3)


def work(world: World, dice: random.Random) -> None:
    if not world.handlers:
        return
    cumulative = dice.choice(sorted(world.handlers))
    amount = dice.choice((0, 0, 1, 2, 10))
    steps = (world.finish, world.finish, world.finish, world.slice)
    if world.handlers[cumulative].answered:
        world.deliver(cumulative)
    elif dice.random() < 0.2:
        world.fail(cumulative)
    else:
        dice.choice(steps)(cumulative, amount)


def leave(world: World, dice: random.Random) -> None:
    if world.handlers:
        world.fail(dice.choice(sorted(world.handlers)))


def crash(world: World, dice: random.Random) -> None:
    del dice
    world.crash()


def crash_one(world: World, dice: random.Random) -> None:
    del dice
    world.crash_one()


def take_turns(world: World, dice: random.Random) -> None:
    world.take_turns(dice.randrange(world.workers))


def bury(world: World, dice: random.Random) -> None:
    del dice
    world.bury()


def watch_chain(world: World, dice: random.Random) -> None:
    del dice
    world.watch_chain()


def wait(world: World, dice: random.Random) -> None:
    world.wait(dice.choice((1, 10, 30, 100)))


def claim(world: World, dice: random.Random) -> None:
    del dice
    world.claim()


def want_refund(world: World, dice: random.Random) -> None:
    del dice
    world.want_refund()


def refund(world: World, dice: random.Random) -> None:
    del dice
    world.refund()


def ask_for_part(world: World, dice: random.Random) -> None:
    world.ask_for_part(dice.choice((None, 0, 1, 2, 10, 100)))


def give_part(world: World, dice: random.Random) -> None:
    if world.payee.part is not None and world.payee.status is Status.CLOSING:
        world.give_part(dies=dice.random() < 0.3)


def end_late(world: World, dice: random.Random) -> None:
    world.end_late(dice.randrange(6))


def start_withdrawal(world: World, dice: random.Random) -> None:
    world.start_withdrawal(dice.randint(1, 60))


def finish_withdrawal(world: World, dice: random.Random) -> None:
    del dice
    world.finish_withdrawal()


def reorganize(world: World, dice: random.Random) -> None:
    world.reorganize(dice.randint(1, 20))


STEPS: Steps = (
    (30, want),
    (26, arrive),
    (3, lose),
    (16, hear),
    (3, lose_reply),
    (6, replay),
    (2, reuse),
    (4, repeat),
    (26, work),
    (2, leave),
    (2, crash),
    (1, bury),
    (3, watch_chain),
    (2, wait),
    (3, claim),
    (0.5, want_refund),
    (1, refund),
)
HOSTILE: Steps = (
    (2, start_withdrawal),
    (2, finish_withdrawal),
    (1, reorganize),
)
PARTS: Steps = (
    (6, ask_for_part),
    (6, give_part),
    (6, end_late),
)


def parallel(dice: random.Random, tally: Tally) -> None:
    """An honest payer, whose requests overtake each other."""
    _live(_make(dice), dice, STEPS, tally)


def hostile(dice: random.Random, tally: Tally) -> None:
    """The chain takes money away: withdrawals and reorganizations."""
    _live(_make(dice), dice, (*STEPS, *HOSTILE), tally)


def thief(dice: random.Random, tally: Tally) -> None:
    """Somebody presents fresh vouchers before their payer does, who may be hasty."""
    world = _make(dice, thief=True, hasty=dice.choice((0, 2)))
    _live(world, dice, (*STEPS, *HOSTILE), tally)


def workers(dice: random.Random, tally: Tally) -> None:
    """Several processes keep the books of one payee, and die one by one."""
    several = ((20, take_turns), (3, crash_one))
    world = _make(dice, tagged=dice.random() < 0.7, workers=dice.randint(2, 3))
    _live(world, dice, (*STEPS, *several), tally)


def strict(dice: random.Random, tally: Tally) -> None:
    """A payee that follows the specification alone, one request at a time."""
    forgotten = dice.choice((0, 0, 0, 5))
    world = _make(dice, tagged=False, forgotten=forgotten)
    steps = STEPS if dice.random() < 0.5 else (*STEPS, *HOSTILE)
    if dice.random() < 0.5:
        steps = (*steps, *PARTS)
    _live(world, dice, steps, tally)


def _live(world: World, dice: random.Random, steps: Steps, tally: Tally) -> None:
    weights = [weight for weight, _ in steps]
    moves = [step for _, step in steps]
    for move in dice.choices(moves, weights, k=dice.randint(5, 90)):
        tally.move(move.__name__, (world.payer, world.payee))
        move(world, dice)
        tally.sentences += check(world)
    tally.move("come_to_rest", (world.payer, world.payee))
    come_to_rest(world)
    check_goes_on(world, dice.choice((1, 3)))
    tally.sentences += check(world)
    tally.transitions += world.steps


def _balance(dice: random.Random, forgotten: int) -> int:
    """What was deposited: nothing at times, where the first request carries it."""
    if not forgotten and dice.random() < 0.05:
        return 0
    return dice.choice((dice.randint(3, 15), dice.randint(15, 120)))


def _make(
    dice: random.Random,
    *,
    tagged: bool = True,
    thief: bool = False,
    workers: int = 1,
    forgotten: int = 0,
    hasty: int = 0,
) -> World:
    window = dice.randint(1, 8)
    return make_world(
        tagged=tagged,
        thief=thief,
        workers=workers,
        forgotten=forgotten,
        hasty=hasty,
        exposure_max=dice.choice((None, None, None, 3, 10)),
        balance=_balance(dice, forgotten),
        headroom=dice.choice((3, 10, 20, 40, 80)),
        window=window,
        in_flight_max=dice.randint(1, window),
    )
