"""Threats F9 and K13: which blocks that were seen are called gone, and when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.chain.height import BehindOthers, Height


class Chain:
    """Who asks for the last block, and a clock that goes on between."""

    def __init__(self, *, seen: int) -> None:
        self.now = 0.0
        self.height = Height(turned_back_seconds=60, clock=lambda: self.now)
        self.height.see(seen, before=0, where="first")

    def gives_up(self, block: int, *, after: float) -> bool:
        """Whether an answer is believed that comes so many seconds later."""
        self.now += after
        behind = BehindOthers("other", block=block, seen=self.height.seen)
        return self.height.gives_up(behind)

    def seconds_until_given_up(self, block: int, *, every: float) -> float:
        for _ in range(10_000):
            if self.gives_up(block, after=every):
                return self.now - every  # the first answer only begins it
        raise AssertionError("it is never given up")


@pytest.mark.parametrize(
    ("missing", "seconds"), [(1, 60), (64, 60), (65, 600), (10**9, 600)]
)
def test_f9_one_answer_that_is_too_high_stops_nobody_for_good(
    missing: int, seconds: int
) -> None:
    chain = Chain(seen=100 + missing)

    assert chain.seconds_until_given_up(100, every=2) == seconds
    assert chain.height.seen == 0


@given(st.integers(1, 200), st.floats(0.1, 1000))
def test_f9_who_seldom_asks_believes_it_in_the_end(missing: int, every: float) -> None:
    chain = Chain(seen=1000)

    assert chain.seconds_until_given_up(1000 - missing, every=every) > 0


@pytest.mark.parametrize("quiet", [61, 10**6])
def test_k13_two_short_lags_with_nobody_asking_between_are_no_reorg(quiet: int) -> None:
    chain = Chain(seen=100)

    assert not chain.gives_up(99, after=1)
    assert not chain.gives_up(99, after=quiet)
    assert chain.height.seen == 100


@given(st.lists(st.integers(0, 9), max_size=40))
def test_k13_a_block_that_somebody_has_is_not_gone(lags: list[int]) -> None:
    """Somebody has it after every five answers from behind."""
    chain = Chain(seen=100)
    for turn, lag in enumerate(lags):
        if lag and turn % 6:
            assert not chain.gives_up(100 - lag, after=11)
        else:
            chain.height.see(100, before=100, where="first")

    assert chain.height.seen == 100
