"""
What is answered to a transfer that buys nothing now, and the receipt of one that did.
"""

from dataclasses import replace

from agentpay.errors import TransactionFailed
from agentpay.payee.offers import PayeeSettings, answer, payment_required
from agentpay.payee.sales import Refusal
from agentpay.payee.transfer_sale import Purchase, TransferSale
from agentpay.records import PaymentRecord, PaymentStatus, Settled
from agentpay.shortage import ALLOWANCE_REQUIRED
from agentpay.types import ChainId
from agentpay.wire import x402_write as write
from agentpay.wire.headers import encode_json

PENDING = "settlement_pending"
_FAILED = "invalid_transaction_state"


def receipt_of(purchase: Purchase, settled: Settled, *, chain: ChainId) -> str:
    """The receipt header of a payment."""
    return encode_json(
        write.receipt(
            success=True,
            chain=chain,
            payer=purchase.movement.payer,
            transaction=settled.transaction,
            amount=str(settled.amount),
        )
    )


def presented(known: PaymentRecord, *, chain: ChainId, answered: bool) -> Refusal:
    """It is under way, or it was `answered`, which may be told again."""
    paid = known.status in (PaymentStatus.SETTLED, PaymentStatus.DELIVERED)
    receipt = write.receipt(
        success=paid,
        chain=chain,
        payer=known.payer,
        transaction=known.transaction,
        amount=str(known.charged) if paid else None,
        error=None if paid else PENDING,
    )
    refusal = answer(
        409,
        title="This payment was presented before",
        detail=f"payment {known.id} is {known.status}; it buys one answer",
        receipt=receipt,
        payment=known.id,
    )
    return replace(refusal, presented=known.id) if answered else refusal


def failed(
    settings: PayeeSettings, purchase: Purchase, error: TransactionFailed
) -> Refusal:
    """The chain does not move the money."""
    receipt = write.receipt(
        success=False,
        chain=settings.asset.chain,
        payer=purchase.movement.payer,
        transaction=error.transaction,
        error=_FAILED,
    )
    return payment_required(
        settings, purchase.terms, error=f"{_FAILED}: {error.reason}", receipt=receipt
    )


async def explained(
    settings: PayeeSettings, purchase: Purchase, outcome: TransferSale | Refusal
) -> TransferSale | Refusal:
    """
    What a payment buys, and where it is refused, that Permit2 may not move its token:
    412, by which its payer knows to approve that once (x402's `exact` and `upto` on
    EVM, "Verification Logic"). Asked only once it has failed, so that few are.
    """
    if isinstance(outcome, TransferSale) or outcome.status != 402:
        return outcome
    if not await purchase.movement.lacks_allowance():
        return outcome
    receipt = write.receipt(
        success=False,
        chain=settings.asset.chain,
        payer=purchase.movement.payer,
        error=ALLOWANCE_REQUIRED,
    )
    asked = payment_required(
        settings, purchase.terms, error=ALLOWANCE_REQUIRED, receipt=receipt
    )
    return replace(asked, status=412)


def unknown(purchase: Purchase, transaction: str, *, chain: ChainId) -> Refusal:
    """The money may have moved."""
    title = "It is not known yet whether this payment was settled"
    return _ask_again(purchase, transaction, chain=chain, title=title)


def taken(purchase: Purchase, transaction: str, *, chain: ChainId) -> Refusal:
    """It is another worker's by now: that one answers, and we do not."""
    title = "Another worker has taken this payment over"
    return _ask_again(purchase, transaction, chain=chain, title=title)


def _ask_again(
    purchase: Purchase, transaction: str, *, chain: ChainId, title: str
) -> Refusal:
    receipt = write.receipt(
        success=False,
        chain=chain,
        payer=purchase.movement.payer,
        transaction=transaction,
        error=PENDING,
    )
    return answer(
        503,
        title=title,
        detail=f"payment {purchase.record.id}: do not pay again, ask again",
        receipt=receipt,
        payment=purchase.record.id,
    )
