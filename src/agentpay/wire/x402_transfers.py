"""
Signed transfers as x402 messages carry them, and what is wrong with one by itself.

Source: x402 `specs/schemes/exact/scheme_exact_evm.md` and `upto/scheme_upto_evm.md`;
the codes are those of the official SDKs.
"""

import json
from typing import Final

from agentpay.evm.charge_permit import ChargePermit
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.permit2 import PermitTransfer
from agentpay.evm.permit2_signed import Permit2Transfer
from agentpay.evm.transfer import TokenTransfer, Transfer
from agentpay.types import Address, Asset
from agentpay.wire import x402_write as write
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.kept import kept_charge, read_kept_charge
from agentpay.wire.x402 import (
    EXACT,
    UPTO,
    ExactPayload,
    Extension,
    PaymentPayload,
    Permit2Fields,
    Permit2Payload,
)
from agentpay.wire.x402_approvals import SignedApprovals, read_approvals

TransferPayload = ExactPayload | Permit2Payload

EXPIRY_MARGIN_SECONDS: Final = 6
"""A transfer that is about to expire may be refused by the block it is mined in."""


FACTORY_NOT_ALLOWED: Final = "eip6492_factory_not_allowed"
"""The code of a wallet that is not deployed, by a factory that is not listed."""


def wrong_terms(
    payload: TransferPayload,
    scheme: str,
    *,
    asset: Asset,
    pay_to: Address,
    amount: int,
    facilitator: Address | None,
) -> str | None:
    """
    The code of what is wrong with a payment of `amount` to `pay_to`, if anything is.

    `facilitator` is who would settle an `upto` payment.
    """
    if isinstance(payload, Permit2Payload):
        return _wrong_permit(
            payload.permit2_authorization,
            scheme,
            asset=asset,
            pay_to=pay_to,
            amount=amount,
            facilitator=facilitator,
        )
    if scheme != EXACT:
        return "unsupported_scheme"
    if payload.authorization.to != pay_to:
        return "invalid_exact_evm_payload_recipient_mismatch"
    if payload.authorization.value != amount:
        return "invalid_exact_evm_payload_authorization_value_mismatch"
    return None


def _wrong_permit(
    fields: Permit2Fields,
    scheme: str,
    *,
    asset: Asset,
    pay_to: Address,
    amount: int,
    facilitator: Address | None,
) -> str | None:
    if (fields.witness.facilitator is not None) != (scheme == UPTO):
        return "unsupported_scheme"
    if fields.spender != _transfer_of(fields).spender:
        return "invalid_permit2_spender"
    if fields.witness.to != pay_to:
        return "invalid_permit2_recipient_mismatch"
    if fields.witness.facilitator not in (None, facilitator):
        return "upto_facilitator_mismatch"
    if fields.permitted.token != asset.address:
        return "permit2_token_mismatch"
    if fields.permitted.amount != amount:
        return "permit2_amount_mismatch"
    return None


def read_transfer(
    payload: TransferPayload, asset: Asset, *, approvals: SignedApprovals | None = None
) -> Transfer:
    """The transfer of `asset` in a message in which `wrong_terms` found nothing."""
    if isinstance(payload, Permit2Payload):
        return Permit2Transfer(
            asset=asset,
            transfer=_transfer_of(payload.permit2_authorization),
            signature=payload.signature,
            permit=approvals.permit if approvals else None,
            approval=approvals.transaction if approvals else None,
        )
    fields = payload.authorization
    authorization = Authorization(
        payer=fields.payer,
        to=fields.to,
        value=fields.value,
        valid_after=fields.valid_after,
        valid_before=fields.valid_before,
        nonce=fields.nonce,
    )
    return TokenTransfer(
        asset=asset, authorization=authorization, signature=payload.signature
    )


