"""The rules of sending: nonces in a row, fees that rise to a limit, nothing twice."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from agentpay.core.sending import (
    GWEI,
    MARKS,
    TURNS,
    Attempt,
    FeePolicy,
    Fees,
    Joined,
    Launched,
    Looked,
    Market,
    Over,
    Queue,
    Raised,
    Sending,
    apply,
    first_fees,
    free_nonce,
    higher_fees,
    marked_gas,
    wants_more,
)
from agentpay.errors import ConfigurationError, InvariantViolated
from agentpay.types import Hash32

WEI = st.integers(0, 2000 * GWEI)
MARKETS = st.builds(Market, base_fee=WEI, tip=WEI)
POLICIES = st.builds(
    FeePolicy,
    fee_max=st.integers(1, 1000 * GWEI),
    cost_max=st.integers(1, 10**18),
    raise_seconds=st.just(15),
)
GAS = st.integers(21_000, 2**24)


def attempt(number: int, fees: Fees | None = None) -> Attempt:
    fees = fees or Fees(tip=GWEI, most=3 * GWEI)
    return Attempt(hash=Hash32(f"0x{number:064x}"), fees=fees)


def sending(nonce: int = 0, *, deadline: int = 0) -> Sending:
    return Sending(
        nonce=nonce,
        gas=100_000,
        attempts=(attempt(nonce),),
        at=0,
        block=10,
        deadline=deadline,
    )


TWO_MARKS = st.lists(st.integers(0, MARKS - 1), min_size=2, max_size=2, unique=True)


@given(needs=st.lists(GAS, min_size=2, max_size=2), marks=TWO_MARKS, turn=st.integers())
@example(needs=[100_000, 100_000], marks=[0, 1], turn=0)
def test_f8_two_senders_never_ask_for_the_same_gas(
    needs: list[int], marks: list[int], turn: int
) -> None:
    one, other = (
        marked_gas(needed, mark=mark, turn=turn, most=2**25)
        for needed, mark in zip(needs, marks, strict=True)
    )

    assert one != other
    assert needs[0] * 5 // 4 <= one < needs[0] * 5 // 4 + MARKS * TURNS


@given(needed=GAS, mark=st.integers(0, MARKS - 1), first=st.integers(0))
def test_f8_the_same_call_asks_for_other_gas_when_it_is_sent_again(
    needed: int, mark: int, first: int
) -> None:
    asked = {
        marked_gas(needed, mark=mark, turn=turn, most=2**25)
        for turn in range(first, first + TURNS)
    }

    assert len(asked) == TURNS


@given(needed=GAS, mark=st.integers(0, MARKS - 1), most=GAS)
def test_no_mark_asks_for_more_gas_than_allowed(
    needed: int, mark: int, most: int
) -> None:
    assert marked_gas(needed, mark=mark, turn=0, most=most) <= most


@given(market=MARKETS, gas=GAS, policy=POLICIES)
def test_first_fees_reach_the_next_block_and_stay_in_the_policy(
    market: Market, gas: int, policy: FeePolicy
) -> None:
    fees = first_fees(market, gas=gas, policy=policy)

    if fees is None:
        assert policy.ceiling(gas) < market.base_fee
    else:
        assert fees.most >= market.base_fee
        assert fees.most <= policy.fee_max
        assert fees.most * gas <= policy.cost_max


@given(tip=WEI, rest=WEI, market=MARKETS, gas=GAS, policy=POLICIES)
def test_higher_fees_replace_what_was_offered_and_stay_in_the_policy(
    tip: int, rest: int, market: Market, gas: int, policy: FeePolicy
) -> None:
    before = Fees(tip=tip, most=tip + rest)
    after = higher_fees(before, market, gas=gas, policy=policy)

    if after is not None:
        assert 8 * after.tip >= 9 * before.tip
        assert 8 * after.most >= 9 * before.most
        assert after.most <= policy.fee_max
        assert after.most * gas <= policy.cost_max


def test_fees_follow_a_market_that_has_tripled_at_once() -> None:
    before = Fees(tip=GWEI, most=21 * GWEI)
    market = Market(base_fee=30 * GWEI, tip=2 * GWEI)

    assert higher_fees(before, market, gas=100_000, policy=FeePolicy()) == market.fees


def test_nothing_more_is_offered_above_the_cost_that_is_allowed() -> None:
    policy = FeePolicy(fee_max=500 * GWEI, cost_max=100_000 * 10 * GWEI)
    before = Fees(tip=GWEI, most=9 * GWEI)
    market = Market(base_fee=8 * GWEI, tip=GWEI)

    assert higher_fees(before, market, gas=100_000, policy=policy) is None


@pytest.mark.parametrize(
    "wrong", [{"fee_max": 0}, {"cost_max": 0}, {"raise_seconds": 0}]
)
def test_a_policy_that_allows_nothing_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="positive"):
        FeePolicy(**wrong)


def more(sending_: Sending, *, now: float, block: int, chain_time: int = 0) -> bool:
    policy = FeePolicy(raise_seconds=15)
    return wants_more(
        sending_, now=now, block=block, chain_time=chain_time, policy=policy
    )


def test_more_is_offered_once_blocks_came_without_it_for_long_enough() -> None:
    assert not more(sending(), now=14, block=20)
    assert more(sending(), now=15, block=20)


def test_a_chain_that_stands_still_is_not_offered_more() -> None:
    assert not more(sending(), now=1000, block=11)


@given(left=st.integers(-1000, 1000))
def test_the_nearer_a_deadline_the_sooner_more_is_offered(left: int) -> None:
    near = sending(deadline=5000)
    patience = min(15, max(1, left / 8))
    then = {"block": 20, "chain_time": 5000 - left}

    assert more(near, now=patience, **then)
    assert not more(near, now=patience - 0.01, **then)


@given(theirs=st.integers(0, 99), ours=st.lists(st.integers(0, 99), max_size=3))
def test_who_joins_has_it_hurry_to_the_first_of_all_deadlines(
    theirs: int, ours: list[int]
) -> None:
    queue = apply(Queue(), Launched(sending=sending(3, deadline=theirs)))
    for deadline in ours:
        queue = apply(queue, Joined(nonce=3, deadline=deadline))

    [joined] = queue.sendings
    known = [deadline for deadline in (theirs, *ours) if deadline]
    assert joined.deadline == (min(known) if known else 0)


def test_a_nonce_is_given_once() -> None:
    queue = apply(Queue(), Launched(sending=sending(3)))
    with pytest.raises(InvariantViolated, match="given twice"):
        apply(queue, Launched(sending=sending(3)))


def test_a_raise_by_less_than_an_eighth_is_a_bug() -> None:
    queue = apply(Queue(), Launched(sending=sending()))
    little = attempt(99, Fees(tip=GWEI + 1, most=3 * GWEI + 1))
    with pytest.raises(InvariantViolated, match="an eighth more"):
        apply(queue, Raised(nonce=0, attempt=little, at=1, block=11))


def test_what_is_over_is_not_raised() -> None:
    queue = apply(Queue(), Launched(sending=sending()))
    queue = apply(queue, Over(nonce=0))
    with pytest.raises(InvariantViolated, match="nothing was sent"):
        apply(queue, Raised(nonce=0, attempt=attempt(99), at=1, block=11))


class Account(RuleBasedStateMachine):
    """
    One key against a chain that mines, loses and refuses what it likes.

    The chain is modelled by its next nonce and by which attempts it may have: it mines
    any attempt it has with the next nonce, and never another.
    """

    nonces = Bundle("nonces")

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue()
        self.next = 0
        self.pool: dict[int, set[Hash32]] = {}
        self.calls: dict[Hash32, int] = {}
        self.done: set[int] = set()
        self.count = 0

    def _attempt(self, fees: Fees, call: int) -> Attempt:
        self.count += 1
        made = attempt(1000 + self.count, fees)
        self.calls[made.hash] = call
        return made

    @rule(arrives=st.booleans(), tip=st.integers(0, 5 * GWEI))
    def launch(self, arrives: bool, tip: int) -> None:
        nonce = free_nonce(self.queue, self.next)
        first = self._attempt(Fees(tip=tip, most=tip + 10 * GWEI), self.count)
        event = Launched(
            sending=Sending(
                nonce=nonce,
                gas=100_000,
                attempts=(first,),
                at=0,
                block=0,
                doubtful=not arrives,
            )
        )
        self.queue = apply(self.queue, event)
        if arrives:
            self.pool.setdefault(nonce, set()).add(first.hash)

    @rule(data=st.data(), arrives=st.booleans())
    def offer_more(self, data: st.DataObject, arrives: bool) -> None:
        if not self.queue.sendings:
            return
        chosen = data.draw(st.sampled_from(self.queue.sendings))
        market = Market(base_fee=GWEI, tip=GWEI)
        policy = FeePolicy()
        fees = higher_fees(
            chosen.attempts[-1].fees, market, gas=chosen.gas, policy=policy
        )
        if fees is None:
            return
        made = self._attempt(fees, self.calls[chosen.attempts[0].hash])
        event = Raised(nonce=chosen.nonce, attempt=made, at=1, block=1)
        self.queue = apply(self.queue, event)
        if arrives and chosen.nonce >= self.next:
            self.pool.setdefault(chosen.nonce, set()).add(made.hash)

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        if self.pool:
            nonce = data.draw(st.sampled_from(sorted(self.pool)))
            del self.pool[nonce]
            if self.queue.get(nonce):
                self.queue = apply(self.queue, Looked(nonce=nonce, found=False))

    @rule()
    def send_again_what_is_lost(self) -> None:
        for one in self.queue.sendings:
            if one.nonce >= self.next and not self.pool.get(one.nonce):
                self.pool[one.nonce] = {one.attempts[-1].hash}
                self.queue = apply(self.queue, Looked(nonce=one.nonce, found=True))

    @rule(data=st.data())
    def mine(self, data: st.DataObject) -> None:
        attempts = self.pool.pop(self.next, set())
        if not attempts:
            return
        mined = data.draw(st.sampled_from(sorted(attempts)))
        call = self.calls[mined]
        assert call not in self.done, "a call was mined twice"
        self.done.add(call)
        self.next += 1

    @rule()
    def look(self) -> None:
        for one in self.queue.sendings:
            if one.nonce < self.next:
                self.queue = apply(self.queue, Over(nonce=one.nonce))

    @invariant()
    def a_call_keeps_its_nonce(self) -> None:
        for one in self.queue.sendings:
            assert len({self.calls[a.hash] for a in one.attempts}) == 1

    @invariant()
    def there_is_no_gap(self) -> None:
        open_ = [s.nonce for s in self.queue.sendings if s.nonce >= self.next]
        assert open_ == list(range(self.next, self.next + len(open_)))


TestAccount = Account.TestCase
