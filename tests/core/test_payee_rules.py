"""
What the payee's rules answer, one rule at a time, on both sides of each limit.
"""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.core.payee_channel import (
    Fate,
    HeldVoucher,
    PayeeChannel,
    Reservation,
    Status,
    Used,
)
from agentpay.core.payee_checks import check
from agentpay.core.payee_events import (
    BUSY,
    CLOSING,
    EXCEEDS_BALANCE,
    MISMATCH,
    NOT_COVERED,
    Admitted,
    ChainSeen,
    Charged,
    Closing,
    Noted,
    OutcomeAsked,
    OwnersDied,
    Refused,
    Spent,
    VoucherPublished,
    VoucherRefused,
)
from agentpay.core.payee_rules import apply
from agentpay.errors import InvariantViolated

from .factories import (
    ALIVE,
    REBORN,
    after,
    answer,
    charged,
    delivered,
    given_back,
    payee_channel,
    refund_asked,
    signature,
    sold,
    voucher,
)


def strict(*, balance: int = 100) -> PayeeChannel:
    return payee_channel(tagged=False, balance=balance)


# Rule 3: admitting.


def test_the_last_unit_of_the_balance_can_be_spent() -> None:
    channel = payee_channel(balance=10)

    assert isinstance(answer(channel, voucher(10, 10)), Admitted)


def test_a_voucher_above_the_balance_is_burnt() -> None:
    channel = payee_channel(balance=10)

    refused = answer(channel, voucher(11, 1))
    assert refused == Refused(reason=EXCEEDS_BALANCE, burnt=True)
    assert after(channel, voucher(11, 1)).find_used(11) is not None


def test_a_voucher_covers_what_is_charged_reserved_and_wanted() -> None:
    channel = after(payee_channel(), *sold(10, 10, 4), voucher(20, 6))

    assert channel.charged + channel.reserved == 10
    assert isinstance(answer(channel, voucher(13, 10)), Admitted)
    assert answer(channel, voucher(13, 11)) == Refused(reason=NOT_COVERED, burnt=True)


def test_more_requests_at_once_than_agreed_are_burnt() -> None:
    channel = after(payee_channel(in_flight_max=2), voucher(1, 1), voucher(2, 1))

    assert answer(channel, voucher(3, 1)) == Refused(reason=BUSY, burnt=True)
    free = after(channel, charged(1, 1), delivered(1))
    assert isinstance(answer(free, voucher(3, 1)), Admitted)


def test_an_admitted_request_is_reserved_and_its_voucher_held() -> None:
    transition = apply(payee_channel(), voucher(10, 7))

    assert isinstance(transition.answer, Admitted)
    assert transition.touched == (10,)
    assert (transition.channel.reserved, transition.channel.highest) == (7, 10)
    held = HeldVoucher(amount=10, signature=signature(10))
    assert transition.channel.held == (held,)


def test_a_fixed_price_is_charged_before_it_is_served() -> None:
    channel = after(payee_channel(), voucher(10, 7, prepaid=True))

    assert (channel.charged, channel.reserved, channel.due) == (7, 0, 0)


def test_the_window_remembers_as_many_amounts_as_agreed() -> None:
    channel = payee_channel(window=3)
    for cumulative in (1, 2, 3):
        channel = after(channel, *sold(cumulative, 1, 0))
    assert (len(channel.used), channel.floor) == (3, 0)

    channel = after(channel, *sold(4, 1, 0))
    assert [used.cumulative for used in channel.used] == [2, 3, 4]
    assert channel.floor == 1


def test_an_amount_below_a_full_window_is_served_and_raises_the_floor() -> None:
    channel = payee_channel(window=2)
    for cumulative in (10, 20):
        channel = after(channel, *sold(cumulative, 1, 1))
    late = after(channel, voucher(5, 1))

    assert late.floor == 5
    assert late.reserved == 1
    assert answer(late, voucher(5, 1)) == Spent(fate=Fate.RUNNING)
    served = after(late, charged(5, 1), delivered(5))
    assert answer(served, voucher(5, 1)) == Spent(fate=Fate.OLD)


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 6))
def test_no_amount_is_admitted_twice(amounts: list[int], window: int) -> None:
    channel = payee_channel(window=window, in_flight_max=99, balance=40)
    admitted: list[int] = []
    for amount in amounts:
        transition = apply(channel, voucher(amount, 0))
        channel = transition.channel
        if isinstance(transition.answer, Admitted):
            admitted.append(amount)

    assert len(admitted) == len(set(admitted))
    assert len(channel.used) <= window


# Rule 4: telling.


def test_asking_runs_nothing_and_burns_what_is_unused() -> None:
    asked = apply(payee_channel(), OutcomeAsked(cumulative=10, owner=ALIVE))

    assert asked.answer == Refused(reason="asked", burnt=True)
    assert asked.channel.used == (Used(cumulative=10, fate=Fate.VOID),)


def test_asking_after_a_running_request_says_so() -> None:
    channel = after(payee_channel(), voucher(10, 10), charged(10, 4, more=True))
    asked = OutcomeAsked(cumulative=10, owner=ALIVE)

    assert answer(channel, asked) == Spent(fate=Fate.RUNNING, charged=4)
    assert after(channel, asked) == channel


