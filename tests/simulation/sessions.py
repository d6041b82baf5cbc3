"""
Histories of one session of MPP: tagged, or of the draft's kind, whose vouchers rise.
"""

import random
from collections.abc import Callable, Sequence

from . import channels
from .session_promises import check, come_to_rest
from .session_world import SessionWorld, make_session
from .tally import Tally

Step = Callable[[SessionWorld, random.Random], object]


def raise_running(world: SessionWorld, dice: random.Random) -> None:
    if world.payer.open:
        ticket = dice.choice(world.payer.open)
        top_up = dice.choice((0, 0, 0, 30))
        world.raise_running(ticket.cumulative, dice.choice((1, 3, 10)), top_up=top_up)


def count(world: SessionWorld, dice: random.Random) -> None:
    if world.handlers:
        world.count(dice.choice(sorted(world.handlers)))


def flow(world: SessionWorld, dice: random.Random) -> None:
    if world.handlers:
        world.slice(dice.choice(sorted(world.handlers)), dice.choice((1, 3, 10)))


def steal_raise(world: SessionWorld, dice: random.Random) -> None:
    if world.seen and world.payee.running:
        running = dice.choice(world.payee.running).cumulative
        seen = dice.choice(sorted(world.seen))
        world.steal_raise(seen, running, dice.choice((3, 30)))


def lie(world: SessionWorld, dice: random.Random) -> None:
    world.lie(dice.choice((1, 50)))


def request_close(world: SessionWorld, dice: random.Random) -> None:
    del dice
    world.request_close()


def keep(world: SessionWorld, dice: random.Random) -> None:
    del dice
    world.keep()


def withdraw(world: SessionWorld, dice: random.Random) -> None:
    del dice
    world.withdraw()


def take_back(world: SessionWorld, dice: random.Random) -> None:
    world.take_back(dice.choice((1, 30)))


STEPS: Sequence[tuple[float, Step]] = (
    *channels.STEPS,
    (8, raise_running),
    (8, count),
    (8, flow),
    (4, steal_raise),
    (4, lie),
    (0.7, request_close),
    (2, keep),
    (1, take_back),
    (2, withdraw),
    (6, channels.take_turns),
    (1, channels.crash_one),
)

REORGANIZED: Sequence[tuple[float, Step]] = ((2, channels.reorganize),)
LEAVING: Sequence[tuple[float, Step]] = (
    (4, request_close),
    (8, keep),
    (6, take_back),
    (8, channels.reuse),
)


def session(dice: random.Random, tally: Tally) -> None:
    """A session that serves in parallel; some are stolen from."""
    _live(_make(dice, tagged=True), dice, tally)


def rising(dice: random.Random, tally: Tally) -> None:
    """One request at a time, on vouchers that rise."""
    _live(_make(dice, tagged=False), dice, tally)


def _live(world: SessionWorld, dice: random.Random, tally: Tally) -> None:
    more: Sequence[tuple[float, Step]] = dice.choices(
        (LEAVING, REORGANIZED, ()), (4, 2, 4)
    )[0]
    steps = (*STEPS, *more)
    weights = [weight for weight, _ in steps]
    moves = [step for _, step in steps]
    for move in dice.choices(moves, weights, k=dice.randint(5, 90)):
        tally.move(move.__name__, (world.payer, world.payee))
        move(world, dice)
        tally.sentences += check(world)
    tally.move("come_to_rest", (world.payer, world.payee))
    come_to_rest(world)
    tally.sentences += check(world)
    tally.transitions += world.steps


def _make(dice: random.Random, *, tagged: bool) -> SessionWorld:
    window = dice.randint(1, 8)
    return make_session(
        tagged=tagged,
        forgotten=0 if tagged else dice.choice((0, 0, 0, 5)),
        thief=dice.random() < 0.3,
        workers=dice.choice((1, 1, 2)),
        exposure_max=dice.choice((None, None, None, 3, 10)),
        balance=dice.randint(15, 120),
        headroom=dice.choice((3, 10, 20, 40, 80)),
        window=window,
        in_flight_max=dice.randint(1, window),
    )
