"""
Thousands of short histories, each from a seed: fast, and repeatable.

`make simulate` runs many more of the same. The state machine beside this explores fewer
histories and shrinks what it finds.
"""

import random
from collections.abc import Callable

import pytest

from tests.simulation.histories import KINDS, kind_of, live
from tests.simulation.tally import Tally

HISTORIES = 600


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_promise_is_kept(kind: Callable[[random.Random, Tally], None]) -> None:
    seeds = (seed for seed in range(HISTORIES * len(KINDS)) if kind_of(seed) is kind)
    for seed in seeds:
        live(seed)


def test_a_seed_lives_the_same_history_again() -> None:
    for seed in range(len(KINDS)):
        assert live(seed) == live(seed)
