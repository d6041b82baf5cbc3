"""
The `PAYMENT-REQUIRED` header of a 402, short enough to be read.

Many clients read no header above 8190 bytes (aiohttp does not, by default), and nor do
many proxies: then the whole 402 is lost. Where one would be longer, extensions go
without their `schema`. The specification asks for it (`x402-specification-v2.md`,
5.1.2), and the official clients pay without: they read `info`.
"""

from typing import Final

from agentpay.wire import (
    bazaar,
    offer_receipt,
    parallel,
    payment_identifier,
    sign_in,
    x402_approvals,
    x402_sponsoring,
)
from agentpay.wire.headers import JsonObject, encode_json

BYTES_MAX: Final = 7_500
"""Of the header: what is left of 8190 is for other headers, and for corrections."""

IN_ORDER: Final = (
    offer_receipt.KEY,
    x402_sponsoring.EIP2612_KEY,
    x402_approvals.APPROVAL_KEY,
    sign_in.KEY,
    parallel.KEY,
    payment_identifier.KEY,
    bazaar.KEY,
)
"""Whose schema goes first. A catalogue's goes last: what is listed is checked by it."""


def fit_required(message: JsonObject) -> tuple[JsonObject, str]:
    """
    A 402 and its header, with as many schemas as there is room for.

    It may be too long for its other words, even without a schema.
    """
    header = encode_json(message)
    for name in IN_ORDER:
        if len(header) <= BYTES_MAX:
            break
        shorter = _without_schema(message, name)
        if shorter is not None:
            message, header = shorter, encode_json(shorter)
    return message, header


def _without_schema(message: JsonObject, name: str) -> JsonObject | None:
    """None where there is no schema of that extension."""
    extensions = message.get("extensions")
    words = extensions.get(name) if isinstance(extensions, dict) else None
    if not isinstance(extensions, dict) or not isinstance(words, dict):
        return None
    if "schema" not in words:
        return None
    left: JsonObject = {key: said for key, said in words.items() if key != "schema"}
    return {**message, "extensions": {**extensions, name: left}}
