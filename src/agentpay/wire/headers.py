"""
Base64 JSON in headers: bounded, strict, and never anything but a typed error.

Source: x402 `specs/transports-v2/http.md`.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping

from pydantic import JsonValue

from agentpay.errors import MalformedMessage, MessageTooLarge

JsonObject = dict[str, JsonValue]

__all__ = [
    "JsonObject",
    "JsonValue",
    "decode_json",
    "encode_json",
    "read_object",
    "write_json",
]

HEADER_BYTES_MAX = 16 * 1024
HEADER_VALUES_MAX = 256
"""Objects and lists, so that none can be nested deeper either."""

_COMPACT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def encode_json(message: Mapping[str, object]) -> str:
    """Write an object as compact JSON in base64, fit for a header."""
    return base64.b64encode(write_json(message).encode("utf-8")).decode("ascii")


def write_json(message: Mapping[str, object]) -> str:
    """Write an object as compact JSON."""
    return _COMPACT.encode(message)


def decode_json(header: str, *, name: str) -> JsonObject:
    """
    Read an object from a header.

    Raises:
        MessageTooLarge: Longer than 16 KiB.
        MalformedMessage: Not base64 of a JSON object, or nested too deeply.
    """
    if len(header) > HEADER_BYTES_MAX:
        raise MessageTooLarge(
            f"{name} has {len(header)} bytes, we read {HEADER_BYTES_MAX}"
        )
    try:
        raw = base64.b64decode(header, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedMessage(f"{name} is not base64") from error
    return read_object(raw, name=name)


def read_object(
    raw: bytes, *, name: str, values_max: int = HEADER_VALUES_MAX
) -> JsonObject:
    """
    Read an object from a header's or a body's JSON.

    Raises:
        MalformedMessage: Not a JSON object, or one of too many values.
    """
    if raw.count(b"{") + raw.count(b"[") > values_max:
        raise MalformedMessage(f"{name} has too many values")
    try:
        message: JsonValue = json.loads(
            raw, parse_constant=_no_constant, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"{name} is not JSON") from error
    if not isinstance(message, dict):
        raise MalformedMessage(f"{name} is not a JSON object")
    if b"\\ud" in raw.lower():
        _check_text(message, name)
    return message


def _check_text(message: JsonObject, name: str) -> None:
    """Half a surrogate pair is no character: it could not be written down again."""
    try:
        json.dumps(message, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise MalformedMessage(f"{name} is not Unicode") from error


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is too large")
    return number


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
