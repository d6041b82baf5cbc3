"""
What the payer signs and books, one rule at a time, on both sides of each limit.
"""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.core.payer_channel import (
    Booked,
    ChannelEmptied,
    CloseWanted,
    DepositArrived,
    DepositLapsed,
    DepositNeeded,
    Issued,
    Misbehaved,
    PayerChannel,
    PayerStatus,
    SpentReported,
    Ticket,
    TicketArrived,
    TicketCharged,
    TicketVoid,
    TicketWanted,
    TotalShown,
    Unusable,
    Wait,
)
from agentpay.core.payer_checks import check
from agentpay.errors import InvariantViolated

from .factories import (
    payer_after,
    payer_answer,
    payer_channel,
    pending_deposit,
    signed_for,
    wanted,
)

# Rules 12 to 15: signing.


def test_requests_in_flight_are_signed_on_top_of_each_other() -> None:
    assert signed_for(payer_channel(), [10, 5, 1]) == [10, 15, 16]


def test_what_was_not_charged_is_signed_for_again() -> None:
    channel = payer_after(
        payer_channel(), wanted(10), TicketCharged(cumulative=10, charged=4)
    )

    assert payer_answer(channel, wanted(10)) == Issued(cumulative=14)


def test_an_amount_is_never_signed_twice() -> None:
    channel = payer_after(payer_channel(), wanted(10), TicketVoid(cumulative=10))

    assert payer_answer(channel, wanted(10)) == Issued(cumulative=11)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=60),
    st.integers(1, 5),
)
def test_no_history_signs_an_amount_twice(
    requests: list[tuple[int, int]], window: int
) -> None:
    channel = payer_channel(window=window, headroom=30, balance=50)
    signed: list[int] = []
    for maximum, charged in requests:
        answer = payer_answer(channel, wanted(maximum))
        channel = payer_after(channel, wanted(maximum))
        if isinstance(answer, Issued):
            signed.append(answer.cumulative)
            booked = TicketCharged(
                cumulative=answer.cumulative, charged=min(charged, maximum)
            )
            channel = payer_after(channel, booked)

    assert len(signed) == len(set(signed))
    assert max(signed, default=0) <= 50


def test_the_whole_headroom_may_be_in_flight_and_no_more() -> None:
    channel = payer_after(payer_channel(headroom=20), wanted(15))

    assert payer_answer(channel, wanted(5)) == Issued(cumulative=20)
    assert payer_answer(channel, wanted(6)) == Wait(reason="the headroom is in flight")


def test_a_price_above_the_headroom_is_never_signed() -> None:
    channel = payer_channel(headroom=20)

    assert payer_answer(channel, wanted(20)) == Issued(cumulative=20)
    assert isinstance(payer_answer(channel, wanted(21)), Unusable)


def test_no_amount_above_the_headroom_is_signed_after_refusals() -> None:
    """Void amounts are gone: the next ones climb, up to the headroom and no higher."""
    channel = payer_channel(headroom=12)
    for cumulative in (10, 11, 12):
        assert payer_answer(channel, wanted(10)) == Issued(cumulative=cumulative)
        channel = payer_after(channel, wanted(10), TicketVoid(cumulative=cumulative))

    assert isinstance(payer_answer(channel, wanted(10)), Unusable)
    assert channel.exposure == 12


def test_the_whole_balance_may_be_signed_and_no_more() -> None:
    channel = payer_channel(balance=10)

    assert payer_answer(channel, wanted(10)) == Issued(cumulative=10)
    assert payer_answer(channel, wanted(11)) == DepositNeeded(short=1)


def test_as_many_requests_are_sent_at_once_as_the_payee_serves() -> None:
    channel = payer_channel(in_flight_max=2)

    assert len(signed_for(channel, [1, 1])) == 2
    assert len(signed_for(channel, [1, 1, 1])) == 2


