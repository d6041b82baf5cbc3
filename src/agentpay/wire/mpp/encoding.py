"""
Base64url without padding and canonical JSON: how the `Payment` scheme writes values.

Source: draft-httpauth-payment-00, "Required Parameters"; RFC 4648 section 5; RFC 8785.
What we canonicalise has no fractions: money is whole, and RFC 8785 is short without.
"""

import base64
import json
import re
from typing import Final

from agentpay.errors import MalformedMessage, MessageTooLarge
from agentpay.wire.headers import JsonObject, JsonValue, read_object

OBJECT_CHARS_MAX: Final = 16 * 1024
"""The longest encoded object we read, as the official SDKs have it."""

_ALPHABET = re.compile(r"[0-9A-Za-z_-]*+", re.ASCII)
_EXACT_INTEGER_MAX = 2**53 - 1


def encode_base64url(raw: bytes) -> str:
    """Write bytes in the URL-safe alphabet, without padding."""
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def decode_base64url(text: str, *, name: str) -> bytes:
    """
    Read bytes from the URL-safe alphabet; no two texts say the same.

    Raises:
        MalformedMessage: Padding, another character, or bits that nothing encodes.
    """
    if not _ALPHABET.fullmatch(text) or len(text) % 4 == 1:
        raise MalformedMessage(f"{name} is not base64url without padding")
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_base64url(raw) != text:
        raise MalformedMessage(f"{name} is not base64url as it is written")
    return raw


def canonical(value: JsonValue) -> bytes:
    """
    Write a JSON value in the one form that RFC 8785 (JCS) gives it.

    Raises:
        ValueError: A float, an integer above 2^53 - 1, or text that is not Unicode.
    """
    text = json.dumps(_ordered(value), separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8")


def _ordered(value: JsonValue) -> JsonValue:
    """The same value with the keys of every object in the order of UTF-16."""
    match value:
        case dict():
            keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
            return {key: _ordered(value[key]) for key in keys}
        case list():
            return [_ordered(item) for item in value]
        case float():
            raise ValueError(f"{value} is a fraction; write amounts as strings")
        case int() if abs(value) > _EXACT_INTEGER_MAX:
            raise ValueError(f"{value} is no exact JSON number; write it as a string")
        case _:
            return value


def encode_object(value: JsonObject) -> str:
    """
    Write an object as the scheme's parameters and headers carry it.

    Raises:
        ValueError: It has no canonical form of ours.
    """
    return encode_base64url(canonical(value))


def decode_object(text: str, *, name: str) -> JsonObject:
    """
    Read an object that a parameter or header carries.

    Raises:
        MessageTooLarge: Longer than 16 KiB.
        MalformedMessage: Not base64url of a JSON object, or nested too deeply.
    """
    if len(text) > OBJECT_CHARS_MAX:
        raise MessageTooLarge(
            f"{name} has {len(text)} characters, we read {OBJECT_CHARS_MAX}"
        )
    return read_object(decode_base64url(text, name=name), name=name)
