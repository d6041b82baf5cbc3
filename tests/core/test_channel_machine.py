"""
A payment channel against everything: Hypothesis picks the steps and shrinks what fails.

The simulation beside this runs many more histories; here the few are chosen with care.
"""

from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from agentpay.core.payee_channel import Status

from .channel_messages import Kind
from .channel_promises import check, check_goes_on, come_to_rest
from .channel_world import VALID_SECONDS, World, make_world

PICKS = st.integers(0, 5)
SMALL = st.sampled_from((0, 1, 2, 3, 10))
MAXIMA = st.sampled_from((1, 2, 3, 10))
KINDS = st.sampled_from(Kind)


def has(part: str) -> Callable[["ChannelMachine"], bool]:
    return lambda machine: bool(getattr(machine.world, part))


class ChannelMachine(RuleBasedStateMachine):
    """One honest payer, one payee, a hostile network, and a chain that changes."""

    tagged = True
    thief = False
    hostile = False
    world: World

    @initialize(
        balance=st.integers(15, 60),
        headroom=st.sampled_from((3, 10, 40)),
        window=st.integers(1, 5),
        in_flight_max=st.integers(1, 5),
    )
    def open(
        self, balance: int, headroom: int, window: int, in_flight_max: int
    ) -> None:
        self.world = make_world(
            tagged=self.tagged,
            thief=self.thief,
            balance=balance,
            headroom=headroom,
            window=window,
            in_flight_max=min(window, in_flight_max),
        )

    @rule(
        maximum=MAXIMA,
        kind=KINDS,
        top_up=st.sampled_from((0, 0, 20)),
        arrives=st.booleans(),
    )
    def want(self, maximum: int, kind: Kind, top_up: int, arrives: bool) -> None:
        copy = self.world.want(maximum=maximum, kind=kind, top_up=top_up)
        if copy is not None:
            self.world.send(copy)
            if arrives:
                self.world.arrive(len(self.world.network) - 1)

    @rule(maxima=st.lists(MAXIMA, min_size=2, max_size=5), kind=KINDS)
    def want_many_at_once(self, maxima: list[int], kind: Kind) -> None:
        for maximum in maxima:
            self.want(maximum=maximum, kind=kind, top_up=0, arrives=True)

    @rule(maximum=MAXIMA, kind=KINDS)
    def want_and_crash_before_sending(self, maximum: int, kind: Kind) -> None:
        self.world.want(maximum=maximum, kind=kind)

    @precondition(has("network"))
    @rule(pick=PICKS, keep=st.booleans())
    def arrive(self, pick: int, keep: bool) -> None:
        self.world.arrive(pick % len(self.world.network), keep=keep)

    @precondition(has("network"))
    @rule(pick=PICKS)
    def lose(self, pick: int) -> None:
        self.world.lose(pick % len(self.world.network))

    @precondition(has("replies"))
    @rule(pick=PICKS, again=st.booleans())
    def hear(self, pick: int, again: bool) -> None:
        self.world.hear(pick % len(self.world.replies), again=again)

    @precondition(has("replies"))
    @rule(pick=PICKS)
    def lose_reply(self, pick: int) -> None:
        del self.world.replies[pick % len(self.world.replies)]

    @precondition(has("seen"))
    @rule(pick=PICKS, maximum=SMALL, kind=KINDS, asking=st.booleans())
    def replay(self, pick: int, maximum: int, kind: Kind, asking: bool) -> None:
        seen = sorted(self.world.seen)
        cumulative = seen[pick % len(seen)]
        purpose = "ask" if asking else "buy"
        self.world.replay(cumulative, maximum=maximum, kind=kind, purpose=purpose)

    @precondition(lambda self: self.world.payer.open)
    @rule(pick=PICKS, asking=st.booleans())
    def repeat(self, pick: int, asking: bool) -> None:
        tickets = self.world.payer.open
        ticket = tickets[pick % len(tickets)]
        self.world.repeat(ticket.cumulative, asking=asking)

    @precondition(has("handlers"))
    @rule(pick=PICKS, amount=SMALL)
    def slice(self, pick: int, amount: int) -> None:
        self.world.slice(self._handler(pick), amount)

    @precondition(has("handlers"))
    @rule(pick=PICKS, amount=SMALL, heard=st.booleans())
    def finish(self, pick: int, amount: int, heard: bool) -> None:
        cumulative = self._handler(pick)
        self.world.finish(cumulative, amount)
        if heard and self.world.replies:
            self.world.deliver(cumulative)
            self.world.hear(len(self.world.replies) - 1)

    @precondition(has("handlers"))
    @rule(pick=PICKS)
    def deliver(self, pick: int) -> None:
        self.world.deliver(self._handler(pick))

    @precondition(has("handlers"))
    @rule(pick=PICKS)
    def fail(self, pick: int) -> None:
        self.world.fail(self._handler(pick))

    def _handler(self, pick: int) -> int:
        running = sorted(self.world.handlers)
        return running[pick % len(running)]

    @precondition(lambda self: self.world.payee.running)
    @rule()
    def crash(self) -> None:
        self.world.crash()

    @precondition(lambda self: self.world.has_dead)
    @rule()
    def bury_the_dead(self) -> None:
        self.world.bury()

    @precondition(lambda self: self.world.payer.deposit)
    @rule(lapses=st.booleans())
    def resolve_the_deposit(self, lapses: bool) -> None:
        if lapses:
            self.world.wait(VALID_SECONDS + 1)
        self.world.watch_chain()

    @precondition(lambda self: self.world.payee.unclaimed)
    @rule()
    def claim(self) -> None:
        self.world.claim()

    @precondition(lambda self: len(self.world.seen) > 8)
    @rule()
    def want_refund(self) -> None:
        self.world.want_refund()

    @precondition(lambda self: self.world.payee.status is Status.CLOSING)
    @rule()
    def refund(self) -> None:
        self.world.refund()

    @precondition(lambda self: self.hostile)
    @rule(amount=st.integers(1, 60))
    def start_withdrawal(self, amount: int) -> None:
        self.world.start_withdrawal(amount)

    @precondition(lambda self: self.hostile and self.world.withdrawing)
    @rule()
    def finish_withdrawal(self) -> None:
        self.world.finish_withdrawal()

    @precondition(lambda self: self.hostile)
    @rule(lost=st.integers(1, 20))
    def reorganize(self, lost: int) -> None:
        self.world.reorganize(lost)

    @invariant()
    def keeps_its_promises(self) -> None:
        check(self.world)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            come_to_rest(self.world)
            check_goes_on(self.world, 1)
            check(self.world)


class HostileMachine(ChannelMachine):
    """The chain takes money away, and the adversary presents fresh vouchers."""

    thief = True
    hostile = True


class StrictMachine(ChannelMachine):
    """A channel of the specification's kind, used by our lanes."""

    tagged = False
    hostile = True

    @rule(part=st.sampled_from((None, 0, 1, 2, 10, 100)))
    def ask_for_part(self, part: int | None) -> None:
        self.world.ask_for_part(part)

    @precondition(lambda self: self.world.payee.part)
    @precondition(lambda self: self.world.payee.status is Status.CLOSING)
    @rule(dies=st.booleans())
    def give_part(self, dies: bool) -> None:
        self.world.give_part(dies=dies)

    @precondition(has("parts_ended"))
    @rule(pick=PICKS)
    def end_late(self, pick: int) -> None:
        self.world.end_late(pick)


PACE = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

TestParallelChannel = ChannelMachine.TestCase
TestParallelChannel.settings = PACE
TestHostileWorld = HostileMachine.TestCase
TestHostileWorld.settings = PACE
TestStrictChannel = StrictMachine.TestCase
TestStrictChannel.settings = PACE
