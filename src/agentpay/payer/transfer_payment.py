"""
One signed transfer for one request, `exact`, `upto` or a `charge` of MPP, from its
reservation to its receipt.

The same signature is sent again until its outcome is known: it can move money once.
"""

import secrets
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TypeAlias

from agentpay.core.budget import Hold, Released, Spent
from agentpay.core.exchange import (
    Booking,
    Next,
    Verdict,
    judge_transfer,
)
from agentpay.errors import ChainError, ChallengeUsed
from agentpay.evm.charge_permit import ChargePermit
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.permit2 import PermitTransfer
from agentpay.evm.permit2_signed import Permit2Transfer
from agentpay.evm.transfer import TokenTransfer, Transfer
from agentpay.onchain import is_used, moved_in
from agentpay.payer.approvals import Approval, Approvals
from agentpay.payer.charge_payment import (
    charge_credential,
    read_charge_answer,
    unsigned_charge,
)
from agentpay.payer.keys import sign_by_wallet
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.offer import ChallengeTerms, Offer
from agentpay.payer.payment import Answer, Judgement, Target
from agentpay.payer.policy import Policy, scale
from agentpay.payer.signing import transfer_credential
from agentpay.payer.transfer_answers import read_answer, says_no, why_of
from agentpay.payer.transfer_holds import detail_of
from agentpay.ports import Chain, Signer
from agentpay.types import Hash32, parse_amount
from agentpay.wire.x402 import (
    PAYMENT_SIGNATURE,
    PERMIT2,
    UPTO,
    PaymentResponse,
)
from agentpay.wire.x402_v1 import X_PAYMENT

Unsigned: TypeAlias = TokenTransfer | Permit2Transfer | ChargePermit

_CHALLENGES_KEPT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferPayment:
    """A signed transfer, for one request only. Implements `Payment`."""

    ledger: PayerLedger
    chain: Chain
    hold: Hold
    transfer: Transfer
    upto: bool
    mpp: ChallengeTerms | None
    """What it answers, of a charge."""
    approval: Approval
    header: str
    credential: str

    @property
    def id(self) -> str:
        return self.hold.id

    async def leave_open(self) -> None:
        """See `Payment.leave_open`: the hold stays until the chain tells."""
        self.approval.end()

    async def renew(self, offer: Offer) -> None:
        """See `Payment.renew`: what is signed is for one offer."""
        del offer

    async def book(self, answer: Answer, *, resent: bool) -> Judgement:
        """See `Payment.book`. A refusal frees nothing: the signature is still out."""
        receipt = answer.receipt()
        read = read_answer(answer, receipt)
        if self.mpp is not None:
            read = read_charge_answer(answer, read, self.mpp)
        verdict = judge_transfer(read, resent=resent)
        if verdict.next is Next.REJECTED and resent:
            verdict = await self._doubt(verdict)
        charged = 0
        if verdict.booking is Booking.CHARGED:
            charged = await self._book_charge(receipt)
        if verdict.next is not Next.RESEND:
            self.approval.end()
        if says_no(read, verdict):
            self.ledger.refused(self.hold)
        reason = (receipt.error_reason if receipt else None) or why_of(answer)
        final = verdict.booking is Booking.CHARGED
        return Judgement(next=verdict.next, charged=charged, reason=reason, final=final)

    async def _book_charge(self, receipt: PaymentResponse | None) -> int:
        """
        What was charged. Less than the maximum is believed once the chain shows it:
        until then, and while the signature may still be used, all of it is held.
        """
        maximum, decimals = self.transfer.maximum, self.transfer.asset.decimals
        charged = maximum
        if self.upto and receipt is not None:
            charged = _amount_of(receipt, maximum)
            if charged < maximum and not await self._shows(receipt, charged):
                return charged
        spent = Spent(id=self.hold.id, amount=scale(charged, decimals))
        await self.ledger.move(decimals, spent)
        return charged

    async def _shows(self, receipt: PaymentResponse, charged: int) -> bool:
        if not charged:
            return False
        try:
            mined = Hash32(receipt.transaction)
            return await moved_in(self.chain, self.transfer, mined) == charged
        except (ValueError, ChainError):
            return False

    async def _doubt(self, refusal: Verdict) -> Verdict:
        """
        A transfer that was sent before may be refused because it was made then, with an
        answer that did not reach us: the chain knows.
        """
        try:
            used = await is_used(self.chain, self.transfer)
        except ChainError:
            return Verdict(next=Next.RESEND, booking=Booking.OPEN)
        if used:
            return Verdict(next=Next.LOST, booking=Booking.CHARGED)
        return refusal


def _amount_of(receipt: PaymentResponse, maximum: int) -> int:
    try:
        return parse_amount(receipt.amount or "", maximum=maximum)
    except ValueError:
        return maximum