def test_a_voucher_with_other_terms_is_burnt_once_and_only_if_unused() -> None:
    refused = VoucherRefused(cumulative=10)
    sold_before = after(payee_channel(), *sold(10, 10, 3))

    burnt = after(payee_channel(), refused)
    assert answer(burnt, voucher(10, 10)) == Spent(fate=Fate.VOID)
    assert after(sold_before, refused) == sold_before
    assert after(strict(), refused) == strict()


# Rule 5: charging.


def test_what_was_not_used_is_free_again() -> None:
    channel = after(payee_channel(), *sold(10, 10, 3))

    assert (channel.charged, channel.reserved, channel.due) == (3, 0, 3)


def test_a_fixed_price_whose_handler_failed_costs_nothing() -> None:
    channel = after(payee_channel(), voucher(10, 10, prepaid=True), given_back(10))

    assert (channel.charged, channel.reserved, channel.due) == (0, 0, 0)
    assert answer(channel, voucher(10, 10)) == Spent(fate=Fate.CHARGED)


def test_a_stream_charges_slice_by_slice() -> None:
    channel = after(payee_channel(), voucher(10, 10))
    for amount in (2, 5, 3):
        channel = after(channel, charged(10, amount, more=True))

    assert (channel.charged, channel.reserved) == (5, 5)
    assert after(channel, charged(10, 9), delivered(10)).due == 9


@pytest.mark.parametrize("amount", [-1, 11])
def test_nothing_is_charged_beyond_the_reservation(amount: int) -> None:
    channel = after(payee_channel(), voucher(10, 10))

    with pytest.raises(InvariantViolated):
        apply(channel, given_back(10, amount))
    with pytest.raises(InvariantViolated):
        apply(channel, Charged(cumulative=10, owner=ALIVE, charged=11))


def test_an_answer_says_what_a_request_is_charged() -> None:
    channel = after(payee_channel(), voucher(10, 10))

    assert answer(channel, charged(10, 4)) == Noted(charged=4)
    told = after(channel, charged(10, 4))
    assert answer(told, charged(10, 9)) == Noted(charged=4)
    assert answer(told, given_back(10)) == Noted(charged=4)
    assert answer(told, delivered(10)) == Noted(charged=4)


def test_receipts_add_up_what_is_final() -> None:
    channel = after(payee_channel(), *sold(10, 10, 3), voucher(13, 10))

    assert channel.receipt_total(13) == 3
    assert after(channel, charged(13, 4)).receipt_total(13) == 7
    assert after(channel, charged(13, 4), delivered(13)).receipt_total(13) == 7


def test_the_dead_are_closed_at_what_they_charged() -> None:
    channel = after(
        payee_channel(),
        voucher(10, 10, prepaid=True),
        voucher(20, 10),
        charged(20, 4, more=True),
        voucher(30, 10, owner=REBORN),
        OwnersDied(owner=REBORN),
    )

    assert [r.cumulative for r in channel.running] == [30]
    assert (channel.charged, channel.reserved) == (14, 10)


# Rule 7: strict channels.


def test_a_strict_voucher_is_exactly_what_was_charged_and_the_price() -> None:
    channel = after(strict(), *sold(10, 10, 10))

    assert isinstance(answer(channel, voucher(15, 5)), Admitted)
    for cumulative in (14, 16):
        refused = answer(channel, voucher(cumulative, 5))
        assert refused == Refused(reason=MISMATCH, burnt=False)


def test_a_strict_channel_serves_one_request_at_a_time() -> None:
    channel = after(strict(), voucher(10, 10))

    for again in (voucher(10, 10), voucher(20, 10)):
        assert answer(channel, again) == Refused(reason=BUSY, burnt=False)


def test_a_strict_voucher_for_all_of_the_balance_is_admitted() -> None:
    assert isinstance(answer(strict(balance=10), voucher(10, 10)), Admitted)
    refused = answer(strict(balance=10), voucher(11, 11))
    assert refused == Refused(reason=EXCEEDS_BALANCE, burnt=False)


def test_a_failed_strict_request_may_be_sent_again() -> None:
    failed = after(strict(), voucher(10, 10, prepaid=True), given_back(10))

    assert isinstance(answer(failed, voucher(10, 10)), Admitted)


def test_a_dead_strict_request_runs_again() -> None:
    dead = after(strict(), voucher(10, 10))

    again = answer(dead, voucher(10, 10, owner=REBORN))
    assert isinstance(again, Admitted)
    assert again.reservation.owner == REBORN


# Rule 10: claims and refunds.


