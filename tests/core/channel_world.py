"""
A payer, a payee and everything between them, moved one small step at a time.

Both ends are the real rules; the network, the chain, the crashes and the adversary are
modelled. `channel_promises` says what must hold after every step. The state machine and
the simulation drive the same world, one by Hypothesis, one by a seed.
"""

from dataclasses import dataclass, field, replace

from agentpay.core.payee_channel import Fate, PayeeChannel, Status
from agentpay.core.payee_events import (
    Admitted,
    Answer,
    Closing,
    Event,
    OutcomeAsked,
    PartGiven,
    RefundAsked,
    Refused,
    Spent,
    VoucherVerified,
)
from agentpay.core.payer_channel import (
    CloseWanted,
    DepositArrived,
    DepositLapsed,
    Issued,
    Misbehaved,
    PayerChannel,
    PayerStatus,
    PendingDeposit,
    SpentReported,
    Ticket,
    TicketArrived,
    TicketCharged,
    TicketOld,
    TicketVoid,
    TicketWanted,
)
from agentpay.types import Hash32

from .channel_messages import Copy, Kind, Reply, Request
from .channel_payee_side import PayeeSide

VALID_SECONDS = 60


@dataclass(slots=True, kw_only=True)
class World(PayeeSide):
    """Everything there is. Public methods are the steps; any may come at any time."""

    lowest: set[int] = field(default_factory=set)
    """Amounts signed below a whole window: served, and forgotten when that is over."""
    closing: bool = False
    """Its payer asked for the refund."""

    # The payer.

    def want(self, *, maximum: int, kind: Kind, top_up: int = 0) -> Copy | None:
        """A ticket is recorded; sending the copy is a step of its own, or a crash."""
        under_way = self.payer.deposit
        issued = self.tell_payer(self.wanted(maximum, kind, top_up))
        if not isinstance(issued, Issued):
            return None
        second = issued.deposit is not None and under_way is not None
        assert not second, "a second deposit was signed"
        cumulative = issued.cumulative
        if self.payer.tagged:
            assert cumulative not in self.seen, "an amount was signed for two requests"
        request = Request(
            cumulative=cumulative,
            maximum=maximum,
            kind=kind,
            resource=f"/{kind}/{self.steps % 3}",
            deposit=issued.deposit,
            number=self.steps,
        )
        self.seen[cumulative] = request
        self.booked.pop(cumulative, None)
        if sum(a > cumulative for a in self.payer.signed) >= self.payer.window:
            self.lowest.add(cumulative)
        return Copy(request=request, purpose="buy")

    def wanted(self, maximum: int, kind: Kind, top_up: int) -> TicketWanted:
        del kind
        return TicketWanted(maximum=maximum, deposit=self.fresh_deposit(top_up))

    def fresh_deposit(self, amount: int) -> PendingDeposit | None:
        if not amount:
            return None
        self.salts += 1
        return PendingDeposit(
            amount=amount,
            salt=Hash32.of(self.salts.to_bytes(32, "big")),
            valid_before=self.now + VALID_SECONDS,
        )

    def send(self, copy: Copy) -> None:
        self.network.append(copy)

    def repeat(self, cumulative: int, *, asking: bool = False) -> None:
        """A lost answer, or a restart: the same voucher, or a question about it."""
        request = self.seen[cumulative]
        asking = asking and self.payer.tagged
        purpose = "ask" if asking else request.purpose
        self.network.append(Copy(request=request, purpose=purpose))

    def want_refund(self) -> None:
        before = self.payer
        issued = self.tell_payer(CloseWanted())
        if before.status is PayerStatus.OPEN and not (before.open or before.balance):
            closed = self.payer.status is PayerStatus.CLOSED
            assert closed is (before.deposit is None), "empty, and not closed"
        if not isinstance(issued, Issued):
            return
        self.closing = True
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
            self._book(reply, ticket)
        answer = self.tell_payer(SpentReported(charged=reply.total))
        if not self.thief and self.payer.tagged:
            assert not isinstance(answer, Misbehaved), (
                "an honest payee was accused",
                reply,
            )

    def _book(self, reply: Reply, ticket: Ticket) -> None:
        cumulative = reply.cumulative
        match reply.fate:
            case Fate.RUNNING:
                self.tell_payer(TicketArrived(cumulative=cumulative))
            case Fate.VOID:
                self.booked[cumulative] = 0
                self.tell_payer(TicketVoid(cumulative=cumulative))
            case Fate.OLD:
                known = ticket.arrived or cumulative in self.lowest
                costs = ticket.maximum and self.payer.tagged and not self.thief
                assert known or not costs, "the payee forgot what was under way"
                self.booked[cumulative] = ticket.maximum
                self.booked_as_old.add(cumulative)
                self.tell_payer(TicketOld(cumulative=cumulative))
            case Fate.CHARGED:
                self.booked[cumulative] = reply.charged
                charged = TicketCharged(cumulative=cumulative, charged=reply.charged)
                self.tell_payer(charged)

    def watch_chain(self) -> None:
        """The payer looks whether its deposit arrived, or never will."""
        pending = self.payer.deposit
        if pending is None:
            return
        if pending.salt in self.used_salts:
            self.tell_payer(DepositArrived(salt=pending.salt))
        elif self.now > pending.valid_before:
            self.tell_payer(DepositLapsed(salt=pending.salt))

    # The network and the adversary.

    def arrive(self, at: int, *, keep: bool = False) -> None:
        copy = self.network[at] if keep else self.network.pop(at)
        self.receive(copy, honest=True)

    def lose(self, at: int) -> None:
        del self.network[at]

    def replay(
        self, cumulative: int, *, maximum: int, kind: Kind, purpose: str = "buy"
    ) -> None:
        """Anyone who saw a voucher presents it, for whatever they like."""
        if not self.thief and cumulative not in self.presented:
            return
        request = self.seen[cumulative]
        if maximum:
            resource = f"/{kind}/{self.steps % 3}"
            request = replace(request, maximum=maximum, kind=kind, resource=resource)
        self.receive(Copy(request=request, purpose=purpose), honest=False)

    def reuse(self, cumulative: int, *, maximum: int) -> None:
        """Anyone reads a voucher off the chain, and presents it for their own ends."""
        request = Request(
            cumulative=cumulative, maximum=maximum, kind=Kind.FIXED, resource="/reused"
        )
        self.receive(Copy(request=request, purpose="buy"), honest=False)

    def ask_for_part(self, part: int | None) -> None:
        """
        Or for all: who proves what was charged, as anybody does once that was claimed.
        """
        before, total = self.payee, self.payee.charged
        if total not in self.seen and total:
            return
        event = RefundAsked(
            cumulative=total,
            signature=signed(total),
            owner=self.owner,
            part=part,
        )
        answer = self.tell_payee(event)
        if isinstance(answer, PartGiven):
            told = answer.part.amount, answer.part.refunded
            assert self.parts[total] == told, "not what came of it"
            assert self.payee.part == before.part, "what was done is asked for again"
        elif isinstance(answer, Closing) and before.status is not Status.OPEN:
            under_way = before.part.amount if before.part is not None else None
            assert under_way == part, "something else is given"
        elif isinstance(answer, Closing) and part is not None:
            assert part > 0, "a part of nothing was taken on"
            assert total not in self.parts, "a part was taken on twice"

    def receive(self, copy: Copy, *, honest: bool) -> None:
        request, cumulative = copy.request, copy.request.cumulative
        self._collect(request.deposit)
        first = cumulative not in self.presented
        self.presented.add(cumulative)
        event: Event
        match copy.purpose:
            case "ask":
                event = OutcomeAsked(cumulative=cumulative, owner=self.owner)
            case "refund":
                event = RefundAsked(
                    cumulative=cumulative,
                    signature=signed(cumulative),
                    owner=self.owner,
                )
            case _:
                event = VoucherVerified(
                    cumulative=cumulative,
                    signature=signed(cumulative),
                    maximum=request.maximum,
                    prepaid=request.kind is Kind.FIXED,
                    owner=self.owner,
                    resource=request.resource,
                    exposure_max=self.exposure_max,
                )
        before = self.payee
        answer = self.tell_payee(event)
        if isinstance(answer, Admitted):
            reservation = answer.reservation
            self.begin(before, request, reservation, hears_payer=honest)
        elif honest:
            self._reply(cumulative, answer)
        if isinstance(answer, Closing):
            self._check_closing(cumulative, answer)
        fresh = honest and first and copy.purpose == "buy"
        is_open = before.status is Status.OPEN
        if fresh and is_open and self.payer.ticket(cumulative) is not None:
            self._check_admitted(before, request, answer)

    def _collect(self, deposit: PendingDeposit | None) -> None:
        """The contract takes a deposit once, and in time."""
        if deposit is None or deposit.salt in self.used_salts:
            return
        if self.now <= deposit.valid_before:
            self.used_salts.add(deposit.salt)
            self.balance += deposit.amount
            self.see_chain()

    def _check_closing(self, cumulative: int, answer: Closing) -> None:
        payee = self.payee
        assert answer.ready == (not payee.running), "a refund does not wait"
        if not payee.tagged:
            return
        used = cumulative <= payee.floor or payee.find_used(cumulative) is not None
        assert used or payee.closing_voucher != cumulative, "it may be sold later"
        assert self.closing or self.thief, "somebody else closed the channel"

    def _check_admitted(
        self, before: PayeeChannel, request: Request, answer: Answer
    ) -> None:
        if self.thief or self.disturbed:
            return
        if not before.tagged and (before.running or before.charged != self.payer.spent):
            return  # a lane waits, or is told first what it does not know
        if not before.tagged and request.cumulative <= max(self.published, default=0):
            return  # everybody can read it
        if request.deposit is not None and request.deposit.salt not in self.used_salts:
            return  # it came too late
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


