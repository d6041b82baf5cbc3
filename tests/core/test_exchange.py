"""
What a payer makes of an answer: only one that names its voucher closes it.
"""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentpay.core.exchange import (
    Booking,
    ChannelAnswer,
    Corrected,
    Next,
    Presented,
    SessionAnswer,
    TransferAnswer,
    Trouble,
    Underway,
    Verdict,
    judge,
    judge_session,
    judge_transfer,
    next_of_carried,
)

STATUSES = st.sampled_from((200, 204, 301, 400, 402, 409, 429, 500, 502, 503))
AMOUNTS = st.integers(0, 100)
ANSWERS = st.builds(
    ChannelAnswer,
    status=STATUSES,
    success=st.none() | st.booleans(),
    fate=st.none() | st.sampled_from(("charged", "void", "running", "old", "?")),
    charged=st.none() | AMOUNTS,
    repeated=st.booleans(),
    corrected=st.none()
    | st.builds(Corrected, total=AMOUNTS, voucher=st.none() | AMOUNTS),
    offered=st.booleans(),
    busy=st.booleans(),
)
SENT = Presented(cumulative=15, spent=5, resent=False)
TRANSFERS = st.builds(
    TransferAnswer,
    status=STATUSES,
    success=st.none() | st.booleans(),
    pending=st.booleans(),
    offered=st.booleans(),
    problem=st.booleans(),
)


def says(
    status: int,
    *,
    fate: str | None = None,
    success: bool | None = None,
    charged: int | None = None,
    corrected: Corrected | None = None,
    offered: bool = False,
    busy: bool = False,
    repeated: bool = False,
) -> ChannelAnswer:
    return ChannelAnswer(
        offered=offered,
        status=status,
        success=success,
        fate=fate,
        charged=charged,
        corrected=corrected,
        busy=busy,
        repeated=repeated,
    )


def corrected(total: int, voucher: int | None) -> ChannelAnswer:
    return says(402, offered=True, corrected=Corrected(total=total, voucher=voucher))


def tagged(answer: ChannelAnswer) -> Verdict:
    return judge(answer, SENT, tagged=True)


def strict(answer: ChannelAnswer, *, resent: bool = False) -> Verdict:
    return judge(answer, replace(SENT, resent=resent), tagged=False)


@given(ANSWERS)
def test_only_a_named_fate_closes_a_voucher(answer: ChannelAnswer) -> None:
    verdict = tagged(answer)

    named = answer.fate in ("charged", "void", "old")
    closes = verdict.booking in (Booking.CHARGED, Booking.VOID, Booking.OLD)
    assert closes == named


@given(ANSWERS, st.booleans())
def test_a_lane_goes_on_from_the_total_that_its_payee_says(
    answer: ChannelAnswer, resent: bool
) -> None:
    verdict = strict(answer, resent=resent)

    if verdict.booking is Booking.TOTAL:
        assert answer.corrected is not None
        echoed = answer.corrected == Corrected(total=0, voucher=0)
        assert verdict.total == (5 if echoed else answer.corrected.total)
        assert verdict.charged in (0, answer.corrected.total - 5)
    assert verdict.booking is not Booking.VOID


@given(st.integers(0, 5), st.none() | AMOUNTS)
def test_c8_of_a_request_that_may_run_the_old_total_says_nothing(
    total: int, voucher: int | None
) -> None:
    """x402's own server looks at the total before it says that it is busy."""
    answer = says(402, offered=True, corrected=Corrected(total=total, voucher=voucher))
    asking = replace(SENT, resent=True, underway=Underway.RUNNING)

    verdict = judge(answer, asking, tagged=False)

    seen = voucher == SENT.cumulative and total == SENT.spent
    assert (verdict.booking is Booking.OPEN) == seen
    assert verdict.charged == 0


@example(0, 0)
@given(st.integers(0, 5), st.none() | AMOUNTS)
def test_c8_of_a_request_that_may_come_yet_the_old_total_says_nothing(
    total: int, voucher: int | None
) -> None:
    """Nor does our question, echoed by who knows no such channel yet."""
    answer = says(402, offered=True, corrected=Corrected(total=total, voucher=voucher))
    asking = replace(SENT, resent=True, underway=Underway.COMING)

    verdict = judge(answer, asking, tagged=False)

    old = total == SENT.spent or total == voucher == 0
    assert (verdict.booking is Booking.OPEN) == old
    assert verdict.charged == 0


@given(ANSWERS, st.booleans(), st.booleans())
def test_nothing_is_paid_again_while_it_may_still_be_charged(
    answer: ChannelAnswer, is_tagged: bool, resent: bool
) -> None:
    verdict = judge(answer, replace(SENT, resent=resent), tagged=is_tagged)

    if verdict.next is Next.PAY_AGAIN:
        assert verdict.booking is not Booking.OPEN


