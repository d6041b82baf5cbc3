"""
What payees sign for a payer to keep and to show: the offer it took, and a receipt.

A signature proves who signed. That they may speak for the payee is proven by the
account that was paid, or by what the payer knows of the payee's keys from elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

from agentpay.errors import MalformedMessage, OfferUntrusted
from agentpay.payer.offer import Offer
from agentpay.payer.payment import Answer
from agentpay.types import Address
from agentpay.wire import offer_receipt
from agentpay.wire.headers import JsonObject, JsonValue, decode_json
from agentpay.wire.offer_receipt import SignedOffer, SignedReceipt
from agentpay.wire.x402 import PAYMENT_RESPONSE, PaymentRequired

_TERMS = ("scheme", "network", "asset", "payTo", "amount")
_KIND = 3
"""How many of the terms say what it is that has a price."""
_LOOKED_AT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PaidReceipt:
    """A payee's signature that we paid for a resource and were served it."""

    payment: str
    """What the payment is called in errors and logs."""
    url: str
    """What was requested."""
    receipt: SignedReceipt
    """With the words that were signed, to keep and to show."""
    offer: SignedOffer | None
    """What was agreed, if that was signed too."""
    trusted: bool
    """Signed by the account that was paid, or a key in `Policy.attestors`."""


KeepReceipt = Callable[[PaidReceipt], None]
"""Is told of each receipt for an answer that was paid."""


def signed_offer(required: PaymentRequired, offer: Offer) -> SignedOffer | None:
    """
    The signed form of an offer, if its 402 has one.

    Source: x402 `specs/extensions/extension-offer-and-receipt.md`, 4.1: offers are
    matched by what they say and not by their index.

    Raises:
        OfferUntrusted: What is signed about the same scheme and asset is all different.
    """
    ours = _terms(offer.words)
    named = _object(_object(required.extensions.get(offer_receipt.KEY)).get("info"))
    offers = named.get("offers")
    alike = [
        words
        for words in (offers if isinstance(offers, list) else [])
        if _said(words)[:_KIND] == ours[:_KIND]
    ]
    # Reading one recovers who signed it, which is not done as often as they like.
    alike.sort(key=lambda words: _said(words) != ours)
    others: list[SignedOffer] = []
    for words in alike[:_LOOKED_AT]:
        try:
            signed = offer_receipt.read_offer(words)
        except MalformedMessage:
            continue
        if _said(words) == ours:
            return signed
        others.append(signed)
    if others:
        said = others[0].payload
        raise OfferUntrusted(
            f"the 402 offers {offer.amount} to {offer.pay_to}, and what"
            f" {others[0].signer} signed is {said.amount[:80]} to {said.pay_to[:80]}"
        )
    return None


def receipt_in(answer: Answer, *, payer: Address) -> SignedReceipt | None:
    """
    The signed receipt of an answer, if it has one.

    Raises:
        MalformedMessage: It has one that nobody signed, or that is somebody else's.
    """
    header = answer.headers.get(PAYMENT_RESPONSE.lower())
    if header is None:
        return None
    extensions = decode_json(header, name=PAYMENT_RESPONSE).get("extensions")
    signed = offer_receipt.read_receipt(_object(extensions))
    if signed is not None and signed.payload.payer.lower() != payer:
        raise MalformedMessage(f"it is a receipt of {signed.payload.payer[:80]}")
    return signed


def _said(words: JsonValue) -> tuple[str, ...]:
    return _terms(_object(_object(words).get("payload")))


def _terms(words: JsonObject) -> tuple[str, ...]:
    """What is compared of an offer; addresses may differ in their case."""
    return tuple(str(words.get(name)).lower() for name in _TERMS)


def _object(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}
