"""
Where a payment is read and sold for, whichever scheme it is of.
"""

from dataclasses import dataclass, replace
from functools import partial

from agentpay.errors import ChainError, MalformedMessage, StoreError
from agentpay.payee.answers import Answers, request_of
from agentpay.payee.books import ChannelPayment
from agentpay.payee.channel_sales import ChannelSales
from agentpay.payee.keeper import Keeper
from agentpay.payee.offers import PayeeSettings, make_offers, malformed, unavailable
from agentpay.payee.pricing import Terms
from agentpay.payee.sales import Refusal, Sale
from agentpay.payee.transfer_sales import TransferSales
from agentpay.wire import parallel, payment_identifier
from agentpay.wire.headers import decode_json
from agentpay.wire.x402 import (
    PAYMENT_SIGNATURE,
    ExactPayload,
    PaymentPayload,
    Permit2Payload,
    parse_payment,
)
from agentpay.wire.x402_terms import accepted_offer, is_for
from agentpay.wire.x402_transfers import payment_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """Takes the payments of one payee, under its present settings."""

    settings: PayeeSettings
    keeper: Keeper
    channels: ChannelSales
    transfers: TransferSales
    answers: Answers

    async def answer(self, header: str, terms: Terms) -> Sale | Refusal:
        """
        Decide what a request's payment header buys.

        What is not known is answered 503, never 402: a 402 means that nothing moved.
        """
        asset = self.settings.asset
        try:
            payment = parse_payment(header)
        except MalformedMessage as error:
            return malformed(str(error), asset.chain)
        try:
            return await self._sell_once(header, payment, terms)
        except MalformedMessage as error:
            return malformed(str(error), asset.chain)
        except (ChainError, StoreError) as error:
            paid_with = payment_id(payment, asset)
            return unavailable(error, asset.chain, payment=paid_with)

    async def _sell_once(
        self, header: str, payment: PaymentPayload, terms: Terms
    ) -> Sale | Refusal:
        """Sell under the payer's own name for the payment, if it gave it one."""
        name = payment_identifier.read_name(payment.extensions)
        if name is None or not self.settings.names:
            return await self._sell(payment, terms)
        message = decode_json(header, name=PAYMENT_SIGNATURE)
        digest = payment_identifier.digest_of(message)
        sell = partial(self._sell, payment, terms)
        return await self.answers.once(name, digest, terms, sell)

    async def _sell(self, payment: PaymentPayload, terms: Terms) -> Sale | Refusal:
        """Sell, or find what this payment was answered when it came before."""
        outcome = await self._decide(payment, terms)
        if not isinstance(outcome, Refusal) or not outcome.presented:
            return outcome
        earlier = await self.answers.find(outcome.presented, request_of(terms))
        return replace(outcome, earlier=earlier)

    async def _decide(self, payment: PaymentPayload, terms: Terms) -> Sale | Refusal:
        offer = None
        if is_for(payment.resource, terms.url, bound=terms.bound):
            offer = accepted_offer(payment, make_offers(self.settings, terms))
        payload = payment.payload
        if isinstance(payload, ExactPayload | Permit2Payload):
            return await self.transfers.answer(
                payload, terms, offer, payment.extensions
            )
        if not self.keeper.fresh():
            await self.keeper.sync()
        channel_payment = ChannelPayment(
            payload=payload,
            agreed=offer is not None,
            query=parallel.is_query(payment.extensions),
            extensions=payment.extensions,
        )
        return await self.channels.answer(channel_payment, terms)
