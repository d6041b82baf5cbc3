"""
A payer, a payee and everything between them, moved one small step at a time.

Both ends are the real rules; the network, the chain, the crashes and the adversary are
modelled. `channel_promises` says what must hold after every step. The state machine and
the simulation drive the same world, one by Hypothesis, one by a seed.
"""

from dataclasses import dataclass, field, replace

from agentpay.core import payee_rules, payer_rules
from agentpay.core.payee_channel import Fate, PayeeChannel, Reservation, Status
from agentpay.core.payee_events import (
    Admitted,
    Answer,
    ChainSeen,
    Charged,
    Delivered,
    Event,
    GivenBack,
    Noted,
    OutcomeAsked,
    OwnersDied,
    RefundAsked,
    RefundDone,
    Refused,
    Spent,
    VoucherPublished,
    VoucherVerified,
)
from agentpay.core.payer_channel import (
    ChannelEmptied,
    CloseWanted,
    DepositArrived,
    DepositLapsed,
    Issued,
    Misbehaved,
    PayerAnswer,
    PayerChannel,
    PayerEvent,
    PendingDeposit,
    SpentReported,
    TicketArrived,
    TicketCharged,
    TicketOld,
    TicketVoid,
    TicketWanted,
)
from agentpay.types import Hash32

from .channel_messages import Copy, Handler, Kind, Reply, Request
from .channel_touched import check_touched