def transfer_payload(transfer: Transfer) -> JsonObject:
    """
    A transfer as a message carries it.

    Raises:
        TypeError: It is of no kind that x402 has.
    """
    match transfer:
        case TokenTransfer():
            return write.exact_payload(transfer.authorization, transfer.signature)
        case Permit2Transfer():
            return write.permit2_payload(transfer.transfer, transfer.signature)
        case _:
            raise TypeError(f"x402 has no payload for a {type(transfer).__name__}")


def read_unsigned(payload: JsonObject, asset: Asset) -> Transfer:
    """The transfer of a payload that we wrote ourselves, before it was signed."""
    by_permit = "permit2Authorization" in payload
    model = Permit2Payload if by_permit else ExactPayload
    return read_transfer(model.model_validate(payload), asset)


def kept_transfer(transfer: Transfer) -> str:
    """A signed transfer as text, with what approves it, to be read by `read_kept`."""
    if isinstance(transfer, ChargePermit):
        return json.dumps({"charge": kept_charge(transfer)})
    words: JsonObject = {"payload": transfer_payload(transfer)}
    if isinstance(transfer, Permit2Transfer):
        approvals = SignedApprovals(
            permit=transfer.permit, transaction=transfer.approval
        )
        words["extensions"] = approvals.info(transfer.asset)
    return json.dumps(words)


def read_kept(text: str, asset: Asset) -> Transfer:
    """
    A transfer of `kept_transfer`.

    Raises:
        MalformedMessage: What approves it cannot be read.
    """
    words = json.loads(text)
    if "charge" in words:
        return read_kept_charge(words["charge"], asset)
    payload: JsonObject = words["payload"]
    if "permit2Authorization" not in payload:
        return read_transfer(ExactPayload.model_validate(payload), asset)
    signed = Permit2Payload.model_validate(payload)
    fields = signed.permit2_authorization
    extensions = {
        name: Extension.model_validate(value)
        for name, value in words["extensions"].items()
    }
    approvals = read_approvals(
        extensions,
        asset,
        payer=fields.payer,
        amount=fields.permitted.amount,
        sponsors=True,
    )
    return read_transfer(signed, asset, approvals=approvals)


def payment_id(payment: PaymentPayload, asset: Asset) -> str:
    """What a payment is called in what is said of it: its transfer or its voucher."""
    payload = payment.payload
    if isinstance(payload, ExactPayload | Permit2Payload):
        return read_transfer(payload, asset).id
    voucher = payload.voucher
    return f"voucher {voucher.channel_id} {voucher.max_claimable_amount}"


def _transfer_of(fields: Permit2Fields) -> PermitTransfer:
    return PermitTransfer(
        payer=fields.payer,
        token=fields.permitted.token,
        amount=fields.permitted.amount,
        nonce=fields.nonce,
        deadline=fields.deadline,
        to=fields.witness.to,
        valid_after=fields.witness.valid_after,
        facilitator=fields.witness.facilitator,
    )


def signature_code(transfer: Transfer) -> str:
    """The code of a signature that is not its payer's."""
    if isinstance(transfer, TokenTransfer):
        return "invalid_exact_evm_payload_signature"
    return "invalid_permit2_signature"


def wrong_time(
    transfer: Transfer,
    now: int,
    *,
    seconds_min: int = EXPIRY_MARGIN_SECONDS,
    seconds_max: int | None = None,
) -> str | None:
    """
    Whether a transfer is valid yet, for long enough from now, to be mined at least, and
    not for too long.
    """
    by_token = isinstance(transfer, TokenTransfer)
    prefix = "invalid_exact_evm_payload_authorization_valid_"
    if transfer.valid_after > now:
        return prefix + "after" if by_token else "permit2_not_yet_valid"
    if transfer.valid_before < now + seconds_min:
        return prefix + "before" if by_token else "permit2_deadline_expired"
    if seconds_max is not None and transfer.valid_before > now + seconds_max:
        return prefix + "before" if by_token else "permit2_deadline_too_far"
    return None