def test_a_voucher_under_way_is_not_pushed_out_of_the_window() -> None:
    channel = payer_after(payer_channel(window=3, in_flight_max=3), wanted(1))
    for _ in range(2):
        channel = payer_after(channel, wanted(1))
        highest = channel.highest
        channel = payer_after(channel, TicketCharged(cumulative=highest, charged=1))

    full = Wait(reason="the payee's window is full")
    assert payer_answer(channel, wanted(1)) == full
    arrived = payer_after(channel, TicketArrived(cumulative=1))
    assert payer_answer(arrived, wanted(1)) == Issued(cumulative=4)


def test_amounts_that_the_payee_forgot_are_not_signed_again() -> None:
    channel = payer_channel(window=1, headroom=10, balance=10)
    for cumulative in (10, 9):
        maximum = 10 if cumulative == 10 else 1
        channel = payer_after(
            channel, wanted(maximum), TicketCharged(cumulative=10, charged=8)
        )
    channel = payer_after(channel, TicketCharged(cumulative=9, charged=0))

    assert channel.signed == (9, 10)
    assert isinstance(payer_answer(channel, wanted(1)), Unusable)


def test_a_lower_amount_stays_above_what_the_payee_may_have_forgotten() -> None:
    channel = replace(
        payer_channel(window=2, balance=10, headroom=10),
        spent=8,
        signed=(7, 9, 10),
        acknowledged=10,
    )

    assert payer_answer(channel, wanted(1)) == Issued(cumulative=8)
    full = replace(channel, signed=(8, 9, 10))
    assert isinstance(payer_answer(full, wanted(1)), Unusable)


# Rule 18: deposits.


def test_a_deposit_is_carried_when_the_balance_falls_short() -> None:
    deposit = pending_deposit(50)
    channel = payer_channel(balance=10)

    enough = payer_answer(channel, wanted(10, deposit=deposit))
    short = payer_answer(channel, wanted(11, deposit=deposit))
    assert enough == Issued(cumulative=10)
    assert short == Issued(cumulative=11, deposit=deposit)


def test_a_deposit_is_carried_early_when_little_is_left() -> None:
    deposit = pending_deposit(50)
    early = TicketWanted(maximum=10, deposit=deposit, low_water=91)
    later = TicketWanted(maximum=10, deposit=deposit, low_water=90)

    answer = payer_answer(payer_channel(), early)
    assert answer == Issued(cumulative=10, deposit=deposit)
    assert payer_answer(payer_channel(), later) == Issued(cumulative=10)


def test_vouchers_above_the_confirmed_balance_wait_for_the_deposit() -> None:
    deposit = pending_deposit(50)
    channel = payer_after(payer_channel(balance=10), wanted(11, deposit=deposit))

    waiting = Wait(reason="a deposit is on its way")
    assert payer_answer(channel, wanted(1)) == waiting
    funded = payer_after(channel, DepositArrived(salt=deposit.salt))
    assert payer_answer(funded, wanted(1)) == Issued(cumulative=12)
    assert (funded.balance, funded.deposit) == (60, None)


def test_a_deposit_that_was_lost_goes_along_again_on_a_lane_as_it_was_signed() -> None:
    lost, fresh = pending_deposit(50), pending_deposit(50, salt=2)
    lane = payer_after(payer_channel(tagged=False, balance=0), wanted(10, deposit=lost))
    asked = TicketWanted(maximum=10, deposit=fresh, carries=True)
    idle = payer_after(lane, TicketCharged(cumulative=10, charged=0))
    waiting = Wait(reason="a deposit is on its way")

    assert payer_answer(lane, asked) == waiting  # a request carries it
    assert payer_answer(idle, wanted(10, deposit=fresh)) == waiting
    again = Issued(cumulative=10, deposit=lost, again=True)
    assert payer_answer(idle, asked) == again
    assert payer_after(idle, asked).deposit == lost


def test_a_deposit_that_was_lost_goes_along_only_where_it_is_needed() -> None:
    lost = pending_deposit(50)
    lane = payer_channel(tagged=False, balance=10)
    lane = payer_after(lane, wanted(20, deposit=lost))
    idle = payer_after(lane, TicketCharged(cumulative=20, charged=0))
    asked = TicketWanted(maximum=10, carries=True)

    assert payer_answer(idle, asked) == Issued(cumulative=10)


