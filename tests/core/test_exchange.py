"""
What a payer makes of an answer: only one that names its voucher closes it.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.core.exchange import Booking, ChannelAnswer, Next, Verdict, judge

STATUSES = st.sampled_from((200, 204, 301, 400, 402, 409, 429, 500, 502, 503))
AMOUNTS = st.integers(0, 100)
ANSWERS = st.builds(
    ChannelAnswer,
    status=STATUSES,
    success=st.none() | st.booleans(),
    fate=st.none() | st.sampled_from(("charged", "void", "running", "old", "?")),
    charged=st.none() | AMOUNTS,
    corrected=st.none() | AMOUNTS,
    busy=st.booleans(),
)


def says(
    status: int,
    *,
    fate: str | None = None,
    success: bool | None = None,
    charged: int | None = None,
    corrected: int | None = None,
    busy: bool = False,
    repeated: bool = False,
) -> ChannelAnswer:
    return ChannelAnswer(
        status=status,
        success=success,
        fate=fate,
        charged=charged,
        corrected=corrected,
        busy=busy,
        repeated=repeated,
    )


def tagged(answer: ChannelAnswer) -> Verdict:
    return judge(answer, tagged=True, spent=5, maximum=10, resent=False)


def strict(answer: ChannelAnswer, *, resent: bool = False) -> Verdict:
    return judge(answer, tagged=False, spent=5, maximum=10, resent=resent)


@given(ANSWERS)
def test_only_a_named_fate_closes_a_voucher(answer: ChannelAnswer) -> None:
    verdict = tagged(answer)

    named = answer.fate in ("charged", "void", "old")
    closes = verdict.booking in (Booking.CHARGED, Booking.VOID, Booking.OLD)
    assert closes == named


@given(ANSWERS, st.booleans())
def test_a_lane_books_no_more_than_it_agreed_to_on_a_correction(
    answer: ChannelAnswer, resent: bool
) -> None:
    verdict = strict(answer, resent=resent)

    if verdict.booking is Booking.CHARGED and not answer.success:
        assert 0 <= verdict.charged <= 10
    assert verdict.booking is not Booking.VOID


@given(ANSWERS, st.booleans(), st.booleans())
def test_nothing_is_paid_again_while_it_may_still_be_charged(
    answer: ChannelAnswer, is_tagged: bool, resent: bool
) -> None:
    verdict = judge(answer, tagged=is_tagged, spent=5, maximum=10, resent=resent)

    if verdict.next is Next.PAY_AGAIN:
        assert verdict.booking is not Booking.OPEN


@pytest.mark.parametrize(
    ("answer", "following", "booking"),
    [
        (says(200, fate="charged", charged=3), Next.DELIVER, Booking.CHARGED),
        (says(409, fate="charged", charged=3), Next.DELIVER, Booking.CHARGED),
        (says(503, fate="charged"), Next.DELIVER, Booking.CHARGED),
        (
            says(409, fate="charged", charged=3, repeated=True),
            Next.LOST,
            Booking.CHARGED,
        ),
        (says(409, fate="running"), Next.RESEND, Booking.ARRIVED),
        (says(402, fate="void"), Next.PAY_AGAIN, Booking.VOID),
        (says(402, fate="old"), Next.LOST, Booking.OLD),
        (says(402), Next.REJECTED, Booking.OPEN),
        (says(429), Next.DELIVER, Booking.OPEN),
        (says(502), Next.DELIVER, Booking.OPEN),
        (says(503, fate="void"), Next.PAY_AGAIN, Booking.VOID),
        (says(503), Next.RESEND, Booking.OPEN),
    ],
)
def test_a_parallel_answer_means(
    answer: ChannelAnswer, following: Next, booking: Booking
) -> None:
    verdict = tagged(answer)

    assert (verdict.next, verdict.booking) == (following, booking)


@pytest.mark.parametrize(
    ("answer", "resent", "following", "charged"),
    [
        (says(200, success=True, charged=3), False, Next.DELIVER, 3),
        (says(402, corrected=15), False, Next.PAY_AGAIN, 10),
        (says(402, corrected=15), True, Next.LOST, 10),
        (says(402, corrected=5), True, Next.PAY_AGAIN, 0),
        (says(402, corrected=16), False, Next.REJECTED, 0),
        (says(402, corrected=4), False, Next.REJECTED, 0),
        (says(402, busy=True), False, Next.RESEND, 0),
        (says(402), False, Next.REJECTED, 0),
    ],
)
def test_a_strict_answer_means(
    answer: ChannelAnswer, resent: bool, following: Next, charged: int
) -> None:
    verdict = strict(answer, resent=resent)

    assert (verdict.next, verdict.charged) == (following, charged)
