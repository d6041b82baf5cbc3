"""How long the first of what is unclaimed has waited: never less than it has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.core import payee_rules, session_rules
from agentpay.core.payee_events import ChainSeen, Delivered
from agentpay.core.session_rules import SessionEvent, VoucherRaised
from agentpay.errors import InvariantViolated
from agentpay.evm.batch_settlement import VoucherClaim
from agentpay.ports import Settler, Signer
from agentpay.records import PayeeRecord, Settled, Taken
from agentpay.stores import MemoryPayeeStore
from agentpay.testing.local_chain import LocalChain
from tests.keeper.test_bad_rows_are_left_alone import Listening
from tests.keeper.test_settlement_triggers import PRICE, Clock, World, a_world
from tests.keeper.test_what_chains_take_back import a_keeper
from tests.sessions.till import Till, a_till
from tests.stores.store_cases import happens, payee_record, session_events, voucher

BALANCE = 10**6


@dataclass(kw_only=True)
class Debtor:
    """A channel, and when the money that could be claimed of it reached which sum."""

    record: PayeeRecord
    now: int = 1
    history: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    begun: list[int] = field(default_factory=list[int])
    asked: list[Taken] = field(default_factory=list[Taken])

    def happens(self, event: SessionEvent) -> None:
        self.record = happens(event, now=self.now)(self.record).record or self.record
        self.note()

    def note(self) -> None:
        ledger = self.record.ledger
        self.history.append((self.now, ledger.claimed + ledger.unclaimed))

    def begins(self, price: int) -> None:
        amount = self.record.ledger.highest + price
        self.happens(voucher(amount, maximum=price, prepaid=price % 2 == 0))
        self.begun.append(amount)

    def ends(self) -> None:
        if self.begun:
            self.happens(Delivered(cumulative=self.begun.pop(0), owner="us"))

    def raises(self, more: int) -> None:
        if self.record.ledger.pays_whole:
            amount = self.record.ledger.highest + more
            self.happens(VoucherRaised(cumulative=amount, signature=bytes(65)))

    def asks(self) -> None:
        """The chain for all that can be claimed."""
        ledger = self.record.ledger
        amount = ledger.claimed + ledger.unclaimed
        self.asked.append(Taken(amount=amount, asked_at=self.now))

    def looks(self, taken: Taken | None, claimed: int) -> None:
        rules = session_rules if self.record.ledger.pays_whole else payee_rules
        seen = ChainSeen(balance=BALANCE, claimed=claimed, pending_withdrawal=0)
        after = rules.apply(self.record.ledger, seen).channel
        self.record = self.record.seen_on_chain(after, at=self.now, taken=taken)
        self.note()

    def hears(self, how: str) -> None:
        """Of the first claim that is out; perhaps others hear of it before us."""
        if not self.asked:
            return
        taken, before = self.asked.pop(0), self.record.ledger.claimed
        claimed = max(before, taken.amount)
        if how == "after others":
            self.looks(None, claimed)
        self.looks(taken, before if how == "of nothing" else claimed)

    @property
    def truth(self) -> int:
        """When more could be claimed for the first time than is claimed now."""
        claimed = self.record.ledger.claimed
        return next(at for at, sum_ in self.history if sum_ > claimed)


Action = Callable[[Debtor], None]


def begins(price: int) -> Action:
    return lambda debtor: debtor.begins(price)


def raises(more: int) -> Action:
    return lambda debtor: debtor.raises(more)


def hears(how: str) -> Action:
    return lambda debtor: debtor.hears(how)


HOW = ("at once", "of nothing", "after others")
amounts = st.integers(1, 9)
actions: st.SearchStrategy[list[Action]] = st.lists(
    st.one_of(
        amounts.map(begins),
        amounts.map(raises),
        st.just(Debtor.ends),
        st.just(Debtor.asks),
        st.sampled_from(HOW).map(hears),
    ),
    max_size=40,
)


@given(steps=actions, session=st.booleans())
def test_no_debt_is_said_to_be_younger_than_it_is(
    steps: list[Action], *, session: bool
) -> None:
    fresh = payee_record(balance=BALANCE, window=64, in_flight_max=64, session=session)
    debtor = Debtor(record=replace(fresh, last_voucher_at=0))
    for step in steps:
        debtor.now += 10
        step(debtor)
        if debtor.record.ledger.unclaimed:
            assert 0 < debtor.record.owing_since <= debtor.truth


@pytest.mark.parametrize("how", HOW)
def test_a_claim_makes_a_debt_younger_once_the_chain_shows_it(how: str) -> None:
    debtor = Debtor(record=payee_record(balance=BALANCE))
    for now, step in enumerate(
        [begins(2), Debtor.ends, Debtor.asks, begins(2), Debtor.ends, hears(how)], 10
    ):
        debtor.now = now
        step(debtor)

    assert debtor.record.owing_since == (10 if how == "of nothing" else 12)
    assert debtor.record.ledger.unclaimed == (4 if how == "of nothing" else 2)


@given(events=st.lists(session_events(), max_size=30), session=st.booleans())
def test_whatever_can_be_claimed_is_owed(
    events: list[SessionEvent], *, session: bool
) -> None:
    debtor = Debtor(record=payee_record(balance=60, session=session))
    for event in events:
        try:
            debtor.happens(event)
        except InvariantViolated:  # what x402 does not know
            continue
        ledger, since = debtor.record.ledger, debtor.record.owing_since
        assert ledger.owes or not ledger.unclaimed
        assert bool(since) == ledger.owes


class Meanwhile(Listening):
    """A facilitator that is slow: while it claims, its payee sells on."""

    def __init__(self, settler: Settler, world: World, clock: Clock) -> None:
        super().__init__(settler)
        self._world, self._clock = world, clock

    async def claim(
        self, claims: Sequence[VoucherClaim], *, authorizer: Signer, deadline: int = 0
    ) -> Settled:
        self._clock.ahead += 30
        await self._world.buy(1)
        self._clock.ahead += 30
        return await super().claim(claims, authorizer=authorizer, deadline=deadline)


async def test_a_keeper_that_is_dead_is_seen_while_its_payee_sells_on(
    agentpay_chain: LocalChain,
) -> None:
    clock = Clock()
    async with a_world(agentpay_chain, claim_at="$1000", clock=clock) as world:
        await world.buy(1)
        await a_keeper(world)
        for _ in range(3):
            clock.ahead += 1000
            await world.buy(1)
        dead = await world.payee.figures()
        settlement = world.payee.settlement
        settlement._facilitator = Meanwhile(settlement._facilitator, world, clock)
        await settlement.claim()
        alive = await world.payee.figures()

    assert dead.unclaimed == 4 * PRICE
    assert 3000 <= dead.oldest_seconds < 3060
    assert alive.unclaimed == PRICE
    assert 30 <= alive.oldest_seconds < 120


async def test_what_is_left_of_a_session_is_owed_since_it_was_settled(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        config = await till.opened(300)
        await till.sells(config, 100, 100)
        await till.begins(config, 200, 100)
        await till.uses(config, 200, 100)
        since = await owing_since(till)
        till.clock.ahead += 50
        await till.sessions.settle()
        after = await owing_since(till)
        await till.ends(config, 200, 100)
        owed = await till.store.owed(limit=9)

    assert since == 0  # this till keeps no time of what it sells
    assert after == int(till.clock())
    assert (owed.amount, owed.since) == (100, after)


async def owing_since(till: Till) -> int:
    assert isinstance(till.store, MemoryPayeeStore)
    (record,) = till.store._records.values()
    return record.owing_since
