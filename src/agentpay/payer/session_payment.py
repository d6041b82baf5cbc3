"""
One voucher of an MPP session: what it says, and how its answers are booked.

Source: draft-evm-session-00, "Voucher Payload", "Error Responses" and "Receipt
Generation". The counterpart of `channel_payment`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from agentpay.core.budget import BudgetEvent, Spent
from agentpay.core.exchange import (
    Booking,
    Next,
    SessionAnswer,
    Trouble,
    Verdict,
    judge_session,
    next_of_carried,
)
from agentpay.core.payer_channel import DepositArrived, PendingDeposit, SpentReported
from agentpay.core.payer_session_rules import AcceptedReported, PayerSessionEvent
from agentpay.errors import MalformedMessage
from agentpay.payer.approvals import Approval
from agentpay.payer.channel_kind import VoucherPayment
from agentpay.payer.channel_payment import event_of, never
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.offer import Offer
from agentpay.payer.payment import Answer, Judgement
from agentpay.payer.policy import scale
from agentpay.payer.session_signing import frames
from agentpay.records import PayerRecord, session_config
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.challenge import Challenge
from agentpay.wire.mpp.credential import Credential, format_credential
from agentpay.wire.mpp.evm_write import voucher_payload
from agentpay.wire.mpp.outcome import PAYMENT_VOUCHER, SessionOutcome, parse_outcome
from agentpay.wire.mpp.problem import PROBLEM_JSON, Problem, ProblemKind
from agentpay.wire.mpp.receipt import SessionReceipt
from agentpay.wire.mpp.sse import EVENT_STREAM

_TROUBLES = {
    ProblemKind.PAYMENT_EXPIRED: Trouble.CHALLENGE,
    ProblemKind.INVALID_CHALLENGE: Trouble.CHALLENGE,
    ProblemKind.CHALLENGE_NOT_FOUND: Trouble.CHALLENGE,
    ProblemKind.CHANNEL_NOT_FOUND: Trouble.GONE,
    ProblemKind.CHANNEL_FINALIZED: Trouble.GONE,
    ProblemKind.TRANSACTION_REVERTED: Trouble.REVERTED,
    ProblemKind.CREDENTIAL_REPLAYED: Trouble.AGAIN,
    ProblemKind.INTERNAL_ERROR: Trouble.AGAIN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPayment:
    """A signed voucher, for one request only. Implements `VoucherPayment`."""

    ledger: PayerLedger
    record: PayerRecord
    cumulative: int
    signed: int
    """What its voucher says; a question may say more than what it is about."""
    signature: bytes = field(repr=False)
    challenge: Challenge
    leave: Callable[[VoucherPayment], Awaitable[None]]
    left: Callable[[VoucherPayment], Awaitable[None]]
    gone: Callable[[PayerRecord], Awaitable[None]]
    """The payee says that there is no such session."""
    again: bool = False
    """Whether an earlier request has presented it."""
    asks: bool = False
    """Whether it only asks what became of an amount."""
    raises: tuple[int, int] | None = None
    """The running request that it is for, by its amount, and what that may cost now."""
    deposit: PendingDeposit | None = None
    deposit_part: JsonObject | None = field(default=None, repr=False)
    approval: Approval = field(default_factory=Approval)
    """Of Permit2, for a deposit that goes along."""
    is_made: Callable[[], Awaitable[bool]] = never
    """Whether the chain shows that deposit."""

    @property
    def id(self) -> str:
        return f"{self.record.channel}:{self.cumulative}"

    @property
    def header(self) -> str:
        return self.challenge.credential_field

    @property
    def credential(self) -> str:
        payload = voucher_payload(
            self.record.channel,
            self.signed,
            self.signature,
            self.deposit_part,
            raises=self.raises if self.record.ledger.tagged else None,
        )
        return format_credential(Credential(challenge=self.challenge, payload=payload))

    async def leave_open(self) -> None:
        """See `Payment.leave_open`."""
        self.approval.end()
        await (self.left(self) if self._buys else self.leave(self))

    @property
    def runs_seconds(self) -> float:
        """See `VoucherPayment.runs_seconds`: the payee of a session says what runs."""
        return 0

    def carried_on(self) -> "SessionPayment":
        """See `VoucherPayment.carried_on`."""
        return replace(self, again=True)

    async def broke_off(self) -> None:
        """See `Payment.broke_off`: its payee may have kept the whole of it."""
        if self._buys:
            await self.left(self)

    async def renew(self, offer: Offer) -> "SessionPayment | None":
        """
        The same voucher under a fresh challenge: None if that is for another session.

        Its deposit goes along again unless it was made.
        """
        if offer.mpp is None or not self.fits(offer.mpp.challenge):
            return None
        framed = self.under(offer.mpp.challenge)
        now = await self.ledger.read(self.record.channel)
        pending = now.ledger.deposit if now is not None else None
        if self.deposit is None or pending == self.deposit:
            return framed
        return replace(framed, deposit=None, deposit_part=None)

    def fits(self, challenge: Challenge) -> bool:
        """Whether a challenge is for our session."""
        return frames(challenge, session_config(self.record))

    def under(self, challenge: Challenge) -> "SessionPayment":
        """The same voucher under this challenge."""
        return replace(self, challenge=challenge)

    async def book(self, answer: Answer, *, resent: bool) -> Judgement:
        """See `Payment.book`."""
        resent = resent or self.again
        tagged = self.record.ledger.tagged
        spent = 0 if tagged else await self.ledger.spent(self.record.channel)
        receipt, outcome = self._receipt(answer), self._outcome(answer)
        read = self._read(answer, receipt, outcome)
        verdict = judge_session(read, tagged=tagged, spent=spent, resent=resent)
        if self.asks:
            verdict = _of_question(read, verdict, tagged=tagged)
        if self.raises is not None and verdict.booking is Booking.CHARGED:
            verdict = replace(verdict, charged=0)  # its request costs, and not itself
        await self._write(verdict, read, _totals(answer, receipt, outcome))
        if read.trouble is Trouble.GONE:
            await self.gone(self.record)
        following = verdict.next
        if self.deposit is not None and following is Next.PAY_AGAIN:
            following = Next.REJECTED  # the deposit failed: do not sign another
        if self.again and following is Next.LOST:
            following = next_of_carried(verdict)
        if following not in (Next.RESEND, Next.RENEW):
            self.approval.end()
        if verdict.booking is Booking.OPEN and following in (
            Next.DELIVER,
            Next.REJECTED,
        ):
            no_answer = following is Next.DELIVER and answer.status >= 500
            if following is Next.REJECTED and not resent:
                self.ledger.refused(self.id)
            await (self.left(self) if no_answer else self.leave(self))
        return Judgement(
            next=following,
            charged=verdict.charged,
            reason=reason_of(answer),
            final=verdict.booking not in (Booking.OPEN, Booking.ARRIVED),
            streams=following is Next.DELIVER and verdict.booking is Booking.ARRIVED,
        )

    # Reading.

    @property
    def _buys(self) -> bool:
        """Whether it is presented for content."""
        return not self.asks and self.raises is None

    def _receipt(self, answer: Answer) -> SessionReceipt | None:
        """Its receipt, if that is for our session."""
        receipt = answer.mpp_receipt(SessionReceipt)
        if receipt is None:
            return None
        place = receipt.channel_id, receipt.chain_id
        return receipt if place == (self.record.channel, self.record.chain) else None

    def _outcome(self, answer: Answer) -> SessionOutcome | None:
        """What it says of exactly our voucher."""
        header = answer.headers.get(PAYMENT_VOUCHER.lower())
        if header is None or not self.record.ledger.tagged:
            return None
        try:
            outcome = parse_outcome(header)
        except MalformedMessage:
            return None
        named = outcome.channel_id, outcome.cumulative
        return outcome if named == (self.record.channel, self.cumulative) else None

    def _read(
        self,
        answer: Answer,
        receipt: SessionReceipt | None,
        outcome: SessionOutcome | None,
    ) -> SessionAnswer:
        served_nothing = receipt is not None and receipt.units == 0
        kind = answer.headers.get("content-type", "")
        if answer.headers.get("content-length") == "0":
            served_nothing = receipt is not None
        return SessionAnswer(
            status=answer.status,
            trouble=_trouble_of_question(answer)
            if not self._buys
            else trouble_of(answer.problem),
            fate=outcome.fate if outcome else None,
            charged=outcome.charged if outcome else None,
            repeated=outcome.repeated if outcome else False,
            total=receipt.spent if receipt else None,
            offered=answer.offers,
            opened=self._buys and self.deposit is not None and served_nothing,
            streams=self._buys and kind.startswith(EVENT_STREAM),
        )

    # Booking.

    async def _write(
        self, verdict: Verdict, read: SessionAnswer, totals: tuple[int | None, ...]
    ) -> None:
        events: list[PayerSessionEvent] = []
        money: tuple[BudgetEvent, ...] = ()
        arrived = verdict.booking in (Booking.CHARGED, Booking.ARRIVED) or read.opened
        # Its payee's word is not enough: what it did not make, it may still make.
        if self.deposit is not None and arrived and await self.is_made():
            events.append(DepositArrived(salt=self.deposit.salt))
            amount = scale(self.deposit.amount, self.record.decimals)
            money = (Spent(id=f"deposit {self.deposit.salt}", amount=amount),)
        accepted, total = totals
        if accepted is not None:
            events.append(AcceptedReported(cumulative=accepted))
        booked = event_of(verdict, self.cumulative)
        if booked is not None:
            events.append(booked)
        if total is not None:
            events.append(SpentReported(charged=total))
        if not events:
            return
        said = await self.ledger.book(self.record.channel, *events, money=money)
        self.ledger.check_honest(self.record, *said)


def _of_question(read: SessionAnswer, verdict: Verdict, *, tagged: bool) -> Verdict:
    """
    What an answer to a question means.

    A session that is gone is no answer. On an untagged session a total that did not
    grow leaves it open whether the request is still to be charged: it is taken to be,
    and who closes is told what was.
    """
    if read.trouble is Trouble.GONE:
        return Verdict(next=Next.REJECTED, booking=Booking.OPEN)
    if not tagged and verdict.booking is Booking.CHARGED and not verdict.charged:
        return Verdict(next=verdict.next, booking=Booking.OLD)
    return verdict


def _totals(
    answer: Answer, receipt: SessionReceipt | None, outcome: SessionOutcome | None
) -> tuple[int | None, int | None]:
    """What it says that the payee has from us, and charged us, in all."""
    problem = answer.problem
    accepted = receipt.accepted_cumulative if receipt else None
    spent = receipt.spent if receipt else None
    if problem is not None and problem.of_a_paywall:
        accepted, spent = problem.accepted_cumulative, problem.spent
    if outcome is not None and outcome.spent is not None:
        spent = outcome.spent
    return accepted, spent


def trouble_of(problem: Problem | None) -> Trouble | None:
    """What a paywall says went wrong; None if it says nothing."""
    if problem is None or not problem.of_a_paywall:
        return None
    if problem.kind is None:
        return Trouble.REFUSED
    return _TROUBLES.get(problem.kind, Trouble.REFUSED)


def _trouble_of_question(answer: Answer) -> Trouble | None:
    """The same where the answer to a `HEAD` may not carry its problem."""
    told = answer.headers.get("content-type", "")
    if answer.problem is not None or not told.startswith(PROBLEM_JSON):
        return trouble_of(answer.problem)
    match answer.status:
        case 410:
            return Trouble.GONE
        case 402:
            return Trouble.CHALLENGE
        case _:
            return Trouble.AGAIN


def reason_of(answer: Answer) -> str:
    """The same in words."""
    problem = answer.problem
    if problem is None or not problem.of_a_paywall:
        return ""
    name = problem.kind.type.rpartition("problems/")[2] if problem.kind else "a problem"
    return f"{name}: {problem.detail}"[:500]