@dataclass(slots=True, kw_only=True)
class World:
    """Everything there is. Public methods are the steps; any may come at any time."""

    payer: PayerChannel
    payee: PayeeChannel
    thief: bool = False
    """Whether the adversary may present a voucher before the payer's own copy."""
    durable: PayeeChannel = field(init=False)
    balance: int = field(init=False)
    claimed: int = 0
    withdrawing: int = 0
    owners: int = 1
    salts: int = 0
    used_salts: set[Hash32] = field(default_factory=set)
    lapsed: set[Hash32] = field(default_factory=set)
    network: list[Copy] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    seen: dict[int, Request] = field(default_factory=dict)
    presented: set[int] = field(default_factory=set)
    handlers: dict[int, Handler] = field(default_factory=dict)
    runs: dict[int, list[tuple[str, int, str]]] = field(default_factory=dict)
    booked: dict[int, int] = field(default_factory=dict)
    booked_as_old: set[int] = field(default_factory=set)
    cost: dict[int, int] = field(default_factory=dict)
    disturbed: bool = False
    """The chain took money away, so what the payer sends may not fit any more."""
    steps: int = 0

    def __post_init__(self) -> None:
        self.durable = self.payee
        self.balance = self.payee.balance

    @property
    def owner(self) -> str:
        return f"owner {self.owners}"

    # The payer.

    def want(self, *, maximum: int, kind: Kind, top_up: int = 0) -> Copy | None:
        """A ticket is recorded; sending the copy is a step of its own, or a crash."""
        deposit = None
        if top_up:
            self.salts += 1
            salt = Hash32.of(self.salts.to_bytes(32, "big"))
            deposit = PendingDeposit(amount=top_up, salt=salt, valid_before=1)
        wanted = TicketWanted(maximum=maximum, deposit=deposit)
        issued = self.tell_payer(wanted)
        if not isinstance(issued, Issued):
            return None
        cumulative = issued.cumulative
        if self.payer.tagged:
            assert cumulative not in self.seen, "an amount was signed for two requests"
        request = Request(
            cumulative=cumulative,
            maximum=maximum,
            kind=kind,
            resource=f"/{kind}/{self.steps % 3}",
            deposit=issued.deposit,
        )
        self.seen[cumulative] = request
        self.booked.pop(cumulative, None)
        return Copy(request=request, purpose="buy")

    def send(self, copy: Copy) -> None:
        self.network.append(copy)

    def repeat(self, cumulative: int, *, asking: bool = False) -> None:
        """A lost answer, or a restart: the same voucher, or a question about it."""
        request = self.seen[cumulative]
        asking = asking and self.payer.tagged
        purpose = "ask" if asking else request.purpose
        self.network.append(Copy(request=request, purpose=purpose))

    def want_refund(self) -> None:
        issued = self.tell_payer(CloseWanted())
        if not isinstance(issued, Issued):
            return
        request = Request(
            cumulative=issued.cumulative,
            maximum=0,
            kind=Kind.FIXED,
            resource="/refund",
            purpose="refund",
        )
        self.seen[issued.cumulative] = request
        self.network.append(Copy(request=request, purpose="refund"))

    def hear(self, at: int, *, again: bool = False) -> None:
        """An answer arrives, late, out of order or twice."""
        reply = self.replies[at] if again else self.replies.pop(at)
        ticket = self.payer.ticket(reply.cumulative)
        if ticket is not None:
            self._book(reply, ticket.maximum)
        answer = self.tell_payer(SpentReported(charged=reply.total))
        if not self.thief and self.payer.tagged:
            assert not isinstance(answer, Misbehaved), (
                "an honest payee was accused",
                reply,
            )

    def _book(self, reply: Reply, maximum: int) -> None:
        cumulative = reply.cumulative
        match reply.fate:
            case Fate.RUNNING:
                self.tell_payer(TicketArrived(cumulative=cumulative))
            case Fate.VOID:
                self.booked[cumulative] = 0
                self.tell_payer(TicketVoid(cumulative=cumulative))
            case Fate.OLD:
                self.booked[cumulative] = maximum
                self.booked_as_old.add(cumulative)
                self.tell_payer(TicketOld(cumulative=cumulative))
            case Fate.CHARGED:
                self.booked[cumulative] = reply.charged
                charged = TicketCharged(cumulative=cumulative, charged=reply.charged)
                self.tell_payer(charged)

    def watch_chain(self) -> None:
        """The payer looks whether its deposit arrived."""
        pending = self.payer.deposit
        if pending is not None and pending.salt in self.used_salts:
            self.tell_payer(DepositArrived(salt=pending.salt))

    def let_lapse(self) -> None:
        pending = self.payer.deposit
        if pending is not None and pending.salt not in self.used_salts:
            self.used_salts.add(pending.salt)
            self.lapsed.add(pending.salt)
            self.tell_payer(DepositLapsed(salt=pending.salt))

    # The network and the adversary.

    def arrive(self, at: int, *, keep: bool = False) -> None:
        copy = self.network[at] if keep else self.network.pop(at)
        self.receive(copy, honest=True)

    def lose(self, at: int) -> None:
        del self.network[at]

    def replay(
        self, cumulative: int, *, maximum: int, kind: Kind, asking: bool
    ) -> None:
        """Anyone who saw a voucher presents it, for whatever they like."""
        if not self.thief and cumulative not in self.presented:
            return
        request = self.seen[cumulative]
        if maximum:
            resource = f"/{kind}/{self.steps % 3}"
            request = replace(request, maximum=maximum, kind=kind, resource=resource)
        copy = Copy(request=request, purpose="ask" if asking else "buy")
        self.receive(copy, honest=False)

    def receive(self, copy: Copy, *, honest: bool) -> None:
        request, cumulative = copy.request, copy.request.cumulative
        if request.deposit is not None and request.deposit.salt not in self.used_salts:
            self.used_salts.add(request.deposit.salt)
            self.balance += request.deposit.amount
            self.see_chain()
        first = cumulative not in self.presented
        self.presented.add(cumulative)
        event: Event
        match copy.purpose:
            case "ask":
                event = OutcomeAsked(cumulative=cumulative, owner=self.owner)
            case "refund":
                event = RefundAsked(
                    cumulative=cumulative,
                    signature=_signed(cumulative),
                    owner=self.owner,
                )
            case _:
                event = VoucherVerified(
                    cumulative=cumulative,
                    signature=_signed(cumulative),
                    maximum=request.maximum,
                    prepaid=request.kind is Kind.FIXED,
                    owner=self.owner,
                    resource=request.resource,
                )
        status = self.payee.status
        answer = self.tell_payee(event)
        if isinstance(answer, Admitted):
            self._start(request, answer.reservation, hears_payer=honest)
        elif honest:
            self._reply(cumulative, answer)
        fresh = honest and first and copy.purpose == "buy" and status is Status.OPEN
        if fresh and self.payer.ticket(cumulative) is not None:
            self._check_admitted(request, answer)

    def _check_admitted(self, request: Request, answer: Answer) -> None:
        if self.thief or self.disturbed or not self.payee.tagged:
            return
        if request.deposit is not None and request.deposit.salt in self.lapsed:
            return
        assert isinstance(answer, Admitted), (
            "an honest request that fits was not admitted",
            request,
            answer,
        )

    def _reply(self, cumulative: int, answer: Answer) -> None:
        total = self.payee.receipt_total(cumulative)
        match answer:
            case Spent():
                told, charged = answer.fate, answer.charged
            case Refused(burnt=True):
                told, charged = Fate.VOID, 0
            case Refused() if not self.payee.tagged:
                self._correct(cumulative, total)
                return
            case _:
                return
        reply = Reply(cumulative=cumulative, fate=told, charged=charged, total=total)
        self.replies.append(reply)

    def _correct(self, cumulative: int, total: int) -> None:
        """A strict payee says its total; the payer takes what its voucher proves."""
        ticket = self.payer.ticket(cumulative)
        if ticket is None or self.payee.running:
            return
        charged = total - self.payer.spent
        if 0 < charged <= ticket.maximum:
            self.booked[cumulative] = charged
            self.tell_payer(TicketCharged(cumulative=cumulative, charged=charged))

    # The payee's application.

    def _start(
        self, request: Request, reservation: Reservation, *, hears_payer: bool
    ) -> None:
        cumulative = request.cumulative
        run = (request.resource, request.maximum, self.owner)
        earlier = self.runs.setdefault(cumulative, [])
        if self.payee.tagged:
            assert all(run[:2] == other[:2] for other in earlier), (
                "an amount was served for two different requests"
            )
            assert all(run[2] != other[2] for other in earlier), (
                "an amount was served twice by a payee that did not crash"
            )
        earlier.append(run)
        self.handlers[cumulative] = Handler(
            request=request,
            reservation=reservation,
            hears_payer=hears_payer,
        )

    def slice(self, cumulative: int, amount: int) -> None:
        """A stream charges a slice, durably, before it sends it."""
        handler = self.handlers[cumulative]
        if handler.answered or handler.request.kind is not Kind.STREAM:
            return
        most = handler.reservation.maximum
        handler.sliced = min(most, handler.sliced + amount)
        self._charge(handler, handler.sliced, more=True)

    def finish(self, cumulative: int, amount: int) -> None:
        """The handler succeeds: its charge stands, then its answer leaves."""
        handler = self.handlers[cumulative]
        if handler.answered:
            return
        most = handler.reservation.maximum
        amount = most if handler.request.kind is Kind.FIXED else min(most, amount)
        self._charge(handler, max(amount, handler.sliced), more=False)

    def _charge(self, handler: Handler, charged: int, *, more: bool) -> None:
        event = Charged(
            cumulative=handler.request.cumulative,
            owner=self.owner,
            charged=charged,
            more=more,
        )
        durable = more or not handler.reservation.prepaid
        noted = self.tell_payee(event, durable=durable)
        assert isinstance(noted, Noted), "a live handler lost its lease"
        if not more:
            handler.answered = True
            self._answer(handler, noted.charged)

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
            del self.handlers[cumulative]
            event = Delivered(cumulative=cumulative, owner=self.owner)
            self.tell_payee(event, durable=False)

    def fail(self, cumulative: int) -> None:
        """The handler fails, or the client leaves: what was used is charged."""
        handler = self.handlers.pop(cumulative)
        event = GivenBack(
            cumulative=cumulative, owner=self.owner, charged=handler.sliced
        )
        noted = self.tell_payee(event)
        assert isinstance(noted, Noted), "a live handler lost its lease"
        if not handler.answered:
            self._answer(handler, noted.charged)

    def crash(self) -> None:
        """The payee's process dies; what was saved stays, its handlers do not."""
        self.payee = self.durable
        self.handlers.clear()
        self.owners += 1
        for cumulative in list(self.cost):
            if self.payee.reservation(cumulative) is not None:
                del self.cost[cumulative]

    def bury(self) -> None:
        self.tell_payee(OwnersDied(owner=self.owner))

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
        voucher = self.payee.claim_voucher()
        if voucher is None or self.payee.due <= self.claimed:
            return
        self.tell_payee(VoucherPublished(amount=voucher.amount))
        amount = min(self.payee.due, self.balance)
        assert voucher.amount >= amount, "a claim was not covered by its voucher"
        self.claimed = max(self.claimed, amount)
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
        self.claim()
        returned = self.balance - self.claimed
        self.balance, self.withdrawing = self.claimed, 0
        self.tell_payee(RefundDone())
        self.see_chain()
        self.tell_payer(ChannelEmptied(returned=max(0, returned)))

    # Both ends, and what must hold.

    def tell_payer(self, event: PayerEvent) -> PayerAnswer:
        self.steps += 1
        transition = payer_rules.apply(self.payer, event)
        self.payer = transition.channel
        return transition.answer

    def tell_payee(self, event: Event, *, durable: bool = True) -> Answer:
        self.steps += 1
        before = self.payee
        transition = payee_rules.apply(before, event)
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


def _signed(cumulative: int) -> bytes:
    return b"signed" + cumulative.to_bytes(32, "big")


def make_world(
    *,
    tagged: bool = True,
    balance: int = 60,
    headroom: int = 40,
    window: int = 4,
    in_flight_max: int = 4,
    thief: bool = False,
) -> World:
    """A channel that was just opened with a deposit."""
    payer = PayerChannel(
        tagged=tagged,
        window=window,
        in_flight_max=in_flight_max,
        headroom=headroom,
        balance=balance,
    )
    payee = PayeeChannel(
        tagged=tagged, window=window, in_flight_max=in_flight_max, balance=balance
    )
    return World(payer=payer, payee=payee, thief=thief)
