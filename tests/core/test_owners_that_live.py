"""
Where several processes keep one payee's books, a living one's requests are its own.

A store says who lives (`PayeeChannel.living`); it is not part of what is kept.
"""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.core import session_rules
from agentpay.core.payee_channel import Fate, PayeeChannel
from agentpay.core.payee_events import (
    BUSY,
    Admitted,
    Closing,
    OutcomeAsked,
    OwnersDied,
    Refused,
    Spent,
)
from agentpay.core.payee_rules import apply

from .factories import (
    ALIVE,
    REBORN,
    after,
    answer,
    charged,
    delivered,
    payee_channel,
    refund_asked,
    voucher,
)

BOTH_LIVE = frozenset([ALIVE, REBORN])


def shared(*, tagged: bool = True, in_flight_max: int = 4) -> PayeeChannel:
    channel = payee_channel(tagged=tagged, in_flight_max=in_flight_max)
    return replace(channel, living=BOTH_LIVE)


def test_a_living_owners_request_is_running_for_others_too() -> None:
    channel = after(shared(), voucher(10, 10, prepaid=True))

    running = Spent(fate=Fate.RUNNING, charged=10)
    assert answer(channel, voucher(10, 10, owner=REBORN)) == running
    assert answer(channel, OutcomeAsked(cumulative=10, owner=REBORN)) == running


def test_burying_the_dead_leaves_the_living() -> None:
    channel = after(shared(), voucher(10, 10), OwnersDied(owner=REBORN))

    assert [r.cumulative for r in channel.running] == [10]


def test_requests_of_all_living_owners_count_as_in_flight() -> None:
    channel = after(shared(in_flight_max=2), voucher(10, 10), voucher(20, 10))

    assert answer(channel, voucher(30, 10, owner=REBORN)) == Refused(
        reason=BUSY, burnt=True
    )


def test_a_strict_channel_is_busy_whoever_keeps_it_so() -> None:
    channel = after(shared(tagged=False), voucher(10, 10))

    for again in (voucher(10, 10, owner=REBORN), voucher(20, 10, owner=REBORN)):
        assert answer(channel, again) == Refused(reason=BUSY, burnt=False)


@pytest.mark.parametrize("tagged", [False, True])
def test_a_session_is_busy_whoever_keeps_it_so(tagged: bool) -> None:
    session = replace(shared(tagged=tagged, in_flight_max=1), pays_whole=True)
    session = session_rules.apply(session, voucher(10, 10)).channel
    raised = session_rules.apply(session, voucher(20, 10, owner=REBORN))

    assert raised.answer == Refused(reason=BUSY, burnt=tagged)


def test_a_refund_waits_for_what_a_living_owner_runs() -> None:
    channel = after(shared(), voucher(10, 10))
    asked = apply(channel, replace(refund_asked(20), owner=REBORN))
    buried = after(asked.channel, OwnersDied(owner=REBORN))

    assert asked.answer == Closing(ready=False)
    assert buried.running


@given(st.lists(st.tuples(st.integers(1, 60), st.sampled_from([ALIVE, REBORN]))))
def test_no_amount_is_admitted_twice_by_owners_that_live(
    copies: list[tuple[int, str]],
) -> None:
    channel = shared(in_flight_max=60)
    admitted: list[int] = []
    for cumulative, owner in copies:
        step = apply(channel, voucher(cumulative, 1, owner=owner))
        channel = step.channel
        if isinstance(step.answer, Admitted):
            admitted.append(cumulative)

    assert len(admitted) == len(set(admitted))


def test_who_lives_is_not_part_of_a_channel() -> None:
    assert shared() == payee_channel(in_flight_max=4)
    channel = after(shared(), voucher(10, 10), charged(10, 10), delivered(10))
    assert channel.living == BOTH_LIVE


def test_a_refund_that_is_refused_tells_what_the_dead_charged() -> None:
    """Or its payer would be told a total, again and again, that is never right."""
    channel = after(
        payee_channel(tagged=False), voucher(100, 100), charged(100, 30, more=True)
    )
    asked = refund_asked(channel.due, owner=REBORN)

    assert answer(channel, asked) == Refused(
        reason="cumulative_amount_mismatch", burnt=False
    )
    told = after(channel, asked)
    assert told.due == told.charged
    again = refund_asked(told.due, owner=REBORN)
    assert answer(told, again) == Closing(ready=True)
