"""
An agent with one budget and the sellers that it pays by transfer; between them a
network that loses and repeats, a chain, and a clock.

The budget and the payer's judgement are the real rules. Sellers settle first, as ours
do, and record before they act; a cheat takes the money and says anything.
"""

import random
from dataclasses import dataclass, field
from enum import StrEnum

from agentpay.core import budget as budgets
from agentpay.core.budget import (
    Answered,
    Budget,
    BudgetEvent,
    Delivered,
    Due,
    Hold,
    Limits,
    Moved,
    Presented,
    Released,
    Reserved,
    Returned,
    Spent,
    Undelivered,
)
from agentpay.core.exchange import Booking, Next, TransferAnswer, judge_transfer
from agentpay.errors import BudgetExceeded, NonceBusy

VALID_SECONDS = 60
LAPSE_SECONDS = 300


class Stage(StrEnum):
    """How far a seller is with a payment, durably."""

    STARTED = "started"
    SETTLED = "settled"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A transfer that was signed; whoever has seen it may send it in time."""

    id: str
    host: str
    amount: int
    valid_before: int
    request: str
    """What it was signed for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """An answer on its way to the agent."""

    id: str
    answer: TransferAnswer


@dataclass(slots=True, kw_only=True)
class Purchase:
    """A request of the agent's whose caller still waits."""

    signed: Signed
    sent: int = 1
    sent_at: int
    """Also when it began to be presented."""


