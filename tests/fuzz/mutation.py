"""
Makes wrong messages of right ones: by the kind of each value, and by how it is written.

Everything comes from one seeded generator, so that a run can be repeated.
"""

import base64
import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

from agentpay.evm.signature import ORDER

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_HASH = re.compile(r"0x[0-9a-fA-F]{64}")
_SIGNATURE = re.compile(r"0x[0-9a-fA-F]{130}")
_DIGITS = re.compile(r"[0-9]{1,80}")

_ADDRESSES = ("0x" + "0" * 40, "0x" + "f" * 40, "0X" + "1" * 40, "0x" + "1" * 39)
_HASHES = ("0x" + "0" * 64, "0x" + "f" * 64, "0x" + "1" * 63, "0x" + "1" * 66)
_AMOUNTS = (
    *(
        "0",
        "1",
        "999",
        "1001",
        "-1",
        "01",
        "1.0",
        "1e3",
        " 1",
        "0x10",
        "\u0661",
        "9" * 80,
    ),
    *(str(2**bits - less) for bits in (40, 64, 128, 256) for less in (0, 1)),
)
_NETWORKS = ("eip155:1", "eip155:8453", "eip155:", "eip155:-1", "solana:1", "base")
_STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**63, 2**300, "", [], {}, [[]], [{}], {"": None}),
    *("x\r\nSet-Cookie: a=b", "\u0000", "\ud800", "é" * 50, "x" * 5000, "NaN", "null"),
)


def mutated(rng: Random, value: Any, times: int = 1) -> Any:
    """The same with so many things in it changed."""
    for _ in range(times):
        value = _once(rng, value)
    return value


def _once(rng: Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice(list(value))
        chance = rng.random()
        if chance < 0.08:
            return {k: v for k, v in value.items() if k != key}
        if chance < 0.12:
            return {**value, str(rng.choice(_AMOUNTS)): rng.choice(_STRANGE)}
        if chance < 0.15:
            return {**value, key: value[rng.choice(list(value))]}
        return {**value, key: _once(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        chance = rng.random()
        if chance < 0.1:
            return value * rng.choice((2, 40))
        if chance < 0.2:
            return value[:at] + value[at + 1 :]
        return [*value[:at], _once(rng, value[at]), *value[at + 1 :]]
    return _other(rng, value)


def _other(rng: Random, value: Any) -> Any:
    """Another value: of the same kind mostly, and at its edges."""
    if rng.random() < 0.3:
        return rng.choice(_STRANGE)
    if isinstance(value, str):
        return _other_text(rng, value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((0, 1, -1, value + 1, 2**40, 2**63, str(value), float(value)))
    return rng.choice(_STRANGE)


def _other_text(rng: Random, text: str) -> str:
    if _SIGNATURE.fullmatch(text):
        return "0x" + other_signature(rng, bytes.fromhex(text[2:])).hex()
    for kind, edges in (
        (_ADDRESS, (*_ADDRESSES, text.upper(), text.lower(), text[2:])),
        (_HASH, (*_HASHES, text.upper(), text[:-1] + "0")),
        (_DIGITS, _AMOUNTS),
    ):
        if kind.fullmatch(text):
            return rng.choice(edges)
    if text.startswith("eip155:"):
        return rng.choice(_NETWORKS)
    return rng.choice((text + "x", text[:-1], text.upper(), "", text * 20, "\u202e"))


def other_signature(rng: Random, signature: bytes) -> bytes:
    """A second form of a signature, or one that is none."""
    r, s, v = signature[:32], signature[32:64], signature[64]
    high = (ORDER - int.from_bytes(s, "big")) % ORDER
    return rng.choice(
        (
            r + high.to_bytes(32, "big") + bytes((55 - v if v in (27, 28) else v,)),
            r + s + bytes((v % 27,)),
            r + bytes((s[0] | (v & 1) << 7, *s[1:])),
            bytes(32) + s + bytes((v,)),
            r + bytes(32) + bytes((v,)),
            r + ORDER.to_bytes(32, "big") + bytes((v,)),
            signature + b"\0",
            signature * 20,
            signature + b"\x64\x92" * 16,
            b"",
        )
    )


def written(rng: Random, message: Any) -> bytes:
    """Right JSON, in one of the ways to write it."""
    separators = rng.choice(((",", ":"), (", ", ": "), (" ,\n", ":\t")))
    return json.dumps(message, separators=separators).encode()


def miswritten(rng: Random, message: Any) -> bytes:
    """What is no JSON of this message, or hardly."""
    text = json.dumps(message).encode()
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: text[: rng.randrange(len(text))],
        lambda: text + rng.choice((b"}", b"\0", b" 1", b"\xff")),
        lambda: text.replace(b":", b":NaN,", 1),
        lambda: text.replace(b"}", b',"x402Version":1}', 1),
        lambda: b'{"x402Version":2,' + text[1:],
        lambda: text[:-1] + b',"x402Version":2}',
        lambda: b'{"a":' * rng.choice((9, 200, 3000)) + text + b"}" * 9,
        lambda: b"[" * 2000 + b"]" * 2000,
        lambda: text.decode().encode("utf-16"),
        lambda: b"\xef\xbb\xbf" + text,
        lambda: text.replace(b'"', b"'"),
        lambda: text[:-1] + b',"pad":"' + b"x" * rng.choice((100, 20_000)) + b'"}',
        lambda: text[:-1] + b',"n":' + b"9" * 4500 + b"}",
        lambda: text[:-1] + b',"n":1e999}',
        lambda: text[:-1] + b',"s":"\\ud83d"}',
        lambda: bytes(b ^ (rng.random() < 0.01) for b in text),
        lambda: rng.randbytes(rng.randrange(200)),
        lambda: b"",
    )
    return rng.choice(ways)()


def header(rng: Random, raw: bytes, *, right: bool) -> bytes:
    """Base64 for a header; not quite, if it is not to be right."""
    text = base64.b64encode(raw)
    if right:
        return text
    return rng.choice(
        (
            text,
            raw,
            text.rstrip(b"="),
            text.replace(b"A", b"-"),
            text[: len(text) // 2] + b"\r\nX-Paid: yes\r\n" + text[len(text) // 2 :],
            text + b"\xff",
            b" " + text,
            text * rng.choice((2, 40)),
            b"Payment " + text,
        )
    )
