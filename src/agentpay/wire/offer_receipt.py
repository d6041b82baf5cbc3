"""
The `offer-receipt` extension: signed offers in a 402, a signed receipt in an answer.

Source: x402 `specs/extensions/extension-offer-and-receipt.md`. Signatures of the format
`eip712` are written and read; those of the format `jws` are passed over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from agentpay.errors import MalformedMessage
from agentpay.evm.offer_receipt import VERSION, OfferPayload, ReceiptPayload
from agentpay.evm.signature import BadSignature
from agentpay.types import UINT256_MAX, Address
from agentpay.wire.fields import SignatureText, WireMessage
from agentpay.wire.headers import JsonObject, JsonValue

KEY: Final = "offer-receipt"
FORMAT: Final = "eip712"
_SIGNED_MAX: Final = 64
_TEXT: Final[JsonObject] = {"type": "string"}
_NUMBER: Final[JsonObject] = {"type": "integer"}

Moment = Annotated[int, Field(strict=True, ge=0, le=UINT256_MAX)]
Text = Annotated[str, Field(max_length=8192)]


class OfferFields(WireMessage):
    """The payload of a signed offer."""

    version: Literal[1]
    resource_url: Text
    scheme: Text
    network: Text
    asset: Text
    pay_to: Text
    amount: Text
    valid_until: Moment = 0


class ReceiptFields(WireMessage):
    """The payload of a signed receipt."""

    version: Literal[1]
    network: Text
    resource_url: Text
    payer: Text
    issued_at: Moment
    transaction: Text = ""


class SignedOfferFields(WireMessage):
    """A signed offer."""

    format: Literal["eip712"]
    payload: OfferFields
    signature: SignatureText


class SignedReceiptFields(WireMessage):
    """A signed receipt."""

    format: Literal["eip712"]
    payload: ReceiptFields
    signature: SignatureText


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedOffer:
    """An offer, who signed it, and its words to keep."""

    payload: OfferPayload
    signer: Address
    words: JsonObject

    def is_of(self, offer: JsonObject, url: str) -> bool:
        """Whether it is about exactly this entry of `accepts`, at this resource."""
        said = self.payload
        theirs = (said.scheme, said.network, said.asset, said.pay_to, said.amount)
        names = ("scheme", "network", "asset", "payTo", "amount")
        return said.resource_url == url and theirs == tuple(map(offer.get, names))


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedReceipt:
    """A receipt, who signed it, and its words to keep."""

    payload: ReceiptPayload
    signer: Address
    words: JsonObject


def write_offers(signed: Sequence[tuple[OfferPayload, bytes]]) -> JsonObject:
    """The extension as a 402 carries it: an offer for each of its entries, in order."""
    offers: list[JsonValue] = [
        {
            "format": FORMAT,
            "acceptIndex": number,
            "payload": _offer_words(payload),
            "signature": "0x" + signature.hex(),
        }
        for number, (payload, signature) in enumerate(signed)
    ]
    schema: JsonObject = {"type": "array", "items": _schema(_OFFER_TYPES, 7, _NUMBER)}
    return {"info": {"offers": offers}, "schema": _document("offers", schema)}


def write_receipt(payload: ReceiptPayload, signature: bytes) -> JsonObject:
    """The extension as an answer's receipt carries it."""
    words: JsonObject = {
        "version": VERSION,
        "network": payload.network,
        "resourceUrl": payload.resource_url,
        "payer": payload.payer,
        "issuedAt": payload.issued_at,
        "transaction": payload.transaction,
    }
    receipt: JsonObject = {
        "format": FORMAT,
        "payload": words,
        "signature": "0x" + signature.hex(),
    }
    schema = _document("receipt", _schema(_RECEIPT_TYPES, 5))
    return {"info": {"receipt": receipt}, "schema": schema}


def read_offers(extensions: Mapping[str, JsonValue]) -> list[SignedOffer]:
    """The signed offers of a 402; what is not one, or nobody signed, is left out."""
    found = _member(extensions.get(KEY), "offers")
    offers: list[SignedOffer] = []
    for words in found[:_SIGNED_MAX] if isinstance(found, list) else []:
        try:
            offers.append(read_offer(words))
        except MalformedMessage:
            continue
    return offers


def read_offer(words: JsonValue) -> SignedOffer:
    """
    Raises:
        MalformedMessage: Not an offer, or its signature is nobody's.
    """
    try:
        fields = SignedOfferFields.model_validate(words)
        said = fields.payload
        payload = OfferPayload(
            resource_url=said.resource_url,
            scheme=said.scheme,
            network=said.network,
            asset=said.asset,
            pay_to=said.pay_to,
            amount=said.amount,
            valid_until=said.valid_until,
        )
        signer = payload.signer(fields.signature)
    except (ValidationError, BadSignature) as error:
        raise MalformedMessage("not a signed offer") from error
    return SignedOffer(payload=payload, signer=signer, words=_object(words))


def read_receipt(extensions: Mapping[str, JsonValue]) -> SignedReceipt | None:
    """
    The signed receipt of an answer, if it has one.

    Raises:
        MalformedMessage: It has one that is none, or whose signature is nobody's.
    """
    words = _member(extensions.get(KEY), "receipt")
    if words is None or _object(words).get("format") != FORMAT:
        return None
    try:
        fields = SignedReceiptFields.model_validate(words)
        said = fields.payload
        payload = ReceiptPayload(
            network=said.network,
            resource_url=said.resource_url,
            payer=said.payer,
            issued_at=said.issued_at,
            transaction=said.transaction,
        )
        signer = payload.signer(fields.signature)
    except (ValidationError, BadSignature) as error:
        raise MalformedMessage("not a signed receipt") from error
    return SignedReceipt(payload=payload, signer=signer, words=_object(words))


def _offer_words(payload: OfferPayload) -> JsonObject:
    return {
        "version": VERSION,
        "resourceUrl": payload.resource_url,
        "scheme": payload.scheme,
        "network": payload.network,
        "asset": payload.asset,
        "payTo": payload.pay_to,
        "amount": payload.amount,
        "validUntil": payload.valid_until,
    }


def _member(extension: JsonValue, name: str) -> JsonValue:
    return _object(_object(extension).get("info")).get(name)


def _object(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}


_OFFER_TYPES: Final[JsonObject] = {
    "version": _NUMBER,
    "resourceUrl": _TEXT,
    "scheme": _TEXT,
    "network": _TEXT,
    "asset": _TEXT,
    "payTo": _TEXT,
    "amount": _TEXT,
    "validUntil": _NUMBER,
}
_RECEIPT_TYPES: Final[JsonObject] = {
    "version": _NUMBER,
    "network": _TEXT,
    "resourceUrl": _TEXT,
    "payer": _TEXT,
    "issuedAt": _NUMBER,
    "transaction": _TEXT,
}


def _schema(
    types: JsonObject, required: int, index: JsonObject | None = None
) -> JsonObject:
    """The first `required` members of a payload are; the rest may be left out."""
    names: list[JsonValue] = [*types]
    payload: JsonObject = {
        "type": "object",
        "properties": types,
        "required": names[:required],
    }
    properties: JsonObject = {"format": {"type": "string", "const": FORMAT}}
    if index is not None:
        properties["acceptIndex"] = index
    return {
        "type": "object",
        "properties": {**properties, "payload": payload, "signature": _TEXT},
        "required": ["format", "payload", "signature"],
    }


def _document(name: str, schema: JsonObject) -> JsonObject:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {name: schema},
        "required": [name],
    }
