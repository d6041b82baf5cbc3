"""MPP sessions: what a payer signs where vouchers rise and contracts pay them whole."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from agentpay.core.payer_channel import (
    Booked,
    ChannelEmptied,
    CloseWanted,
    DepositNeeded,
    ExitWanted,
    Issued,
    Misbehaved,
    PayerAnswer,
    PayerChannel,
    PayerStatus,
    SpentReported,
    Ticket,
    TicketArrived,
    TicketCharged,
    TicketOld,
    TicketVoid,
    TicketWanted,
    Unusable,
    Wait,
)
from agentpay.core.payer_session_rules import (
    AcceptedReported,
    CloseCorrected,
    PayerSessionEvent,
    RaiseWanted,
    TicketDelivered,
    apply,
)
from agentpay.errors import InvariantViolated

from .factories import payer_channel, pending_deposit, wanted


def after(channel: PayerChannel, *events: PayerSessionEvent) -> PayerChannel:
    for event in events:
        channel = apply(channel, event).channel
    return channel


def answer(channel: PayerChannel, *events: PayerSessionEvent) -> PayerAnswer:
    *first, last = events
    return apply(after(channel, *first), last).answer


def lane(*, headroom: int = 100, balance: int = 100) -> PayerChannel:
    return payer_channel(tagged=False, headroom=headroom, balance=balance)


def rising(
    maximum: int, rise: int = 0, *, whole: bool = False, most: int | None = None
) -> TicketWanted:
    return TicketWanted(maximum=maximum, rise=rise, whole=whole, most=most)


def charged(cumulative: int, amount: int) -> TicketCharged:
    return TicketCharged(cumulative=cumulative, charged=amount)


def more(cumulative: int, amount: int) -> RaiseWanted:
    return RaiseWanted(cumulative=cumulative, more=amount)


# Rule 22: untagged sessions.


def test_vouchers_of_an_untagged_session_rise() -> None:
    session = after(lane(), rising(10), charged(10, 4))

    assert session.spent == 4
    assert answer(session, rising(3)) == Issued(cumulative=11)  # 7 is below the highest
    assert answer(session, rising(10)) == Issued(cumulative=14)


def test_a_voucher_rises_by_as_much_as_is_wanted_and_no_less() -> None:
    session = after(lane(), rising(1, rise=20), charged(20, 1))

    assert answer(lane(), rising(1, rise=20)) == Issued(cumulative=20)
    assert answer(session, rising(1, rise=20)) == Issued(cumulative=40)
    assert answer(session, rising(60, rise=20)) == Issued(cumulative=61)


def test_a_rise_above_the_headroom_is_never_signed() -> None:
    session = lane(headroom=30)

    assert answer(session, rising(1, rise=30)) == Issued(cumulative=30)
    assert isinstance(answer(session, rising(1, rise=31)), Unusable)


def test_the_highest_voucher_serves_again_where_none_above_it_fits() -> None:
    session = after(lane(headroom=20), rising(20), charged(20, 5))

    assert answer(session, rising(10, rise=6)) == Issued(cumulative=20)
    assert answer(session, rising(15, rise=6)) == Issued(cumulative=20)
    assert isinstance(answer(session, rising(16, rise=6)), Unusable)


def test_the_last_of_a_deposit_is_spent_by_the_highest_voucher() -> None:
    session = after(lane(balance=20), rising(20), charged(20, 5))

    assert answer(session, rising(15)) == Issued(cumulative=20)
    assert answer(session, rising(16)) == DepositNeeded(short=1)


def test_a_request_that_may_cost_all_of_it_signs_no_more_than_one_may_cost() -> None:
    session = after(lane(), rising(20, whole=True), charged(20, 5))

    assert answer(session, rising(10, rise=6, whole=True)) == Issued(cumulative=26)
    capped = rising(10, rise=6, whole=True, most=20)
    assert answer(session, capped) == Issued(cumulative=20)  # 15 are left of it
    # Where that covers no request, who asks is told what it would cost.
    (ticket,) = after(session, rising(20, rise=6, whole=True, most=20)).open
    assert (ticket.cumulative, ticket.maximum) == (26, 21)


def test_where_all_that_is_signed_may_cost_that_is_the_maximum() -> None:
    session = after(lane(), rising(10), charged(10, 4), rising(3, whole=True))

    assert session.open == (Ticket(cumulative=11, maximum=7),)


def test_an_untagged_session_has_one_request_in_flight() -> None:
    assert isinstance(answer(lane(), rising(1), rising(1)), Wait)


def test_an_untagged_session_takes_its_first_deposit_along() -> None:
    deposit = pending_deposit(50)
    first = TicketWanted(maximum=10, deposit=deposit)

    assert answer(lane(balance=0), rising(10)) == DepositNeeded(short=10)
    assert answer(lane(balance=0), first) == Issued(cumulative=10, deposit=deposit)


# A request that goes on.


@pytest.mark.parametrize("tagged", [False, True])
def test_a_running_request_is_raised_by_a_voucher_of_its_own(tagged: bool) -> None:
    session = after(payer_channel(tagged=tagged), wanted(10))
    raised = after(session, more(10, 5))

    assert answer(session, more(10, 5)) == Issued(cumulative=15)
    assert raised.open == (
        Ticket(cumulative=10, maximum=15),
        Ticket(cumulative=15, maximum=0),
    )
    assert after(raised, charged(15, 0), charged(10, 15)).spent == 15
    assert isinstance(answer(raised, charged(10, 16)), Misbehaved)


def test_what_is_over_is_not_raised() -> None:
    session = after(payer_channel(), wanted(10), charged(10, 10))

    assert isinstance(answer(session, more(10, 5)), Unusable)


def test_nothing_is_raised_on_a_session_that_is_left() -> None:
    session = after(payer_channel(), wanted(10), ExitWanted())

    assert isinstance(answer(session, more(10, 5)), Unusable)


@pytest.mark.parametrize("tagged", [False, True])
def test_a_request_may_cost_more_than_the_headroom_as_it_is_delivered(
    tagged: bool,
) -> None:
    session = after(payer_channel(tagged=tagged, headroom=20, balance=100), wanted(20))
    assert isinstance(answer(session, more(20, 1)), Wait)
    delivered = TicketDelivered(cumulative=20, delivered=15)
    raised = after(session, delivered, more(20, 15))

    assert isinstance(answer(session, delivered, more(20, 16)), Wait)
    assert (raised.owed, raised.exposure) == (15, 20)
    assert after(raised, charged(35, 0), charged(20, 35)).spent == 35


def test_an_untagged_request_is_raised_by_a_higher_voucher_only() -> None:
    """The highest says nothing new: its payee may draw all of it already."""
    session = after(lane(headroom=20), rising(20), charged(20, 5), rising(5))

    assert session.open == (Ticket(cumulative=21, maximum=5),)
    assert answer(session, more(21, 5)) == Issued(cumulative=22)
    full = after(session, more(21, 5), charged(22, 0), more(21, 5), charged(23, 0))
    assert isinstance(answer(full, more(21, 6)), Wait)


def test_what_was_delivered_is_an_estimate_and_the_receipt_counts() -> None:
    session = after(
        payer_channel(), wanted(10), TicketDelivered(cumulative=10, delivered=9)
    )
    cheaper = after(session, charged(10, 6))

    assert (session.owed, session.spent) == (9, 0)
    assert (cheaper.owed, cheaper.spent) == (6, 6)


def test_what_was_delivered_only_grows_and_ends_at_the_maximum() -> None:
    session = after(
        payer_channel(),
        wanted(10),
        TicketDelivered(cumulative=10, delivered=8),
        TicketDelivered(cumulative=10, delivered=3),
    )

    assert session.owed == 8
    assert after(session, TicketDelivered(cumulative=10, delivered=99)).owed == 10
    assert answer(session, TicketDelivered(cumulative=11, delivered=1)) == Booked()


def test_a_raise_that_the_deposit_does_not_cover_takes_one_along() -> None:
    session = after(payer_channel(balance=20), wanted(20))
    deposit = pending_deposit(50)
    raising = RaiseWanted(cumulative=20, more=10, deposit=deposit)

    assert answer(session, more(20, 10)) == DepositNeeded(short=10)
    assert answer(session, raising) == Issued(cumulative=30, deposit=deposit)


def test_a_raise_uses_a_lower_amount_where_a_higher_one_is_there_already() -> None:
    session = after(
        payer_channel(balance=30, headroom=30),
        wanted(30),
        charged(30, 0),
        wanted(10),
    )

    assert session.open == (Ticket(cumulative=10, maximum=10),)
    assert answer(session, more(10, 10)) == Issued(cumulative=20)
    assert answer(session, more(10, 20)) == Issued(cumulative=29)


# Rule 23: closing.


@pytest.mark.parametrize("tagged", [False, True])
def test_a_session_is_closed_by_exactly_what_was_spent(tagged: bool) -> None:
    session = after(payer_channel(tagged=tagged), wanted(10), charged(10, 4))
    closing = after(session, CloseWanted())

    assert answer(session, CloseWanted()) == Issued(cumulative=4)
    assert answer(closing, CloseWanted()) == Issued(cumulative=4)
    assert isinstance(answer(closing, wanted(1)), Unusable)
    assert answer(payer_channel(tagged=tagged), CloseWanted()) == Issued(cumulative=0)


def test_a_session_is_closed_when_nothing_is_in_flight() -> None:
    assert isinstance(answer(payer_channel(), wanted(10), CloseWanted()), Wait)


def test_a_payee_that_charged_less_is_believed() -> None:
    """A voucher that is old is booked at its maximum: only the payee knows better."""
    closing = after(
        payer_channel(), wanted(10), TicketOld(cumulative=10), CloseWanted()
    )

    assert answer(closing, CloseCorrected(charged=3)) == Issued(cumulative=3)
    assert answer(closing, CloseCorrected(charged=10)) == Issued(cumulative=10)


def test_a_payee_that_charged_more_is_left() -> None:
    closing = after(payer_channel(), wanted(10), charged(10, 4), CloseWanted())
    told = apply(closing, CloseCorrected(charged=5))

    assert isinstance(told.answer, Misbehaved)
    assert told.channel.status is PayerStatus.STOPPED
    assert isinstance(answer(told.channel, CloseWanted()), Unusable)


def test_an_open_session_is_not_corrected() -> None:
    assert answer(payer_channel(), CloseCorrected(charged=5)) == Booked()


def test_a_session_that_gave_back_the_rest_is_closed() -> None:
    closing = after(payer_channel(), wanted(10), charged(10, 4), CloseWanted())
    closed = after(closing, ChannelEmptied(returned=96))

    assert (closed.status, closed.balance) == (PayerStatus.CLOSED, 4)


# What a payee says it has.


def test_a_voucher_that_we_do_not_know_stops_the_session() -> None:
    """It lies, or our books are those of an old backup: both would sign twice."""
    session = after(payer_channel(), wanted(10))

    assert answer(session, AcceptedReported(cumulative=10)) == Booked()
    told = apply(session, AcceptedReported(cumulative=11))
    assert isinstance(told.answer, Misbehaved)
    assert told.channel.status is PayerStatus.STOPPED


def test_what_is_not_said_here_is_as_on_a_channel() -> None:
    session = after(payer_channel(), wanted(10), wanted(5), TicketVoid(cumulative=15))

    assert answer(session, SpentReported(charged=10)) == Booked()
    assert isinstance(answer(session, SpentReported(charged=11)), Misbehaved)


def test_a_ticket_delivers_no_more_than_it_may_cost() -> None:
    with pytest.raises(InvariantViolated, match="at most 5"):
        Ticket(cumulative=5, maximum=5, delivered=6)


@given(
    requests=st.lists(
        st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 4)), max_size=60
    ),
    headroom=st.integers(5, 30),
)
def test_no_untagged_history_signs_less_than_before(
    requests: list[tuple[int, int, int]], headroom: int
) -> None:
    session = lane(headroom=headroom, balance=90)
    signed = [0]
    for maximum, cost, rise in requests:
        told = apply(session, rising(maximum, rise))
        session = told.channel
        if isinstance(told.answer, Issued):
            higher = told.answer.cumulative
            assert higher == signed[-1] or higher >= signed[-1] + max(1, rise)
            assert session.spent + maximum <= higher <= session.spent + headroom
            signed.append(higher)
            session = after(session, charged(higher, min(cost, maximum)))

    assert max(signed) <= 90


class Payer(RuleBasedStateMachine):
    """A payer on one session; its payee is honest, slow and forgetful."""

    @initialize(tagged=st.booleans(), window=st.integers(2, 6))
    def open(self, tagged: bool, window: int) -> None:
        self.session = payer_channel(
            tagged=tagged, window=window, headroom=40, balance=200
        )
        self.salt = 0
        self.signed: set[int] = set()
        self.owed: dict[int, int] = {}
        """By ticket, what its request may cost."""

    def tell(self, event: PayerSessionEvent) -> PayerAnswer:
        told = apply(self.session, event)
        self.session = told.channel
        return told.answer

    def note(self, said: PayerAnswer) -> int | None:
        if not isinstance(said, Issued):
            return None
        if self.session.tagged:
            assert said.cumulative not in self.signed
        self.signed.add(said.cumulative)
        return said.cumulative

    @rule(maximum=st.integers(1, 40), rise=st.integers(0, 5), whole=st.booleans())
    def request(self, maximum: int, rise: int, whole: bool) -> None:
        self.note(self.tell(rising(maximum, rise, whole=whole)))

    @precondition(lambda self: self.session.open)
    @rule(data=st.data(), share=st.integers(0, 100), how=st.integers(0, 3))
    def hear(self, data: st.DataObject, share: int, how: int) -> None:
        ticket = data.draw(st.sampled_from(self.session.open))
        at = ticket.cumulative
        match how:
            case 0:
                said = self.tell(charged(at, ticket.maximum * share // 100))
            case 1:
                said = self.tell(TicketVoid(cumulative=at))
            case 2:
                said = self.tell(TicketOld(cumulative=at))
            case _:
                said = self.tell(TicketArrived(cumulative=at))
        assert said == Booked()

    @precondition(lambda self: self.session.open)
    @rule(data=st.data(), share=st.integers(0, 100), by=st.integers(1, 30))
    def go_on(self, data: st.DataObject, share: int, by: int) -> None:
        ticket = data.draw(st.sampled_from(self.session.open))
        worth = ticket.maximum * share // 100
        self.tell(TicketDelivered(cumulative=ticket.cumulative, delivered=worth))
        self.note(self.tell(more(ticket.cumulative, by)))

    @rule()
    def close(self) -> None:
        idle, spent = not self.session.open, self.session.spent
        said = self.tell(CloseWanted())
        if self.session.status is PayerStatus.CLOSING:
            assert idle
            assert said == Issued(cumulative=spent)

    @invariant()
    def no_more_is_signed_than_is_owed_and_the_headroom(self) -> None:
        if hasattr(self, "session"):
            session = self.session
            assert session.highest <= session.balance
            assert session.spent + session.outstanding <= session.balance


Payer.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestPayer = Payer.TestCase
