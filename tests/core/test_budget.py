"""
A budget is kept whatever happens at once, and money that comes back can be spent again.
"""

import random
from dataclasses import replace

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

from agentpay.core.budget import (
    Answered,
    Budget,
    BudgetEvent,
    Delivered,
    Due,
    Hold,
    Lapse,
    Limits,
    Moved,
    Presented,
    Released,
    Reserved,
    Returned,
    Spent,
    Undelivered,
    apply,
    carried_on,
    check_request,
    left_for,
)
from agentpay.errors import BudgetExceeded, InvariantViolated, NonceBusy

LIMITS = Limits(total=100, per_host=60, per_request=30)
HOSTS = ("a.example", "b.example", "c.example")


def hold(
    amount: int, *, key: str = "1", host: str = HOSTS[0], request: str = ""
) -> Hold:
    return Hold(
        id=key,
        host=host,
        amount=amount,
        valid_before=600,
        detail="{}",
        request=request,
        presented_until=9 if request else 0,
    )


def budget_after(*events: BudgetEvent, limits: Limits = LIMITS) -> Budget:
    budget = Budget()
    for event in events:
        budget = apply(budget, event, limits)
    return budget


class BudgetMachine(RuleBasedStateMachine):
    """Reservations, outcomes and returns in any order, compared with plain sums."""

    limits: Limits
    budget: Budget

    @initialize(
        total=st.integers(0, 100), per_host=st.integers(0, 100), each=st.integers(0, 50)
    )
    def start(self, total: int, per_host: int, each: int) -> None:
        self.limits = Limits(total=total, per_host=per_host, per_request=each)
        self.budget = Budget()
        self.gone = dict.fromkeys(HOSTS, 0)
        self.held: dict[str, Hold] = {}
        self.names = 0

    @rule(amount=st.integers(0, 60), host=st.sampled_from(HOSTS))
    def reserve(self, amount: int, host: str) -> None:
        self.names += 1
        wanted = hold(amount, key=str(self.names), host=host)
        fits = self._exposure() + amount <= self.limits.total
        fits = fits and self._exposure(host) + amount <= self.limits.per_host
        assert fits or amount > left_for(self.budget, host, self.limits)
        assert not fits or amount <= left_for(self.budget, host, self.limits)
        if fits:
            self._apply(Reserved(hold=wanted))
            self.held[wanted.id] = wanted
            return
        with pytest.raises(BudgetExceeded) as refused:
            self._apply(Reserved(hold=wanted))
        assert refused.value.left < amount

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 9), share=st.integers(0, 12))
    def spend(self, pick: int, share: int) -> None:
        spent = self._pick(pick)
        amount = spent.amount * share // 10
        self._apply(Spent(id=spent.id, amount=amount))
        self.gone[spent.host] += min(amount, spent.amount)
        self._apply(Spent(id=spent.id, amount=amount))

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 9))
    def release(self, pick: int) -> None:
        self._apply(Released(id=self._pick(pick).id))

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 9), share=st.integers(0, 12))
    def move(self, pick: int, share: int) -> None:
        """What has moved is held no more, however often that is said."""
        moved = self._pick(pick)
        amount = moved.amount * share // 10
        for _ in range(2):
            self._apply(Moved(id=moved.id, amount=amount))
        self.gone[moved.host] += min(amount, moved.amount)
        self.held[moved.id] = replace(moved, amount=0)

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 9), until=st.integers(0, 99), over=st.booleans())
    def present(self, pick: int, until: int, over: bool) -> None:
        ids = sorted(self.held)
        name = ids[pick % len(ids)]
        self._apply(Answered(id=name) if over else Presented(id=name, until=until))

    @rule(host=st.sampled_from(HOSTS), amount=st.integers(0, 60))
    def get_back(self, host: str, amount: int) -> None:
        self._apply(Returned(host=host, amount=amount))
        self.gone[host] -= min(amount, self.gone[host])

    def _apply(self, event: BudgetEvent) -> None:
        self.budget = apply(self.budget, event, self.limits)

    def _pick(self, pick: int) -> Hold:
        ids = sorted(self.held)
        return self.held.pop(ids[pick % len(ids)])

    def _exposure(self, host: str | None = None) -> int:
        gone = sum(n for h, n in self.gone.items() if host in (None, h))
        return gone + sum(
            h.amount for h in self.held.values() if host in (None, h.host)
        )

    @invariant()
    def counts_every_unit_once(self) -> None:
        assert self.budget.exposure == self._exposure()
        for host in HOSTS:
            assert self.budget.exposure_to(host) == self._exposure(host)

    @invariant()
    def stays_within_its_limits(self) -> None:
        assert self.budget.exposure <= self.limits.total
        assert all(self.budget.exposure_to(h) <= self.limits.per_host for h in HOSTS)

    @invariant()
    def keeps_every_hold_until_its_money_is_free_or_answered_for(self) -> None:
        assert {h.id: h.amount for h in self.budget.holds} == {
            name: h.amount for name, h in self.held.items()
        }


TestBudget = BudgetMachine.TestCase
TestBudget.settings = settings(max_examples=60, deadline=None)


