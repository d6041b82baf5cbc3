"""
One signed transfer for one request: `exact`, from its reservation to its receipt.

The same signature is sent again until its outcome is known: it can move money once.
"""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from agentpay.core.budget import Hold, Released, Spent
from agentpay.core.exchange import (
    Booking,
    Next,
    TransferAnswer,
    Verdict,
    judge_transfer,
)
from agentpay.errors import BudgetExceeded, ChainError
from agentpay.evm import eip3009_abi as tokens
from agentpay.evm.eip3009 import Authorization
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.offer import Offer
from agentpay.payer.payment import Answer, Judgement, Target
from agentpay.payer.policy import Policy, scale
from agentpay.payer.signing import sign_transfer
from agentpay.ports import Chain, Signer
from agentpay.types import Address, ChainId, Hash32
from agentpay.wire.x402 import PAYMENT_REQUIRED

_PENDING = ("settlement_pending", "unexpected_settle_error")
"""Reasons that mean unknown: the second is the official server's, in a 402."""

_PROBLEM = "application/problem+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactPayment:
    """A signed transfer, for one request only. Implements `Payment`."""

    ledger: PayerLedger
    chain: Chain
    hold: Hold
    amount: int
    decimals: int
    credential: str

    @property
    def id(self) -> str:
        return self.hold.id

    async def leave_open(self) -> None:
        """See `Payment.leave_open`: the hold stays until the chain tells."""

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
            charged = self.amount
            spent = Spent(id=self.hold.id, amount=self.hold.amount)
            await self.ledger.move(self.decimals, spent)
        reason = (receipt.error_reason if receipt else None) or "refused"
        return Judgement(next=verdict.next, charged=charged, reason=reason)

    async def _doubt(self, refusal: Verdict) -> Verdict:
        """
        A transfer that was sent before may be refused because it was made then, with an
        answer that did not reach us: the chain knows.
        """
        try:
            used = await _is_used(self.hold, self.ledger.account, self.chain)
        except ChainError:
            return Verdict(next=Next.RESEND, booking=Booking.OPEN)
        if used:
            return Verdict(next=Next.LOST, booking=Booking.CHARGED)
        return refusal


async def pay_exact(
    offer: Offer,
    target: Target,
    *,
    signer: Signer,
    ledger: PayerLedger,
    chain: Chain,
    policy: Policy,
    clock: Callable[[], float],
) -> ExactPayment:
    """
    Reserve the budget, durably, then sign.

    Raises:
        BudgetExceeded: Nothing was signed.
    """
    now = int(clock())
    seconds = min(offer.max_timeout_seconds, policy.authorization_seconds_max)
    authorization = Authorization(
        payer=signer.address,
        to=offer.pay_to,
        value=offer.amount,
        valid_after=0,
        valid_before=now + max(seconds, 1),
        nonce=Hash32.of(secrets.token_bytes(32)),
    )
    detail = {
        "chain": offer.asset.chain,
        "token": offer.asset.address,
        "nonce": authorization.nonce,
    }
    hold = Hold(
        id=f"exact {authorization.nonce}",
        host=target.host,
        amount=scale(offer.amount, offer.asset.decimals),
        valid_before=authorization.valid_before,
        detail=json.dumps(detail),
    )
    try:
        await ledger.reserve(hold, decimals=offer.asset.decimals)
        credential = await sign_transfer(signer, authorization, offer, url=target.url)
    except BudgetExceeded:
        raise
    except BaseException:
        # Also cancelled: the signature has not left us, and never will.
        await ledger.move(offer.asset.decimals, Released(id=hold.id))
        raise
    return ExactPayment(
        ledger=ledger,
        chain=chain,
        hold=hold,
        amount=offer.amount,
        decimals=offer.asset.decimals,
        credential=credential,
    )


async def resolve_hold(
    hold: Hold, *, account: Address, chain: Chain, ledger: PayerLedger, decimals: int
) -> bool:
    """
    Ask the chain what became of a transfer; False while it may still move money.

    Raises:
        ChainError: The chain could not be asked.
    """
    head = await chain.head()
    if await _is_used(hold, account, chain, block=head.number):
        await ledger.move(decimals, Spent(id=hold.id, amount=hold.amount))
        return True
    if head.timestamp > hold.valid_before:
        await ledger.move(decimals, Released(id=hold.id))
        return True
    return False


async def _is_used(
    hold: Hold, account: Address, chain: Chain, *, block: int | None = None
) -> bool:
    detail = json.loads(hold.detail)
    call = tokens.authorization_used_call(
        Address(detail["token"]), account, Hash32(detail["nonce"])
    )
    (used,) = await chain.read([call], block=block)
    return tokens.decode_uint(used) != 0


def chain_of(hold: Hold) -> ChainId:
    """The chain that a hold's transfer is on."""
    return ChainId(int(json.loads(hold.detail)["chain"]))
