"""
What a payee asks a facilitator, written; and the facilitator's answers, read.

Source: x402 `specs/x402-specification-v2.md` section 7, and "Facilitator Interface" of
`specs/schemes/batch-settlement/scheme_batch_settlement_evm.md`. The other way round it
is in `x402_facilitator`.
"""

import json
from collections.abc import Sequence
from typing import Final, TypeVar

from pydantic import BaseModel, Field, JsonValue, ValidationError

from agentpay.core.payee_channel import HeldVoucher
from agentpay.errors import InvariantViolated, MalformedMessage, MessageTooLarge
from agentpay.evm.batch_settlement import ChannelConfig, VoucherClaim, channel_id
from agentpay.evm.batch_settlement_abi import SignedRefund
from agentpay.evm.deposit import Deposit, TokenDeposit
from agentpay.evm.hashing import checksummed
from agentpay.evm.permit2_signed import Permit2Deposit, Permit2Transfer
from agentpay.evm.transfer import TokenTransfer, Transfer
from agentpay.types import Address, Asset, Hash32
from agentpay.wire import bazaar
from agentpay.wire import x402_write as write
from agentpay.wire.bazaar import Listing
from agentpay.wire.fields import HeardMessage, WireMessage
from agentpay.wire.headers import JsonObject, read_object
from agentpay.wire.x402 import (
    BATCH_SETTLEMENT,
    EXACT,
    PERMIT2,
    UPTO,
    VERSION,
)
from agentpay.wire.x402_approvals import SignedApprovals

ANSWER_BYTES_MAX: Final = 256 * 1024
_VALUES_MAX: Final = 4096
_TIMEOUT_SECONDS: Final = 300

M = TypeVar("M", bound=BaseModel)


class VerifyAnswer(HeardMessage):
    """Whether a payment would go through, as a facilitator says."""

    is_valid: bool = Field(strict=True)
    invalid_reason: str | None = None
    invalid_message: str | None = None


class SettleAnswer(HeardMessage):
    """What became of a payment, as a facilitator says."""

    success: bool = Field(strict=True)
    error_reason: str | None = None
    error_message: str | None = None
    transaction: str = Field(default="", max_length=256)
    network: str = Field(default="", max_length=64)

    @property
    def reason(self) -> str:
        """Why it failed, in a few printable words."""
        words = ": ".join(filter(None, (self.error_reason, self.error_message)))
        return "".join(c if c.isprintable() else "?" for c in words[:300])


class SupportedKind(WireMessage):
    """One thing that a facilitator does."""

    x402_version: int = Field(alias="x402Version")
    scheme: str = Field(max_length=64)
    network: str = Field(max_length=64)
    extra: dict[str, JsonValue] | None = None


class SupportedAnswer(WireMessage):
    """What a facilitator does."""

    kinds: list[SupportedKind] = Field(max_length=1024)

    def find(self, scheme: str, network: str) -> SupportedKind | None:
        """The kind for a scheme on a network."""
        for kind in self.kinds:
            if (kind.x402_version, kind.scheme, kind.network) == (
                VERSION,
                scheme,
                network,
            ):
                return kind
        return None


def parse_answer(model: type[M], body: bytes) -> M:
    """
    Read an answer of a facilitator.

    Raises:
        MalformedMessage: It is not one.
    """
    if len(body) > ANSWER_BYTES_MAX:
        raise MessageTooLarge(f"the facilitator answered {len(body)} bytes")
    message = read_object(body, name="the facilitator", values_max=_VALUES_MAX)
    try:
        return model.model_validate(message)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        raise MalformedMessage(f"{where}: {first['msg'][:200]}") from error


def to_body(request: JsonObject) -> bytes:
    """A request as it is sent."""
    return json.dumps(request, separators=(",", ":")).encode()


def transfer_request(
    transfer: Transfer, amount: int, listing: Listing | None = None
) -> JsonObject:
    """Verify or settle `amount` of a transfer; `listing` is for a catalogue."""
    asset, extra, approvals = transfer.asset, _domain(transfer.asset), None
    match transfer:
        case TokenTransfer():
            scheme = EXACT
            payload = write.exact_payload(transfer.authorization, transfer.signature)
        case Permit2Transfer():
            scheme = UPTO if transfer.facilitator else EXACT
            approvals = SignedApprovals(
                permit=transfer.permit, transaction=transfer.approval
            )
            payload = write.permit2_payload(transfer.transfer, transfer.signature)
            extra["assetTransferMethod"] = PERMIT2
            if transfer.facilitator is not None:
                extra["facilitatorAddress"] = checksummed(transfer.facilitator)
        case _:
            raise InvariantViolated(f"a transfer without a message: {type(transfer)}")
    wanted = _requirements(scheme, asset, amount, transfer.to, extra)
    # What was accepted is the maximum, also where less of `upto` is due.
    accepted = _requirements(scheme, asset, transfer.maximum, transfer.to, extra)
    extensions = approvals.info(asset) if approvals else None
    return _request(
        wanted, payload, accepted=accepted, extensions=extensions, listing=listing
    )


