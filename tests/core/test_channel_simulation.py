"""
Thousands of short histories of a channel, each from a seed: fast, and repeatable.

The state machine beside this explores fewer histories and shrinks what it finds.
"""

import random
from collections.abc import Callable

import pytest

from .channel_messages import Kind
from .channel_promises import check, check_goes_on, come_to_rest
from .channel_world import World, make_world

HISTORIES = 1000
KINDS = tuple(Kind)

Step = Callable[[World, random.Random], object]


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
            asking=dice.random() < 0.1,
        )


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


STEPS: tuple[tuple[float, Step], ...] = (
    (30, want),
    (26, arrive),
    (3, lose),
    (16, hear),
    (3, lose_reply),
    (6, replay),
    (4, repeat),
    (26, work),
    (2, leave),
    (2, lambda world, _: world.crash()),
    (1, lambda world, _: world.bury()),
    (3, lambda world, _: world.watch_chain()),
    (0.5, lambda world, _: world.let_lapse()),
    (3, lambda world, _: world.claim()),
    (0.5, lambda world, _: world.want_refund()),
    (1, lambda world, _: world.refund()),
)
HOSTILE: tuple[tuple[float, Step], ...] = (
    (2, lambda world, dice: world.start_withdrawal(dice.randint(1, 60))),
    (2, lambda world, _: world.finish_withdrawal()),
    (1, lambda world, dice: world.reorganize(dice.randint(1, 20))),
)


def live(
    world: World, dice: random.Random, steps: tuple[tuple[float, Step], ...]
) -> None:
    weights = [weight for weight, _ in steps]
    moves = [step for _, step in steps]
    for move in dice.choices(moves, weights, k=dice.randint(5, 90)):
        move(world, dice)
        check(world)
    come_to_rest(world)
    check_goes_on(world, dice.choice((1, 3)))
    check(world)


def make(dice: random.Random, *, tagged: bool, thief: bool) -> World:
    window = dice.randint(1, 8)
    return make_world(
        tagged=tagged,
        thief=thief,
        balance=dice.randint(15, 120),
        headroom=dice.choice((3, 10, 20, 40, 80)),
        window=window,
        in_flight_max=dice.randint(1, window),
    )


@pytest.mark.parametrize("part", range(4))
def test_parallel_channels_keep_their_promises(part: int) -> None:
    for seed in range(part * HISTORIES, (part + 1) * HISTORIES):
        dice = random.Random(seed)
        live(make(dice, tagged=True, thief=False), dice, STEPS)


def test_they_keep_them_when_the_chain_takes_money_away() -> None:
    for seed in range(HISTORIES):
        dice = random.Random(f"hostile {seed}")
        live(make(dice, tagged=True, thief=False), dice, STEPS + HOSTILE)


def test_a_thief_of_fresh_vouchers_takes_no_more_than_was_signed() -> None:
    for seed in range(HISTORIES):
        dice = random.Random(f"thief {seed}")
        live(make(dice, tagged=True, thief=True), dice, STEPS + HOSTILE)


def test_strict_channels_charge_no_more_than_was_signed() -> None:
    for seed in range(HISTORIES):
        dice = random.Random(f"strict {seed}")
        live(make(dice, tagged=False, thief=False), dice, STEPS + HOSTILE)
