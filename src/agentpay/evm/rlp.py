"""
RLP, the encoding of Ethereum's transactions: strings of bytes and lists of them.

Read strictly: every value has one encoding, and no other is taken for it. Source:
Ethereum's Yellow Paper, appendix B.
"""

from collections.abc import Sequence
from typing import Final

Item = bytes | Sequence["Item"]

_SHORT: Final = 55
_DEPTH_MAX: Final = 4


def encode(item: Item) -> bytes:
    """Write a string, or a list of what can be written."""
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _head(0x80, len(item)) + item
    body = b"".join(encode(part) for part in item)
    return _head(0xC0, len(body)) + body


def encode_uint(number: int) -> bytes:
    """A number as the string that stands for it: without zeros in front."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def decode(data: bytes) -> Item:
    """
    Read one value, and nothing behind it.

    Raises:
        ValueError: Not RLP, not its one encoding, or nested too deeply.
    """
    item, end = _read(data, 0, _DEPTH_MAX)
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes behind a value in RLP")
    return item


def decode_uint(item: Item) -> int:
    """
    Read a number.

    Raises:
        ValueError: A list, or with zeros in front.
    """
    if not isinstance(item, bytes) or item[:1] == b"\0":
        raise ValueError("not a number in RLP")
    return int.from_bytes(item, "big")


def _head(kind: int, length: int) -> bytes:
    if length <= _SHORT:
        return bytes((kind + length,))
    size = encode_uint(length)
    return bytes((kind + _SHORT + len(size),)) + size


def _read(data: bytes, at: int, depth: int) -> tuple[Item, int]:
    if at >= len(data):
        raise ValueError("a value in RLP is missing")
    first = data[at]
    if first < 0x80:
        return data[at : at + 1], at + 1
    is_list = first >= 0xC0
    start, length = _span(data, at, first - (0xC0 if is_list else 0x80))
    end = start + length
    if end > len(data):
        raise ValueError("a value in RLP is cut off")
    if not is_list:
        if length == 1 and data[start] < 0x80:
            raise ValueError("a byte in RLP that stands for itself has a length")
        return data[start:end], end
    if not depth:
        raise ValueError("lists in RLP are nested too deeply")
    parts: list[Item] = []
    while start < end:
        part, start = _read(data[:end], start, depth - 1)
        parts.append(part)
    return parts, end


def _span(data: bytes, at: int, said: int) -> tuple[int, int]:
    """Where a value's bytes begin, and how many there are."""
    if said <= _SHORT:
        return at + 1, said
    start = at + 1 + said - _SHORT
    size = data[at + 1 : start]
    length = int.from_bytes(size, "big")
    if start > len(data) or size[:1] == b"\0" or length <= _SHORT:
        raise ValueError("a length in RLP is not in its one encoding")
    return start, length