def test_a_thousand_requests_at_once_never_exceed_the_limits() -> None:
    """C9: whatever the interleaving, each decision sees the one before it."""
    dice = random.Random(402)
    budget, open_holds = Budget(), list[Hold]()
    highest = 0
    for number in range(1000):
        wanted = hold(dice.randint(1, 9), key=str(number), host=dice.choice(HOSTS))
        try:
            budget = apply(budget, Reserved(hold=wanted), LIMITS)
            open_holds.append(wanted)
        except BudgetExceeded:
            if open_holds:
                freed = open_holds.pop(dice.randrange(len(open_holds)))
                budget = apply(budget, Released(id=freed.id), LIMITS)
        highest = max(highest, budget.exposure)

        assert budget.exposure <= LIMITS.total
        assert all(budget.exposure_to(h) <= LIMITS.per_host for h in HOSTS)
    assert highest > LIMITS.total - 9


def test_many_small_payments_add_up() -> None:
    ones = [Reserved(hold=hold(1, key=str(number))) for number in range(60)]
    budget = budget_after(*ones)

    with pytest.raises(BudgetExceeded, match=r"per-host \(a\.example\)"):
        apply(budget, Reserved(hold=hold(1, key="one more")), LIMITS)


def test_what_is_left_may_be_spent_to_the_last_unit() -> None:
    budget = budget_after(Reserved(hold=hold(60)))

    full = apply(budget, Reserved(hold=hold(40, key="2", host=HOSTS[1])), LIMITS)
    assert full.exposure == LIMITS.total
    with pytest.raises(BudgetExceeded) as refused:
        apply(full, Reserved(hold=hold(1, key="3", host=HOSTS[2])), LIMITS)
    assert (refused.value.wanted, refused.value.left) == (1, 0)


def test_a_limit_that_was_lowered_leaves_nothing() -> None:
    budget = budget_after(Reserved(hold=hold(60)))
    lowered = replace(LIMITS, total=10, per_host=10)

    with pytest.raises(BudgetExceeded) as refused:
        apply(budget, Reserved(hold=hold(1, key="2")), lowered)
    assert refused.value.left == 0


def test_what_two_may_hold_is_held_by_the_first() -> None:
    """Two processes take the next nonce of one wallet."""
    wanted = Reserved(hold=hold(10), contested=True)
    budget = budget_after(wanted)

    with pytest.raises(NonceBusy):
        apply(budget, wanted, LIMITS)
    assert budget.exposure == 10


def test_one_request_may_cost_its_limit_and_no_more() -> None:
    check_request(LIMITS, 30)

    with pytest.raises(BudgetExceeded, match="per-request"):
        check_request(LIMITS, 31)


def test_money_that_came_back_can_be_spent_again() -> None:
    budget = budget_after(
        Reserved(hold=hold(60)),
        Spent(id="1", amount=60),
        Returned(host=HOSTS[0], amount=50),
    )

    assert budget.exposure == 10
    assert apply(budget, Reserved(hold=hold(50, key="2")), LIMITS).exposure == 60


def test_no_host_can_return_more_than_it_got() -> None:
    budget = budget_after(
        Reserved(hold=hold(10)),
        Spent(id="1", amount=10),
        Returned(host=HOSTS[0], amount=1000),
        Returned(host=HOSTS[1], amount=1000),
    )

    assert budget.exposure == 0
    assert budget.exposure_to(HOSTS[1]) == 0


def test_a_hold_costs_no_more_than_was_reserved() -> None:
    budget = budget_after(Reserved(hold=hold(10)), Spent(id="1", amount=11))

    assert budget.exposure == 10


def test_an_unknown_hold_changes_nothing() -> None:
    budget = budget_after(Reserved(hold=hold(10)))

    assert apply(budget, Spent(id="other", amount=5), LIMITS) == budget
    assert apply(budget, Released(id="other"), LIMITS) == budget
    assert apply(budget, Moved(id="other", amount=5), LIMITS) == budget
    assert apply(budget, Presented(id="other", until=5), LIMITS) == budget
    assert apply(budget, Answered(id="other"), LIMITS) == budget


def test_a_hold_is_not_reserved_twice() -> None:
    with pytest.raises(InvariantViolated, match="reserved twice"):
        budget_after(Reserved(hold=hold(10)), Reserved(hold=hold(10)))


@pytest.mark.parametrize(
    "event",
    [Reserved(hold=hold(-1)), Returned(host=HOSTS[0], amount=-5)],
    ids=["a negative hold", "a negative return"],
)
def test_negative_amounts_are_our_bug(event: BudgetEvent) -> None:
    with pytest.raises(InvariantViolated):
        budget_after(event)


def test_a_negative_cost_is_our_bug() -> None:
    paid = budget_after(Reserved(hold=hold(10)), Spent(id="1", amount=10))
    again = apply(paid, Reserved(hold=hold(10, key="2")), LIMITS)

    with pytest.raises(InvariantViolated):
        apply(again, Spent(id="2", amount=-5), LIMITS)


# What is carried on (C8).


