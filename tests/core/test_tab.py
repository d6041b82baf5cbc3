"""A tab charges ahead by little, serves nothing unpaid, and ends at what has left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.core.meter import (
    SECOND,
    TOKEN,
    TOKEN_IN,
    Meter,
    Rate,
    Rounding,
    Tariff,
    Unit,
)
from agentpay.core.tab import Tab
from agentpay.errors import InvariantViolated

PER_TOKEN = Tariff(rates=(Rate(unit=TOKEN, price=20),), rounding=Rounding.UP)

tariffs = st.builds(
    lambda price, per, other, rounding, step: Tariff(
        rates=(
            Rate(unit=TOKEN, price=price, per=per),
            Rate(unit=SECOND, price=other),
        ),
        rounding=rounding,
        increment=step,
    ),
    st.integers(1, 5000),
    st.integers(1, 1000),
    st.integers(1, 5000),
    st.sampled_from(Rounding),
    st.just(1) | st.integers(1, 50),
)
pieces = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 300), st.booleans()), max_size=60
)
"""Tokens, milliseconds, and whether the piece leaves before the next is counted."""


def usage(tokens: int, milliseconds: int) -> dict[str, int]:
    return {"tokens": tokens, "milliseconds": milliseconds}


@given(tariffs, pieces, st.integers(1, 2000), st.integers(0, 60))
def test_at_every_moment_little_is_charged_ahead_and_nothing_left_unpaid(
    tariff: Tariff, steps: list[tuple[int, int, bool]], increment: int, stop: int
) -> None:
    tab, meter, steps_made = Tab(tariff, increment=increment), Meter(tariff=tariff), 0
    for tokens, milliseconds, leaves in steps[:stop]:
        more = tab.price(usage(tokens, milliseconds))
        if not tab.count(more):
            tab.charge(tab.wish(more))
            steps_made += 1
            assert tab.count(more)
        meter, _ = meter.add(TOKEN, tokens)
        meter, _ = meter.add(SECOND, milliseconds)

        assert tab.used == meter.total <= tab.charged
        in_hand = tab.used - tab.left
        assert tab.charged - tab.left <= max(increment, in_hand)
        if leaves:
            tab.leave()
        assert tab.left <= tab.charged

    assert steps_made <= len(steps)


@given(st.integers(0, 500), st.integers(1, 3000))
def test_a_stream_that_ends_at_token_k_costs_k_tokens(k: int, increment: int) -> None:
    tab = Tab(PER_TOKEN, increment=increment)
    for _ in range(k):
        more = tab.price({"tokens": 1})
        if not tab.count(more):
            tab.charge(tab.wish(more))
            tab.count(more)
        tab.leave()
    more = tab.price({"tokens": 1})
    tab.charge(max(tab.charged, tab.wish(more)))
    tab.count(more)  # counted, and never sent

    assert tab.left == 20 * k


def test_a_slice_is_one_step_for_many_tokens() -> None:
    tab, steps = Tab(PER_TOKEN, increment=1000), 0
    for _ in range(10_000):
        more = tab.price({"tokens": 1})
        if not tab.count(more):
            tab.charge(tab.wish(more))
            steps += 1
            tab.count(more)
        tab.leave()

    assert (tab.used, steps) == (200_000, 200)


@given(st.integers(0, 5000))
def test_what_was_charged_before_a_crash_is_served_for_and_not_given_back(
    charged: int,
) -> None:
    tab = Tab(PER_TOKEN, increment=100, charged=charged, floor=charged)

    assert tab.left == tab.used == charged
    covered = charged // 20
    assert tab.count(tab.price({"tokens": covered}))
    assert not tab.count(tab.price({"tokens": 1}))
    tab.leave()
    assert tab.left == charged


def test_what_is_not_charged_is_not_counted() -> None:
    tab = Tab(PER_TOKEN, increment=100)

    assert not tab.count(tab.price({"tokens": 1}))
    assert (tab.used, tab.counted) == (0, False)
    assert tab.count(tab.price({"tokens": 0}))
    assert tab.counted


@pytest.mark.parametrize("bad", [{"tokens": -1}, {"tokens": 1.0}, {"pages": 1}])
def test_usage_that_cannot_be_priced_is_refused(bad: dict[str, int]) -> None:
    tab = Tab(PER_TOKEN, increment=100)

    with pytest.raises(ValueError, match=r"usage is|only in tokens"):
        tab.price(bad)


def test_a_charge_is_not_taken_back() -> None:
    tab = Tab(PER_TOKEN, increment=100, charged=50)

    with pytest.raises(InvariantViolated):
        tab.charge(49)


def test_a_word_counts_one_unit() -> None:
    pages = Unit(name="page", counted_in="tokens_in")

    with pytest.raises(ValueError, match="one word"):
        Tariff(
            rates=(Rate(unit=TOKEN_IN, price=1), Rate(unit=pages, price=1)),
            rounding=Rounding.UP,
        )
