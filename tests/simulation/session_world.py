"""
A session of MPP in the modelled world: what is not as on a channel of x402's.

`session_promises` says what must hold.
"""

from dataclasses import dataclass, replace
from typing import Any

from agentpay.core import payee_events, payer_session_rules, session_rules
from agentpay.core.payee_channel import (
    Fate,
    PayeeChannel,
    Status,
)
from agentpay.core.payee_events import (
    Admitted,
    Answer,
    Noted,
    OwnersDied,
    Refused,
    Spent,
    VoucherVerified,
)
from agentpay.core.payer_channel import (
    CloseWanted,
    Issued,
    Misbehaved,
    PayerEvent,
    PayerStatus,
    SpentReported,
    Ticket,
    TicketArrived,
    TicketCharged,
    TicketOld,
    TicketVoid,
    TicketWanted,
)
from agentpay.core.payer_session_rules import (
    AcceptedReported,
    CloseCorrected,
    PayerSessionEvent,
    RaiseWanted,
    TicketDelivered,
)
from agentpay.core.session_rules import (
    CloseAsked,
    Raises,
    VoucherRaised,
)
from tests.core.channel_messages import Copy, Kind, Reply, Request
from tests.core.channel_world import make_world, signed

from .session_payee_side import SessionPayeeSide