@given(ANSWERS)
@example(says(409, fate="charged", charged=3, repeated=True))
@example(says(409, fate="charged", charged=0, repeated=True))
def test_c8_of_what_is_lost_only_what_cost_nothing_is_bought_by_who_asks_again(
    answer: ChannelAnswer,
) -> None:
    verdict = tagged(answer)
    free = verdict.booking is Booking.CHARGED and verdict.charged == 0

    lost = verdict.next is Next.LOST
    changed = next_of_carried(verdict)
    assert changed is (Next.PAY_AGAIN if lost and free else verdict.next)


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
        (says(402, offered=True), Next.REJECTED, Booking.OPEN),
        (says(402, success=False), Next.REJECTED, Booking.OPEN),
        (says(402), Next.DELIVER, Booking.OPEN),
        (says(409), Next.DELIVER, Booking.OPEN),
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
        (corrected(15, 15), False, Next.LOST, 10),
        (corrected(12, 12), False, Next.PAY_AGAIN, 7),
        (corrected(15, 15), True, Next.LOST, 10),
        (corrected(12, 12), True, Next.PAY_AGAIN, 7),
        (corrected(5, None), True, Next.PAY_AGAIN, 0),
        (corrected(5, 15), True, Next.PAY_AGAIN, 0),
        (corrected(4, None), False, Next.PAY_AGAIN, 0),
        (corrected(4, None), True, Next.LOST, 0),
        (corrected(0, 0), True, Next.LOST, 0),
        (says(402, offered=True, busy=True), False, Next.RESEND, 0),
        (says(402, offered=True), False, Next.REJECTED, 0),
        (says(402), False, Next.DELIVER, 0),
        (says(409), True, Next.DELIVER, 0),
        (says(503), True, Next.DELIVER, 0),
        (says(409, success=False), False, Next.RESEND, 0),
        (says(503, success=False), False, Next.RESEND, 0),
        (says(503, offered=True), False, Next.RESEND, 0),
        (says(409, success=True, charged=3), False, Next.DELIVER, 3),
        (says(503, success=True, charged=0), False, Next.DELIVER, 0),
        (says(409, success=True, charged=3, repeated=True), True, Next.LOST, 3),
    ],
)
def test_a_strict_answer_means(
    answer: ChannelAnswer, resent: bool, following: Next, charged: int
) -> None:
    verdict = strict(answer, resent=resent)

    assert (verdict.next, verdict.charged) == (following, charged)


def told(
    status: int,
    *,
    success: bool | None = None,
    pending: bool = False,
    offered: bool = False,
    problem: bool = False,
) -> TransferAnswer:
    return TransferAnswer(
        status=status,
        success=success,
        pending=pending,
        offered=offered,
        problem=problem,
    )


@pytest.mark.parametrize(
    ("answer", "resent", "following"),
    [
        (told(200, success=True), False, Next.DELIVER),
        (told(503, success=True), False, Next.DELIVER),
        (told(409, success=True), True, Next.DELIVER),
        (told(409, success=True, problem=True), False, Next.DELIVER),
        (told(409, success=True, problem=True), True, Next.LOST),
        (told(400), False, Next.DELIVER),
        (told(402), False, Next.DELIVER),
        (told(409, problem=True), True, Next.DELIVER),
        (told(503), True, Next.DELIVER),
        (told(503, success=False), False, Next.RESEND),
        (told(409, success=False, pending=True), False, Next.RESEND),
        (told(402, success=False, pending=True), False, Next.RESEND),
        (told(402, success=False), False, Next.REJECTED),
        (told(402, offered=True), True, Next.REJECTED),
        (told(400, success=False), False, Next.REJECTED),
        (told(412), False, Next.DELIVER),
        (told(412, offered=True), False, Next.REJECTED),
    ],
)
def test_an_answer_to_a_transfer_means(
    answer: TransferAnswer, resent: bool, following: Next
) -> None:
    assert judge_transfer(answer, resent=resent).next is following


@given(TRANSFERS, st.booleans())
def test_a_transfer_is_charged_by_a_receipt_and_by_nothing_else(
    answer: TransferAnswer, resent: bool
) -> None:
    verdict = judge_transfer(answer, resent=resent)

    assert (verdict.booking is Booking.CHARGED) == (answer.success is True)
    assert verdict.next is not Next.PAY_AGAIN


@given(TRANSFERS, ANSWERS, st.booleans())
def test_what_no_paywall_said_goes_to_the_caller(
    transfer: TransferAnswer, lane: ChannelAnswer, resent: bool
) -> None:
    if transfer.success is None and not transfer.offered:
        assert judge_transfer(transfer, resent=resent).next is Next.DELIVER
    if not lane.by_paywall:
        assert strict(lane, resent=resent).next is Next.DELIVER


# Sessions of MPP.


SESSIONS = st.builds(
    SessionAnswer,
    status=STATUSES,
    trouble=st.none() | st.sampled_from(Trouble),
    fate=st.none() | st.sampled_from(("charged", "void", "running", "old", "?")),
    charged=st.none() | AMOUNTS,
    repeated=st.booleans(),
    total=st.none() | AMOUNTS,
    offered=st.booleans(),
    opened=st.booleans(),
)