def signed(cumulative: int) -> bytes:
    return b"signed" + cumulative.to_bytes(32, "big")


def make_world(
    *,
    tagged: bool = True,
    balance: int = 60,
    headroom: int = 40,
    window: int = 4,
    in_flight_max: int = 4,
    thief: bool = False,
    workers: int = 1,
    forgotten: int = 0,
    hasty: int = 0,
    exposure_max: int | None = None,
) -> World:
    """
    A channel that was just opened with a deposit.

    Of an untagged one so much may be `forgotten`: the payee lost its books, and begins
    with what the chain shows as claimed. A `hasty` payer sends more at once than is
    agreed.
    """
    payer = PayerChannel(
        tagged=tagged,
        window=window,
        in_flight_max=in_flight_max + hasty,
        headroom=headroom,
        balance=balance,
        spent=forgotten,
        signed=(forgotten,) if forgotten else (),
    )
    payee = PayeeChannel(
        tagged=tagged,
        window=window,
        in_flight_max=in_flight_max,
        balance=balance,
        claimed=forgotten,
        charged=forgotten,
        highest=forgotten,
        floor=forgotten,
    )
    return World(
        payer=payer,
        payee=payee,
        thief=thief,
        workers=workers,
        claimed=forgotten,
        forgotten=forgotten,
        exposure_max=exposure_max,
    )
