"""What is taken of a session whose payer leaves: what it earned, and little more."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.core.payee_channel import (
    HeldVoucher,
    PayeeChannel,
    Reservation,
    Status,
)


def held(*amounts: int) -> tuple[HeldVoucher, ...]:
    return tuple(HeldVoucher(amount=n, signature=b"v") for n in sorted(set(amounts)))


def running(
    charged: int, *, prepaid: bool = False, answered: bool = False
) -> tuple[Reservation, ...]:
    return (
        Reservation(
            cumulative=90,
            maximum=charged,
            charged=charged,
            prepaid=prepaid,
            owner="us",
            resource="GET /",
            answered=answered,
        ),
    )


def a_session(**changes: object) -> PayeeChannel:
    channel = PayeeChannel(
        tagged=True,
        window=64,
        in_flight_max=8,
        balance=100,
        charged=30,
        highest=90,
        held=held(20, 40, 90),
        pays_whole=True,
    )
    return replace(channel, **changes)  # type: ignore[arg-type]


def amount(voucher: HeldVoucher | None) -> int | None:
    return voucher.amount if voucher else None


def test_the_smallest_voucher_that_covers_is_taken() -> None:
    assert amount(a_session().last_voucher()) == 40
    assert amount(a_session(charged=40).last_voucher()) == 40
    assert amount(a_session(charged=41).last_voucher()) == 90


def test_nothing_is_taken_where_nothing_is_owed() -> None:
    assert a_session(charged=0).last_voucher() is None
    assert a_session(claimed=30).last_voucher() is None


def test_where_none_covers_the_highest_is_taken() -> None:
    """A deposit that a reorg made smaller: what can be had is had."""
    assert amount(a_session(charged=60, balance=50).last_voucher()) == 40


def test_what_a_stream_has_used_is_earned_and_what_may_be_given_back_is_not() -> None:
    stream = a_session(charged=50, running=running(20))
    fixed = a_session(charged=50, running=running(20, prepaid=True))
    told = a_session(charged=50, running=running(20, prepaid=True, answered=True))

    assert (stream.due, stream.earned) == (30, 50)
    assert (fixed.due, fixed.earned) == (30, 30)
    assert (told.due, told.earned) == (30, 50)


def test_a_session_ends_while_its_payer_leaves_and_owes() -> None:
    leaving = a_session(pending_withdrawal=100)

    assert leaving.is_ending
    assert not a_session().is_ending
    assert not replace(leaving, claimed=30).is_ending
    assert not replace(leaving, status=Status.CLOSED).is_ending
    assert replace(leaving, status=Status.CLOSING, claimed=30).is_ending
    assert not replace(leaving, pays_whole=False).is_ending


@given(
    amounts=st.sets(st.integers(1, 60), max_size=8),
    charged=st.integers(0, 60),
    claimed=st.integers(0, 60),
    balance=st.integers(0, 60),
)
def test_what_is_taken_pays_what_is_owed_by_as_little_as_can_be(
    amounts: set[int], charged: int, claimed: int, balance: int
) -> None:
    session = a_session(
        held=held(*amounts), charged=charged, claimed=claimed, balance=balance
    )
    taken = session.last_voucher()
    can_be = {n for n in amounts if claimed < n <= balance}

    if charged <= claimed or not can_be:
        assert taken is None
        return
    assert taken is not None
    covering = {n for n in can_be if n >= charged}
    assert taken.amount == (min(covering) if covering else max(can_be))


@pytest.mark.parametrize("tagged", [True, False])
def test_a_routine_settle_is_never_above_what_a_leaving_payer_pays(
    tagged: bool,
) -> None:
    session = a_session(tagged=tagged)

    assert (amount(session.settle_voucher()), session.unclaimed) == (20, 20)
    assert amount(session.last_voucher()) == 40
