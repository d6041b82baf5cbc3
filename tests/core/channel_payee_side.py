"""
The payee's side of a modelled channel: its handlers, its crashes, and its chain.
"""

from dataclasses import dataclass, field, replace

from agentpay.core import payee_rules, payer_rules
from agentpay.core.payee_channel import Fate, PayeeChannel, Reservation, Status
from agentpay.core.payee_events import (
    Answer,
    ChainSeen,
    Charged,
    Delivered,
    Event,
    GivenBack,
    Noted,
    OwnersDied,
    PartBegun,
    RefundDone,
    VoucherPublished,
)
from agentpay.core.payee_rules import Transition
from agentpay.core.payer_channel import (
    ChannelEmptied,
    PayerAnswer,
    PayerChannel,
    PayerEvent,
)
from agentpay.types import Hash32

from .channel_messages import Copy, Handler, Kind, Reply, Request
from .channel_sales import check_sold
from .channel_touched import check_touched


@dataclass(slots=True, kw_only=True)
class PayeeSide:
    """Both books, and the steps that the payee and the chain take."""

    payer: PayerChannel
    payee: PayeeChannel
    thief: bool = False
    """Whether the adversary may present a voucher before the payer's own copy."""
    durable: PayeeChannel = field(init=False)
    balance: int = field(init=False)
    claimed: int = 0
    forgotten: int = 0
    """Claimed with vouchers that a payee no longer has, which lost its store."""
    published: set[int] = field(default_factory=set)
    """Vouchers that a claim or settle of the payee put on the chain."""
    ended: bool = False
    """The chain has closed the channel."""
    exposure_max: int | None = None
    """The most that the payee lets a channel owe it, unclaimed."""
    withdrawing: int = 0
    nonce: int = 0
    """How many refunds the contract has made of it."""
    parts: dict[int, tuple[int, int]] = field(
        default_factory=dict[int, tuple[int, int]]
    )
    """Of each total that asked for one: the part, and how much came back."""
    parts_ended: list[int] = field(default_factory=list[int])
    """The numbers of those that were noted."""
    now: int = 0
    workers: int = 1
    """Owners that live at once and share these books."""
    owners: int = 0
    """How many there ever were."""
    living: list[str] = field(init=False)
    turn: int = 0
    """Which of them takes the next step."""
    salts: int = 0
    used_salts: set[Hash32] = field(default_factory=set)
    network: list[Copy] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    seen: dict[int, Request] = field(default_factory=dict)
    presented: set[int] = field(default_factory=set)
    handlers: dict[int, Handler] = field(default_factory=dict)
    runs: dict[int, list[tuple[str, int, str]]] = field(default_factory=dict)
    booked: dict[int, int] = field(default_factory=dict)
    booked_as_old: set[int] = field(default_factory=set)
    cost: dict[int, int] = field(default_factory=dict)
    left: bool = False
    """Its payer left by itself, and books what was open no more once it is out."""
    disturbed: bool = False
    """What the payer sends may not fit: the chain took money away, or we lend less."""
    steps: int = 0

    def __post_init__(self) -> None:
        self.durable = self.payee
        self.balance = self.payee.balance
        self.disturbed = self.exposure_max is not None
        self.living = [self._begin() for _ in range(self.workers)]

    def _begin(self) -> str:
        self.owners += 1
        return f"owner {self.owners}"

    @property
    def owner(self) -> str:
        return self.living[self.turn]

    @property
    def has_dead(self) -> bool:
        return any(r.owner not in self.living for r in self.payee.running)

    def take_turns(self, turn: int) -> None:
        self.turn = turn % self.workers

    def wait(self, seconds: int) -> None:
        self.now += seconds

    # The payee's application.

    def begin(
        self,
        before: PayeeChannel,
        request: Request,
        reservation: Reservation,
        *,
        hears_payer: bool,
    ) -> None:
        """It was admitted: for the first time, or after its owner died."""
        cumulative = request.cumulative
        if before.reservation(cumulative) is None:
            check_sold(before, self.payee, cumulative, self.exposure_max)
            assert not (self.ended and before.tagged), "what is over sold something"
        public = cumulative in self.published
        assert not public, "a voucher that everybody can read was sold"
        self.start(request, reservation, hears_payer=hears_payer)
        again = before.reservation(cumulative) is not None
        self.handlers[cumulative].again = again

    def start(
        self, request: Request, reservation: Reservation, *, hears_payer: bool
    ) -> None:
        cumulative = request.cumulative
        run = (request.resource, request.maximum, self.owner)
        earlier = self.runs.setdefault(cumulative, [])
        if self.payee.tagged:
            assert all(run[:2] == other[:2] for other in earlier), (
                "an amount was served for two different requests"
            )
            assert all(other[2] not in self.living for other in earlier), (
                "an amount was served twice by a payee that did not crash"
            )
        earlier.append(run)
        self.handlers[cumulative] = Handler(
            request=request,
            reservation=reservation,
            owner=self.owner,
            hears_payer=hears_payer,
            sliced=reservation.charged if request.kind is Kind.STREAM else 0,
        )

    def slice(self, cumulative: int, amount: int) -> None:
        """A stream charges a slice, durably, before it sends it."""
        handler = self.handlers[cumulative]
        if handler.answered or handler.request.kind is not Kind.STREAM:
            return
        noted = self._charge(handler, self._slice(handler, amount), more=True)
        handler.sliced = noted.charged

    def _slice(self, handler: Handler, amount: int) -> int:
        """What a stream would come to."""
        return min(handler.reservation.maximum, handler.sliced + amount)

    def finish(self, cumulative: int, amount: int) -> None:
        """The handler succeeds: its charge stands, then its answer leaves."""
        handler = self.handlers[cumulative]
        if handler.answered:
            return
        most = handler.reservation.maximum
        amount = most if handler.request.kind is Kind.FIXED else min(most, amount)
        self._charge(handler, max(amount, handler.sliced), more=False)

    def _charge(self, handler: Handler, charged: int, *, more: bool) -> Noted:
        event = Charged(
            cumulative=handler.request.cumulative,
            owner=handler.owner,
            charged=charged,
            more=more,
        )
        durable = more or not handler.reservation.prepaid
        noted = self.tell_payee(event, durable=durable)
        assert isinstance(noted, Noted), "a live handler lost its lease"
        if not more:
            handler.answered = True
            self._answer(handler, noted.charged)
        return noted

    def _answer(self, handler: Handler, charged: int) -> None:
        cumulative = handler.request.cumulative
        if handler.hears_payer:
            reply = Reply(
                cumulative=cumulative,
                fate=Fate.CHARGED,
                charged=charged,
                total=self.payee.receipt_total(cumulative),
            )
            self.replies.append(reply)

    def deliver(self, cumulative: int) -> None:
        """The answer has left; nobody waits until that is on the disk."""
        if self.handlers[cumulative].answered:
            handler = self.handlers.pop(cumulative)
            event = Delivered(cumulative=cumulative, owner=handler.owner)
            self.tell_payee(event, durable=False)

    def fail(self, cumulative: int) -> None:
        """The handler fails, or the client leaves: what was used is charged."""
        handler = self.handlers.pop(cumulative)
        event = GivenBack(
            cumulative=cumulative, owner=handler.owner, charged=handler.sliced
        )
        noted = self.tell_payee(event)
        assert isinstance(noted, Noted), "a live handler lost its lease"
        told = handler.answered or handler.reservation.answered
        assert told or noted.charged == handler.sliced, "what failed was charged"
        if not handler.answered:
            self._answer(handler, noted.charged)

    def crash(self) -> None:
        """The payee's process dies; what was saved stays, its handlers do not."""
        self.payee = self.durable
        self.handlers.clear()
        self.living = [self._begin() for _ in range(self.workers)]
        for cumulative in list(self.cost):
            if self.payee.reservation(cumulative) is not None:
                del self.cost[cumulative]

    def crash_one(self) -> None:
        """One worker dies; the store and the others stay."""
        gone = [c for c, h in self.handlers.items() if h.owner == self.owner]
        for cumulative in gone:
            del self.handlers[cumulative]
        self.living[self.turn] = self._begin()

    def bury(self) -> None:
        self.tell_payee(OwnersDied(owner=self.owner))
        assert not self.has_dead, "what a dead worker held stays its own"

    # The chain.

    def see_chain(self) -> None:
        self.tell_payee(
            ChainSeen(
                balance=self.balance,
                claimed=self.claimed,
                pending_withdrawal=self.withdrawing,
            )
        )

    def claim(self) -> None:
        voucher, said = self.payee.claim_voucher(), self.payee.unclaimed
        amount = max(self.claimed, min(self.payee.due, self.balance))
        assert said == amount - self.claimed, "not what a claim would bring"
        if voucher is None or self.payee.due <= self.claimed:
            return
        assert voucher.amount >= amount, "a claim was not covered by its voucher"
        if not self.payee.may_show(voucher):
            voucher = self.payee.ready_voucher()
            if voucher is None or voucher.amount <= self.claimed:
                return
            amount = min(amount, voucher.amount)
        self.tell_payee(VoucherPublished(amount=voucher.amount))
        self.published.add(voucher.amount)
        self.claimed = amount
        self.see_chain()

    def start_withdrawal(self, amount: int) -> None:
        self.disturbed = True
        self.withdrawing = min(amount, self.balance - self.claimed)
        self.see_chain()

    def finish_withdrawal(self) -> None:
        free = self.balance - self.claimed
        self.balance -= min(self.withdrawing, free)
        self.withdrawing = 0
        self.see_chain()

    def reorganize(self, lost: int) -> None:
        """The chain takes a deposit or a claim back; that is a fact as well."""
        self.disturbed = True
        self.balance = max(0, self.balance - lost)
        self.claimed = max(0, self.claimed - lost)
        self.see_chain()

    def refund(self) -> None:
        """The keeper claims, gives the rest back and ends it (rule 10)."""
        if self.payee.status is not Status.CLOSING:
            return
        self.bury()
        if self.payee.running:
            return
        if self.payee.part is not None:
            self.give_part()
            return
        self.claim()
        returned = self.balance - self.claimed
        self.nonce += 1
        self.parts.pop(self.payee.closing_voucher or 0, None)
        self.balance, self.withdrawing = self.claimed, 0
        self.ended = True
        self.tell_payee(RefundDone())
        self.see_chain()
        self.tell_payer(ChannelEmptied(returned=max(0, returned)))

    def give_part(self, *, dies: bool = False) -> None:
        """The same of a part; perhaps who sent it dies before it notes what came."""
        self.see_chain()
        total = self.payee.closing_voucher
        assert total is not None, "nobody asked for it"
        late = total - 1, max(0, self.nonce - 1)
        for asked, nonce in (late, (total, self.nonce)):
            self.tell_payee(PartBegun(cumulative=asked, nonce=nonce))
        part = self.payee.part
        assert part is not None, "a part that is asked for was forgotten"
        assert part.nonce is not None, "a part is given without its number"
        if self.nonce == part.nonce:
            assert total not in self.parts, "a part was given twice"
            self.claim()
            given = max(0, min(part.amount, self.balance - self.claimed))
            self.balance -= given
            self.withdrawing = max(0, self.withdrawing - given)
            self.nonce += 1
            self.parts[total] = part.amount, given
            self.disturbed = True
        if dies:
            self.crash()
            return
        asked, given = self.parts[total]
        assert asked == part.amount, "another part was given than was asked for"
        self.tell_payee(RefundDone(nonce=part.nonce, refunded=given))
        self.parts_ended.append(part.nonce)
        assert self.payee.status is Status.OPEN, "it does not go on"
        self.see_chain()

    def end_late(self, pick: int) -> None:
        """Another worker says only now that something is done, which is long noted."""
        before, ended = self.payee, list[int | None](self.parts_ended)
        ended += [] if before.part is None else [None]
        if ended:
            self.tell_payee(RefundDone(nonce=ended[pick % len(ended)]))
            assert self.payee == before, "what was not made was ended"

    # Both ends, and what must hold.

    def tell_payer(self, event: PayerEvent) -> PayerAnswer:
        self.steps += 1
        transition = payer_rules.apply(self.payer, event)
        self.payer = transition.channel
        return transition.answer

    def tell_payee(self, event: Event, *, durable: bool = True) -> Answer:
        return self.save(payee_rules.apply(self.read(), event), durable=durable)

    def read(self) -> PayeeChannel:
        """As a store reads it, which knows who lives."""
        if self.workers == 1:
            return self.payee
        return replace(self.payee, living=frozenset(self.living))

    def save(self, transition: Transition, *, durable: bool) -> Answer:
        self.steps += 1
        before = self.payee
        self.payee = transition.channel
        if durable:
            self.durable = self.payee
        self._note_costs(before)
        check_touched(before, transition)
        return transition.answer

    def _note_costs(self, before: PayeeChannel) -> None:
        if before.running is self.payee.running:
            return
        open_now = {r.cumulative for r in self.payee.running}
        closed = [r for r in before.running if r.cumulative not in open_now]
        for reservation in closed:
            paid = self.payee.charged - before.charged + reservation.charged
            alone = len(closed) == 1 and before.charged != self.payee.charged
            cumulative = reservation.cumulative
            self.cost[cumulative] = paid if alone else reservation.charged
