"""MPP sessions: what the payee's rules do where the contract pays whole vouchers."""

from dataclasses import replace
from itertools import count

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

from agentpay.core.payee_channel import (
    HELD_MAX,
    Fate,
    HeldVoucher,
    PayeeChannel,
    Status,
    worth_keeping_whole,
)
from agentpay.core.payee_events import (
    BUSY,
    CLOSING,
    EXCEEDS_BALANCE,
    MISMATCH,
    NOT_COVERED,
    Admitted,
    Answer,
    ChainSeen,
    Closing,
    LeaseLost,
    Noted,
    OutcomeAsked,
    RefundDone,
    Refused,
    Spent,
    VoucherPublished,
)
from agentpay.core.session_rules import (
    LOWER,
    NOT_RUNNING,
    CloseAsked,
    Extended,
    Finalized,
    Raises,
    SessionEvent,
    VoucherRaised,
    apply,
)
from agentpay.errors import InvariantViolated

from .factories import (
    ALIVE,
    REBORN,
    charged,
    delivered,
    given_back,
    payee_channel,
    signature,
    voucher,
)


def a_session(*, tagged: bool = False, balance: int = 100) -> PayeeChannel:
    return replace(payee_channel(tagged=tagged, balance=balance), pays_whole=True)


def after(channel: PayeeChannel, *events: SessionEvent) -> PayeeChannel:
    for event in events:
        channel = apply(channel, event).channel
    return channel


def answer(channel: PayeeChannel, *events: SessionEvent) -> Answer:
    *first, last = events
    return apply(after(channel, *first), last).answer


def raised(cumulative: int) -> VoucherRaised:
    return VoucherRaised(cumulative=cumulative, signature=signature(cumulative))


def raised_for(cumulative: int, request: int, maximum: int) -> VoucherRaised:
    raises = Raises(cumulative=request, maximum=maximum)
    return replace(raised(cumulative), raises=raises)


def extended(request: int, maximum: int, *, owner: str = ALIVE) -> Extended:
    return Extended(cumulative=request, owner=owner, maximum=maximum)


def maximum_of(session: PayeeChannel, request: int) -> int:
    running = session.reservation(request)
    assert running is not None
    return running.maximum


def close_asked(cumulative: int, *, owner: str = ALIVE) -> CloseAsked:
    signed = signature(cumulative)
    return CloseAsked(cumulative=cumulative, signature=signed, owner=owner)


def sold(cumulative: int, price: int) -> tuple[SessionEvent, ...]:
    return (
        voucher(cumulative, price),
        charged(cumulative, price),
        delivered(cumulative),
    )


def refused(reason: str, *, burnt: bool = False) -> Refused:
    return Refused(reason=reason, burnt=burnt)


# Rule 22: untagged sessions.


def test_a_higher_voucher_buys_a_request_and_need_not_be_spent() -> None:
    session = after(a_session(), *sold(50, 10))

    assert (session.highest, session.charged) == (50, 10)
    assert isinstance(answer(session, voucher(51, 41)), Admitted)
    assert answer(session, voucher(51, 42)) == refused(NOT_COVERED)


def test_the_highest_voucher_buys_again_bit_for_bit() -> None:
    session = after(a_session(), *sold(50, 10))
    forged = replace(voucher(50, 10), signature=b"another")

    assert isinstance(answer(session, voucher(50, 40)), Admitted)
    assert answer(session, voucher(50, 41)) == refused(NOT_COVERED)
    assert answer(session, forged) == refused(MISMATCH)


def test_a_voucher_that_a_settle_published_buys_nothing_again() -> None:
    session = after(a_session(), *sold(50, 10))

    published = VoucherPublished(amount=50)
    assert answer(session, published, voucher(50, 10)) == refused(MISMATCH)
    assert isinstance(answer(session, published, voucher(51, 10)), Admitted)


def test_what_the_chain_shows_as_settled_buys_nothing_again() -> None:
    session = after(a_session(), *sold(50, 50))
    seen = ChainSeen(balance=100, claimed=50, pending_withdrawal=0)

    assert answer(session, seen, voucher(50, 0)) == refused(MISMATCH)


