"""
The `payment-identifier` extension: a payer's own name for a payment.

The same name with the same payment is told the same answer, and buys nothing twice.
Source: x402 `specs/extensions/payment_identifier.md`.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final

from agentpay.errors import MalformedMessage
from agentpay.wire.headers import JsonObject, JsonValue
from agentpay.wire.x402 import Extension

KEY: Final = "payment-identifier"

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{16,128}", re.ASCII)
_SCHEMA: Final[JsonObject] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "required": {"type": "boolean"},
        "id": {"type": "string", "minLength": 16, "maxLength": 128},
    },
    "required": ["required"],
}


def offer(*, required: bool = False) -> JsonObject:
    """The extension as a 402 carries it."""
    return {"info": {"required": required}, "schema": _SCHEMA}


def echo(offered: JsonValue, name: str) -> JsonObject:
    """
    The extension as a payment carries it: what was offered, with a name added.

    Raises:
        ValueError: Not a name that the specification allows.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"not 16 to 128 letters, digits, - and _: {name[:140]!r}")
    words = dict(offered) if isinstance(offered, dict) else offer()
    info = words.get("info")
    named: JsonObject = {"required": False, **(info if isinstance(info, dict) else {})}
    return {**words, "info": {**named, "id": name}}


def is_required(extensions: Mapping[str, JsonValue]) -> bool:
    """Whether a 402 wants its payments to be named."""
    extension = extensions.get(KEY)
    info = extension.get("info") if isinstance(extension, dict) else None
    return isinstance(info, dict) and info.get("required") is True


def read_name(extensions: Mapping[str, Extension]) -> str | None:
    """
    The name that a payment carries, if it has one.

    Raises:
        MalformedMessage: It has one that the specification does not allow.
    """
    extension = extensions.get(KEY)
    name = extension.info.get("id") if extension is not None else None
    if name is None:
        return None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise MalformedMessage(
            f"{KEY}: an id is 16 to 128 letters, digits, hyphens and underscores"
        )
    return name


def digest_of(message: Mapping[str, JsonValue]) -> bytes:
    """A hash of a whole payment, the same however its members are ordered."""
    text = json.dumps(message, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
