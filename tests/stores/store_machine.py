"""The same random steps on two stores, which must answer them in the same way."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from agentpay.core.budget import BudgetEvent
from agentpay.core.payer_session_rules import PayerSessionEvent
from agentpay.core.session_rules import SessionEvent
from agentpay.errors import AgentPayError, InvariantViolated
from agentpay.records import PaymentRecord, PaymentStatus
from agentpay.stores import MemoryStore, Store
from agentpay.types import Hash32
from tests.stores.store_cases import (
    ACCOUNT,
    LIMITS,
    books,
    budget_events,
    channel,
    happens,
    payee_record,
    payer_events,
    payer_record,
    payment,
    session_events,
)

T = TypeVar("T")

NUMBERS = range(6)
TAGGED = {number: number not in (0, 4) for number in NUMBERS}
SESSIONS = {number: number >= 4 for number in NUMBERS}
DURABLE = st.sampled_from([True, True, False])


async def outcome(step: Coroutine[object, object, T]) -> T | str:
    """What a step answered, or which error it raised."""
    try:
        return await step
    except (AgentPayError, InvariantViolated) as error:
        return type(error).__name__


async def payee_step(
    store: Store,
    number: int,
    event: SessionEvent,
    *,
    scale: int = 1,
    durable: bool = True,
) -> object:
    fresh = payee_record(
        number,
        tagged=TAGGED[number],
        session=SESSIONS[number],
        balance=40 * scale,
    )
    decide = happens(event, fresh, now=getattr(event, "cumulative", 0))
    step = store.payee.update(fresh.channel, decide, durable=durable)
    return await outcome(step)


async def payer_step(
    store: Store,
    number: int | None,
    event: PayerSessionEvent | None,
    spending: BudgetEvent | None,
    *,
    durable: bool = True,
) -> object:
    at = number or 0
    fresh = payer_record(at, tagged=TAGGED[at], session=SESSIONS[at])
    decide = books(event if number is not None else None, spending, LIMITS, fresh)
    key = None if number is None else fresh.channel
    return await outcome(store.payer.update(ACCOUNT, key, decide, durable=durable))


def _by_anybody(payment: PaymentRecord | None) -> PaymentRecord | None:
    """Each store has an owner of its own, and what is buried is that one's."""
    if payment is None or payment.owner in ("us", "them"):
        return payment
    return replace(payment, owner="the store")


numbers = st.sampled_from(NUMBERS)


def id_of(number: int) -> Hash32:
    return channel(number, tagged=TAGGED[number], session=SESSIONS[number])


