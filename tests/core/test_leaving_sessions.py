"""What is taken of a session whose payer leaves: what it earned, and little more."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from agentpay.core.payee_channel import (
    HeldVoucher,
    PayeeChannel,
    Reservation,
    Status,
)
from agentpay.core.payee_events import (
    Admitted,
    ChainSeen,
    Closing,
    VoucherPublished,
)
from agentpay.core.session_rules import apply

from .factories import voucher
from .test_session_rules import Session, after, close_asked


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


class Leaving(Session):
    """The same, with a payer that leaves by the contract, and perhaps comes back."""

    @rule()
    def leave(self) -> None:
        before = self.session
        self.session = after(before, self.seen(leaving=True))
        refused = apply(self.session, voucher(10_000, 0)).answer
        assert not isinstance(refused, Admitted)
        last = self.session.last_voucher()
        if last is not None and self.is_open:
            assert self.settled < last.amount <= self.deposit
            self.settled = last.amount
            self.session = after(self.session, VoucherPublished(amount=last.amount))
        if self.is_open:
            assert self.session.earned <= self.settled
        self.session = after(self.session, self.seen(leaving=True))
        if self.is_open:  # what its payer asked us to close is settled by that
            assert not self.session.is_ending or self.session.earned <= self.settled

    @rule()
    def come_back(self) -> None:
        self.session = after(self.session, self.seen(leaving=False))

    def seen(self, *, leaving: bool) -> ChainSeen:
        return ChainSeen(
            balance=self.deposit,
            claimed=self.settled,
            pending_withdrawal=self.deposit if leaving else 0,
        )

    @rule(off=st.integers(-3, 3))
    def close(self, off: int) -> None:
        """Of one that left before, more than it was charged may be settled already."""
        asked = max(0, self.session.charged + off)
        done = apply(self.session, close_asked(asked))
        self.session = done.channel
        if isinstance(done.answer, Closing):
            assert asked == self.session.charged == self.session.due
            claim = self.session.claim_voucher()
            assert claim is None or claim.amount == asked or self.settled >= asked


Leaving.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestLeaving = Leaving.TestCase
