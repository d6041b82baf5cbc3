"""
What a payee offers and how it refuses: the 402 and its kin, ready to send.
"""

import json
from dataclasses import dataclass, replace
from functools import lru_cache

from agentpay.core.payee_channel import PayeeChannel
from agentpay.evm.hashing import checksummed
from agentpay.payee.pricing import Order, Terms
from agentpay.payee.sales import Refusal
from agentpay.records import PayeeRecord
from agentpay.types import Address, Asset
from agentpay.wire import parallel, payment_identifier
from agentpay.wire import x402_write as write
from agentpay.wire.headers import JsonObject, encode_json
from agentpay.wire.parallel import ParallelTerms
from agentpay.wire.x402 import (
    BATCH_SETTLEMENT,
    EXACT,
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
)
from agentpay.wire.x402_terms import UPFRONT

ERROR_PREFIX = "invalid_batch_settlement_evm_"


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeeSettings:
    """The terms on which a payee is paid, the same for all its routes."""

    asset: Asset
    pay_to: Address
    authorizer: Address
    """Whose signature lets claims and refunds be sent by anyone."""
    withdraw_delay: int
    """Seconds between a payer's unilateral exit and the money leaving."""
    parallel: ParallelTerms
    min_deposit: int
    names: bool = False
    """Whether payers may name their payments (`payment-identifier`)."""
    max_timeout_seconds: int = 300


def make_offers(settings: PayeeSettings, terms: Terms) -> tuple[JsonObject, ...]:
    """The offers for a route, the ones its provider prefers first."""
    upfront = terms.order is Order.SETTLE_FIRST
    return _offers_at(settings, terms.maximum, terms.schemes, upfront)


@lru_cache(maxsize=4096)
def _offers_at(
    settings: PayeeSettings, maximum: int, schemes: tuple[str, ...], upfront: bool
) -> tuple[JsonObject, ...]:
    domain: JsonObject = {
        "name": settings.asset.name,
        "version": settings.asset.version,
    }
    channel: JsonObject = {
        **domain,
        "receiverAuthorizer": checksummed(settings.authorizer),
        "withdrawDelay": settings.withdraw_delay,
        "minDeposit": str(max(settings.min_deposit, maximum)),
    }
    # Said only where it is not "authorization", as the official SDKs do.
    flow: JsonObject = {"paymentFlow": UPFRONT} if upfront else {}
    extras = {BATCH_SETTLEMENT: channel, EXACT: {**domain, **flow}}
    return tuple(
        write.requirements(
            scheme=scheme,
            chain=settings.asset.chain,
            asset=settings.asset.address,
            amount=maximum,
            pay_to=settings.pay_to,
            max_timeout_seconds=settings.max_timeout_seconds,
            extra=extras[scheme],
        )
        for scheme in schemes
    )


def payment_required(
    settings: PayeeSettings,
    terms: Terms,
    *,
    error: str,
    receipt: JsonObject | None = None,
    corrective: JsonObject | None = None,
) -> Refusal:
    """A 402 with fresh offers; `corrective` is added to the channel offer's `extra`."""
    accepts = list(make_offers(settings, terms))
    if corrective is not None:
        accepts = [_with_extra(offer, corrective) for offer in accepts]
    extensions: JsonObject = {}
    if BATCH_SETTLEMENT in terms.schemes:
        extensions[parallel.KEY] = parallel.offer(settings.parallel)
    if settings.names:
        extensions[payment_identifier.KEY] = payment_identifier.offer()
    message = write.payment_required(
        url=terms.url, accepts=accepts, error=error, extensions=extensions
    )
    headers = {
        "content-type": "application/json",
        "cache-control": "no-store",
        PAYMENT_REQUIRED.lower(): encode_json(message),
    }
    if receipt is not None:
        headers[PAYMENT_RESPONSE.lower()] = encode_json(receipt)
    return Refusal(status=402, headers=headers, required=message)


def _with_extra(offer: JsonObject, more: JsonObject) -> JsonObject:
    extra = offer["extra"]
    if offer["scheme"] != BATCH_SETTLEMENT or not isinstance(extra, dict):
        return offer
    return {**offer, "extra": {**extra, **more}}


def problem(status: int, *, title: str, detail: str, payment: str = "") -> Refusal:
    """A refusal that is not a 402, with its reason and whose it is (RFC 9457)."""
    words = {"type": "about:blank", "title": title, "detail": detail}
    if payment:
        words["payment"] = payment
    headers = {
        "content-type": "application/problem+json",
        "cache-control": "no-store",
    }
    if status == 503:
        headers["retry-after"] = "1"
    return Refusal(status=status, headers=headers, body=to_json(words))


def answer(
    status: int, *, title: str, detail: str, receipt: JsonObject, payment: str = ""
) -> Refusal:
    """The same with a receipt: the payment is known here, and may come again."""
    refusal = problem(status, title=title, detail=detail, payment=payment)
    headers = {
        **refusal.headers,
        "retry-after": "1",
        PAYMENT_RESPONSE.lower(): encode_json(receipt),
    }
    return replace(refusal, headers=headers)


def to_json(message: object) -> bytes:
    """Compact JSON, as bytes."""
    return json.dumps(message, separators=(",", ":")).encode()


def channel_extra(
    record: PayeeRecord, *, cumulative: int, charged: int | None
) -> JsonObject:
    """What a receipt for one voucher says of its channel."""
    ledger = record.ledger
    extra: JsonObject = {
        "channelState": write.channel_state(
            channel=record.channel,
            balance=ledger.balance,
            claimed=ledger.claimed,
            withdraw_requested_at=1 if ledger.pending_withdrawal else 0,
            refund_nonce=record.refund_nonce,
            charged=ledger.receipt_total(cumulative),
        )
    }
    if charged is not None:
        extra["chargedAmount"] = str(charged)
    return extra


def corrective_extra(record: PayeeRecord) -> JsonObject:
    """What lets a payer of the specification's kind find its place again."""
    extra = channel_extra(record, cumulative=0, charged=None)
    latest = _latest(record.ledger)
    if latest is not None:
        extra["voucherState"] = {
            "signedMaxClaimable": str(latest[0]),
            "signature": "0x" + latest[1].hex(),
        }
    return extra


def _latest(ledger: PayeeChannel) -> tuple[int, bytes] | None:
    if not ledger.held:
        return None
    voucher = ledger.held[-1]
    return voucher.amount, voucher.signature
