"""
Keeps what payees sign for us; never in the way of an answer that was paid.
"""

import logging
from collections.abc import Collection
from dataclasses import replace

import httpx

from agentpay.errors import MalformedMessage, OfferUntrusted
from agentpay.http.places import check_resource
from agentpay.http.readings import answer_of
from agentpay.payer.offer import Offer
from agentpay.payer.payer import Payer
from agentpay.payer.payment import Payment
from agentpay.payer.receipts import KeepReceipt, PaidReceipt, receipt_in, signed_offer
from agentpay.types import Address
from agentpay.wire.x402 import PaymentRequired

_log = logging.getLogger(__name__)


class Receipts:
    """Reads the signed offers and receipts of payees, and hands receipts on."""

    def __init__(self, keep: KeepReceipt | None) -> None:
        self._keep = keep

    def with_signature(
        self, required: PaymentRequired, offer: Offer, url: httpx.URL
    ) -> Offer:
        """
        An offer with what its payee signed of it.

        Raises:
            OfferUntrusted: Something else was signed, or for another resource.
        """
        signed = signed_offer(required, offer)
        if signed is None:
            return offer
        check_resource(signed.payload.resource_url, url)
        return replace(offer, signed=signed)

    def take(
        self,
        response: httpx.Response,
        *,
        payer: Payer,
        payment: Payment,
        offer: Offer,
        url: httpx.URL,
    ) -> None:
        """Hand on the receipt of an answer; one that is not true is a warning."""
        if self._keep is None:
            return
        try:
            receipt = receipt_in(answer_of(response), payer=payer.keys.account)
            if receipt is None:
                return
            check_resource(receipt.payload.resource_url, url)
        except (MalformedMessage, OfferUntrusted) as error:
            _log.warning("the receipt of %s is not kept: %s", payment.id, error)
            return
        paid = PaidReceipt(
            payment=payment.id,
            url=str(url),
            receipt=receipt,
            offer=offer.signed,
            trusted=receipt.signer in _trusted(payer, offer, url),
        )
        try:
            self._keep(paid)
        except Exception:  # noqa: BLE001 - the caller's own, and the answer is paid
            _log.exception("the receipt of %s could not be kept", payment.id)


def _trusted(payer: Payer, offer: Offer, url: httpx.URL) -> Collection[Address]:
    return {offer.pay_to, *map(Address, payer.policy.attestors.get(url.host, ()))}
