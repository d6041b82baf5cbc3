"""
What each request was charged: by what went over the wire, the chain, and the
provider's books. The payer's own books are not asked.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address

from .money import authorized_transfers
from .provider import BOOKS
from .served import REQUEST_ID

PAID_IN = {"x402": "payment-signature", "mpp": "authorization"}
"""The header that a payment is in."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Payment:
    """What was signed for a request: a transfer, or a channel's voucher."""

    by: str
    """The transfer's nonce, or the channel."""
    cumulative: int | None = None
    """The voucher's amount; None for a transfer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """A payment, the requests that it came with, and what it cost."""

    payment: Payment
    requests: frozenset[str]
    """One, if all is well; none for what closes a channel or asks about it."""
    amount: int


def payments(heads: Iterable[bytes]) -> dict[Payment, frozenset[str]]:
    """What was paid with, and the ids of the requests that it was sent with."""
    found: dict[Payment, frozenset[str]] = {}
    for head in heads:
        fields = dict(_fields(head))
        name = fields.get(REQUEST_ID.decode())
        for header in PAID_IN.values():
            if header in fields:
                payment = _payment(fields[header].removeprefix("Payment "))
                names = found.get(payment, frozenset[str]())
                found[payment] = names | ({name} if name else set())
    return found


async def charges(
    heads: Iterable[bytes],
    *,
    chain: LocalChain,
    agent: Address,
    provider: Address,
    base: str,
) -> list[Charge]:
    """What was charged for each payment that went over the wire."""
    sent = payments(heads)
    moved = await authorized_transfers(chain, agent=agent, provider=provider)
    channels = {payment.by for payment in sent if payment.cumulative is not None}
    async with httpx.AsyncClient(base_url=base) as client:
        books = {channel: await _books(client, channel) for channel in channels}
    return [
        Charge(payment=payment, requests=names, amount=_amount(payment, moved, books))
        for payment, names in sorted(sent.items())
    ]


def _amount(
    payment: Payment, moved: Mapping[str, int], books: Mapping[str, Mapping[str, int]]
) -> int:
    if payment.cumulative is None:
        return moved.get(payment.by, 0)
    return books[payment.by].get(str(payment.cumulative), 0)


async def _books(client: httpx.AsyncClient, channel: str) -> dict[str, int]:
    answer = await client.get(BOOKS + channel)
    books: dict[str, int] = answer.raise_for_status().json()
    return books


def _fields(head: bytes) -> Iterator[tuple[str, str]]:
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        yield name.lower(), value.strip()


def _payment(encoded: str) -> Payment:
    """Either protocol's, in base64 of either alphabet."""
    padded = encoded.rstrip("=") + "=" * (-len(encoded.rstrip("=")) % 4)
    raw = base64.b64decode(padded.replace("-", "+").replace("_", "/"))
    payload: dict[str, Any] = json.loads(raw)["payload"]
    voucher = payload.get("voucher", payload)
    if "channelId" in voucher:
        amount = voucher.get("maxClaimableAmount", voucher.get("cumulativeAmount"))
        return Payment(by=voucher["channelId"].lower(), cumulative=int(amount))
    transfer = payload.get("authorization", payload)
    return Payment(by=transfer["nonce"].lower())
