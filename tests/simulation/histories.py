"""
Which histories there are, and how one is lived from its seed.
"""

import random
from collections.abc import Callable
from typing import Final

from . import agents, channels, sessions
from .tally import Tally

KINDS: Final[tuple[Callable[[random.Random, Tally], None], ...]] = (
    channels.parallel,
    channels.hostile,
    channels.thief,
    channels.strict,
    channels.workers,
    sessions.session,
    sessions.rising,
    agents.agent,
)


class HistoryFailed(Exception):
    """A promise was broken; the seed and the last moves say how to see it again."""


def kind_of(seed: int) -> Callable[[random.Random, Tally], None]:
    return KINDS[seed % len(KINDS)]


def live(seed: int, *, told: bool = False) -> Tally:
    """
    Live one history, the same one for the same seed.

    Raises:
        HistoryFailed: A promise was broken.
    """
    kind, tally = kind_of(seed), Tally(histories=1, told=told)
    try:
        kind(random.Random(seed), tally)
    except Exception as error:
        last = ", ".join(tally.moves)
        raise HistoryFailed(
            f"seed {seed} ({kind.__name__}), move {tally.steps} ({last}): {error}"
        ) from error
    return tally
