"""A part of a channel is given back once, whatever dies, repeats itself or is late."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.core.payee_channel import PartRefund, PayeeChannel, Status
from agentpay.core.payee_events import (
    BUSY,
    CLOSING,
    MISMATCH,
    REFUND_AMOUNT,
    Admitted,
    ChainSeen,
    Closing,
    PartBegun,
    PartGiven,
    RefundDone,
    Refused,
    Spent,
)

from .factories import after, answer, payee_channel, refund_asked, sold, voucher

READY = Closing(ready=True)


def no(reason: str, *, burnt: bool = False) -> Refused:
    return Refused(reason=reason, burnt=burnt)


def begins(nonce: int, *, cumulative: int = 10) -> PartBegun:
    return PartBegun(cumulative=cumulative, nonce=nonce)


def used() -> PayeeChannel:
    """A strict channel of 100 with 10 of them charged."""
    return after(payee_channel(tagged=False, balance=100), *sold(10, 10, 10))


def given_back(channel: PayeeChannel, part: int, *, nonce: int = 0) -> PayeeChannel:
    """It asked for a part, got it, and the chain was looked at."""
    total, left = channel.charged, channel.balance - part
    return after(
        channel,
        refund_asked(total, part=part),
        PartBegun(cumulative=total, nonce=nonce),
        RefundDone(nonce=nonce, refunded=part, transaction=f"0x{nonce}"),
        ChainSeen(balance=left, claimed=total, pending_withdrawal=0),
    )


def test_a_channel_goes_on_with_what_is_left_of_it() -> None:
    channel = given_back(used(), 30)

    assert (channel.status, channel.balance, channel.charged) == ("open", 70, 10)
    assert isinstance(answer(channel, voucher(20, 10)), Admitted)
    assert answer(channel, voucher(80, 70)) == no("cumulative_exceeds_balance")


def test_a_channel_sells_nothing_while_a_part_of_it_is_given_back() -> None:
    asked = after(used(), refund_asked(10, part=30))
    begun = after(asked, begins(3))

    for channel in (asked, begun):
        assert answer(channel, voucher(20, 10)) == no(CLOSING)
    done = after(begun, RefundDone(nonce=3, refunded=30))
    assert answer(done, voucher(20, 10)) == no("cumulative_exceeds_balance")


def test_the_same_request_again_is_told_the_first_result() -> None:
    request, asked = refund_asked(10, part=30), after(used(), refund_asked(10, part=30))
    assert answer(used(), request) == answer(asked, request) == READY

    done = given_back(used(), 30)
    part = PartRefund(amount=30, nonce=0, refunded=30, transaction="0x0")
    going_on = after(done, *sold(20, 10, 10))
    for channel in (done, going_on):
        assert answer(channel, request) == PartGiven(part=part)
        assert after(channel, request) == channel


def test_there_is_one_part_of_each_total_and_then_only_all() -> None:
    done = given_back(used(), 30)
    assert answer(done, refund_asked(10, part=20)) == no(REFUND_AMOUNT)
    assert answer(done, refund_asked(10)) == READY
    more = after(done, *sold(20, 10, 10))
    assert answer(more, refund_asked(20, part=20)) == READY


@pytest.mark.parametrize("other", [None, 29, 31])
def test_nothing_else_is_asked_for_while_a_part_is_given(other: int | None) -> None:
    asked = after(used(), refund_asked(10, part=30))

    assert answer(asked, refund_asked(10, part=other)) == no(CLOSING)
    assert answer(after(used(), refund_asked(10)), refund_asked(10, part=30)) == (
        no(CLOSING)
    )


def test_what_proves_no_total_or_disturbs_a_request_moves_nothing() -> None:
    busy = after(used(), voucher(20, 10))

    assert answer(used(), refund_asked(9, part=30)) == no(MISMATCH)
    assert answer(busy, refund_asked(20, part=30)) == no(BUSY)


@given(part=st.integers(0, 200))
def test_a_part_may_be_any_but_nothing(part: int) -> None:
    told = answer(used(), refund_asked(10, part=part))

    assert told == (READY if part else no(REFUND_AMOUNT))


def test_a_part_keeps_its_first_number_and_ends_by_no_other() -> None:
    asked = after(used(), refund_asked(10, part=30))
    assert after(asked, RefundDone(), RefundDone(nonce=3)) == asked
    begun = after(asked, begins(2, cumulative=9), begins(3), begins(4))
    assert begun.part == PartRefund(amount=30, nonce=3)
    assert after(begun, RefundDone(), RefundDone(nonce=2)) == begun
    done = after(begun, RefundDone(nonce=3, refunded=30))
    assert after(done, RefundDone(nonce=3), begins(5)) == done


def test_the_end_of_a_part_is_not_the_end_of_all() -> None:
    all_of_it = after(given_back(used(), 30), refund_asked(10))

    assert all_of_it.part is None
    assert after(all_of_it, begins(1), RefundDone(nonce=0)) == all_of_it
    assert after(all_of_it, RefundDone()).status is Status.OPEN


def test_a_parallel_channel_gives_no_part_and_burns_what_asked() -> None:
    channel = after(payee_channel(), *sold(10, 10, 10))
    asked = after(channel, refund_asked(50, part=30))

    assert answer(channel, refund_asked(50, part=30)) == no(REFUND_AMOUNT, burnt=True)
    assert asked.status is Status.OPEN
    assert isinstance(answer(asked, voucher(50, 10)), Spent)
