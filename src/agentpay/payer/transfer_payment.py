"""
One signed transfer for one request, `exact` or `upto`, from its reservation to its
receipt.

The same signature is sent again until its outcome is known: it can move money once.
"""

import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from agentpay.core.budget import Hold, Released, Spent
from agentpay.core.exchange import (
    Booking,
    Next,
    TransferAnswer,
    Verdict,
    judge_transfer,
)
from agentpay.errors import ChainError
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.permit2 import PermitTransfer
from agentpay.evm.permit2_signed import Permit2Transfer
from agentpay.evm.transfer import TokenTransfer, Transfer
from agentpay.onchain import find_transfer, is_used
from agentpay.payer.approvals import Approval, Approvals
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.offer import Offer
from agentpay.payer.payment import Answer, Judgement, Target
from agentpay.payer.policy import Policy, scale
from agentpay.payer.signing import transfer_credential
from agentpay.ports import Chain, Signer
from agentpay.types import Address, Asset, ChainId, Hash32, parse_amount
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402 import (
    PAYMENT_REQUIRED,
    PAYMENT_SIGNATURE,
    PERMIT2,
    UPTO,
    PaymentResponse,
)
from agentpay.wire.x402_transfers import read_unsigned, transfer_payload
from agentpay.wire.x402_v1 import X_PAYMENT

_PENDING = ("settlement_pending", "unexpected_settle_error")
"""Reasons that mean unknown: the second is the official server's, in a 402."""

_PROBLEM = "application/problem+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferPayment:
    """A signed transfer, for one request only. Implements `Payment`."""

    ledger: PayerLedger
    chain: Chain
    hold: Hold
    transfer: Transfer
    upto: bool
    approval: Approval
    header: str
    credential: str

    @property
    def id(self) -> str:
        return self.hold.id

    async def leave_open(self) -> None:
        """See `Payment.leave_open`: the hold stays until the chain tells."""
        self.approval.end()

    async def book(self, answer: Answer, *, resent: bool) -> Judgement:
        """See `Payment.book`. A refusal frees nothing: the signature is still out."""
        receipt = answer.receipt()
        read = TransferAnswer(
            status=answer.status,
            success=receipt.success if receipt else None,
            pending=receipt is not None and receipt.error_reason in _PENDING,
            offered=PAYMENT_REQUIRED.lower() in answer.headers,
            problem=answer.headers.get("content-type", "").startswith(_PROBLEM),
        )
        verdict = judge_transfer(read, resent=resent)
        if verdict.next is Next.REJECTED and resent:
            verdict = await self._doubt(verdict)
        charged = 0
        if verdict.booking is Booking.CHARGED:
            charged = await self._book_charge(receipt)
        if verdict.next is not Next.RESEND:
            self.approval.end()
        reason = (receipt.error_reason if receipt else None) or "refused"
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
            mined = await self.chain.receipt(Hash32(receipt.transaction))
        except (ValueError, ChainError):
            return False
        return mined is not None and self.transfer.moved(mined.logs) == charged

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
        clock: Callable[[], float],
    ) -> None:
        self._signer = signer
        self._ledger = ledger
        self._approvals = approvals
        self._policy = policy
        self._clock = clock

    async def pay(self, offer: Offer, target: Target, chain: Chain) -> TransferPayment:
        """
        Reserve the budget, durably, then sign.

        Raises:
            BudgetExceeded: Nothing was signed.
            ApprovalNeeded: Permit2 may not move the token; nothing was signed.
            ChainError: An allowance is needed and could not be read.
        """
        unsigned = self._make(offer)
        decimals = offer.asset.decimals
        hold = Hold(
            id=f"transfer {unsigned.id}",
            host=target.host,
            amount=scale(offer.amount, decimals),
            valid_before=unsigned.valid_before,
            detail=_detail_of(unsigned),
        )
        await self._ledger.reserve(hold, decimals=decimals)
        approval = Approval()
        try:
            if offer.method == PERMIT2:
                approval = await self._approvals.get(
                    offer, offer.amount, valid_before=unsigned.valid_before
                )
            digest = unsigned.digest()
            signature = await self._signer.sign_digest(digest, chain=offer.asset.chain)
        except BaseException:
            # Also cancelled: the signature has not left us, and never will.
            approval.end()
            await self._ledger.move(decimals, Released(id=hold.id))
            raise
        signed = replace(unsigned, signature=signature)
        return TransferPayment(
            ledger=self._ledger,
            chain=chain,
            hold=hold,
            transfer=signed,
            upto=offer.scheme == UPTO,
            approval=approval,
            header=X_PAYMENT if offer.first_network is not None else PAYMENT_SIGNATURE,
            credential=transfer_credential(
                signed, offer, url=target.url, permit=approval.permit
            ),
        )

    def _make(self, offer: Offer) -> TokenTransfer | Permit2Transfer:
        now = int(self._clock())
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


def _detail_of(unsigned: Transfer) -> str:
    """All that is needed to ask a chain about it; never the signature."""
    detail: JsonObject = {
        "chain": unsigned.asset.chain,
        "token": str(unsigned.asset.address),
        "payload": transfer_payload(unsigned),
    }
    return json.dumps(detail)


def transfer_of(hold: Hold, assets: Iterable[Asset]) -> Transfer | None:
    """The transfer of a hold, without its signature; None if of none of our assets."""
    detail = json.loads(hold.detail)
    place = ChainId(detail["chain"]), Address(detail["token"])
    for asset in assets:
        if (asset.chain, asset.address) == place:
            return read_unsigned(detail["payload"], asset)
    return None


async def resolve_hold(
    hold: Hold, transfer: Transfer, *, chain: Chain, ledger: PayerLedger
) -> bool:
    """
    Ask the chain what became of a transfer; False while it may still move money.

    Raises:
        ChainError: The chain could not be asked.
    """
    decimals = transfer.asset.decimals
    head = await chain.head()
    if await is_used(chain, transfer, block=head.number):
        found = await find_transfer(chain, transfer)
        moved = transfer.moved(found.logs) if found else transfer.maximum
        spent = Spent(id=hold.id, amount=scale(moved, decimals))
        await ledger.move(decimals, spent)
        return True
    if head.timestamp > hold.valid_before:
        await ledger.move(decimals, Released(id=hold.id))
        return True
    return False
