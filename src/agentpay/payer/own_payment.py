"""
A charge of MPP that the wallet's own transaction pays, as its answers are booked.

Source: draft-evm-charge-00, "Transaction Payload" and "Hash Payload". It names no
challenge: where one is over, the same transaction is presented for a fresh one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from agentpay.core.exchange import Booking, Next, judge_transfer
from agentpay.payer.charge_payment import read_charge_answer
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.offer import ChallengeTerms, Offer
from agentpay.payer.own_holds import OwnTransfer, book_spent
from agentpay.payer.payment import Answer, Judgement
from agentpay.payer.transfer_answers import read_answer, says_no, why_of
from agentpay.wire.mpp.credential import Credential, format_credential
from agentpay.wire.mpp.evm_charge import BY_HASH
from agentpay.wire.mpp.evm_write import hash_payload, transaction_payload
from agentpay.wire.mpp.problem import ProblemKind
from agentpay.wire.mpp.source import format_source

_OVER = (
    ProblemKind.PAYMENT_EXPIRED,
    ProblemKind.INVALID_CHALLENGE,
    ProblemKind.CHALLENGE_NOT_FOUND,
)
"""Nobody looked at what was presented."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPayment:
    """A transaction, presented for one request. Implements `Payment`."""

    ledger: PayerLedger
    own: OwnTransfer
    offer: Offer
    mpp: ChallengeTerms
    again: bool
    """Whether it was kept from another request: refused, it buys nothing any more."""
    let_go: Callable[[], None]
    """Nobody presents it now."""

    @property
    def id(self) -> str:
        return self.own.hold.id

    @property
    def header(self) -> str:
        return self.mpp.challenge.credential_field

    @property
    def credential(self) -> str:
        signed = self.own.signed
        payload = transaction_payload(signed.raw)
        if self.own.way == BY_HASH:
            payload = hash_payload(signed.hash)
        source = format_source(self.own.asset.chain, signed.owner)
        return format_credential(
            Credential(challenge=self.mpp.challenge, payload=payload, source=source)
        )

    async def leave_open(self) -> None:
        """See `Payment.leave_open`: the hold stays."""
        self.let_go()

    async def broke_off(self) -> None:
        """See `Payment.broke_off`: the next request is another one."""

    async def renew(self, offer: Offer) -> "OwnPayment | None":
        """See `Payment.renew`: the same transaction, where it is still the price."""
        was = self.offer
        same = (offer.method, offer.asset, offer.amount, offer.pay_to) == (
            was.method,
            was.asset,
            was.amount,
            was.pay_to,
        )
        if offer.mpp is None or not same:
            return None
        return replace(self, offer=offer, mpp=offer.mpp)

    async def book(self, answer: Answer, *, resent: bool) -> Judgement:
        """See `Payment.book`. What was sent is not sent again because it is refused."""
        receipt = answer.receipt()
        read = read_charge_answer(answer, read_answer(answer, receipt), self.mpp)
        verdict = judge_transfer(read, resent=resent)
        reason = why_of(answer)
        problem = answer.problem
        if verdict.next is Next.REJECTED and problem and problem.kind in _OVER:
            renew = Next.RENEW if answer.status == 402 else Next.RESEND
            return Judgement(next=renew, reason=reason, final=False)
        if verdict.next is Next.RESEND:
            return Judgement(next=Next.RESEND, reason=reason, final=False)
        refused, charged = says_no(read, verdict), verdict.booking is Booking.CHARGED
        ours, hold = self.own.way == BY_HASH, self.own.hold
        # What we sent is gone; it is kept only as long as it may still buy something.
        served = ours and verdict.next is Next.DELIVER and answer.status < 400
        if charged or served or (ours and refused and self.again):
            await book_spent(self.own, self.ledger)
        if refused and not self.again:
            # One that was kept may have been answered to somebody who had left.
            self.ledger.refused(hold.id)
        elif refused and ours:
            await self.ledger.resolved(hold.id, hold.host, moved=True)
        self.let_go()
        amount = self.offer.amount if charged or served else 0
        return Judgement(
            next=verdict.next, charged=amount, reason=reason, final=charged
        )
