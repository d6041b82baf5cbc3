"""
What a payee offers and how it refuses: the 402 and its kin, ready to send.
"""

import json
from dataclasses import dataclass, field
from functools import lru_cache

from agentpay.core.payee_channel import PayeeChannel
from agentpay.errors import ChainError, StoreError
from agentpay.evm.hashing import checksummed
from agentpay.payee.finality import FinalAmounts
from agentpay.payee.pricing import Order, Terms
from agentpay.payee.sales import Refusal
from agentpay.records import PayeeRecord
from agentpay.stream_errors import StreamLost
from agentpay.types import Address, Asset, ChainId
from agentpay.wire import bazaar, parallel, payment_identifier, sign_in
from agentpay.wire import x402_approvals as approvals
from agentpay.wire import x402_sponsoring as sponsoring
from agentpay.wire import x402_write as write
from agentpay.wire.headers import JsonObject, encode_json
from agentpay.wire.parallel import ParallelTerms
from agentpay.wire.x402 import (
    BATCH_SETTLEMENT,
    EIP3009,
    EXACT,
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    PERMIT2,
    UPTO,
    PaymentPayload,
)
from agentpay.wire.x402_fitting import fit_required
from agentpay.wire.x402_terms import UPFRONT, accepted_offer, is_for

_HOUR_SECONDS = 3600
ERROR_PREFIX = "invalid_batch_settlement_evm_"
NO_PAYMENT = "Payment required"
"""What a 402 says where nothing was paid with."""


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
    transfer_methods: tuple[str, ...] = (EIP3009,)
    """How payers may sign transfers and deposits, the preferred way first."""
    facilitator: Address | None = None
    """Who settles `upto`, and alone may; None where nobody does."""
    sponsors_approvals: bool = False
    """Whether it pays for payers' approvals of Permit2, sent by themselves."""
    wallet_factories: frozenset[Address] = frozenset()
    """Who makes the wallets of payers that are not deployed yet (ERC-6492)."""
    escrow: Address | None = None
    """Where the sessions of MPP are; None where none are sold."""
    max_timeout_seconds: int = 300
    exposure_max: int | None = None
    """The most that may be unclaimed on one channel; None is any amount."""
    finality: FinalAmounts = field(default_factory=FinalAmounts)
    """How deep a deposit is to be before all of it may be spent."""

    @property
    def valid_seconds_max(self) -> int:
        """For how long a transfer may be valid: some clients always sign an hour."""
        return self.max_timeout_seconds + _HOUR_SECONDS


_UPFRONT: JsonObject = {"paymentFlow": UPFRONT}


def make_offers(settings: PayeeSettings, terms: Terms) -> tuple[JsonObject, ...]:
    """The offers for a route, the ones its provider prefers first."""
    upfront = terms.order is Order.SETTLE_FIRST
    return _offers_at(settings, terms.maximum, terms.schemes, upfront)


def accepted(
    settings: PayeeSettings, payment: PaymentPayload, terms: Terms
) -> JsonObject | None:
    """The offer for a route that a payment accepts, if it is a payment for that."""
    if not is_for(payment.resource, terms.url, bound=terms.bound):
        return None
    return accepted_offer(payment, make_offers(settings, terms))


@lru_cache(maxsize=4096)
def _offers_at(
    settings: PayeeSettings, maximum: int, schemes: tuple[str, ...], upfront: bool
) -> tuple[JsonObject, ...]:
    return tuple(
        write.requirements(
            scheme=scheme,
            chain=settings.asset.chain,
            asset=settings.asset.address,
            amount=maximum,
            pay_to=settings.pay_to,
            max_timeout_seconds=settings.max_timeout_seconds,
            extra={
                **_extra(settings, maximum, scheme, method),
                # Said only where it is not "authorization", as the official SDKs do.
                **(_UPFRONT if upfront and scheme == EXACT else {}),
            },
        )
        for scheme in schemes
        for method in _methods(settings, scheme)
    )


def _methods(settings: PayeeSettings, scheme: str) -> tuple[str, ...]:
    if scheme != UPTO:
        return settings.transfer_methods
    return (PERMIT2,) if settings.facilitator is not None else ()


