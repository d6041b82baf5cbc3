"""
`Accept-Payment`: which ways of paying a client would rather be offered.

Source: draft-httpauth-payment-00, "Client Payment Preferences".
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from agentpay.errors import MalformedMessage, MessageTooLarge

ACCEPT_PAYMENT: Final = "Accept-Payment"
HEADER_CHARS_MAX: Final = 8 * 1024
ANY: Final = "*"
_WHOLE: Final = 1000

_RANGE = re.compile(
    r"(\*|[a-z][a-z0-9:_-]*+)/(\*|[A-Za-z0-9-]++)"
    r"(?:[ \t]*+;[ \t]*+[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRange:
    """Some ways of paying, and how much they are liked: `evm/*;q=0.6`."""

    method: str
    intent: str
    thousandths: int = _WHOLE
    """q in thousandths; 0 means never."""

    def covers(self, method: str, intent: str) -> bool:
        return self.method in (ANY, method) and self.intent in (ANY, intent)

    @property
    def specificity(self) -> int:
        """A named method says more than a named intent."""
        return 2 * (self.method != ANY) + (self.intent != ANY)


def parse_accept_payment(lines: Iterable[str]) -> tuple[PaymentRange, ...]:
    """
    Read all lines of an `Accept-Payment` field; a server may ignore a malformed one.

    Raises:
        MessageTooLarge: More than 8 KiB.
        MalformedMessage: An entry is no range, or there is none.
    """
    text = ",".join(lines)
    if len(text) > HEADER_CHARS_MAX:
        raise MessageTooLarge(f"{ACCEPT_PAYMENT} has {len(text)} characters")
    ranges: list[PaymentRange] = []
    for entry in filter(None, (part.strip(" \t") for part in text.split(","))):
        match = _RANGE.fullmatch(entry)
        if match is None:
            raise MalformedMessage(f"{ACCEPT_PAYMENT}: no range: {entry[:80]!r}")
        whole, _, fraction = (match[3] or "1").partition(".")
        weight = int(whole) * _WHOLE + int(fraction.ljust(3, "0"))
        ranges.append(
            PaymentRange(method=match[1], intent=match[2], thousandths=weight)
        )
    if not ranges:
        raise MalformedMessage(f"{ACCEPT_PAYMENT} names no way of paying")
    return tuple(ranges)


def format_accept_payment(ranges: Iterable[PaymentRange]) -> str:
    """Write an `Accept-Payment` field."""
    return ", ".join(_written(entry) for entry in ranges)


def _written(entry: PaymentRange) -> str:
    name = f"{entry.method}/{entry.intent}"
    if entry.thousandths == _WHOLE:
        return name
    fraction = f"{entry.thousandths:03}".rstrip("0")
    return f"{name};q=0.{fraction}" if fraction else f"{name};q=0"


def rank(
    ranges: Sequence[PaymentRange], offers: Sequence[tuple[str, str]]
) -> tuple[int, ...]:
    """
    Which offers (method and intent) to send, and in what order: their indices.

    The most specific range that covers an offer counts, the first one of equals; what
    is liked equally stays in the server's order. If nothing is liked, everything is
    sent: a 402 without a challenge is not allowed.
    """
    weights = [_weight(ranges, method, intent) for method, intent in offers]
    liked = [index for index, weight in enumerate(weights) if weight > 0]
    if not liked:
        return tuple(range(len(offers)))
    return tuple(sorted(liked, key=lambda index: -weights[index]))


def _weight(ranges: Sequence[PaymentRange], method: str, intent: str) -> int:
    covering = [entry for entry in ranges if entry.covers(method, intent)]
    if not covering:
        return 0
    return max(covering, key=lambda entry: entry.specificity).thousandths