def test_k13_a_settle_that_a_reorg_took_from_a_session_found_so_is_a_fact() -> None:
    found = replace(
        a_session(balance=1000), claimed=500, charged=500, highest=500, floor=500
    )
    taken_back = after(found, ChainSeen(balance=1000, claimed=0, pending_withdrawal=0))

    assert taken_back.claimed == 0
    assert after(taken_back, *sold(600, 50)).charged == 550


def test_a_lower_voucher_has_no_content() -> None:
    session = after(a_session(), *sold(50, 10))

    assert answer(session, voucher(49, 10)) == refused(LOWER)


def test_one_request_runs_at_a_time() -> None:
    session = after(a_session(), voucher(50, 10))

    assert answer(session, voucher(60, 10)) == refused(BUSY)


def test_a_voucher_is_within_the_deposit_to_the_last_unit() -> None:
    assert isinstance(answer(a_session(), voucher(100, 100)), Admitted)
    assert answer(a_session(), voucher(101, 10)) == refused(EXCEEDS_BALANCE)


def test_nothing_is_sold_once_a_close_is_requested_on_chain() -> None:
    seen = ChainSeen(balance=100, claimed=0, pending_withdrawal=100)

    assert answer(a_session(), seen, voucher(1, 1)) == refused(EXCEEDS_BALANCE)


def test_a_request_whose_owner_died_runs_again_at_its_price() -> None:
    session = after(a_session(), voucher(50, 10, prepaid=True))
    again = apply(session, voucher(50, 10, prepaid=True, owner=REBORN))
    other = apply(session, voucher(60, 10, prepaid=True, owner=REBORN))

    assert isinstance(again.answer, Admitted)
    assert again.channel.charged == 10
    assert isinstance(other.answer, Admitted)
    assert other.channel.charged == 20


# Rule 21: vouchers without a request.


@pytest.mark.parametrize("tagged", [False, True])
def test_a_raise_is_held_and_charges_nothing(tagged: bool) -> None:
    session = after(a_session(tagged=tagged), raised(40))

    assert (session.highest, session.charged) == (40, 0)
    assert session.held[-1].amount == 40
    assert answer(session, raised(40)) == Noted()
    assert apply(session, raised(40)).channel is session


def test_a_raise_buys_nothing_later_on_a_tagged_session() -> None:
    session = after(a_session(tagged=True), raised(40))

    assert answer(session, voucher(40, 10)) == Spent(fate=Fate.CHARGED, charged=0)
    assert isinstance(answer(session, voucher(39, 10)), Admitted)


def test_a_raise_covers_a_request_on_an_untagged_session() -> None:
    session = after(a_session(), raised(40))

    assert isinstance(answer(session, voucher(40, 40)), Admitted)


@pytest.mark.parametrize("tagged", [False, True])
def test_a_raise_above_the_deposit_is_refused_to_the_last_unit(tagged: bool) -> None:
    session = a_session(tagged=tagged)

    assert answer(session, raised(100)) == Noted()
    assert answer(session, raised(101)) == refused(EXCEEDS_BALANCE, burnt=tagged)


@pytest.mark.parametrize("tagged", [False, True])
def test_a_stream_may_draw_on_what_was_raised_for_it(tagged: bool) -> None:
    session = after(a_session(tagged=tagged), voucher(20, 20), raised(40))
    session = after(session, charged(20, 20), delivered(20))

    assert (session.due, session.highest) == (20, 40)


def test_a_voucher_raises_the_request_that_it_names_and_no_other() -> None:
    running = after(a_session(tagged=True), voucher(10, 10), voucher(20, 10))
    session = after(running, raised_for(40, 10, 30))

    assert (maximum_of(session, 10), maximum_of(session, 20)) == (30, 10)
    assert answer(session, voucher(40, 10)) == Spent(fate=Fate.CHARGED, charged=0)
    session = after(session, charged(10, 30, more=True), given_back(10, 25))
    assert (session.charged, session.highest) == (25, 40)


