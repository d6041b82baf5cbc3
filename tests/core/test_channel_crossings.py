"""
Messages that cross: holes that the random histories found in these very rules.
"""

from agentpay.core.payee_events import (
    CLOSING,
    EXCEEDS_BALANCE,
    Admitted,
    Closing,
    Noted,
    OwnersDied,
    RefundDone,
    Refused,
)
from agentpay.core.payer_channel import (
    Booked,
    CloseWanted,
    Issued,
    Misbehaved,
    SpentReported,
    TicketCharged,
)

from .factories import (
    ALIVE,
    REBORN,
    after,
    answer,
    charged,
    delivered,
    given_back,
    payee_channel,
    payer_after,
    payer_answer,
    payer_channel,
    refund_asked,
    sold,
    voucher,
    wanted,
)


def test_a_late_receipt_does_not_accuse_an_honest_payee() -> None:
    """A fixed price in flight may be given back, so no receipt counts it."""
    payee = after(
        payee_channel(),
        voucher(10, 10, prepaid=True),
        voucher(15, 5, prepaid=True),
        charged(15, 5),
    )
    told = payee.receipt_total(15)
    payer = payer_after(
        payer_channel(),
        wanted(10),
        wanted(5),
        TicketCharged(cumulative=10, charged=0),
        TicketCharged(cumulative=15, charged=5),
    )

    assert told == 5
    assert payer_answer(payer, SpentReported(charged=told)) == Booked()
    assert isinstance(payer_answer(payer, SpentReported(charged=15)), Misbehaved)


def test_a_receipt_frees_what_it_did_not_charge() -> None:
    """The payer may spend the rest at once, so it must not be reserved any more."""
    payee = after(payee_channel(), voucher(10, 10), charged(10, 3))
    payer = payer_after(payer_channel(), wanted(10))
    payer = payer_after(payer, TicketCharged(cumulative=10, charged=3))
    issued = payer_answer(payer, wanted(10))

    assert issued == Issued(cumulative=13)
    assert isinstance(answer(payee, voucher(13, 10)), Admitted)


def test_what_a_receipt_said_is_not_given_back() -> None:
    channel = after(payee_channel(), voucher(10, 10), charged(10, 3), given_back(10))

    assert channel.charged == 3


def test_an_answer_on_its_way_takes_no_slot() -> None:
    channel = after(payee_channel(in_flight_max=1), voucher(10, 10), charged(10, 10))

    assert isinstance(answer(channel, voucher(20, 10)), Admitted)


def test_dead_reservations_take_no_slots() -> None:
    channel = after(payee_channel(in_flight_max=1), voucher(10, 10))

    assert isinstance(answer(channel, voucher(20, 10, owner=REBORN)), Admitted)


def test_a_refund_asked_again_is_answered_again() -> None:
    channel = after(payee_channel(), voucher(10, 10), refund_asked(11))

    assert answer(channel, refund_asked(11)) == Closing(ready=False)
    assert answer(channel, refund_asked(12)) == Closing(ready=False)
    done = after(channel, charged(10, 10), delivered(10))
    assert answer(done, refund_asked(12)) == Closing(ready=True)


def test_a_strict_channel_that_closes_admits_nothing() -> None:
    """The refund would take the money that the request was admitted on."""
    channel = payee_channel(tagged=False)
    channel = after(channel, *sold(10, 10, 10), refund_asked(10))

    assert answer(channel, voucher(20, 10)) == Refused(reason=CLOSING, burnt=False)


def test_a_refunded_strict_channel_admits_nothing_on_money_that_is_gone() -> None:
    channel = payee_channel(tagged=False)
    channel = after(channel, *sold(10, 10, 10), refund_asked(10), RefundDone())

    refused = answer(channel, voucher(20, 10))
    assert refused == Refused(reason=EXCEEDS_BALANCE, burnt=False)


def test_a_dead_request_does_not_block_a_strict_channel() -> None:
    channel = after(payee_channel(tagged=False), voucher(10, 10, resource="GET /a"))
    other = voucher(10, 10, owner=REBORN, resource="GET /b")

    assert isinstance(answer(channel, other), Admitted)
    assert answer(channel, refund_asked(0, owner=REBORN)) == Closing(ready=True)


def test_a_lane_signs_lower_amounts_than_before() -> None:
    """A payee that forgot, or charged little, wants less than was signed once."""
    payer = payer_channel(tagged=False, window=1)
    for maximum in (30, 20, 10):
        cumulative = payer.spent + maximum
        assert payer_answer(payer, wanted(maximum)) == Issued(cumulative=cumulative)
        payer = payer_after(payer, wanted(maximum))
        booked = TicketCharged(cumulative=cumulative, charged=0)
        payer = payer_after(payer, booked)
    closing = payer_after(payer, CloseWanted())

    assert payer_answer(payer, CloseWanted()) == Issued(cumulative=0)
    assert answer(payee_channel(tagged=False), refund_asked(0)) == Closing(ready=True)
    assert closing.exposure <= closing.headroom


def test_noting_nothing_changes_nothing() -> None:
    channel = payee_channel()

    assert answer(channel, OwnersDied(owner=ALIVE)) == Noted()
    assert after(channel, OwnersDied(owner=ALIVE)) == channel