@dataclass(slots=True, kw_only=True)
class SessionWorld(SessionPayeeSide):
    """What its payer does, and what arrives at its payee."""

    # The payer.

    def wanted(self, maximum: int, kind: Kind, top_up: int) -> TicketWanted:
        """A stream of a rising session may draw on all that is signed for it."""
        deposit = self.fresh_deposit(top_up)
        return TicketWanted(maximum=maximum, deposit=deposit, whole=kind is Kind.STREAM)

    def raise_running(self, cumulative: int, more: int, *, top_up: int = 0) -> None:
        """A stream that flows may cost more: its payer signs a voucher for that."""
        handler, asked = self.handlers.get(cumulative), self.seen[cumulative]
        flows = handler is not None and handler.request.number == asked.number
        if not flows or asked.kind is not Kind.STREAM or self.payer.deposit:
            return
        deposit = self.fresh_deposit(top_up)
        wanted = RaiseWanted(cumulative=cumulative, more=more, deposit=deposit)
        issued = self.tell_payer(wanted)
        ticket = self.payer.ticket(cumulative)
        if not isinstance(issued, Issued) or ticket is None:
            return
        assert issued.cumulative not in self.seen, "an amount was signed twice"
        request = Request(
            cumulative=issued.cumulative,
            maximum=0,
            kind=Kind.STREAM,
            resource="",
            deposit=issued.deposit,
            purpose="raise",
            raises=(cumulative, ticket.maximum),
            number=self.steps,
        )
        self.seen[issued.cumulative] = request
        self.booked.pop(issued.cumulative, None)
        self.network.append(Copy(request=request, purpose="raise"))

    def count(self, cumulative: int) -> None:
        """The payer counts what came in of a stream."""
        handler = self.handlers.get(cumulative)
        if handler is not None and handler.hears_payer:
            delivered = TicketDelivered(cumulative=cumulative, delivered=handler.sliced)
            self.tell_payer(delivered)

    def repeat(self, cumulative: int, *, asking: bool = False) -> None:
        request = self.seen[cumulative]
        purpose = "ask" if asking else request.purpose
        self.network.append(Copy(request=request, purpose=purpose))

    def want_refund(self) -> None:
        """Ask to close, by a voucher of exactly what was spent."""
        under_way = self.payer.open
        issued = self.tell_payer(CloseWanted())
        if isinstance(issued, Issued):
            assert not under_way, "a session was closed while something is open"
            self._ask_to_close(issued.cumulative)

    def _ask_to_close(self, amount: int) -> None:
        assert amount <= self.payer.spent, "a close was signed for more than was spent"
        request = Request(
            cumulative=amount,
            maximum=0,
            kind=Kind.FIXED,
            resource="/close",
            purpose="close",
        )
        self.network.append(Copy(request=request, purpose="close"))

    def hear(self, at: int, *, again: bool = False) -> None:
        reply = self.replies[at] if again else self.replies.pop(at)
        if self.payer.status is PayerStatus.CLOSED:
            return  # nobody waits for an answer as long as a grace period
        said = [self.tell_payer(AcceptedReported(cumulative=reply.accepted))]
        if reply.purpose == "close":
            self._hear_of_close(reply)
        else:
            self._hear_of_request(reply)
            said.append(self.tell_payer(SpentReported(charged=reply.total)))
        if not self.thief:
            assert not any(isinstance(answer, Misbehaved) for answer in said), (
                "an honest payee was accused",
                reply,
            )

    def _hear_of_close(self, reply: Reply) -> None:
        answer = self.tell_payer(CloseCorrected(charged=reply.total))
        if isinstance(answer, Issued):
            self._ask_to_close(answer.cumulative)
        assert self.thief or not isinstance(answer, Misbehaved), (
            "an honest payee was accused",
            reply,
        )

    def _hear_of_request(self, reply: Reply) -> None:
        ticket = self.payer.ticket(reply.cumulative)
        if ticket is None or reply.number != self.seen[reply.cumulative].number:
            return
        if self.payer.tagged:
            self._book(reply, ticket)
            return
        raises = self.seen[reply.cumulative].raises is not None
        charged = 0 if raises else max(0, reply.total - self.payer.spent)
        told = replace(reply, charged=charged)
        if reply.purpose == "ask" and not charged and not raises:
            told = replace(told, fate=Fate.OLD)  # it may still be charged
        self._book(told, ticket)

    def _book(self, reply: Reply, ticket: Ticket) -> None:
        self.unsure |= reply.fate is Fate.OLD
        answer = self.tell_payer(_booking(reply))
        if reply.fate is Fate.CHARGED and reply.charged > ticket.maximum:
            assert isinstance(answer, Misbehaved), "an overcharge was booked"
        assert self.thief or not isinstance(answer, Misbehaved), (
            "an honest payee was accused",
            reply,
        )

    # What arrives at the payee.

    def replay(
        self, cumulative: int, *, maximum: int, kind: Kind, purpose: str = "buy"
    ) -> None:
        """What a voucher is for is not signed."""
        if not self.thief and (
            cumulative not in self.presented or not self.payer.tagged
        ):
            return
        request = self.seen[cumulative]
        resource = f"/{kind}/{self.steps % 3}"
        if maximum:
            request = replace(
                request, maximum=maximum, kind=kind, resource=resource, number=0
            )
        copy = Copy(request=request, purpose="ask" if purpose == "ask" else "buy")
        self.receive(copy, honest=False)

    def steal_raise(self, cumulative: int, running: int, maximum: int) -> None:
        """Somebody who got a voucher says that it is for another running request."""
        if self.thief:
            raised = replace(self.seen[cumulative], raises=(running, maximum), number=0)
            self.receive(Copy(request=raised, purpose="raise"), honest=False)

    def lie(self, more: int) -> None:
        """A payee claims more than its due: it is believed nothing, and left."""
        payer, ticket = self.payer, next(iter(self.payer.open), None)
        most = payer.spent + payer.outstanding
        lies: list[PayerSessionEvent] = [
            AcceptedReported(cumulative=payer.highest + more),
            SpentReported(charged=most + more),
        ]
        if ticket is not None:
            charged = ticket.maximum + more
            lies.append(TicketCharged(cumulative=ticket.cumulative, charged=charged))
        if payer.status is PayerStatus.CLOSING:
            lies.append(CloseCorrected(charged=payer.spent + more))
        for event in lies:
            said = payer_session_rules.apply(payer, event)
            assert isinstance(said.answer, Misbehaved), ("a lie was believed", event)
            assert said.channel.spent <= most, ("a lie was booked", event)

    def receive(self, copy: Copy, *, honest: bool) -> None:
        request, cumulative = copy.request, copy.request.cumulative
        self._collect(request.deposit)
        if copy.purpose == "close":
            self._hear_close(request, honest=honest)
            return
        fresh = honest and cumulative not in self.presented and copy.purpose == "buy"
        self.presented.add(cumulative)
        known = not self.payee.tagged and request.number in self.taken
        if copy.purpose != "buy" or (known and request.number in self.answered):
            self._raise(copy, honest=honest)
            return
        if known:
            return  # it runs, or its owner died: that is asked, and not bought again
        before = self.payee
        answer = self.tell_payee(
            VoucherVerified(
                cumulative=cumulative,
                signature=signed(cumulative),
                maximum=request.maximum,
                prepaid=request.kind is Kind.FIXED,
                owner=self.owner,
                resource=request.resource,
                exposure_max=self.exposure_max,
            )
        )
        if isinstance(answer, Admitted):
            self._check_voucher(cumulative, before)
            if request.number:
                self.taken.add(request.number)
            self.begin(before, request, answer.reservation, hears_payer=honest)
        elif honest:
            self._answer_refused(request, answer)
        if fresh and before.status is Status.OPEN and self.payer.ticket(cumulative):
            self._check_admitted(before, request, answer)

    def _check_voucher(self, cumulative: int, before: PayeeChannel) -> None:
        if before.reservation(cumulative) is not None:
            return  # what a dead owner began goes on
        taken = before.tagged and cumulative in self.raised
        assert not taken, "a voucher that came without a request was sold"
        lower = not before.tagged and cumulative < before.highest
        assert not lower, "a lower voucher was sold"

    def _raise(self, copy: Copy, *, honest: bool) -> None:
        """A `HEAD`: it raises what is held, or asks; what died is buried for it."""
        request, cumulative = copy.request, copy.request.cumulative
        asked = cumulative if self.payee.tagged else max(self.payer.highest, cumulative)
        raises = None
        if copy.purpose == "raise" and request.raises is not None:
            raises = Raises(cumulative=request.raises[0], maximum=request.raises[1])
        known = self.payee.find_used(asked) is not None
        event = VoucherRaised(
            cumulative=asked,
            signature=signed(asked),
            raises=raises,
            exposure_max=self.exposure_max,
        )
        answer = self.tell_payee(event)
        if not known and isinstance(answer, Noted):
            self.raised.add(asked)
        running = self.payee.reservation(asked)
        if running is not None and running.owner not in self.living:
            self.tell_payee(OwnersDied(owner=self.owner))
        if not honest:
            return
        if isinstance(answer, Refused):
            self._answer_refused(request, answer)
            return
        fate, charged = self._fate_of(asked)
        purpose = "ask" if copy.purpose == "ask" else "buy"
        self._say(request, fate, charged, purpose=purpose)

    def _fate_of(self, cumulative: int) -> tuple[Fate, int]:
        used, running = (
            self.payee.find_used(cumulative),
            self.payee.reservation(cumulative),
        )
        if used is None:
            return Fate.OLD, 0
        return used.fate, running.charged if running else used.charged

    def _answer_refused(self, request: Request, answer: Answer) -> None:
        match answer:
            case Spent():
                self._say(request, answer.fate, answer.charged)
            case Refused(burnt=True):
                self._say(request, Fate.VOID, 0)
            case Refused(reason=session_rules.LOWER | payee_events.MISMATCH):
                self._say(request, Fate.CHARGED, 0)  # the draft: 200 and no change
            case _:
                pass  # busy, or refused for now: it may come again

    def _hear_close(self, request: Request, *, honest: bool) -> None:
        event = CloseAsked(
            cumulative=request.cumulative,
            signature=signed(request.cumulative),
            owner=self.owner,
        )
        answer = self.tell_payee(event)
        mismatch = isinstance(answer, Refused) and (
            answer.reason == payee_events.MISMATCH
        )
        if honest and mismatch:
            reply = Reply(
                cumulative=request.cumulative,
                fate=Fate.CHARGED,
                charged=0,
                total=self.payee.charged,
                accepted=self.payee.highest,
                purpose="close",
            )
            self.replies.append(reply)


def _booking(reply: Reply) -> PayerEvent:
    match reply.fate:
        case Fate.RUNNING:
            return TicketArrived(cumulative=reply.cumulative)
        case Fate.VOID:
            return TicketVoid(cumulative=reply.cumulative)
        case Fate.OLD:
            return TicketOld(cumulative=reply.cumulative)
        case Fate.CHARGED:
            return TicketCharged(cumulative=reply.cumulative, charged=reply.charged)


def make_session(*, forgotten: int = 0, **how: Any) -> SessionWorld:
    """The same as `make_world`, of a session, whose contract pays whole vouchers."""
    channel = make_world(forgotten=forgotten, **how)
    return SessionWorld(
        payer=channel.payer,
        payee=replace(channel.payee, pays_whole=True, floor=forgotten),
        thief=channel.thief,
        workers=channel.workers,
        claimed=forgotten,
        forgotten=forgotten,
        exposure_max=channel.exposure_max,
    )