def test_a_raise_takes_nothing_that_other_requests_signed() -> None:
    session = after(a_session(tagged=True), voucher(10, 10), voucher(40, 10))

    assert answer(session, raised_for(39, 10, 31)) == refused(NOT_COVERED, burnt=True)
    assert answer(session, raised_for(41, 10, 31)) == Noted()
    assert answer(session, raised_for(41, 10, 32)) == refused(NOT_COVERED, burnt=True)
    assert after(session, raised_for(30, 10, 5)).running == session.running


@pytest.mark.parametrize("over", [delivered(10), given_back(10), charged(10, 5)])
def test_a_request_that_is_over_is_not_raised(over: SessionEvent) -> None:
    session = after(a_session(tagged=True), voucher(10, 10), over)

    no = refused(NOT_RUNNING, burnt=True)
    assert answer(session, raised_for(40, 10, 30)) == no
    assert answer(session, raised_for(40, 11, 30)) == no


def test_a_fixed_price_is_not_raised() -> None:
    session = after(a_session(tagged=True), voucher(10, 10, prepaid=True))

    assert answer(session, raised_for(40, 10, 30)) == refused(NOT_RUNNING, burnt=True)


def test_an_untagged_stream_draws_on_all_that_is_signed_and_no_more() -> None:
    session = after(a_session(), voucher(30, 10))

    assert maximum_of(after(session, extended(30, 20)), 30) == 20
    assert maximum_of(after(session, extended(30, 99)), 30) == 30
    session = after(session, raised(60), extended(30, 99))
    assert maximum_of(session, 30) == 60
    assert after(session, extended(30, 5)) is session
    assert answer(session, extended(30, 99, owner=REBORN)) == LeaseLost()


def test_an_untagged_stream_draws_on_nothing_that_its_payer_takes_back() -> None:
    leaving = ChainSeen(balance=100, claimed=0, pending_withdrawal=100)
    session = after(a_session(), voucher(30, 10), leaving)

    assert after(session, extended(30, 20)) is session
    assert after(session, charged(30, 10, more=True)).charged == 0


def test_a_slice_is_charged_as_far_as_it_is_covered() -> None:
    leaving = ChainSeen(balance=100, claimed=0, pending_withdrawal=95)
    session = after(a_session(), voucher(30, 10), charged(30, 3, more=True))

    assert answer(session, charged(30, 12, more=True)) == Noted(charged=10)
    assert answer(session, leaving, charged(30, 10, more=True)) == Noted(charged=5)


def test_a_tagged_stream_grows_by_vouchers_of_its_own_alone() -> None:
    session = after(a_session(tagged=True), voucher(30, 10))

    with pytest.raises(InvariantViolated, match="its voucher"):
        apply(session, extended(30, 20))


# Rule 23: settling and closing.


def test_a_settle_takes_the_highest_voucher_that_is_due() -> None:
    session = after(a_session(), *sold(10, 10), *sold(50, 20))
    settle = session.settle_voucher()

    assert settle == HeldVoucher(amount=10, signature=signature(10))
    assert session.unclaimed == 10
    seen = ChainSeen(balance=100, claimed=10, pending_withdrawal=0)
    assert after(session, seen).unclaimed == 0


def test_p1_a_settle_shows_no_voucher_whose_request_runs() -> None:
    session = after(a_session(tagged=True), voucher(10, 10), *sold(20, 10))

    assert session.due == 10
    assert session.settle_voucher() is None
    done = after(session, charged(10, 10), delivered(10))
    assert done.settle_voucher() == HeldVoucher(amount=20, signature=signature(20))


def test_p12_by_a_voucher_that_the_chain_shows_nobody_takes_what_died() -> None:
    session = after(a_session(), *sold(10, 10), VoucherPublished(amount=10))
    died = after(session, voucher(20, 10))
    shown = after(died, VoucherPublished(amount=20))

    lower = apply(died, voucher(10, 10, owner=REBORN))
    assert (lower.channel, lower.answer) == (died, refused(LOWER))
    closes = apply(died, close_asked(10, owner=REBORN))
    assert (closes.channel, closes.answer) == (died, refused(BUSY))
    assert isinstance(answer(died, voucher(20, 10, owner=REBORN)), Admitted)
    same = apply(shown, voucher(20, 10, owner=REBORN))
    assert (same.channel, same.answer) == (shown, refused(MISMATCH))


