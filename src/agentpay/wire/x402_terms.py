"""
Whether a payment accepts what was offered: word for word, by a payload of that kind.

Source: x402 `specs/x402-specification-v2.md`, `accepted`; the transfer methods are
those of `specs/schemes/exact/scheme_exact_evm.md`.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import unquote, urlsplit

from agentpay.wire.headers import JsonObject, JsonValue
from agentpay.wire.x402 import (
    BATCH_SETTLEMENT,
    EIP3009,
    EXACT,
    PERMIT2,
    UPTO,
    DepositPayload,
    ExactPayload,
    PaymentPayload,
    Permit2Payload,
    Resource,
)

UPFRONT: Final = "upfront"
"""Settled before it is served: `extra.paymentFlow`, "authorization" if not given."""

_PORTS: Final = {"http": 80, "https": 443}


def accepted_offer(
    payment: PaymentPayload, offers: Iterable[JsonObject]
) -> JsonObject | None:
    """The offer that a payment accepts, and pays in the way that it names."""
    for offer in offers:
        if _pays(payment, offer) and _agree(_Same(offer), _Same(payment.accepted)):
            return offer
    return None


def is_for(resource: Resource | None, url: str, *, bound: bool) -> bool:
    """
    Whether a payment, if it says what it is for, is for `url`.

    Its signature binds no resource, so this stops mistakes and not forgeries. Queries
    are not compared. Without `bound`, `url` is what this server saw: another host may
    stand before it, and the path may have lost a prefix on the way.
    """
    if resource is None or not resource.url:
        return True
    return _names(resource.url, url, bound)


@lru_cache(maxsize=1024)
def _names(named: str, url: str, bound: bool) -> bool:
    try:
        (theirs, path), (ours, wanted) = _place(named), _place(url)
    except ValueError:
        return False
    return (theirs, path) == (ours, wanted) if bound else path.endswith(wanted)


def _place(url: str) -> tuple[tuple[str, str | None, int | None], str]:
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme)
    return (parts.scheme, parts.hostname, port), unquote(parts.path) or "/"


def method_of(offer: JsonObject) -> str:
    """How an offer wants its asset moved."""
    extra = offer.get("extra")
    method = extra.get("assetTransferMethod") if isinstance(extra, dict) else None
    return EIP3009 if method is None else str(method)


def is_upfront(offer: JsonObject) -> bool:
    """Whether an offer is paid before its request runs, whatever becomes of that."""
    extra = offer.get("extra")
    return isinstance(extra, dict) and extra.get("paymentFlow") == UPFRONT


def _pays(payment: PaymentPayload, offer: JsonObject) -> bool:
    scheme, method = offer.get("scheme"), method_of(offer)
    match payment.payload:
        case ExactPayload():
            return scheme == EXACT and method == EIP3009
        case Permit2Payload():
            return scheme in (EXACT, UPTO) and method == PERMIT2
        case DepositPayload(deposit=deposit):
            by_permit = deposit.authorization.permit2_authorization is not None
            return scheme == BATCH_SETTLEMENT and (method == PERMIT2) == by_permit
        case _:
            return scheme == BATCH_SETTLEMENT


class _Same:
    """An object that nobody changes, equal to itself alone."""

    __slots__ = ("it",)

    def __init__(self, it: JsonObject) -> None:
        self.it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.it is other.it

    def __hash__(self) -> int:
        return id(self.it)


@lru_cache(maxsize=1024)
def _agree(ours: _Same, accepted: _Same) -> bool:
    """
    Offers are made once, and vouchers of a known channel share what they accept: the
    same two objects agree as they did. While they are remembered, no other can have
    their identities.
    """
    return same_terms(ours.it, accepted.it)


def same_terms(ours: JsonObject, accepted: JsonObject) -> bool:
    """Whether a payment accepts exactly our offer; `extra` may hold more than ours."""
    if method_of(ours) != method_of(accepted):
        return False
    for name, value in ours.items():
        theirs = accepted.get(name)
        if name == "extra":
            if not isinstance(theirs, dict) or not isinstance(value, dict):
                return False
            if any(not _same(theirs.get(key), word) for key, word in value.items()):
                return False
        elif not _same(theirs, value):
            return False
    return True


def _same(theirs: JsonValue, ours: JsonValue) -> bool:
    if isinstance(ours, str) and ours.startswith("0x"):
        return isinstance(theirs, str) and theirs.lower() == ours.lower()
    return type(theirs) is type(ours) and theirs == ours