class TransferPayments:
    """Pays for requests by single transfers, for one payer."""

    def __init__(
        self,
        *,
        signer: Signer,
        ledger: PayerLedger,
        approvals: Approvals,
        policy: Policy,
    ) -> None:
        self._signer = signer
        self._ledger = ledger
        self._approvals = approvals
        self._policy = policy
        self._taken: OrderedDict[str, None] = OrderedDict()

    async def pay(self, offer: Offer, target: Target, chain: Chain) -> TransferPayment:
        """
        Reserve the budget, durably, then sign.

        Raises:
            BudgetExceeded: Nothing was signed.
            ChallengeUsed: Its challenge was paid before; nothing was signed.
            ApprovalNeeded: Permit2 may not move the token; nothing was signed.
            ChainError: An allowance is needed and could not be read.
        """
        unsigned = self._make(offer, target)
        if offer.mpp is None:
            return await self._sign(unsigned, offer, target, chain)
        await self._take(unsigned.id)
        try:
            return await self._sign(unsigned, offer, target, chain)
        except BaseException:
            self._taken.pop(unsigned.id, None)  # nothing has left us that answers it
            raise

    async def _sign(
        self,
        unsigned: Unsigned,
        offer: Offer,
        target: Target,
        chain: Chain,
    ) -> TransferPayment:
        decimals = offer.asset.decimals
        hold = Hold(
            id=f"transfer {unsigned.id}",
            host=target.host,
            amount=scale(offer.amount, decimals),
            valid_before=unsigned.valid_before,
            detail=detail_of(unsigned),
        )
        await self._ledger.reserve(hold, decimals=decimals)
        approval = Approval()
        try:
            if offer.method == PERMIT2:
                approval = await self._approvals.get(
                    offer, offer.amount, valid_before=unsigned.valid_before
                )
            signature = await sign_by_wallet(self._signer, unsigned.digest(), chain)
        except BaseException:
            # Also cancelled: the signature has not left us, and never will.
            approval.end()
            await self._ledger.move(decimals, Released(id=hold.id))
            raise
        signed = replace(unsigned, signature=signature)
        header, credential = _write(signed, offer, target, approval)
        return TransferPayment(
            ledger=self._ledger,
            chain=chain,
            hold=hold,
            transfer=signed,
            upto=offer.scheme == UPTO,
            mpp=offer.mpp,
            approval=approval,
            header=header,
            credential=credential,
        )

    async def _take(self, transfer: str) -> None:
        """
        A challenge is paid once, also where a server gives the same one out again.

        Raises:
            ChallengeUsed: It was taken before.
        """
        used = transfer in self._taken
        if not used:
            self._taken[transfer] = None
            budget = await self._ledger.store.budget(self._ledger.account)
            used = budget.hold(f"transfer {transfer}") is not None
        if len(self._taken) > _CHALLENGES_KEPT:
            self._taken.popitem(last=False)
        if used:
            raise ChallengeUsed(
                "its server gave out a challenge again that was paid before: ask for"
                " another one"
            )

    def _make(self, offer: Offer, target: Target) -> Unsigned:
        now = int(self._ledger.now())
        if offer.mpp is not None:
            return unsigned_charge(
                offer,
                offer.mpp,
                payer=self._signer.address,
                host=target.host,
                policy=self._policy,
                now=now,
            )
        seconds = min(offer.max_timeout_seconds, self._policy.authorization_seconds_max)
        valid_before = now + max(seconds, 1)
        if offer.method == PERMIT2:
            permitted = PermitTransfer(
                payer=self._signer.address,
                token=offer.asset.address,
                amount=offer.amount,
                nonce=secrets.randbits(256),
                deadline=valid_before,
                to=offer.pay_to,
                valid_after=0,
                facilitator=offer.facilitator,
            )
            return Permit2Transfer(asset=offer.asset, transfer=permitted, signature=b"")
        authorization = Authorization(
            payer=self._signer.address,
            to=offer.pay_to,
            value=offer.amount,
            valid_after=0,
            valid_before=valid_before,
            nonce=Hash32.of(secrets.token_bytes(32)),
        )
        return TokenTransfer(
            asset=offer.asset, authorization=authorization, signature=b""
        )


def _write(
    signed: Unsigned,
    offer: Offer,
    target: Target,
    approval: Approval,
) -> tuple[str, str]:
    """The header that carries a payment, and its value."""
    if offer.mpp is not None and not isinstance(signed, Permit2Transfer):
        challenge = offer.mpp.challenge
        return challenge.credential_field, charge_credential(signed, challenge)
    credential = transfer_credential(
        signed, offer, url=target.url, approvals=approval.along
    )
    first = offer.first_network is not None
    return X_PAYMENT if first else PAYMENT_SIGNATURE, credential