def test_a_close_that_is_refused_buries_nothing() -> None:
    died = after(a_session(), voucher(50, 20))
    other = apply(died, close_asked(5, owner=REBORN))

    assert (other.channel, other.answer) == (died, refused(MISMATCH))
    assert answer(died, close_asked(0, owner=REBORN)) == Closing(ready=True)


def test_a_settle_takes_nothing_while_one_voucher_covers_everything() -> None:
    session = after(a_session(), *sold(100, 10))

    assert session.settle_voucher() is None
    assert session.unclaimed == 0


def test_without_its_payer_a_session_gets_the_smallest_voucher_that_covers() -> None:
    session = after(a_session(), *sold(10, 10), raised(60), raised(90), *sold(91, 20))

    claim = session.claim_voucher()
    assert claim is not None
    assert (session.due, claim.amount) == (30, 60)


def test_a_close_is_for_exactly_what_was_charged() -> None:
    session = after(a_session(), *sold(50, 20))

    for other in (0, 19, 21, 50):
        assert answer(session, close_asked(other)) == refused(MISMATCH)
    closing = apply(session, close_asked(20))
    assert closing.answer == Closing(ready=True)
    claim = closing.channel.claim_voucher()
    assert claim == HeldVoucher(amount=20, signature=signature(20))


def test_a_close_waits_for_what_runs_and_not_for_the_dead() -> None:
    session = after(a_session(), voucher(50, 20), charged(50, 20))

    assert answer(session, close_asked(20)) == refused(BUSY)
    assert answer(session, close_asked(20, owner=REBORN)) == Closing(ready=True)


def test_a_closing_session_sells_nothing_and_may_be_asked_again() -> None:
    session = after(a_session(), *sold(50, 20), close_asked(20))

    assert answer(session, voucher(60, 10)) == refused(CLOSING)
    assert answer(session, raised(60)) == refused(CLOSING)
    assert answer(session, close_asked(20)) == Closing(ready=True)
    assert answer(session, close_asked(21)) == refused(CLOSING)


@pytest.mark.parametrize("tagged", [False, True])
def test_a_finalized_session_is_never_opened_again(tagged: bool) -> None:
    session = after(a_session(tagged=tagged), *sold(50, 20), Finalized())
    seen = ChainSeen(balance=1000, claimed=20, pending_withdrawal=0)

    assert session.status is Status.CLOSED
    assert isinstance(answer(session, seen, voucher(60, 10)), Refused)


@pytest.mark.parametrize(
    "event", [RefundDone(), OutcomeAsked(cumulative=1, owner=ALIVE)]
)
def test_what_only_x402_knows_is_a_bug(event: SessionEvent) -> None:
    with pytest.raises(InvariantViolated, match="session"):
        apply(a_session(), event)


def test_the_books_of_x402_are_not_a_sessions() -> None:
    with pytest.raises(InvariantViolated, match="session"):
        apply(payee_channel(), raised(1))


@given(
    amounts=st.lists(st.integers(1, 60), max_size=60),
    due=st.integers(0, 70),
    running=st.integers(0, 60),
)
def test_few_vouchers_are_kept_and_none_that_is_needed(
    amounts: list[int], due: int, running: int
) -> None:
    held = tuple(HeldVoucher(amount=a, signature=signature(a)) for a in amounts)
    kept = [v.amount for v in worth_keeping_whole(held, due, due + running)]
    fair = [a for a in amounts if a <= due]
    above = [a for a in amounts if a > due]

    assert len(kept) <= HELD_MAX
    assert kept == sorted(set(kept))
    assert max(kept, default=0) == max(amounts, default=0)
    if fair:
        assert max(fair) in kept
    if above:
        assert min(above) in kept