def test_a_parallel_channel_waits_for_a_deposit_that_is_on_its_way() -> None:
    channel = payer_after(
        payer_channel(balance=0), wanted(10, deposit=pending_deposit(50))
    )
    idle = payer_after(channel, TicketCharged(cumulative=10, charged=0))

    answer = payer_answer(idle, TicketWanted(maximum=10, carries=True))
    assert answer == Wait(reason="a deposit is on its way")


def test_a_deposit_is_counted_once() -> None:
    deposit = pending_deposit(50)
    channel = payer_after(payer_channel(balance=10), wanted(11, deposit=deposit))
    arrived = DepositArrived(salt=deposit.salt)

    assert payer_after(channel, arrived, arrived).balance == 60
    assert (
        payer_after(channel, DepositArrived(salt=pending_deposit(1, salt=9).salt))
        == channel
    )


def test_a_lapsed_deposit_makes_room_for_another() -> None:
    deposit, other = pending_deposit(50), pending_deposit(50, salt=2)
    channel = payer_after(payer_channel(balance=10), wanted(11, deposit=deposit))
    lapsed = payer_after(
        channel, TicketVoid(cumulative=11), DepositLapsed(salt=deposit.salt)
    )

    assert lapsed.balance == 10
    issued = payer_answer(lapsed, wanted(11, deposit=other))
    assert issued == Issued(cumulative=12, deposit=other)


# Rule 16: booking.


def test_a_charge_above_the_maximum_stops_the_channel() -> None:
    channel = payer_after(payer_channel(), wanted(10))
    lie = TicketCharged(cumulative=10, charged=11)

    assert isinstance(payer_answer(channel, lie), Misbehaved)
    stopped = payer_after(channel, lie)
    assert (stopped.status, stopped.spent) == (PayerStatus.STOPPED, 10)
    assert isinstance(payer_answer(stopped, wanted(1)), Unusable)
    assert isinstance(payer_answer(stopped, CloseWanted()), Unusable)


def test_an_answer_that_comes_twice_is_booked_once() -> None:
    booked = TicketCharged(cumulative=10, charged=4)
    channel = payer_after(payer_channel(), wanted(10), booked, booked)

    assert channel.spent == 4


def test_a_total_beyond_what_was_agreed_stops_the_channel() -> None:
    """C13: a payee's word moves nothing; it can only end the business."""
    channel = payer_after(
        payer_channel(), wanted(10), TicketCharged(cumulative=10, charged=4), wanted(10)
    )

    assert payer_answer(channel, SpentReported(charged=14)) == Booked()
    assert isinstance(payer_answer(channel, SpentReported(charged=15)), Misbehaved)
    lied = payer_after(channel, SpentReported(charged=15))
    assert (lied.status, lied.spent) == (PayerStatus.STOPPED, 4)


# Rule 10: refunds.


def test_a_refund_is_asked_with_a_fresh_amount_once_all_is_final() -> None:
    channel = payer_after(payer_channel(), wanted(10))
    assert payer_answer(channel, CloseWanted()) == Wait(reason="requests are in flight")

    idle = payer_after(channel, TicketCharged(cumulative=10, charged=10))
    assert payer_answer(idle, CloseWanted()) == Issued(cumulative=11)
    closing = payer_after(idle, CloseWanted())
    assert closing.status is PayerStatus.CLOSING
    assert isinstance(payer_answer(closing, wanted(1)), Unusable)


def test_a_refund_asked_again_presents_the_same_amount() -> None:
    closing = payer_after(payer_channel(), CloseWanted())

    assert payer_answer(closing, CloseWanted()) == Issued(cumulative=1)
    assert payer_after(closing, CloseWanted()) == closing


def test_a_channel_spent_to_the_end_can_still_be_closed() -> None:
    channel = payer_after(
        payer_channel(balance=10), wanted(10), TicketCharged(cumulative=10, charged=10)
    )

    assert payer_answer(channel, CloseWanted()) == Issued(cumulative=9)