def _extra(
    settings: PayeeSettings, maximum: int, scheme: str, method: str
) -> JsonObject:
    extra: JsonObject = {}
    if settings.asset.name:
        extra["name"] = settings.asset.name
        extra["version"] = settings.asset.version
    if method != EIP3009:
        extra["assetTransferMethod"] = method
    if scheme == UPTO and settings.facilitator is not None:
        extra["facilitatorAddress"] = checksummed(settings.facilitator)
    if scheme == BATCH_SETTLEMENT:
        extra["receiverAuthorizer"] = checksummed(settings.authorizer)
        extra["withdrawDelay"] = settings.withdraw_delay
        extra["minDeposit"] = str(max(settings.min_deposit, maximum))
    return extra


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
    if terms.challenge is not None:
        extensions[sign_in.KEY] = terms.challenge
    if terms.listing is not None:
        extensions[bazaar.KEY] = terms.listing
    if settings.names:
        extensions[payment_identifier.KEY] = payment_identifier.offer()
    by_permit = PERMIT2 in settings.transfer_methods or UPTO in terms.schemes
    if by_permit and settings.asset.name:
        extensions[sponsoring.EIP2612_KEY] = sponsoring.offer()
    if by_permit and settings.sponsors_approvals:
        extensions[approvals.APPROVAL_KEY] = approvals.offer()
    message, required = fit_required(
        write.payment_required(
            url=terms.url,
            about=terms.about.resource() if terms.about else None,
            accepts=accepts,
            error=error,
            extensions=extensions,
        )
    )
    headers = {
        "content-type": "application/json",
        "cache-control": "no-store",
        PAYMENT_REQUIRED.lower(): required,
    }
    if receipt is not None:
        headers[PAYMENT_RESPONSE.lower()] = encode_json(receipt)
    return Refusal(status=402, headers=headers, required=message)


def _with_extra(offer: JsonObject, more: JsonObject) -> JsonObject:
    extra = offer["extra"]
    if offer["scheme"] != BATCH_SETTLEMENT or not isinstance(extra, dict):
        return offer
    return {**offer, "extra": {**extra, **more}}


def answer(
    status: int, *, title: str, detail: str, receipt: JsonObject, payment: str = ""
) -> Refusal:
    """
    A refusal that is not a 402: its reason and whose payment it is about (RFC 9457),
    and a receipt, by which a payer tells it from an application's own answer.
    """
    words = {"type": "about:blank", "title": title, "detail": detail}
    if payment:
        words["payment"] = payment
    headers = {
        "content-type": "application/problem+json",
        "cache-control": "no-store",
        PAYMENT_RESPONSE.lower(): encode_json(receipt),
    }
    if status in (409, 503):
        headers["retry-after"] = "1"
    return Refusal(status=status, headers=headers, body=to_json(words))


def malformed(detail: str, chain: ChainId) -> Refusal:
    """What cannot be read buys nothing, and says why."""
    receipt = write.receipt(success=False, chain=chain, error="invalid_payload")
    return answer(400, title="Malformed payment", detail=detail, receipt=receipt)


def unavailable(
    error: ChainError | StoreError | StreamLost, chain: ChainId, *, payment: str = ""
) -> Refusal:
    """What cannot be known now is a 503: a 402 would mean that nothing moved."""
    receipt = write.receipt(success=False, chain=chain, error="payment_unavailable")
    return answer(
        503,
        title="Payments cannot be checked now",
        detail=f"{error.code}: send the same request again",
        receipt=receipt,
        payment=payment,
    )


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
            withdraw_requested_at=record.withdrawal_started,
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


def may_correct(ledger: PayeeChannel, cumulative: int) -> bool:
    """
    Whether a voucher is told where its channel stands, and the latest one's signature.

    By one that the chain shows anybody would learn that; unless the latest is no secret
    either, as of a payer that lost an answer before its claim.
    """
    if ledger.tagged:
        return False
    latest = _latest(ledger)
    told = latest is None or ledger.is_public(latest[0])
    no_secret = told and ledger.charged <= ledger.claimed
    return no_secret or not ledger.is_public(cumulative)


def _latest(ledger: PayeeChannel) -> tuple[int, bytes] | None:
    if not ledger.held:
        return None
    voucher = ledger.held[-1]
    return voucher.amount, voucher.signature