@pytest.mark.parametrize("tagged", [False, True])
def test_a_long_stream_can_be_settled_for_nearly_all_that_it_cost(tagged: bool) -> None:
    session = after(a_session(tagged=tagged, balance=10_000), voucher(10, 10))
    for cost in range(10, 2000, 10):
        more = raised_for(cost + 20, 10, cost + 10) if tagged else raised(cost + 20)
        grown = () if tagged else (extended(10, cost + 10),)
        session = after(session, more, *grown, charged(10, cost, more=True))
    session = after(session, given_back(10, 1985))

    settle = session.settle_voucher()
    assert settle is not None
    assert settle.amount == 1980


class Session(RuleBasedStateMachine):
    """A payee, an honest contract, and a payer that signs whatever it likes."""

    @initialize(tagged=st.booleans())
    def open(self, tagged: bool) -> None:
        self.session = a_session(tagged=tagged, balance=200)
        self.deposit = 200
        self.settled = 0
        self.fresh = count(1)
        self.running: list[tuple[int, int]] = []

    def see(self) -> None:
        seen = ChainSeen(
            balance=self.deposit, claimed=self.settled, pending_withdrawal=0
        )
        self.session = after(self.session, seen)

    @property
    def is_open(self) -> bool:
        return self.session.status is Status.OPEN

    @rule(
        cumulative=st.integers(1, 260), maximum=st.integers(0, 40), fixed=st.booleans()
    )
    def request(self, cumulative: int, maximum: int, fixed: bool) -> None:
        done = apply(self.session, voucher(cumulative, maximum, prepaid=fixed))
        self.session = done.channel
        if isinstance(done.answer, Admitted):
            self.running.append((cumulative, maximum))

    @rule(cumulative=st.integers(1, 260))
    def raise_it(self, cumulative: int) -> None:
        self.session = after(self.session, raised(cumulative))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), more=st.integers(0, 40), cumulative=st.integers(1, 260))
    def grow(self, data: st.DataObject, more: int, cumulative: int) -> None:
        request, maximum = data.draw(st.sampled_from(self.running))
        if self.session.tagged:
            event: SessionEvent = raised_for(cumulative, request, maximum + more)
        else:
            event = extended(request, maximum + more)
        self.session = after(self.session, event)
        self.running = [(c, maximum_of(self.session, c)) for c, _ in self.running]

    @precondition(lambda self: self.running)
    @rule(share=st.integers(0, 100))
    def stream(self, share: int) -> None:
        cumulative, maximum = self.running[0]
        slice_of = charged(cumulative, maximum * share // 100, more=True)
        self.session = after(self.session, slice_of)

    @precondition(lambda self: self.running)
    @rule(share=st.integers(0, 100), failed=st.booleans())
    def finish(self, share: int, failed: bool) -> None:
        cumulative, maximum = self.running.pop(0)
        used = maximum * share // 100
        if failed:
            self.session = after(self.session, given_back(cumulative, used))
        else:
            events = charged(cumulative, used), delivered(cumulative)
            self.session = after(self.session, *events)

    @rule(more=st.integers(1, 50))
    def top_up(self, more: int) -> None:
        self.deposit += more
        self.see()

    @rule()
    def settle(self) -> None:
        fair = self.session.settle_voucher()
        if fair is not None and self.session.status is not Status.CLOSED:
            assert self.settled < fair.amount <= self.deposit
            self.settled = fair.amount
            assert self.settled <= self.session.due
            self.session = after(self.session, VoucherPublished(amount=fair.amount))
            self.see()

    @rule(off=st.integers(-3, 3))
    def close(self, off: int) -> None:
        asked = self.session.charged + off
        if asked < 0:
            return
        done = apply(self.session, close_asked(asked))
        self.session = done.channel
        if isinstance(done.answer, Closing):
            claim = self.session.claim_voucher()
            assert claim is not None or asked == 0
            paid = max(self.settled, claim.amount if claim else 0)
            assert paid == self.session.charged
            self.settled = paid
            self.session = after(self.session, Finalized())
            self.see()

    @invariant()
    def what_is_charged_can_be_had(self) -> None:
        if not hasattr(self, "session"):
            return
        claim = self.session.claim_voucher()
        assert self.session.due <= max(self.settled, claim.amount if claim else 0)
        assert len(self.session.running) == len(self.running)


Session.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestSession = Session.TestCase