@pytest.mark.parametrize("tagged", [True, False])
def test_a_channel_that_no_deposit_came_to_is_closed_without_its_payee(
    tagged: bool,
) -> None:
    deposit = pending_deposit(50)
    never = payer_channel(balance=0, tagged=tagged)
    tried = payer_after(never, wanted(10, deposit=deposit))
    failed = payer_after(tried, TicketVoid(cumulative=10))
    lapsed = payer_after(failed, DepositLapsed(salt=deposit.salt))

    assert isinstance(payer_answer(tried, CloseWanted()), Wait)
    assert isinstance(payer_answer(failed, CloseWanted()), Wait)
    for empty in (never, lapsed):
        assert payer_answer(empty, CloseWanted()) == Booked()
        assert payer_after(empty, CloseWanted()).status is PayerStatus.CLOSED


def test_an_emptied_channel_is_closed() -> None:
    channel = payer_after(
        payer_channel(), wanted(10), TicketCharged(cumulative=10, charged=10)
    )
    emptied = payer_after(channel, CloseWanted(), ChannelEmptied(returned=90))

    assert (emptied.status, emptied.balance, emptied.open) == (
        PayerStatus.CLOSED,
        10,
        (),
    )
    assert isinstance(payer_answer(emptied, wanted(1)), Unusable)


# Rule 20: lanes.


def test_a_lane_has_one_request_in_flight() -> None:
    channel = payer_after(payer_channel(tagged=False), wanted(10))

    waiting = Wait(reason="the payee serves no more at once")
    assert payer_answer(channel, wanted(1)) == waiting


def test_a_lane_signs_exactly_what_was_charged_and_the_price() -> None:
    channel = payer_after(
        payer_channel(tagged=False), wanted(10), TicketCharged(cumulative=10, charged=4)
    )

    assert payer_answer(channel, wanted(3)) == Issued(cumulative=7)
    assert payer_answer(channel, wanted(6)) == Issued(cumulative=10)
    assert payer_answer(channel, CloseWanted()) == Issued(cumulative=4)


# The sentences.


BOUGHT = payer_after(payer_channel(), wanted(4), TicketCharged(cumulative=4, charged=4))


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (replace(BOUGHT, spent=3), "never shrinks"),
        (replace(BOUGHT, headroom=1, signed=(4, 90)), "nothing is signed"),
        (
            replace(
                BOUGHT, signed=(4, 200), open=(Ticket(cumulative=200, maximum=101),)
            ),
            "open requests stay",
        ),
        (replace(BOUGHT, open=(Ticket(cumulative=4, maximum=1),)), "of its own"),
        (replace(BOUGHT, open=(Ticket(cumulative=6, maximum=1),)), "of its own"),
    ],
)
def test_a_broken_promise_is_noticed(broken: PayerChannel, sentence: str) -> None:
    with pytest.raises(InvariantViolated, match=sentence):
        check(BOUGHT, broken)


# Rule 20: the totals of a strict payee.


@given(st.integers(0, 40), st.integers(0, 40))
def test_c13_a_lane_goes_on_from_any_total_that_its_vouchers_allow(
    first: int, total: int
) -> None:
    channel = payer_after(
        payer_channel(tagged=False),
        wanted(20),
        TicketCharged(cumulative=20, charged=min(first, 20)),
        wanted(10),
    )
    cumulative = channel.open[0].cumulative
    shown = TotalShown(cumulative=cumulative, total=total)

    answer, after = payer_answer(channel, shown), payer_after(channel, shown)

    if total > channel.highest:
        assert isinstance(answer, Misbehaved)
        assert "an old copy" in answer.reason
        assert after.status is PayerStatus.STOPPED
        return
    assert (after.spent, after.open, after.highest) == (total, (), channel.highest)
    assert payer_answer(after, wanted(5)) == Issued(cumulative=total + 5)


def test_a_total_is_heard_of_an_open_request_of_a_lane_only() -> None:
    shown = TotalShown(cumulative=10, total=3)

    for channel in (
        payer_after(payer_channel(), wanted(10)),
        payer_channel(tagged=False),
    ):
        assert payer_after(channel, shown) == channel
