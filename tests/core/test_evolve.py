"""`evolve` makes what `dataclasses.replace` makes, of what checks nothing itself."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.core.evolve import evolve
from agentpay.core.payee_channel import Fate, PayeeChannel, Reservation, Used
from agentpay.errors import InvariantViolated

NAMES = [field.name for field in fields(PayeeChannel)]
channels = st.builds(PayeeChannel)
changes = st.dictionaries(st.sampled_from(NAMES), st.integers())


@given(channels, changes, changes)
def test_it_is_what_replace_makes(
    channel: PayeeChannel, first: dict[str, Any], second: dict[str, Any]
) -> None:
    before = replace(channel, **first)
    plain, fast = replace(before, **second), evolve(before, **second)

    assert fast == plain
    assert fast.living == plain.living
    assert before == replace(channel, **first)


def test_a_field_that_is_not_there_is_refused() -> None:
    with pytest.raises(TypeError, match="no field 'amount'"):
        evolve(Used(cumulative=1, fate=Fate.VOID), amount=2)  # type: ignore[call-arg]


@given(st.integers(-1, 3), st.booleans())
def test_what_checks_itself_does_so_again(charged: int, answered: bool) -> None:
    running = Reservation(
        cumulative=2, maximum=2, charged=0, prepaid=False, owner="me", resource="GET /"
    )
    try:
        plain = replace(running, charged=charged, answered=answered)
    except InvariantViolated:
        with pytest.raises(InvariantViolated):
            evolve(running, charged=charged, answered=answered)
    else:
        fast = evolve(running, charged=charged, answered=answered)
        assert (fast, fast.held) == (plain, plain.held)
        assert type(fast) is Reservation