def deposit_request(
    deposit: Deposit, voucher: HeldVoucher, listing: Listing | None = None
) -> JsonObject:
    """Verify or settle a deposit, which comes with a voucher."""
    asset, approvals = deposit.asset, None
    price = listing.price if listing else voucher.amount
    wanted = _channel_requirements(deposit.config, asset, price)
    match deposit:
        case TokenDeposit():
            part = write.deposit_part(
                amount=deposit.amount,
                valid_after=deposit.valid_after,
                valid_before=deposit.valid_before,
                salt=deposit.salt,
                signature=deposit.signature,
            )
        case Permit2Deposit():
            part = write.permit2_deposit_part(deposit.permitted, deposit.signature)
            approvals = SignedApprovals(
                permit=deposit.permit, transaction=deposit.approval
            )
            extra = wanted["extra"]
            wanted["extra"] = {
                **(extra if isinstance(extra, dict) else {}),
                "assetTransferMethod": PERMIT2,
            }
        case _:
            raise InvariantViolated(f"a deposit without a message: {type(deposit)}")
    payload = _voucher("deposit", deposit.config, asset, voucher)
    payload["deposit"] = part
    extensions = approvals.info(asset) if approvals else None
    return _request(wanted, payload, extensions=extensions, listing=listing)


def listed_url(request: JsonObject) -> str:
    """The URL that a request tells a catalogue of; "" if it tells of none."""
    payment = request["paymentPayload"]
    resource = payment.get("resource") if isinstance(payment, dict) else None
    return str(resource["url"]) if isinstance(resource, dict) else ""


def claim_request(
    claims: Sequence[VoucherClaim], signature: bytes, asset: Asset
) -> JsonObject:
    """Record on chain what vouchers allow."""
    payload: JsonObject = {
        "type": "claim",
        "claims": _rows(claims),
        "claimAuthorizerSignature": _hex(signature),
    }
    return _request(_channel_requirements(claims[0].config, asset, 0), payload)


def settle_request(receiver: Address, asset: Asset) -> JsonObject:
    """Send a receiver all that was claimed for it."""
    payload: JsonObject = {
        "type": "settle",
        "receiver": checksummed(receiver),
        "token": checksummed(asset.address),
    }
    wanted = _requirements(BATCH_SETTLEMENT, asset, 0, receiver, _domain(asset))
    return _request(wanted, payload)


def refund_request(refund: SignedRefund, asset: Asset) -> JsonObject:
    """
    Claim what is due and give the rest back.

    The message has the channel's last voucher, which its claim has too, if there is
    one; without a claim nobody needs it, and it is empty.
    """
    voucher = HeldVoucher(amount=0, signature=b"")
    if refund.claims:
        last = refund.claims[-1]
        voucher = HeldVoucher(amount=last.max_claimable, signature=last.signature)
    payload = _voucher("refund", refund.config, asset, voucher)
    payload |= {
        "amount": str(refund.amount),
        "refundNonce": str(refund.nonce),
        "claims": _rows(refund.claims),
        "refundAuthorizerSignature": _hex(refund.signature),
    }
    if refund.claims:
        payload["claimAuthorizerSignature"] = _hex(refund.claims_signature)
    return _request(_channel_requirements(refund.config, asset, 0), payload)


def _request(
    wanted: JsonObject,
    payload: JsonObject,
    *,
    accepted: JsonObject | None = None,
    extensions: JsonObject | None = None,
    listing: Listing | None = None,
) -> JsonObject:
    """
    What goes to `/verify` and `/settle`.

    Its catalogue reads what is sold from the payment (`specs/extensions/bazaar.md`,
    "Facilitator Behavior"). It is told in our words: a payer may echo others.
    """
    payment: JsonObject = {
        "x402Version": VERSION,
        "accepted": accepted or wanted,
        "payload": payload,
    }
    said = dict(extensions or {})
    if listing is not None and listing.fits:
        payment["resource"] = listing.resource
        said[bazaar.KEY] = listing.extension
    if said:
        payment["extensions"] = said
    return {
        "x402Version": VERSION,
        "paymentPayload": payment,
        "paymentRequirements": wanted,
    }


def _requirements(
    scheme: str, asset: Asset, amount: int, pay_to: Address, extra: JsonObject
) -> JsonObject:
    return write.requirements(
        scheme=scheme,
        chain=asset.chain,
        asset=asset.address,
        amount=amount,
        pay_to=pay_to,
        max_timeout_seconds=_TIMEOUT_SECONDS,
        extra=extra,
    )


def _channel_requirements(
    config: ChannelConfig, asset: Asset, amount: int
) -> JsonObject:
    extra: JsonObject = {
        **_domain(asset),
        "receiverAuthorizer": checksummed(config.receiver_authorizer),
        "withdrawDelay": config.withdraw_delay,
    }
    return _requirements(BATCH_SETTLEMENT, asset, amount, config.receiver, extra)


def _domain(asset: Asset) -> JsonObject:
    return {"name": asset.name, "version": asset.version}


def _voucher(
    kind: str, config: ChannelConfig, asset: Asset, voucher: HeldVoucher
) -> JsonObject:
    channel: Hash32 = channel_id(config, asset.chain)
    return write.voucher_payload(
        kind, config, channel, voucher.amount, voucher.signature
    )


def _rows(claims: Sequence[VoucherClaim]) -> list[JsonValue]:
    return [
        {
            "voucher": {
                "channel": write.config_fields(claim.config),
                "maxClaimableAmount": str(claim.max_claimable),
            },
            "signature": _hex(claim.signature),
            "totalClaimed": str(claim.total_claimed),
        }
        for claim in claims
    ]


def _hex(signature: bytes) -> str:
    return "0x" + signature.hex()
