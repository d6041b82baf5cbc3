"""
One signed transfer for one request, `exact`, `upto` or a `charge` of MPP, from its
reservation to its receipt.

The same signature is sent again until its outcome is known: it can move money once.
Where that takes longer than its caller waits, the next request for the same carries it
on (`unanswered`).
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agentpay.core.budget import Answered, Hold, Released, Spent
from agentpay.core.exchange import (
    Booking,
    Next,
    TransferAnswer,
    Verdict,
    judge_transfer,
)
from agentpay.errors import ChainError, ChallengeUsed, InvariantViolated
from agentpay.evm.permit2_signed import Permit2Transfer
from agentpay.evm.transfer import Transfer
from agentpay.onchain import is_used, moved_in
from agentpay.payer.approvals import Approval, Approvals
from agentpay.payer.charge_payment import (
    charge_credential,
    read_charge_answer,
    read_terms,
)
from agentpay.payer.keys import sign_by_wallet
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.offer import ChallengeTerms, Offer
from agentpay.payer.payment import Answer, Judgement, Target
from agentpay.payer.policy import Policy, scale
from agentpay.payer.signing import new_name, transfer_credential
from agentpay.payer.transfer_answers import read_answer, says_no, why_of
from agentpay.payer.transfer_holds import (
    ANSWER_KEPT_SECONDS,
    detail_of,
    free_unused,
    reserve,
    resolve_hold,
    transfer_of,
    words_of,
)
from agentpay.payer.unanswered import Unanswered
from agentpay.payer.unsigned import Unsigned, unsigned_transfer, words_for
from agentpay.ports import Chain, Signer
from agentpay.types import Asset, ChainId, Hash32, parse_amount
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402 import PERMIT2, PaymentResponse
from agentpay.wire.x402_approvals import SignedApprovals

_CHALLENGES_KEPT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferPayment:
    """A signed transfer, for one request at a time. Implements `Payment`."""

    ledger: PayerLedger
    chain: Chain
    hold: Hold
    transfer: Transfer
    upto: bool
    mpp: ChallengeTerms | None
    """What it answers, of a charge."""
    unanswered: "Unanswered[TransferPayment]"
    header: str
    credential: str
    approval: Approval = field(default_factory=Approval)
    again: bool = False
    """Whether an earlier request has presented it."""
    failed: bool = False
    """Whether that had an error for it: refused now, it is nothing that is due."""

    @property
    def id(self) -> str:
        return self.hold.id

    async def leave_open(self) -> None:
        """
        See `Payment.leave_open`: the hold stays until the chain tells, or the next
        request for the same finds out.
        """
        self.approval.end()
        await self.unanswered.leave(self.hold, replace(self, failed=False))

    async def broke_off(self) -> None:
        """See `Payment.broke_off`: its payee may have kept the whole of it."""
        await self.unanswered.owed(self.hold, self)

    async def renew(self, offer: Offer) -> None:
        """See `Payment.renew`: what is signed is for one offer."""
        del offer

    async def book(self, answer: Answer, *, resent: bool) -> Judgement:
        """See `Payment.book`. A refusal frees nothing: the signature is still out."""
        resent = resent or self.again
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
            self.unanswered.end(self.hold)
        elif verdict.next is not Next.RESEND:
            await self._end_open(read, verdict, resent=resent)
        if verdict.next is not Next.RESEND:
            self.approval.end()
        following = verdict.next
        if self.failed and following is Next.REJECTED and answer.status == 402:
            following = Next.PAY_AGAIN
        reason = (receipt.error_reason if receipt else None) or why_of(answer)
        final = verdict.booking is Booking.CHARGED
        return Judgement(next=following, charged=charged, reason=reason, final=final)

    async def _end_open(
        self, read: TransferAnswer, verdict: Verdict, *, resent: bool
    ) -> None:
        """
        An answer, and nobody knows what it cost. One that is an error, and not said to
        be of no cost, may be any proxy's: the same request is not to pay anew for it,
        unless its payee will not have it any more.
        """
        if says_no(read, verdict):
            if not resent:  # a copy before it may have been let in
                self.ledger.refused(self.hold.id)
            await self.unanswered.answered(self.hold)
        elif read.status >= 500:
            await self.unanswered.leave(self.hold, replace(self, failed=True))
        else:
            await self.unanswered.answered(self.hold)

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
                await self.ledger.move(decimals, Answered(id=self.hold.id))
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
        assets: tuple[Asset, ...],
        chains: Mapping[ChainId, Chain],
    ) -> None:
        self._signer = signer
        self._ledger = ledger
        self._approvals = approvals
        self._policy = policy
        self._assets = assets
        self._chains = chains
        self._taken: OrderedDict[str, None] = OrderedDict()
        self._unanswered: Unanswered[TransferPayment] = Unanswered(
            ledger, policy, is_ours=self._is_ours
        )

    async def any_left(self) -> bool:
        """Whether there may be anything to carry on."""
        return await self._unanswered.any_left()

    async def carry_on(self, target: Target) -> TransferPayment | None:
        """
        What an earlier request for the same was paid with, and had no answer for; None
        if there is nothing, or what there was has expired unused.

        Raises:
            KeyElsewhere: It has to be signed once more, and the wallet is only watched.
        """
        while (taken := await self._unanswered.take(target.request)) is not None:
            hold, payment = taken
            try:
                transfer, chain = self._transfer_of(hold)
                if not await self._is_over(hold, transfer, chain):
                    if payment is not None:
                        return replace(payment, hold=hold, again=True)
                    return await self._sign_again(hold, transfer, target, chain)
            except BaseException:
                await self._unanswered.leave(hold, payment)
                raise
            self._unanswered.end(hold)
        return None

    def _is_ours(self, hold: Hold) -> bool:
        """Not of another network, kept in the same store."""
        transfer = transfer_of(hold, self._assets)
        return transfer is not None and transfer.asset.chain in self._chains

    def _transfer_of(self, hold: Hold) -> tuple[Unsigned, Chain]:
        transfer = transfer_of(hold, self._assets)
        if not isinstance(transfer, Unsigned):
            raise InvariantViolated(f"{hold.id} is no transfer of ours")
        return transfer, self._chains[transfer.asset.chain]

    async def _is_over(self, hold: Hold, transfer: Transfer, chain: Chain) -> bool:
        """
        Whether it expired unused, so that its money is free; or so long ago that nobody
        keeps an answer to it any more.
        """
        now, resolve = self._ledger.now(), free_unused
        if now <= hold.valid_before:
            return False
        if now > hold.valid_before + ANSWER_KEPT_SECONDS:
            hold, resolve = replace(hold, request=""), resolve_hold
        try:
            return await resolve(hold, transfer, chain=chain, ledger=self._ledger)
        except ChainError:
            return False  # its payee may know

    async def _sign_again(
        self, hold: Hold, transfer: Unsigned, target: Target, chain: Chain
    ) -> TransferPayment:
        """The process that signed it is gone: the same words, the same nonce."""
        signature = await sign_by_wallet(self._signer, transfer.digest(), chain)
        words = words_of(hold)
        return replace(
            self._presenting(
                hold,
                replace(transfer, signature=signature),
                words,
                target,
                mpp=read_terms(words, until=hold.valid_before),
            ),
            again=True,
        )

    async def pay(self, offer: Offer, target: Target, chain: Chain) -> TransferPayment:
        """
        Reserve the budget, durably, then sign.

        Raises:
            BudgetExceeded: Nothing was signed.
            ChallengeUsed: Its challenge was paid before; nothing was signed.
            ApprovalNeeded: Permit2 may not move the token; nothing was signed.
            ChainError: An allowance is needed and could not be read.
        """
        unsigned = unsigned_transfer(
            offer,
            payer=self._signer.address,
            host=target.host,
            policy=self._policy,
            now=int(self._ledger.now()),
        )
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
        decimals, name = offer.asset.decimals, new_name()
        words = words_for(offer, name)
        hold = Hold(
            id=f"transfer {unsigned.id}",
            host=target.host,
            amount=scale(offer.amount, decimals),
            valid_before=unsigned.valid_before,
            detail=detail_of(unsigned, words),
            request=target.request,
            presented_until=self._unanswered.until(),
        )
        await reserve(self._ledger, hold, decimals=decimals)
        self._unanswered.begin(hold)
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
            self._unanswered.end(hold)
            await self._ledger.move(decimals, Released(id=hold.id))
            raise
        if approval.along != SignedApprovals():
            words = words_for(offer, name, along=approval.along)
        signed = replace(unsigned, signature=signature)
        payment = self._presenting(hold, signed, words, target, mpp=offer.mpp)
        return replace(payment, approval=approval)

    def _presenting(
        self,
        hold: Hold,
        signed: Unsigned,
        words: JsonObject,
        target: Target,
        *,
        mpp: ChallengeTerms | None,
    ) -> TransferPayment:
        """What presents a transfer, by the words of its credential."""
        if mpp is None or isinstance(signed, Permit2Transfer):
            header, credential = transfer_credential(signed, words, url=target.url)
        else:
            header = mpp.challenge.credential_field
            credential = charge_credential(signed, mpp.challenge)
        return TransferPayment(
            ledger=self._ledger,
            chain=self._chains[signed.asset.chain],
            hold=hold,
            transfer=signed,
            upto=isinstance(signed, Permit2Transfer) and signed.facilitator is not None,
            mpp=mpp,
            unanswered=self._unanswered,
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
