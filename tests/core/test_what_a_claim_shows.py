"""A strict channel once a claim has shown a voucher: that one buys nothing any more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.core import payee_rules
from agentpay.core.payee_channel import Fate, HeldVoucher, PayeeChannel
from agentpay.core.payee_events import (
    BUSY,
    MISMATCH,
    Admitted,
    ChainSeen,
    Closing,
    Refused,
    Spent,
    VoucherPublished,
)
from agentpay.core.payee_rules import Transition

from .factories import (
    REBORN,
    after,
    answer,
    charged,
    delivered,
    payee_channel,
    refund_asked,
    signature,
    sold,
    voucher,
)

NO = Refused(reason=MISMATCH, burnt=False)


def shown(channel: PayeeChannel) -> PayeeChannel:
    """A claim of what is due, by the voucher that it would take."""
    claimed = channel.claim_voucher()
    if claimed is None:
        return channel
    return after(channel, VoucherPublished(amount=claimed.amount))


def test_below_a_voucher_that_the_chain_shows_requests_go_on() -> None:
    channel = after(payee_channel(tagged=False), *sold(10, 10, 3))
    channel = after(channel, VoucherPublished(amount=10))

    assert answer(channel, voucher(10, 7)) == NO
    assert answer(channel, refund_asked(3)) == Closing(ready=True)
    channel = after(channel, *sold(4, 1, 1), *sold(9, 5, 5))
    assert answer(channel, voucher(10, 1)) == NO
    assert isinstance(answer(channel, voucher(11, 2)), Admitted)


def test_what_was_shown_is_forgotten_once_none_can_be_asked_at_it() -> None:
    channel = after(payee_channel(tagged=False), *sold(10, 10, 3))
    channel = after(channel, VoucherPublished(amount=10), *sold(13, 10, 10))
    channel = after(channel, VoucherPublished(amount=13))

    assert channel.used == ()
    assert channel.floor == 13 == channel.due
    assert channel.is_public(10)


def test_p12_a_voucher_that_the_chain_shows_learns_not_whether_a_channel_is_busy() -> (
    None
):
    channel = after(payee_channel(tagged=False), *sold(10, 10, 10))
    channel = after(channel, VoucherPublished(amount=10), voucher(20, 10))

    assert answer(channel, voucher(10, 10)) == NO
    assert answer(channel, voucher(30, 10)) == Refused(reason=BUSY, burnt=False)


def test_the_payer_of_a_request_that_runs_is_told_so_though_its_voucher_is_shown() -> (
    None
):
    channel = after(payee_channel(tagged=False), voucher(10, 10))
    channel = after(channel, VoucherPublished(amount=10))

    assert answer(channel, voucher(10, 10)) == Refused(reason=BUSY, burnt=False)


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(0, 9), st.booleans()), max_size=30
    ),
    st.integers(1, 9),
)
def test_a_strict_channel_sells_at_every_total_that_no_claim_has_shown(
    requests: list[tuple[int, int, bool]], price: int
) -> None:
    channel = payee_channel(tagged=False, balance=1000, window=64)
    public: set[int] = set()
    for maximum, charge, claims in requests:
        total = channel.charged + maximum
        if total in public:
            assert answer(channel, voucher(total, maximum)) == NO
            continue
        channel = after(channel, *sold(total, maximum, min(charge, maximum)))
        voucher_shown = channel.claim_voucher()
        if claims and voucher_shown is not None:
            channel = shown(channel)
            public.add(voucher_shown.amount)

    total = channel.charged + price
    said = answer(channel, voucher(total, price))
    assert isinstance(said, Admitted) == (total not in public)
    assert all(channel.is_public(amount) for amount in public)
    assert channel.floor <= channel.due


@pytest.mark.parametrize("tagged", [False, True])
def test_p1_a_dead_request_whose_voucher_is_shown_runs_again_for_nobody(
    tagged: bool,
) -> None:
    dead = after(payee_channel(tagged=tagged), voucher(10, 10))
    channel = after(dead, VoucherPublished(amount=10))

    assert isinstance(answer(dead, voucher(10, 10, owner=REBORN)), Admitted)
    said = payee_rules.apply(channel, voucher(10, 10, owner=REBORN))
    assert said.channel is channel
    assert said.answer == (Spent(fate=Fate.RUNNING) if tagged else NO)


def test_what_left_the_window_while_it_ran_runs_again_after_a_crash() -> None:
    channel = after(payee_channel(window=1), voucher(10, 10), *sold(20, 10, 10))

    assert channel.floor == 10
    assert isinstance(answer(channel, voucher(10, 10, owner=REBORN)), Admitted)


@pytest.mark.parametrize("first", [True, False])
def test_p1_what_left_the_window_and_is_shown_runs_again_for_nobody(
    first: bool,
) -> None:
    shows = VoucherPublished(amount=10)
    events = (shows, *sold(20, 10, 10)) if first else (*sold(20, 10, 10), shows)
    channel = after(payee_channel(window=1), voucher(10, 10), *events)

    assert channel.floor == 10
    for resource in ("GET /", ""):
        again = voucher(10, 10, owner=REBORN, resource=resource)
        said = payee_rules.apply(channel, again)
        assert said.channel is channel
        assert said.answer == Spent(fate=Fate.RUNNING)
    over = after(channel, charged(10, 4), delivered(10))
    assert (over.running, over.charged) == ((), 14)


def test_a_claim_prefers_the_voucher_of_a_request_that_is_over() -> None:
    channel = after(payee_channel(), voucher(15, 5), *sold(30, 5, 5), voucher(40, 5))

    assert channel.due == 5
    assert [v.amount for v in channel.held] == [15, 30, 40]
    assert channel.claim_voucher() == HeldVoucher(amount=30, signature=signature(30))


@pytest.mark.parametrize("streams", [0, 1])
def test_however_many_requests_run_side_by_side_what_is_over_can_be_claimed(
    streams: int,
) -> None:
    channel = payee_channel(window=64, in_flight_max=64, balance=10_000)
    channel = after(channel, *[voucher(1000, 1000)] * streams)
    price, least, at_once = 10, 1000 * streams, 5
    for number in range(1, 100):
        channel = after(channel, voucher(least + number * price, price, prepaid=True))
        ends = least + (number - at_once) * price
        if ends > least:
            channel = after(channel, charged(ends, price), delivered(ends))

        covers, ready = channel.claim_voucher(), channel.ready_voucher()
        assert covers is not None
        assert ready is None or channel.may_show(ready)
        at_hand = covers if channel.may_show(covers) else ready
        can_be_had = min(channel.due, at_hand.amount if at_hand else 0)
        assert channel.due - can_be_had <= 2 * at_once * price
        assert len(channel.held) <= 5


def test_the_voucher_of_a_request_that_runs_is_shown_only_of_who_leaves() -> None:
    channel = after(payee_channel(tagged=False), *sold(10, 10, 5), voucher(10, 5))
    leaving = ChainSeen(balance=100, claimed=0, pending_withdrawal=1)

    only = channel.claim_voucher()
    assert only is not None
    assert not channel.may_show(only)
    assert after(channel, leaving).may_show(only)
    assert after(channel, charged(10, 5), delivered(10)).may_show(only)


def test_p12_a_refund_that_anybody_may_ask_for_buries_nothing() -> None:
    channel = after(payee_channel(tagged=False), *sold(10, 10, 10), voucher(20, 10))
    shown = after(channel, VoucherPublished(amount=10))

    said = payee_rules.apply(shown, refund_asked(10, owner=REBORN))
    assert said == Transition(channel=shown, answer=NO)
    mine = answer(channel, refund_asked(10, owner=REBORN))
    assert mine == Closing(ready=True)
