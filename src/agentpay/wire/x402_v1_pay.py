"""
x402 version 1, as a client speaks it: `exact` by EIP-3009, and nothing else.

A 402 is turned into version 2 when it comes, and is judged like any other; only what
pays it is written in its own words. Source: x402 `specs/x402-specification-v1.md`, 5.1
and 5.2, and `specs/transports-v1/http.md`.
"""

from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from agentpay.errors import MalformedMessage
from agentpay.evm.networks import NETWORKS
from agentpay.types import network_of
from agentpay.wire.headers import JsonObject, JsonValue, encode_json, read_object
from agentpay.wire.x402 import EIP3009, EXACT, OFFERS_MAX, PaymentRequired
from agentpay.wire.x402 import VERSION as SECOND
from agentpay.wire.x402_v1 import VERSION

_CHAINS: Final = {n.name: network_of(n.chain) for n in NETWORKS.values()}
_SAME: Final = {"asset": "asset", "payTo": "payTo", "amount": "maxAmountRequired"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRequired:
    """A 402 of version 1, as version 2 would have said it."""

    message: JsonObject
    required: PaymentRequired
    names: tuple[str, ...]
    """What each of its offers calls its chain."""

    def name_of(self, words: JsonObject) -> str:
        """What the offer with these words calls its chain."""
        return self.names[self.required.accepts.index(words)]


def read_required(body: bytes) -> FirstRequired:
    """
    Read the body of a 402. What it offers by other schemes, on chains that we have no
    name for, or for another resource than its first offer, is left out.

    Raises:
        MalformedMessage: It is not one of version 1.
    """
    message = read_object(body, name="the body of a 402")
    offers, error = message.get("accepts"), message.get("error")
    first = message.get("x402Version")
    if first != VERSION or isinstance(first, bool) or not isinstance(offers, list):
        raise MalformedMessage("the body of a 402 is not of x402 version 1")
    read = [entry for entry in offers[:OFFERS_MAX] if isinstance(entry, dict)]
    urls = [entry.get("resource") for entry in read]
    ours = [
        entry
        for entry in read
        if entry.get("scheme") == EXACT
        and _chain_of(entry) is not None
        and entry.get("resource") == urls[0]
    ]
    upgraded: JsonObject = {
        "x402Version": SECOND,
        "error": error if isinstance(error, str) else "",
        "accepts": [_upgraded(entry) for entry in ours],
    }
    if urls and urls[0]:
        upgraded["resource"] = {"url": urls[0]}
    try:
        required = PaymentRequired.model_validate(upgraded)
    except ValidationError as why:
        raise MalformedMessage("the body of a 402 cannot be read") from why
    names = tuple(str(entry.get("network")) for entry in ours)
    return FirstRequired(message=upgraded, required=required, names=names)


def first_payment(network: str, payload: JsonObject) -> str:
    """The `X-PAYMENT` header of a payment."""
    message: JsonObject = {
        "x402Version": VERSION,
        "scheme": EXACT,
        "network": network,
        "payload": payload,
    }
    return encode_json(message)


def _chain_of(entry: JsonObject) -> str | None:
    """The chain of an offer as version 2 names it, if it is one that we can name."""
    name = entry.get("network")
    if not isinstance(name, str):
        return None
    return _CHAINS.get(name, name if name.startswith("eip155:") else None)


def _upgraded(entry: JsonObject) -> JsonObject:
    extra = _object(entry.get("extra"))
    domain: JsonObject = {n: extra[n] for n in ("name", "version") if n in extra}
    same: JsonObject = {new: entry.get(old) for new, old in _SAME.items()}
    return {
        "scheme": EXACT,
        "network": _chain_of(entry),
        **same,
        "maxTimeoutSeconds": entry.get("maxTimeoutSeconds"),
        "extra": {**domain, "assetTransferMethod": EIP3009},
    }


def _object(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}