def test_a_claim_uses_the_smallest_voucher_that_covers_it() -> None:
    channel = after(payee_channel(), *sold(10, 10, 5), *sold(90, 10, 4))

    assert channel.due == 9
    claim = channel.claim_voucher()
    assert claim is not None
    assert claim.amount == 10


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 9)), max_size=30))
def test_what_is_due_is_always_covered(requests: list[tuple[int, int]]) -> None:
    channel = payee_channel()
    for cumulative, amount in requests:
        transition = apply(channel, voucher(cumulative, amount))
        channel = transition.channel
        if isinstance(transition.answer, Admitted):
            channel = after(channel, charged(cumulative, amount), delivered(cumulative))
        claim = channel.claim_voucher()

        assert channel.due == 0 or claim is not None
        assert claim is None or claim.amount >= channel.due
        assert len(channel.held) <= 2


def test_a_refund_waits_for_what_runs_and_admits_no_more() -> None:
    running = after(payee_channel(), voucher(10, 10))
    channel = after(running, refund_asked(50))

    assert channel.status is Status.CLOSING
    assert answer(running, refund_asked(50)) == Closing(ready=False)
    assert answer(channel, voucher(60, 1)) == Refused(reason=CLOSING, burnt=True)
    done = after(channel, charged(10, 10), delivered(10))
    assert answer(done, refund_asked(50)) == Closing(ready=True)


def test_a_request_that_ran_when_a_refund_was_asked_runs_again_after_a_crash() -> None:
    closing = after(payee_channel(), voucher(10, 10), refund_asked(50))

    assert isinstance(answer(closing, voucher(10, 10, owner=REBORN)), Admitted)


def test_a_deposit_that_arrives_while_closing_is_given_back_too() -> None:
    closing = after(payee_channel(), *sold(10, 10, 10), refund_asked(50))
    funded = after(closing, ChainSeen(balance=500, claimed=0, pending_withdrawal=0))

    assert funded.balance == 500
    assert answer(funded, voucher(20, 10)) == Refused(reason=CLOSING, burnt=True)


def test_a_strict_refund_is_asked_with_exactly_what_was_charged() -> None:
    channel = after(strict(), *sold(10, 10, 10))

    assert answer(channel, refund_asked(11)) == Refused(reason=MISMATCH, burnt=False)
    assert answer(channel, refund_asked(10)) == Closing(ready=True)
    busy = after(channel, voucher(20, 10))
    assert answer(busy, refund_asked(10)) == Refused(reason=BUSY, burnt=False)


def test_a_published_voucher_keeps_its_fate_and_proves_nobody_its_payer() -> None:
    channel = after(payee_channel(), *sold(10, 10, 3), *sold(20, 10, 10))
    shown = after(channel, VoucherPublished(amount=10))

    assert answer(shown, voucher(10, 10)) == answer(channel, voucher(10, 10))
    assert (shown.charged, shown.highest, shown.floor) == (13, 20, 0)
    assert [shown.is_public(amount) for amount in (10, 20, 30)] == [True, False, False]
    assert not channel.is_public(10)


def test_a_voucher_that_is_published_while_its_request_runs_stays_public() -> None:
    channel = after(payee_channel(), voucher(10, 10), VoucherPublished(amount=10))
    over = after(channel, charged(10, 4), delivered(10))

    assert channel.is_public(10)
    assert over.find_used(10) == Used(
        cumulative=10, fate=Fate.CHARGED, charged=4, shown=True
    )


def test_a_published_voucher_under_the_floor_is_public() -> None:
    channel = after(payee_channel(window=1), *sold(10, 10, 4), *sold(14, 10, 10))

    assert channel.is_public(10)
    assert not channel.is_public(14)


# One in flight, one remembered.


def test_a_window_of_one_sells_each_amount_once() -> None:
    channel = payee_channel(window=1, in_flight_max=1)
    channel = after(channel, *sold(10, 10, 4), *sold(14, 10, 10))

    assert (channel.charged, channel.floor) == (14, 10)
    assert answer(channel, voucher(10, 10)) == Spent(fate=Fate.OLD)
    assert answer(channel, voucher(14, 10)) == Spent(fate=Fate.CHARGED, charged=10)


# Rule 8: the sentences.


SOLD = replace(after(payee_channel(), *sold(10, 10, 3)), floor=2)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (replace(SOLD, charged=-1), "charged is never negative"),
        (replace(SOLD, charged=11), "never exceed what was authorized"),
        (replace(SOLD, highest=9), "never shrinks"),
        (replace(SOLD, highest=11), "is held"),
        (replace(SOLD, floor=1), "never sinks"),
        (replace(SOLD, window=0), "is bounded"),
        (replace(SOLD, floor=10), "is above the floor"),
    ],
)
def test_a_broken_promise_is_noticed(broken: PayeeChannel, sentence: str) -> None:
    with pytest.raises(InvariantViolated, match=sentence):
        check(SOLD, broken)


def test_a_closed_channel_opened_again_is_noticed() -> None:
    closed = replace(payee_channel(), status=Status.CLOSED)

    with pytest.raises(InvariantViolated, match="not opened again"):
        check(closed, replace(closed, status=Status.OPEN))


def test_a_reservation_that_charges_too_much_does_not_exist() -> None:
    with pytest.raises(InvariantViolated, match="a reservation of 10"):
        Reservation(
            cumulative=1,
            maximum=10,
            charged=11,
            prepaid=False,
            owner=ALIVE,
            resource="/",
        )
