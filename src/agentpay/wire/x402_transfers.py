"""
Signed transfers as x402 messages carry them, and what is wrong with one by itself.

Source: x402 `specs/schemes/exact/scheme_exact_evm.md` and `upto/scheme_upto_evm.md`;
the codes are those of the official SDKs.
"""

from typing import Final

from agentpay.errors import MalformedMessage
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.transfer import TokenTransfer, Transfer
from agentpay.types import Address, Asset
from agentpay.wire.x402 import EXACT, ExactPayload, PaymentPayload, Permit2Payload

EXPIRY_MARGIN_SECONDS: Final = 6
"""A transfer that is about to expire may be refused by the block it is mined in."""


def read_transfer(payload: ExactPayload | Permit2Payload, asset: Asset) -> Transfer:
    """
    The transfer of `asset` that a message carries; nothing of it is checked.

    Raises:
        MalformedMessage: It is made in a way that we do not know.
    """
    if isinstance(payload, Permit2Payload):
        raise MalformedMessage("payload: Permit2 is not known here")
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


def payment_id(payment: PaymentPayload, asset: Asset) -> str:
    """What a payment is called in what is said of it: its transfer or its voucher."""
    payload = payment.payload
    if isinstance(payload, ExactPayload | Permit2Payload):
        return read_transfer(payload, asset).id
    voucher = payload.voucher
    return f"voucher {voucher.channel_id} {voucher.max_claimable_amount}"


def signature_code(transfer: Transfer) -> str:
    """The code of a signature that is not its payer's."""
    if isinstance(transfer, TokenTransfer):
        return "invalid_exact_evm_payload_signature"
    return "invalid_permit2_signature"


def wrong_terms(
    transfer: Transfer, scheme: str, *, pay_to: Address, amount: int
) -> str | None:
    """Whether a transfer pays `amount` to `pay_to`, by a kind that `scheme` allows."""
    if isinstance(transfer, TokenTransfer):
        if scheme != EXACT:
            return "unsupported_scheme"
        if transfer.to != pay_to:
            return "invalid_exact_evm_payload_recipient_mismatch"
        if transfer.maximum != amount:
            return "invalid_exact_evm_payload_authorization_value_mismatch"
        return None
    return None


def wrong_time(transfer: Transfer, now: int) -> str | None:
    """Whether a transfer is valid yet, and for long enough to be mined."""
    plain = isinstance(transfer, TokenTransfer)
    if transfer.valid_after > now:
        return (
            "invalid_exact_evm_payload_authorization_valid_after"
            if plain
            else "permit2_not_yet_valid"
        )
    if transfer.valid_before < now + EXPIRY_MARGIN_SECONDS:
        return (
            "invalid_exact_evm_payload_authorization_valid_before"
            if plain
            else "permit2_deadline_expired"
        )
    return None
