"""
Sells requests for one signed transfer each: `exact` by EIP-3009.

A signature is recorded, durably and once, before anything is done with it, so that it
buys one answer however often, and wherever, it is presented.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from agentpay.errors import ChainError, TransactionFailed, TransactionOutcomeUnknown
from agentpay.evm.eip3009 import Authorization, transfer_digest
from agentpay.evm.signature import BadSignature, recover
from agentpay.facilitator import Facilitator
from agentpay.payee.offers import PayeeSettings, answer, payment_required
from agentpay.payee.pricing import Order, Terms
from agentpay.payee.sales import Refusal, Sale
from agentpay.ports import PayeeStore
from agentpay.records import PaymentRecord, PaymentStatus
from agentpay.types import Address
from agentpay.wire import x402_write as write
from agentpay.wire.headers import encode_json
from agentpay.wire.x402 import ExactPayload

_log = logging.getLogger(__name__)

_EXPIRY_MARGIN_SECONDS = 6
"""A transfer that is about to expire may be refused by the block it is mined in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """One `exact` payment for one request."""

    authorization: Authorization
    signature: bytes
    terms: Terms
    record: PaymentRecord


class ExactSales:
    """Sells for single transfers, for one payee."""

    def __init__(
        self,
        *,
        settings: PayeeSettings,
        facilitator: Facilitator,
        store: PayeeStore,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._facilitator = facilitator
        self._store = store
        self._clock = clock
        self._running: set[str] = set()

    async def answer(
        self, payload: ExactPayload, terms: Terms, *, agreed: bool
    ) -> Sale | Refusal:
        """
        Decide what a transfer buys.

        Raises:
            ChainError: The chain could not be asked; nothing was decided.
            StoreUnavailable: Nothing was decided.
        """
        fields = payload.authorization
        authorization = Authorization(
            payer=fields.payer,
            to=fields.to,
            value=fields.value,
            valid_after=fields.valid_after,
            valid_before=fields.valid_before,
            nonce=fields.nonce,
        )
        wrong = self._wrong(authorization, terms, agreed=agreed)
        if wrong is not None:
            return self._refuse(terms, wrong)
        if not await self._is_signed(authorization, payload.signature):
            return self._refuse(terms, "invalid_exact_evm_payload_signature")
        ours = self._new_record(authorization, terms)
        late = self._wrong_time(authorization)
        # What was taken before may have expired since, and is not refused for that.
        if late is not None and await self._store.find_payment(ours.id) is None:
            return self._refuse(terms, late)
        if ours.id in self._running:
            return self._already(ours)
        # From here to the next await nobody else runs: one request per signature.
        self._running.add(ours.id)
        sold: ExactSale | Refusal | None = None
        try:
            record = await self._begin(ours, terms)
            if isinstance(record, Refusal):
                return record
            purchase = Purchase(
                authorization=authorization,
                signature=payload.signature,
                terms=terms,
                record=record,
            )
            sold = await self._sell(purchase)
            return sold
        finally:
            if not isinstance(sold, ExactSale):
                self._running.discard(ours.id)

    def release(self, purchase: Purchase) -> None:
        """Nobody is at this payment any more; its own resend may be."""
        self._running.discard(purchase.record.id)

    def _wrong(
        self, authorization: Authorization, terms: Terms, *, agreed: bool
    ) -> str | None:
        if not agreed:
            return "No matching payment requirements"
        if authorization.to != self._settings.pay_to:
            return "invalid_exact_evm_payload_recipient_mismatch"
        if authorization.value != terms.maximum:
            return "invalid_exact_evm_payload_authorization_value"
        return None

    def _wrong_time(self, authorization: Authorization) -> str | None:
        now = int(self._clock())
        if authorization.valid_after > now:
            return "invalid_exact_evm_payload_authorization_valid_after"
        if authorization.valid_before < now + _EXPIRY_MARGIN_SECONDS:
            return "invalid_exact_evm_payload_authorization_valid_before"
        return None

    async def _is_signed(self, authorization: Authorization, signature: bytes) -> bool:
        digest = transfer_digest(authorization, self._settings.asset)
        try:
            return recover(digest, signature) == authorization.payer
        except BadSignature:
            return False

    def _new_record(self, authorization: Authorization, terms: Terms) -> PaymentRecord:
        asset = self._settings.asset
        return PaymentRecord(
            id=f"{asset.chain}:{asset.address}:{authorization.payer}:"
            f"{authorization.nonce}",
            payer=authorization.payer,
            amount=authorization.value,
            resource=terms.resource,
            owner=self._store.owner,
            started_at=int(self._clock()),
        )

    async def _begin(
        self, ours: PaymentRecord, terms: Terms
    ) -> PaymentRecord | Refusal:
        """Record the payment, or find out what became of it before."""
        known = await self._store.begin_payment(ours)
        if known is ours:
            return known
        if known.status is PaymentStatus.FAILED:
            return self._refuse(terms, "invalid_transaction_state")
        if not await self._may_run_again(known, ours):
            return self._already(known)
        return known

    async def _may_run_again(self, known: PaymentRecord, ours: PaymentRecord) -> bool:
        """Paid for or under way, not answered, and nobody is at it: its own resend."""
        if known.status is PaymentStatus.DELIVERED or known.resource != ours.resource:
            return False
        if known.owner == ours.owner:
            return True
        return await self._store.take_payment(known.id, owner=ours.owner)

    def _already(self, known: PaymentRecord) -> Refusal:
        paid = known.status is not PaymentStatus.STARTED
        receipt = write.receipt(
            success=paid,
            chain=self._settings.asset.chain,
            payer=known.payer,
            transaction=known.transaction,
            amount=str(known.amount) if paid else None,
            error=None if paid else "settlement_pending",
        )
        return answer(
            409,
            title="This payment was presented before",
            detail=f"payment {known.id} is {known.status}; it buys one answer",
            receipt=receipt,
        )

    async def _sell(self, purchase: Purchase) -> "ExactSale | Refusal":
        sale = ExactSale(self, purchase)
        if purchase.record.status is not PaymentStatus.STARTED:
            sale.transaction = purchase.record.transaction
            return sale
        if purchase.terms.order is Order.SETTLE_FIRST:
            refusal = await self.settle(purchase)
            if isinstance(refusal, Refusal):
                return refusal
            sale.transaction = refusal
            return sale
        try:
            await self._facilitator.verify_exact(
                self._settings.asset, purchase.authorization, purchase.signature
            )
        except TransactionFailed as error:
            # Settled before, with nobody there to hear of it; or by somebody else.
            earlier = await self._facilitator.find_transfer(
                self._settings.asset, purchase.authorization
            )
            if earlier is None:
                return await self._failed(purchase, error)
            sale.transaction = earlier.transaction
        return sale

    async def settle(self, purchase: Purchase) -> str | Refusal:
        """Move the money; returns the transaction, or what to answer instead."""
        try:
            receipt = await self._facilitator.settle_exact(
                self._settings.asset, purchase.authorization, purchase.signature
            )
        except TransactionFailed as error:
            return await self._failed(purchase, error)
        except TransactionOutcomeUnknown as error:
            return self._unknown(purchase, error.transaction)
        except ChainError:
            return self._unknown(purchase, "")
        await self._store.finish_payment(
            purchase.record.id,
            status=PaymentStatus.SETTLED,
            transaction=receipt.transaction,
        )
        return receipt.transaction

    async def delivered(self, purchase: Purchase, transaction: str) -> None:
        """The answer has left: this payment buys nothing more."""
        await self._store.finish_payment(
            purchase.record.id, status=PaymentStatus.DELIVERED, transaction=transaction
        )

    async def void(self, purchase: Purchase) -> None:
        """The handler failed before anything was settled: never settle it."""
        await self._store.finish_payment(
            purchase.record.id, status=PaymentStatus.FAILED, transaction=""
        )

    async def _failed(self, purchase: Purchase, error: TransactionFailed) -> Refusal:
        await self.void(purchase)
        reason = "invalid_transaction_state"
        receipt = write.receipt(
            success=False,
            chain=self._settings.asset.chain,
            payer=purchase.authorization.payer,
            transaction=error.transaction,
            error=reason,
        )
        return payment_required(
            self._settings,
            purchase.terms,
            error=f"{reason}: {error.reason}",
            receipt=receipt,
        )

    def _unknown(self, purchase: Purchase, transaction: str) -> Refusal:
        receipt = write.receipt(
            success=False,
            chain=self._settings.asset.chain,
            payer=purchase.authorization.payer,
            transaction=transaction,
            error="settlement_pending",
        )
        return answer(
            503,
            title="It is not known yet whether this payment was settled",
            detail=f"payment {purchase.record.id}: do not pay again, ask again",
            receipt=receipt,
        )

    def _refuse(self, terms: Terms, error: str) -> Refusal:
        return payment_required(self._settings, terms, error=error)

    def receipt(self, purchase: Purchase, transaction: str) -> str:
        """The receipt header of a payment."""
        message = write.receipt(
            success=True,
            chain=self._settings.asset.chain,
            payer=purchase.authorization.payer,
            transaction=transaction,
            amount=str(purchase.authorization.value),
        )
        return encode_json(message)


class ExactSale:
    """One `exact` payment that may run its request; see `Sale`."""

    def __init__(self, sales: ExactSales, purchase: Purchase) -> None:
        self._sales = sales
        self._purchase = purchase
        self.transaction = ""
        self._settling = False
        """Money may have moved: never void it, whatever cut the settlement short."""

    @property
    def payer(self) -> Address:
        return self._purchase.authorization.payer

    @property
    def maximum(self) -> int:
        return self._purchase.authorization.value

    async def commit(self, charged: int) -> str | Refusal:
        """See `Sale.commit`; a transfer is all or nothing, so `charged` is all."""
        del charged
        if not self.transaction and self._purchase.terms.order is Order.RESERVE:
            self._settling = True
            settled: str | Refusal | None = None
            try:
                settled = await self._sales.settle(self._purchase)
            finally:
                if not isinstance(settled, str):
                    self._sales.release(self._purchase)
            if isinstance(settled, Refusal):
                return settled
            self.transaction = settled
        return self._sales.receipt(self._purchase, self.transaction)

    async def delivered(self) -> None:
        """See `Sale.delivered`; serve-then-settle settles here."""
        try:
            if not self.transaction:
                settled = await self._sales.settle(self._purchase)
                if isinstance(settled, Refusal):
                    _log.warning("served and not paid: %s", self._purchase.record.id)
                    return
                self.transaction = settled
            await self._sales.delivered(self._purchase, self.transaction)
        finally:
            self._sales.release(self._purchase)

    async def abandon(self, *, charged: int, failed: bool) -> str:
        """
        See `Sale.abandon`. What is settled stays settled, and the answer is owed: to
        the same payment, when it is sent again.
        """
        del charged, failed
        try:
            if self.transaction:
                return self._sales.receipt(self._purchase, self.transaction)
            if not self._settling:
                await self._sales.void(self._purchase)
            return ""
        finally:
            self._sales.release(self._purchase)