def tells(
    status: int,
    *,
    trouble: Trouble | None = None,
    fate: str | None = None,
    charged: int | None = None,
    repeated: bool = False,
    total: int | None = None,
    offered: bool = False,
    opened: bool = False,
) -> SessionAnswer:
    return SessionAnswer(
        status=status,
        trouble=trouble,
        fate=fate,
        charged=charged,
        repeated=repeated,
        total=total,
        offered=offered,
        opened=opened,
    )


@pytest.mark.parametrize(
    ("answer", "following", "booking"),
    [
        (tells(200, fate="charged", charged=3), Next.DELIVER, Booking.CHARGED),
        (tells(404, fate="charged", charged=3), Next.DELIVER, Booking.CHARGED),
        (
            tells(409, fate="charged", charged=3, repeated=True),
            Next.LOST,
            Booking.CHARGED,
        ),
        (tells(402, fate="void", offered=True), Next.PAY_AGAIN, Booking.VOID),
        (tells(402, fate="old", offered=True), Next.LOST, Booking.OLD),
        (tells(409, fate="running"), Next.RESEND, Booking.ARRIVED),
        (tells(200, fate="running", total=0), Next.DELIVER, Booking.ARRIVED),
        (tells(200, total=7), Next.DELIVER, Booking.OPEN),  # it names no voucher
        (tells(200), Next.DELIVER, Booking.OPEN),
        (tells(503), Next.DELIVER, Booking.OPEN),  # the application's own
        (tells(503, trouble=Trouble.AGAIN), Next.RESEND, Booking.OPEN),
        (tells(409, trouble=Trouble.AGAIN), Next.REJECTED, Booking.OPEN),  # its name
        (
            tells(402, trouble=Trouble.CHALLENGE, offered=True),
            Next.RENEW,
            Booking.OPEN,
        ),
        (tells(402, trouble=Trouble.CHALLENGE), Next.REJECTED, Booking.OPEN),
        (tells(410, trouble=Trouble.GONE), Next.PAY_AGAIN, Booking.VOID),
        (tells(409, trouble=Trouble.REVERTED), Next.REJECTED, Booking.OPEN),
        (
            tells(402, trouble=Trouble.REFUSED, offered=True),
            Next.REJECTED,
            Booking.OPEN,
        ),
        (tells(402, offered=True), Next.REJECTED, Booking.OPEN),
        (tells(402), Next.DELIVER, Booking.OPEN),
        (tells(410), Next.DELIVER, Booking.OPEN),
    ],
)
def test_answers_to_a_voucher_of_a_tagged_session(
    answer: SessionAnswer, following: Next, booking: Booking
) -> None:
    verdict = judge_session(answer, tagged=True, spent=0, resent=False)

    assert (verdict.next, verdict.booking) == (following, booking)
    assert verdict.charged == (answer.charged or 0)


@pytest.mark.parametrize(("tagged", "resent"), [(True, True), (False, False)])
def test_what_may_be_about_a_lost_answer_is_sent_again(
    tagged: bool, resent: bool
) -> None:
    before = tells(409, trouble=Trouble.AGAIN)
    verdict = judge_session(before, tagged=tagged, spent=0, resent=resent)

    assert verdict == Verdict(next=Next.RESEND, booking=Booking.OPEN)


def test_the_receipt_of_an_untagged_session_says_what_a_request_cost() -> None:
    told = judge_session(tells(200, total=17), tagged=False, spent=10, resent=False)
    less = judge_session(tells(200, total=7), tagged=False, spent=10, resent=False)

    assert told == Verdict(next=Next.DELIVER, booking=Booking.CHARGED, charged=7)
    assert less == Verdict(next=Next.DELIVER, booking=Booking.CHARGED, charged=0)


def test_a_session_that_was_only_opened_is_asked_for_its_content() -> None:
    opened = tells(200, total=0, opened=True)

    verdict = judge_session(opened, tagged=False, spent=0, resent=False)
    assert verdict == Verdict(next=Next.RENEW, booking=Booking.OPEN)


@given(answer=SESSIONS, spent=AMOUNTS)
def test_nothing_but_a_named_fate_or_its_end_closes_a_tagged_voucher(
    answer: SessionAnswer, spent: int
) -> None:
    verdict = judge_session(answer, tagged=True, spent=spent, resent=False)

    if verdict.booking not in (Booking.OPEN, Booking.ARRIVED):
        named = answer.fate in ("charged", "void", "old")
        assert named or answer.trouble is Trouble.GONE


@given(answer=SESSIONS, spent=AMOUNTS)
def test_an_untagged_session_names_no_fates(answer: SessionAnswer, spent: int) -> None:
    said = replace(answer, fate="charged", charged=99)
    unsaid = replace(answer, fate=None)

    verdicts = [
        judge_session(a, tagged=False, spent=spent, resent=False)
        for a in (said, unsaid)
    ]
    assert verdicts[0] == verdicts[1]


def test_the_receipt_at_the_head_of_an_untagged_stream_is_not_its_last() -> None:
    begins = replace(tells(200, total=7), streams=True)

    verdict = judge_session(begins, tagged=False, spent=0, resent=False)
    assert verdict == Verdict(next=Next.DELIVER, booking=Booking.ARRIVED)
