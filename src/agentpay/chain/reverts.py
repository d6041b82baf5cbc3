"""
Why a call reverted, in words. Pure: bytes in, text out, whatever the bytes are.
"""

from collections.abc import Mapping

_ERROR_STRING = bytes.fromhex("08c379a0")
_PANIC = bytes.fromhex("4e487b71")
_TEXT_MAX = 200
_NONE = "reverted without a reason"

# Source: Solidity's documentation, "Panic via assert and Error via require".
_PANICS = {
    0x01: "an assertion failed",
    0x11: "arithmetic overflow",
    0x12: "division by zero",
    0x21: "not a value of the enum",
    0x22: "storage byte array wrongly encoded",
    0x31: "pop of an empty array",
    0x32: "index out of bounds",
    0x41: "too much memory",
    0x51: "call of an uninitialized function",
}


def revert_reason(data: bytes, names: Mapping[bytes, str] | None = None) -> str:
    """
    Say what a contract gave as its reason: a text, a panic, or the name of an error.

    `names` maps the 4-byte selectors of custom errors to their names.
    """
    selector, body = data[:4], data[4:]
    if not data:
        return _NONE
    if selector == _ERROR_STRING and (text := _string(body)) is not None:
        return text or _NONE
    if selector == _PANIC and len(body) == 32:
        number = int.from_bytes(body, "big")
        return _PANICS.get(number, f"panic {number:#x}")
    if names and selector in names:
        return names[selector]
    return f"unknown error 0x{selector.hex()}"


def _string(body: bytes) -> str | None:
    offset = int.from_bytes(body[:32], "big")
    start = offset + 32
    if len(body) < start:
        return None
    length = int.from_bytes(body[offset:start], "big")
    if len(body) < start + length:
        return None
    text = body[start : start + min(length, 4 * _TEXT_MAX)].decode(errors="replace")
    # A contract's own words go into logs and terminals: no control characters.
    return "".join(c if c.isprintable() else "?" for c in text[:_TEXT_MAX])