def at_nobody(held: Hold) -> bool:
    return held.presented_until <= 0


def test_c8_the_oldest_of_the_same_request_that_nobody_is_at_is_carried_on() -> None:
    holds = [hold(1, key=key, request="r") for key in "123"]
    budget = budget_after(*(Reserved(hold=each) for each in holds))
    assert carried_on(budget, "r", at_nobody) is None

    for key in "32":
        budget = apply(budget, Presented(id=key, until=0), LIMITS)
    found = carried_on(budget, "r", at_nobody)
    assert found == replace(holds[1], presented_until=0)
    budget = apply(budget, Presented(id="2", until=99), LIMITS)
    assert carried_on(budget, "r", at_nobody) == replace(holds[2], presented_until=0)
    assert budget.exposure == 3


def test_c8_who_left_late_says_nothing_of_who_has_taken_it_up() -> None:
    left = replace(hold(1, request="r"), presented_until=5)
    budget = budget_after(Reserved(hold=left), Presented(id="1", until=6))

    assert apply(budget, Presented(id="1", until=-5), LIMITS) == budget
    budget = apply(budget, Presented(id="1", until=-6), LIMITS)
    assert budget.holds == (replace(left, presented_until=-6),)


@given(
    st.lists(st.tuples(st.sampled_from(["", "r", "other"]), st.sampled_from("-ma"))),
    st.sampled_from(["", "r"]),
)
def test_c8_only_what_is_for_the_same_request_and_unanswered_is_carried_on(
    story: list[tuple[str, str]], wanted: str
) -> None:
    budget, open_ = Budget(), list[str]()
    for number, (request, end) in enumerate(story):
        key = str(number)
        event = Reserved(hold=hold(0, key=key, request=request))
        budget = apply(budget, event, LIMITS)
        if end == "a":
            budget = apply(budget, Answered(id=key), LIMITS)
        elif request == wanted and wanted:
            open_.append(key)
        if end == "m":
            budget = apply(budget, Moved(id=key, amount=0), LIMITS)
    found = carried_on(budget, wanted, lambda _: True)

    assert (found.id if found else None) == next(iter(open_), None)


def test_c8_what_has_moved_is_still_owed_an_answer_and_is_spent_once() -> None:
    budget = budget_after(Reserved(hold=hold(10, request="r")), Moved(id="1", amount=7))
    assert (budget.exposure, [h.amount for h in budget.holds]) == (7, [0])
    assert carried_on(budget, "r", lambda _: True) is not None

    after = apply(budget, Spent(id="1", amount=10), LIMITS)
    assert (after.exposure, after.holds) == (7, ())


@pytest.mark.parametrize("end", [Spent(id="1", amount=9), Answered(id="1")])
def test_c8_an_answer_that_broke_off_is_due_and_moves_no_money(
    end: BudgetEvent,
) -> None:
    wanted = hold(10, request="r")
    before = budget_after(Reserved(hold=wanted), end)
    assert carried_on(before, "r", lambda _: True) is None

    after = apply(before, Due(hold=wanted), LIMITS)
    assert carried_on(after, "r", at_nobody) is not None
    assert after.exposure == before.exposure


# Hosts that take payments and deliver nothing (C15).


def lapsed(budget: Budget, *, sent: int, noticed: int, host: str = "a") -> Budget:
    event = Undelivered(host=host, sent_at=sent, noticed_at=noticed, within=100)
    return apply(budget, event, LIMITS)


def test_c15_lapses_in_a_row_are_counted_per_host() -> None:
    budget = lapsed(Budget(), sent=0, noticed=10)
    budget = lapsed(budget, sent=10, noticed=20)
    budget = lapsed(budget, sent=15, noticed=30, host="b")

    assert budget.lapse("a") == Lapse(host="a", count=2, last=20)
    assert budget.lapse("b") == Lapse(host="b", count=1, last=30)
    assert budget.lapse("c") is None


def test_c15_what_one_broken_connection_takes_along_is_one_lapse() -> None:
    budget = Budget()
    for noticed in (50, 51, 52):
        budget = lapsed(budget, sent=40, noticed=noticed)

    assert budget.lapse("a") == Lapse(host="a", count=1, last=50)


def test_c15_lapses_long_apart_are_not_in_a_row() -> None:
    budget = lapsed(lapsed(Budget(), sent=0, noticed=10), sent=105, noticed=111)

    assert budget.lapse("a") == Lapse(host="a", count=1, last=111)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), st.booleans())))
def test_c15_a_delivery_forgets_every_lapse_and_no_lapse_moves_money(
    story: list[tuple[int, int, bool]],
) -> None:
    budget, count = Budget(), 0
    for sent, took, delivered in story:
        before = budget
        if delivered:
            budget, count = apply(budget, Delivered(host="a"), LIMITS), 0
            assert budget.lapse("a") is None
        else:
            budget, count = lapsed(budget, sent=sent, noticed=sent + took), count + 1
            lapse = budget.lapse("a")
            assert lapse is not None
            assert 1 <= lapse.count <= count
        assert (budget.spent, budget.holds) == (before.spent, before.holds)