class StoresAgree(RuleBasedStateMachine):
    """The same steps on a memory store and on a durable one that is often reopened."""

    kept: Store

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.memory = MemoryStore()
        self.cached = 2

    def opening(self, cached: int) -> Coroutine[object, object, Store]:
        raise NotImplementedError

    def run(self, step: Coroutine[object, object, T]) -> T:
        return self.loop.run_until_complete(step)

    @initialize(cached=st.sampled_from([1, 2, 100]))
    def open(self, cached: int) -> None:
        self.cached = cached
        self.kept = self.run(self.opening(cached))

    @rule()
    def reopen(self) -> None:
        self.run(self.kept.close())
        self.open(self.cached)

    @rule(number=numbers, event=session_events(), durable=DURABLE)
    def payee(self, number: int, event: SessionEvent, durable: bool) -> None:
        expected = self.run(payee_step(self.memory, number, event))
        found = self.run(payee_step(self.kept, number, event, durable=durable))
        assert found == expected

    @rule(steps=st.lists(st.tuples(numbers, session_events(), DURABLE), max_size=12))
    def payee_at_once(self, steps: list[tuple[int, SessionEvent, bool]]) -> None:
        """Each channel at most once, so that the order does not matter."""
        once = {number: (event, durable) for number, event, durable in steps}

        async def all_at_once(store: Store) -> list[object]:
            return await asyncio.gather(
                *(payee_step(store, n, e, durable=d) for n, (e, d) in once.items())
            )

        expected = self.run(all_at_once(self.memory))
        assert self.run(all_at_once(self.kept)) == expected

    @rule(
        number=st.none() | numbers,
        event=st.none() | payer_events(),
        spending=st.none() | budget_events(),
        durable=DURABLE,
    )
    def payer(
        self,
        number: int | None,
        event: PayerSessionEvent | None,
        spending: BudgetEvent | None,
        durable: bool,
    ) -> None:
        expected = self.run(payer_step(self.memory, number, event, spending))
        step = payer_step(self.kept, number, event, spending, durable=durable)
        assert self.run(step) == expected

    @rule(payment_id=st.sampled_from("abc"), owner=st.sampled_from(["us", "them"]))
    def begin(self, payment_id: str, owner: str) -> None:
        one = payment(payment_id, owner=owner)
        expected = self.run(self.memory.payee.begin_payment(one))
        found = self.run(self.kept.payee.begin_payment(one))
        assert found == expected
        assert (found is one) == (expected is one)

    @rule(
        payment_id=st.sampled_from("abc"),
        owner=st.sampled_from(["us", "them"]),
        status=st.sampled_from(list(PaymentStatus)),
    )
    def finish(self, payment_id: str, owner: str, status: PaymentStatus) -> None:
        outcomes = [
            self.run(
                outcome(
                    store.payee.finish_payment(
                        payment_id,
                        owner=owner,
                        status=status,
                        transaction="0x1",
                        charged=7,
                    )
                )
            )
            for store in (self.memory, self.kept)
        ]
        assert outcomes[0] == outcomes[1]

    @rule(payment_id=st.sampled_from("abc"), owner=st.sampled_from(["us", "them"]))
    def take(self, payment_id: str, owner: str) -> None:
        expected = self.run(self.memory.payee.take_payment(payment_id, owner=owner))
        found = self.run(self.kept.payee.take_payment(payment_id, owner=owner))
        assert found == expected

    @rule(payment_id=st.sampled_from("abc"), owner=st.sampled_from(["us", "them"]))
    def drop(self, payment_id: str, owner: str) -> None:
        for store in (self.memory, self.kept):
            self.run(store.payee.drop_payment(payment_id, owner=owner))

    @rule(payment_id=st.sampled_from("abc"))
    def find(self, payment_id: str) -> None:
        expected, found = (
            _by_anybody(self.run(store.payee.find_payment(payment_id)))
            for store in (self.memory, self.kept)
        )
        assert found == expected

    @rule(began=st.integers(-1, 1))
    def bury(self, began: int) -> None:
        for store in (self.memory, self.kept):
            begun_until = payment().started_at + began
            self.run(store.payee.bury_payments(begun_until=begun_until))

    @rule(name=st.sampled_from("xy"), position=st.integers(0, 2**40))
    def move_cursor(self, name: str, position: int) -> None:
        for store in (self.memory, self.kept):
            self.run(store.payee.write_cursor(name, position))

    @rule(at_least=st.integers(0, 20), limit=st.integers(0, 5), sessions=st.booleans())
    def claimable(self, at_least: int, limit: int, sessions: bool) -> None:
        found, expected = (
            self.run(
                store.payee.claimable(sessions=sessions, at_least=at_least, limit=limit)
            )
            for store in (self.kept, self.memory)
        )
        assert found == expected
        assert all(record.ledger.pays_whole == sessions for record in found)

    @rule(limit=st.integers(0, 5))
    def owed(self, limit: int) -> None:
        found, expected = (
            self.run(store.payee.owed(limit=limit))
            for store in (self.kept, self.memory)
        )
        assert found == expected

    @rule(limit=st.integers(0, 5), sessions=st.booleans())
    def closing(self, limit: int, sessions: bool) -> None:
        found, expected = (
            self.run(store.payee.closing(sessions=sessions, limit=limit))
            for store in (self.kept, self.memory)
        )
        assert found == expected
        assert all(record.ledger.pays_whole == sessions for record in found)

    @rule(name=st.sampled_from("xy"))
    def read_cursor(self, name: str) -> None:
        expected = self.run(self.memory.payee.read_cursor(name))
        assert self.run(self.kept.payee.read_cursor(name)) == expected

    @rule()
    def read_payer(self) -> None:
        for name in ("budget", "channels"):
            expected = self.run(getattr(self.memory.payer, name)(ACCOUNT))
            assert self.run(getattr(self.kept.payer, name)(ACCOUNT)) == expected

    @invariant()
    def channels_are_the_same(self) -> None:
        if not hasattr(self, "kept"):
            return
        for number in NUMBERS:
            key = id_of(number)
            expected = self.run(self.memory.payee.read(key))
            assert self.run(self.kept.payee.read(key)) == expected

    def teardown(self) -> None:
        if hasattr(self, "kept"):
            self.run(self.kept.close())
        self.loop.close()
