"""
Signs a payee's offers and receipts, so that a payer has something to show.

x402's `offer-receipt`. What is signed names a resource, so it is signed only where the
application knows its own origin: a `Host` header must not put words in its mouth.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from agentpay.errors import AgentPayError
from agentpay.evm.hashing import checksummed
from agentpay.evm.offer_receipt import OfferPayload, ReceiptPayload
from agentpay.payee.pricing import Terms
from agentpay.payee.sales import Refusal
from agentpay.ports import Signer
from agentpay.types import Address, ChainId, network_of
from agentpay.wire import offer_receipt
from agentpay.wire.headers import JsonObject, decode_json, encode_json
from agentpay.wire.x402 import PAYMENT_REQUIRED, PAYMENT_RESPONSE
from agentpay.wire.x402_fitting import fit_required

_log = logging.getLogger(__name__)


class Attestor:
    """
    Signs with a key of its own, which can move no money; payers are told its address.

    A payee that signs with the key of `pay_to` needs to tell nobody, and has that key
    on a server.
    """

    def __init__(
        self,
        signer: Signer,
        *,
        offers_valid_seconds: int = 300,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._signer = signer
        self._valid = offers_valid_seconds
        self._clock = clock

    @property
    def address(self) -> Address:
        """Whose signatures these are."""
        return self._signer.address

    async def sign_offers(
        self, refusal: Refusal, terms: Terms, *, chain: ChainId
    ) -> Refusal:
        """A 402 with its offers signed, if they can be; anything else as it is."""
        required = refusal.required
        offers = required.get("accepts") if required is not None else None
        if required is None or not isinstance(offers, list):
            return refusal
        until = int(self._clock()) + self._valid
        try:
            signed = [
                await self._sign_offer(offer, terms.url, until, chain)
                for offer in offers
                if isinstance(offer, dict)
            ]
        except AgentPayError as error:
            _log.warning("offers are not signed: %s", error.code)
            return refusal
        known = required.get("extensions")
        extensions: JsonObject = {**known} if isinstance(known, dict) else {}
        extensions[offer_receipt.KEY] = offer_receipt.write_offers(signed)
        message, header = fit_required({**required, "extensions": extensions})
        headers = {**refusal.headers, PAYMENT_REQUIRED.lower(): header}
        return replace(refusal, required=message, headers=headers)

    async def _sign_offer(
        self, offer: JsonObject, url: str, until: int, chain: ChainId
    ) -> tuple[OfferPayload, bytes]:
        payload = OfferPayload(
            resource_url=url,
            scheme=str(offer["scheme"]),
            network=str(offer["network"]),
            asset=str(offer["asset"]),
            pay_to=str(offer["payTo"]),
            amount=str(offer["amount"]),
            valid_until=until,
        )
        signature = await self._signer.sign_digest(payload.digest(), chain=chain)
        return payload, signature

    async def sign_receipt(
        self, header: str, terms: Terms, *, payer: Address, chain: ChainId
    ) -> str:
        """
        A receipt header with a signed receipt in it.

        It was paid for: if it cannot be signed, it goes as it is.
        """
        payload = ReceiptPayload(
            network=network_of(chain),
            resource_url=terms.url,
            payer=checksummed(payer),
            issued_at=int(self._clock()),
        )
        try:
            signature = await self._signer.sign_digest(payload.digest(), chain=chain)
        except AgentPayError as error:
            _log.warning("a receipt is not signed: %s", error.code)
            return header
        message = decode_json(header, name=PAYMENT_RESPONSE)
        known = message.get("extensions")
        extensions: JsonObject = {**known} if isinstance(known, dict) else {}
        extensions[offer_receipt.KEY] = offer_receipt.write_receipt(payload, signature)
        return encode_json({**message, "extensions": extensions})
