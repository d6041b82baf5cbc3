"""
x402 version 1, as a server speaks it: `exact` by EIP-3009, and nothing else.

Its messages are turned into version 2 when they come and out of it when they go, so
that nothing behind them knows of two. Source: x402 `specs/x402-specification-v1.md`
and `specs/transports-v1/http.md`.
"""

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import Field, ValidationError

from agentpay.errors import MalformedMessage
from agentpay.evm.networks import NETWORKS
from agentpay.types import ChainId, network_of
from agentpay.wire import x402_write as write
from agentpay.wire.fields import WireMessage
from agentpay.wire.headers import JsonObject, JsonValue, decode_json, encode_json
from agentpay.wire.x402 import (
    EIP3009,
    EXACT,
    PAYMENT_RESPONSE,
    ExactPayload,
)
from agentpay.wire.x402_terms import method_of

X_PAYMENT: Final = "X-PAYMENT"
X_PAYMENT_RESPONSE: Final = "X-PAYMENT-RESPONSE"
VERSION: Final = 1
_KEPT: Final = ("success", "errorReason", "transaction", "payer")


class FirstPayment(WireMessage):
    """What a client of version 1 pays with."""

    x402_version: Literal[1] = Field(alias="x402Version")
    scheme: Literal["exact"]
    network: str = Field(max_length=64)
    payload: ExactPayload


def network_name(chain: ChainId) -> str:
    """What version 1 calls a chain: its name, where it has one."""
    named = (n.name for n in NETWORKS.values() if n.chain == chain)
    return next(named, network_of(chain))


def upgrade_payment(header: str, offers: tuple[JsonObject, ...], url: str) -> str:
    """
    A payment of version 1 as one of version 2 for the offer that it can only mean.

    Its amount and payee are in what was signed, and are compared as ever.

    Raises:
        MalformedMessage: It is not one, or for a chain that no offer is on.
    """
    message = decode_json(header, name=X_PAYMENT)
    try:
        payment = FirstPayment.model_validate(message)
    except ValidationError as error:
        raise MalformedMessage(f"{X_PAYMENT} is not a payment of version 1") from error
    for offer in offers:
        named = _names(offer)
        if _is_plain(offer) and payment.network in named:
            payload = message["payload"]
            return encode_json(
                write.payment(
                    accepted=offer,
                    payload=payload if isinstance(payload, dict) else {},
                    url=url,
                    extensions={},
                )
            )
    raise MalformedMessage(
        f"{X_PAYMENT}: nothing here is paid by version 1 on {payment.network!r}"
    )


def downgrade_required(required: JsonObject) -> JsonObject:
    """The body of a 402: those of its offers that version 1 can pay."""
    resource, offers = required.get("resource"), required.get("accepts")
    about = resource if isinstance(resource, dict) else {}
    entries = offers if isinstance(offers, list) else []
    accepts: list[JsonValue] = [
        _first_offer(offer, about)
        for offer in entries
        if isinstance(offer, dict) and _is_plain(offer)
    ]
    error = required.get("error", "")
    return {"x402Version": VERSION, "error": error, "accepts": accepts}


def downgrade_receipt(header: str, chain: ChainId) -> str:
    """A `PAYMENT-RESPONSE` of ours as `X-PAYMENT-RESPONSE`."""
    message = decode_json(header, name=PAYMENT_RESPONSE)
    kept: JsonObject = {n: message[n] for n in _KEPT if n in message}
    return encode_json({**kept, "network": network_name(chain)})


def _first_offer(offer: JsonObject, about: Mapping[str, JsonValue]) -> JsonObject:
    extra = offer.get("extra")
    domain = extra if isinstance(extra, dict) else {}
    return {
        "scheme": EXACT,
        "network": _names(offer)[0],
        "maxAmountRequired": offer["amount"],
        "asset": offer["asset"],
        "payTo": offer["payTo"],
        "resource": about.get("url", ""),
        "description": about.get("description", ""),
        "mimeType": about.get("mimeType", ""),
        "outputSchema": None,
        "maxTimeoutSeconds": offer["maxTimeoutSeconds"],
        "extra": {name: domain.get(name) for name in ("name", "version")},
    }


def _is_plain(offer: JsonObject) -> bool:
    return offer.get("scheme") == EXACT and method_of(offer) == EIP3009


def _names(offer: JsonObject) -> list[str]:
    """The name of an offer's chain in version 1, and in version 2."""
    caip = str(offer["network"])
    return [network_name(ChainId(int(caip.partition(":")[2]))), caip]
