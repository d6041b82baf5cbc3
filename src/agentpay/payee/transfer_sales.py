"""
Sells requests for one signed transfer each: `exact` and `upto`.

A signature is recorded, durably and once, before anything is done with it, so that it
buys one answer however often, and wherever, it is presented.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from agentpay.errors import (
    ChainError,
    StoreError,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm.transfer import Transfer
from agentpay.onchain import wrong_signature
from agentpay.payee import transfer_refusals as refusals
from agentpay.payee.earlier import are_covered, moved_earlier, wrong_moment
from agentpay.payee.finality import Depth
from agentpay.payee.movements import (
    Movement,
    TransferMovement,
    read_signed,
    surely_over,
)
from agentpay.payee.offers import PayeeSettings, payment_required
from agentpay.payee.pricing import Order, Terms
from agentpay.payee.sales import Refusal, Sale
from agentpay.payee.transfer_sale import (
    SETTLE_SECONDS,
    Purchase,
    TransferSale,
    new_record,
)
from agentpay.ports import Chain, PayeeStore, Settler
from agentpay.records import PaymentRecord, PaymentStatus, Settled
from agentpay.wire.bazaar import Listing
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402 import UPTO, Extension
from agentpay.wire.x402_transfers import (
    TransferPayload,
    signature_code,
    wrong_terms,
)

_log = logging.getLogger(__name__)

_OVER = frozenset({PaymentStatus.SERVED, PaymentStatus.DELIVERED})
_ANSWERED = _OVER | {PaymentStatus.ANSWERING}


class TransferSales:
    """Sells for single transfers, for one payee."""

    def __init__(
        self,
        *,
        settings: PayeeSettings,
        chain: Chain,
        facilitator: Settler,
        store: PayeeStore,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._chain = chain
        self._facilitator = facilitator
        self._depth = Depth(chain, settings.finality)
        self._store = store
        self._clock = clock
        self._running: set[str] = set()
        self._reserved: dict[str, Movement] = {}
        """Of those that run, the ones whose money has not moved yet."""
        self._perhaps: set[str] = set()  # may have been sent

    def use(self, settings: PayeeSettings) -> None:
        """Sell on other terms from now on; who is at which payment stays known."""
        self._settings = settings

    async def answer(
        self,
        payload: TransferPayload,
        terms: Terms,
        offer: JsonObject | None,
        extensions: Mapping[str, Extension],
        *,
        only_for: str = "",
    ) -> Sale | Refusal:
        """
        Decide what a transfer buys under the offer that its payment accepts, if any.

        `only_for` is as of `sell`.

        Raises:
            MalformedMessage: An extension that it needs cannot be read.
            ChainError: The chain could not be asked; nothing was decided.
            StoreUnavailable: Nothing was decided.
        """
        if offer is None:
            return self._refuse(terms, "No matching payment requirements")
        scheme = str(offer["scheme"])
        wrong = wrong_terms(
            payload,
            scheme,
            asset=self._settings.asset,
            pay_to=self._settings.pay_to,
            amount=terms.maximum,
            facilitator=self._settings.facilitator,
        )
        if wrong is not None:
            return self._refuse(terms, wrong)
        transfer = read_signed(payload, extensions, self._settings)
        streams = scheme == UPTO and terms.streaming is not None
        wrong = await self.wrong(transfer, streams=streams)
        if wrong is not None:
            return self._refuse(terms, wrong)
        movement = self.movement(transfer, terms.for_catalogue)
        return await self.sell(movement, scheme, terms, only_for=only_for)

    async def wrong(self, transfer: Transfer, *, streams: bool = False) -> str | None:
        """
        What is wrong with a signature or its time, if anything.

        What `streams` is settled a while before it expires, and ends there.

        Raises:
            ChainError, StoreUnavailable: It could not be asked.
        """
        wrong = await wrong_signature(
            self._chain,
            transfer.payer,
            transfer.digest(),
            transfer.signature,
            factories=self._settings.wallet_factories,
            code=signature_code(transfer),
        )
        if wrong is not None:
            return wrong
        now = int(self._clock())
        late = wrong_moment(transfer, self._settings, now=now, streams=streams)
        # What was taken before may have expired since, and is not refused for that.
        if late is not None and await self._store.find_payment(transfer.id) is None:
            return late
        return None

    def movement(self, transfer: Transfer, listing: Listing | None = None) -> Movement:
        """How a signed transfer moves its money here; `listing` is for catalogues."""
        return TransferMovement(
            transfer=transfer,
            chain=self._chain,
            facilitator=self._facilitator,
            listing=listing,
        )

    async def sell(
        self, movement: Movement, scheme: str, terms: Terms, *, only_for: str = ""
    ) -> TransferSale | Refusal:
        """
        Sell for a payment on a route's terms, whose transfer is not `wrong`.

        `only_for` is what it was presented with, where nothing that was signed says so:
        presented with anything else it buys nothing, and is told nothing.

        Raises:
            ChainError, StoreUnavailable: Nothing was decided.
        """
        owner, now = self._store.owner, int(self._clock())
        ours = new_record(movement, terms, owner=owner, now=now, only_for=only_for)
        if ours.id in self._running:
            return self._already(ours, ours)
        # From here to the next await nobody else runs: one request per signature.
        self._running.add(ours.id)
        sold: TransferSale | Refusal | None = None
        try:
            record = await self._begin(ours, movement, terms)
            if isinstance(record, Refusal):
                return record
            purchase = Purchase(
                movement=movement,
                scheme=scheme,
                terms=terms,
                record=record,
                again=record is not ours,
            )
            sold = await self._sell(purchase)
            return await refusals.explained(self._settings, purchase, sold)
        finally:
            if not isinstance(sold, TransferSale):
                self._release(ours.id)

    def release(self, purchase: Purchase) -> None:
        """Nobody is at this payment any more; its own resend may be."""
        self._release(purchase.record.id)

    def _release(self, payment_id: str) -> None:
        self._running.discard(payment_id)
        self._reserved.pop(payment_id, None)

    async def _begin(
        self, ours: PaymentRecord, movement: Movement, terms: Terms
    ) -> PaymentRecord | Refusal:
        """Record the payment, or find out what became of it before."""
        known = await self._store.begin_payment(ours)
        if known is ours:
            return known
        if known.status is PaymentStatus.FAILED:
            return self._refuse(terms, "invalid_transaction_state")
        if not await self._may_run_again(known, ours, movement):
            return self._already(known, ours)
        return await self._store.find_payment(ours.id) or known

    async def _may_run_again(
        self, known: PaymentRecord, ours: PaymentRecord, movement: Movement
    ) -> bool:
        """Paid for or under way, not answered, and nobody is at it: its own resend."""
        if known.status in _OVER or known.resource != ours.resource:
            return False
        if known.owner == ours.owner:  # and nobody is at it: an answer has left
            return known.status is not PaymentStatus.ANSWERING
        # What is served first is sent only once it is said to be answered, or late.
        served_first = known.request and self.seconds_left(movement) > 0
        if known.status is PaymentStatus.STARTED and not served_first:
            self._perhaps.add(known.id)
        return await self._store.take_payment(known.id, owner=ours.owner)

    def _already(self, known: PaymentRecord, ours: PaymentRecord) -> Refusal:
        answered = known.status in _ANSWERED and known.resource == ours.resource
        chain = self._settings.asset.chain
        return refusals.presented(known, chain=chain, answered=answered)

    async def _sell(self, purchase: Purchase) -> TransferSale | Refusal:
        sale = TransferSale(self, purchase)
        record = purchase.record
        if record.status is PaymentStatus.ANSWERING:
            self._reserved[record.id] = purchase.movement
            return sale
        if record.status is not PaymentStatus.STARTED:
            paid, charged = record.transaction, record.charged
            sale.settled = Settled(transaction=paid, amount=charged)
            return sale
        movement = purchase.movement
        upfront = purchase.terms.order is Order.SETTLE_FIRST
        if not (upfront or movement.done or await self._is_covered(purchase)):
            return self._refuse(purchase.terms, "insufficient_funds")
        try:
            earlier = await moved_earlier(
                self._chain, movement, since=record.started_at, simulate=not upfront
            )
        except TransactionFailed as error:
            return await self._failed(purchase, error)
        if upfront or movement.done:
            settled = await self.settle(purchase, movement.maximum)
            if isinstance(settled, Refusal):
                return settled
            sale.settled = settled
        elif earlier is not None:
            if not await self._depth.reached(earlier, movement.found):
                return self._unknown(purchase, earlier.transaction)
            sale.settled = earlier
        return sale

    async def _is_covered(self, purchase: Purchase) -> bool:
        movement, record = purchase.movement, purchase.record
        self._reserved[record.id] = movement
        if await are_covered(self._reserved.values(), movement):
            return True
        if record.id not in self._perhaps:
            await self._store.drop_payment(record.id, owner=self._store.owner)
        return False

    def seconds_left(self, movement: Movement) -> float:
        """For how long an answer may leave before it is settled."""
        return movement.expires_at - SETTLE_SECONDS - self._clock()

    async def settle(self, purchase: Purchase, amount: int) -> Settled | Refusal:
        """Move the money; what is settled, or what to answer instead."""
        movement, served = purchase.movement, purchase.served_first
        if amount == 0:
            return await self._settled(purchase, Settled(transaction="", amount=0))
        try:
            settled, found = await movement.send(amount), movement.found
            if not (served or await self._depth.reached(settled, found)):
                return self._unknown(purchase, settled.transaction)
        except TransactionFailed as error:
            return await self._failed(purchase, error)
        except TransactionOutcomeUnknown as error:
            return self._unknown(purchase, error.transaction)
        except ChainError:
            return self._unknown(purchase, "")
        except asyncio.CancelledError:
            self._perhaps.add(purchase.record.id)
            raise
        return await self._settled(purchase, settled)

    async def _settled(self, purchase: Purchase, settled: Settled) -> Settled | Refusal:
        self._reserved.pop(purchase.record.id, None)
        ours = True
        try:
            if purchase.served_first:
                await self.delivered(purchase, settled)
            else:
                ours = await self._finish(purchase, PaymentStatus.SETTLED, settled)
        except StoreError as error:
            # The money has moved, so it is not true that nothing was decided. Sent
            # again, the payment is found on the chain and booked then.
            _log.warning("settled and not booked: %s (%s)", purchase.record.id, error)
            return self._unknown(purchase, settled.transaction)
        self._perhaps.discard(purchase.record.id)
        return settled if ours else self.taken(purchase, settled)

    async def is_ours(self, purchase: Purchase) -> bool:
        """Whether nobody has taken it from us, and so may answer it."""
        known = await self._store.find_payment(purchase.record.id)
        if known is None or known.owner != self._store.owner:
            return False
        return known.status not in _OVER

    async def answering(self, purchase: Purchase, due: int) -> bool:
        """So much is due for what leaves next; False if it is ours no more."""
        owed = Settled(transaction="", amount=due)
        return await self._finish(purchase, PaymentStatus.ANSWERING, owed)

    async def delivered(self, purchase: Purchase, settled: Settled) -> None:
        """The answer has left: this payment buys nothing more."""
        if await self._finish(purchase, PaymentStatus.DELIVERED, settled):
            return
        known = await self._store.find_payment(purchase.record.id)
        if known is not None:  # who took it from us need not answer it any more
            await self._finish(
                purchase, PaymentStatus.DELIVERED, settled, owner=known.owner
            )

    async def served(self, purchase: Purchase, charged: int) -> None:
        """The answer has left, and nobody knows yet whether it was paid for."""
        due = Settled(transaction="", amount=charged)
        await self._finish(purchase, PaymentStatus.SERVED, due)

    async def void(self, purchase: Purchase) -> None:
        """
        The handler failed before anything was settled: never settle it.

        What was sent before may be mined still, and is owed an answer then.
        """
        if purchase.record.id in self._perhaps:
            return
        nothing = Settled(transaction="", amount=0)
        await self._finish(purchase, PaymentStatus.FAILED, nothing)

    async def _finish(
        self,
        purchase: Purchase,
        status: PaymentStatus,
        settled: Settled,
        *,
        owner: str = "",
    ) -> bool:
        """Say how far it is; False if it is ours no more."""
        return await self._store.finish_payment(
            purchase.record.id,
            owner=owner or self._store.owner,
            status=status,
            transaction=settled.transaction,
            charged=settled.amount,
        )

    async def _failed(self, purchase: Purchase, error: TransactionFailed) -> Refusal:
        """It was refused. What was sent before may be mined until it expires."""
        payment = purchase.record.id
        if payment in self._perhaps:
            if not await surely_over(purchase.movement):
                return self._unknown(purchase, error.transaction)
            self._perhaps.discard(payment)
            await self.void(purchase)
        elif error.transaction:
            await self.void(purchase)
        else:  # nothing was sent: strangers cannot fill the books with it
            await self._store.drop_payment(payment, owner=self._store.owner)
        return refusals.failed(self._settings, purchase, error)

    def _unknown(self, purchase: Purchase, transaction: str) -> Refusal:
        self._perhaps.add(purchase.record.id)
        chain = self._settings.asset.chain
        return refusals.unknown(purchase, transaction, chain=chain)

    def taken(self, purchase: Purchase, settled: Settled | None) -> Refusal:
        """It is another worker's, which may answer it: nothing leaves from here."""
        _log.warning("payment %s was taken over by another", purchase.record.id)
        chain = self._settings.asset.chain
        transaction = settled.transaction if settled is not None else ""
        return refusals.taken(purchase, transaction, chain=chain)

    def _refuse(self, terms: Terms, error: str) -> Refusal:
        return payment_required(self._settings, terms, error=error)

    def receipt(self, purchase: Purchase, settled: Settled) -> str:
        """The receipt header of a payment."""
        return refusals.receipt_of(purchase, settled, chain=self._settings.asset.chain)