@dataclass(slots=True, kw_only=True)
class AgentWorld:
    """Everything there is around one budget. Public methods are the steps."""

    dice: random.Random
    limits: Limits
    cheats: frozenset[str]
    hosts: tuple[str, ...] = ("one", "two", "three")
    budget: Budget = field(default_factory=Budget)
    now: int = 1000
    names: int = 0
    signed: dict[str, Signed] = field(default_factory=dict[str, Signed])
    waiting: dict[str, Purchase] = field(default_factory=dict[str, Purchase])
    network: list[str] = field(default_factory=list[str])
    replies: list[Heard] = field(default_factory=list[Heard])
    moved: dict[str, int] = field(default_factory=dict[str, int])
    """What each authorization moved: the chain lets each move once, and in time."""
    stages: dict[str, Stage] = field(default_factory=dict[str, Stage])
    served: dict[str, int] = field(default_factory=dict[str, int])
    broken: dict[str, tuple[int, int]] = field(
        default_factory=dict[str, tuple[int, int]]
    )
    """How often each host broke in a row, and when it last did."""
    gone: dict[str, int] = field(default_factory=dict[str, int])
    """What has left for each host on chain, and is not back."""
    returners: set[str] = field(default_factory=set[str])
    left: set[str] = field(default_factory=set[str])
    """Transfers whose callers had no answer, and nobody has asked again for."""
    answered: set[str] = field(default_factory=set[str])
    """Transfers whose callers had an answer, and may be held."""
    freed: set[str] = field(default_factory=set[str])
    """Transfers that are known to have expired unused."""
    booked: set[str] = field(default_factory=set[str])
    """Transfers that an answer said were made."""
    events: int = 0

    def tell(self, event: BudgetEvent) -> None:
        self.events += 1
        self.budget = budgets.apply(self.budget, event, self.limits)

    # Buying by transfer.

    def want(self) -> None:
        """
        What was signed for the same and had no answer; or reserve, record, sign. A
        crash may come before anything is sent.
        """
        host, amount = self.dice.choice(self.hosts), self.dice.choice((1, 2, 5, 20))
        request = f"{host} {amount} {self.dice.choice('abc')}"
        earlier = budgets.carried_on(
            self.budget, request, lambda hold: hold.id not in self.waiting
        )
        if earlier is not None:
            assert earlier.id not in self.answered, "it had its answer"
            self._carry_on(self.signed[earlier.id], request)
            return
        again = [n for n in self.left - self.freed if self.signed[n].request == request]
        assert not again, ("paid anew while its outcome is unknown", again)
        self.names += 1
        name = f"transfer {self.names}"
        signed = Signed(
            id=name,
            host=host,
            amount=amount,
            valid_before=self.now + VALID_SECONDS,
            request=request,
        )
        try:
            budgets.check_request(self.limits, amount)
            self.tell(Reserved(hold=_hold(signed)))
        except BudgetExceeded:
            return
        self.signed[name] = signed
        self.waiting[name] = Purchase(signed=signed, sent_at=self.now)
        if self.dice.random() < 0.9:
            self.network.append(name)

    def _carry_on(self, signed: Signed, request: str) -> None:
        assert signed.request == request, "it was signed for something else"
        if self.now > signed.valid_before and signed.id not in self.moved:
            self._free(signed.id)
            return
        self.tell(Presented(id=signed.id, until=self.now + VALID_SECONDS))
        self.left.discard(signed.id)
        self.waiting[signed.id] = Purchase(signed=signed, sent=2, sent_at=self.now)
        self.network.append(signed.id)

    def want_its_nonce(self) -> None:
        """What is held by one payment is no other's, as with a wallet's own nonces."""
        held = [hold for hold in self.budget.holds if hold.id in self.signed]
        if not held:
            return
        try:
            self.tell(Reserved(hold=self.dice.choice(held), contested=True))
        except NonceBusy:
            return
        raise AssertionError("two payments hold one nonce")

    def want_the_same(self) -> None:
        """Another process wants what one of ours is at, and knows our books alone."""
        if not self.waiting:
            return
        at = self.waiting[self.dice.choice(sorted(self.waiting))]
        found = budgets.carried_on(
            self.budget,
            at.signed.request,
            lambda hold: hold.presented_until <= self.now,
        )
        late = self.now >= at.sent_at + VALID_SECONDS
        assert late or found is None or found.id != at.signed.id, "two are at it"

    def lose(self) -> None:
        if self.network:
            del self.network[self.dice.randrange(len(self.network))]

    def lose_reply(self) -> None:
        if self.replies:
            del self.replies[self.dice.randrange(len(self.replies))]

    def arrive(self) -> None:
        """A payment reaches its seller, perhaps for the second time."""
        if not self.network:
            return
        at = self.dice.randrange(len(self.network))
        keep = self.dice.random() < 0.2
        name = self.network[at] if keep else self.network.pop(at)
        signed = self.signed[name]
        cheat = signed.host in self.cheats
        answer = self._lie(signed) if cheat else self._sell(signed)
        if answer is not None:
            self.replies.append(Heard(id=name, answer=answer))

    def _sell(self, signed: Signed) -> TransferAnswer | None:
        """An honest seller; None if it crashes before it answers."""
        stage = self.stages.get(signed.id)
        if stage is Stage.DELIVERED:
            return TransferAnswer(status=409, success=True, problem=True)
        if stage is Stage.FAILED or (stage is None and self.now > signed.valid_before):
            return TransferAnswer(status=402, success=False, offered=True)
        if stage is None:
            self.stages[signed.id] = Stage.STARTED
        if self.stages[signed.id] is Stage.STARTED:
            self._settle(signed)
        match self.stages[signed.id]:
            case Stage.SETTLED:
                if self.dice.random() < 0.2:
                    return None
                self.served[signed.id] = self.served.get(signed.id, 0) + 1
                self.stages[signed.id] = Stage.DELIVERED
                return TransferAnswer(status=200, success=True)
            case Stage.FAILED:
                return TransferAnswer(status=402, success=False, offered=True)
            case _:
                return TransferAnswer(status=503, success=False, pending=True)

    def _settle(self, signed: Signed) -> None:
        """Unless it is known to have moved or never to move, it stays unknown."""
        dice = self.dice.random()
        if signed.id in self.moved:
            seen = dice < 0.7
        elif self.now > signed.valid_before:
            self.stages[signed.id] = Stage.FAILED
            return
        else:
            seen = dice < 0.6
            if dice < 0.8:
                self.move(signed)
        if seen:
            self.stages[signed.id] = Stage.SETTLED

    def _lie(self, signed: Signed) -> TransferAnswer:
        if self.dice.random() < 0.5:
            self.move(signed)
        success = self.dice.choice((None, True, False))
        return TransferAnswer(
            status=self.dice.choice((200, 400, 402, 409, 500, 503)),
            success=success,
            pending=success is False and self.dice.random() < 0.3,
            offered=self.dice.random() < 0.3,
            problem=self.dice.random() < 0.3,
        )

    def move(self, signed: Signed) -> None:
        """What the token's contract does."""
        if signed.id not in self.moved and self.now <= signed.valid_before:
            self.moved[signed.id] = signed.amount
            self.gone[signed.host] = self.gone.get(signed.host, 0) + signed.amount

    def steal(self) -> None:
        """Whoever has seen an authorization sends it, late as that may be."""
        if self.signed:
            self.move(self.signed[self.dice.choice(sorted(self.signed))])

    # What the agent makes of answers.

    def hear(self) -> None:
        if not self.replies:
            return
        heard = self.replies.pop(self.dice.randrange(len(self.replies)))
        purchase = self.waiting.get(heard.id)
        if purchase is None:
            return
        resent = purchase.sent > 1
        verdict = judge_transfer(heard.answer, resent=resent)
        following, booking = verdict.next, verdict.booking
        if following is Next.REJECTED and resent and heard.id in self.moved:
            following, booking = Next.LOST, Booking.CHARGED
        assert following is not Next.PAY_AGAIN, "a transfer is never signed again"
        if booking is Booking.CHARGED:
            if self.budget.hold(heard.id) is not None:
                self.booked.add(heard.id)
            self.tell(Spent(id=heard.id, amount=purchase.signed.amount))
        if following is Next.RESEND:
            purchase.sent += 1
            self.network.append(heard.id)
            return
        del self.waiting[heard.id]
        if booking is Booking.CHARGED and self.dice.random() < 0.1:
            self.left.add(heard.id)  # its body broke off
            self.tell(Due(hold=_hold(purchase.signed)))
        elif booking is not Booking.CHARGED:
            delivered = following is Next.DELIVER
            error = delivered and heard.answer.status >= 500
            if error and heard.answer.success is not False:
                self._leave(heard.id)
            else:
                self.answered.add(heard.id)
                self.tell(Answered(id=heard.id))
        self._note(purchase, delivered=following is Next.DELIVER)

    def _note(self, purchase: Purchase, *, delivered: bool) -> None:
        host = purchase.signed.host
        if delivered:
            self.broken.pop(host, None)
            self.tell(Delivered(host=host))
            return
        count, last = self.broken.get(host, (0, 0))
        if purchase.sent_at >= last:
            again = self.now <= last + LAPSE_SECONDS
            self.broken[host] = (count + 1 if again else 1, self.now)
        self.tell(
            Undelivered(
                host=host,
                sent_at=purchase.sent_at,
                noticed_at=self.now,
                within=LAPSE_SECONDS,
            )
        )

    def send_again(self) -> None:
        """No answer came: the same signature again, or in the end nobody waits."""
        if not self.waiting:
            return
        name = self.dice.choice(sorted(self.waiting))
        if self.dice.random() < 0.2:
            self._note(self.waiting.pop(name), delivered=False)
            self._leave(name)
            return
        self.waiting[name].sent += 1
        self.network.append(name)

    def _leave(self, name: str) -> None:
        """Nobody is at it any more, and nobody knows what became of it."""
        self.left.add(name)
        hold = self.budget.hold(name)
        if hold is not None:
            self.tell(Presented(id=name, until=-hold.presented_until))

    def crash(self) -> None:
        """The agent's process dies: its callers are gone, its books are not."""
        self.left.update(self.waiting)
        self.waiting.clear()

    def resolve(self) -> None:
        """Ask the chain about everything that is open."""
        for hold in self.budget.holds:
            if hold.id in self.signed:
                if hold.id in self.moved:
                    booked = Moved if hold.request else Spent
                    self.tell(booked(id=hold.id, amount=self.moved[hold.id]))
                elif self.now > hold.valid_before:
                    self._free(hold.id)

    def _free(self, name: str) -> None:
        self.freed.add(name)
        self.tell(Released(id=name))

    def wait(self) -> None:
        self.now += self.dice.choice((1, 5, 30, 100))

    def give_back(self) -> None:
        """An honest host sends money back: perhaps more than it ever got."""
        host, amount = self.dice.choice(self.hosts), self.dice.choice((1, 5, 30))
        if host not in self.cheats:
            self.returners.add(host)
            self.gone[host] = max(0, self.gone.get(host, 0) - amount)
            self.tell(Returned(host=host, amount=amount))


def _hold(signed: Signed) -> Hold:
    """What is set aside for it, while a request is at it."""
    return Hold(
        id=signed.id,
        host=signed.host,
        amount=signed.amount,
        valid_before=signed.valid_before,
        detail="",
        request=signed.request,
        presented_until=signed.valid_before,
    )
