"""Whether the signatures in a message are those of its payer."""

from dataclasses import replace

from agentpay.core.payee_channel import HeldVoucher
from agentpay.evm.batch_settlement import (
    ChannelConfig,
    channel_id,
    claim_batch_digest,
    voucher_digest,
)
from agentpay.evm.signature import is_signed_by_key
from agentpay.types import ZERO_ADDRESS, Asset
from agentpay.wire.x402 import (
    DepositPayload,
    ExactPayload,
    Permit2Payload,
    RefundPayload,
    VoucherPayload,
)
from agentpay.wire.x402_deposits import read_config, read_deposit
from agentpay.wire.x402_facilitator import (
    ClaimPayload,
    RefundOrder,
    SettlePayload,
    read_claims,
)
from agentpay.wire.x402_transfers import read_transfer

Signed = (
    ExactPayload
    | Permit2Payload
    | VoucherPayload
    | DepositPayload
    | RefundPayload
    | ClaimPayload
    | SettlePayload
    | RefundOrder
)


def rightly_signed(payload: Signed, asset: Asset) -> bool:
    """By keys alone: no payer of these tests has code."""
    match payload:
        case ExactPayload() | Permit2Payload():
            if isinstance(payload, Permit2Payload):
                token = payload.permit2_authorization.permitted.token
                asset = replace(asset, address=token)
            transfer = read_transfer(payload, asset)
            return is_signed_by_key(
                transfer.payer, transfer.digest(), transfer.signature
            )
        case SettlePayload():
            return False  # nobody signs these
        case ClaimPayload():
            claims = read_claims(payload.claims)
            authorizer = claims[0].config.receiver_authorizer
            signature = payload.claim_authorizer_signature or b""
            return is_signed_by_key(
                authorizer, claim_batch_digest(claims, asset.chain), signature
            )
        case _:
            config = read_config(payload.channel_config)
            voucher = HeldVoucher(
                amount=payload.voucher.max_claimable_amount,
                signature=payload.voucher.signature,
            )
            if not _voucher(config, voucher, asset):
                return False
            if not isinstance(payload, DepositPayload):
                return True
            by_permit = payload.deposit.authorization.permit2_authorization
            token = by_permit.permitted.token if by_permit else asset.address
            asset = replace(asset, address=token)
            deposit = read_deposit(payload, replace(config, token=token), asset)
            return is_signed_by_key(config.payer, deposit.digest(), deposit.signature)


def _voucher(config: ChannelConfig, voucher: HeldVoucher, asset: Asset) -> bool:
    named = config.payer_authorizer
    signer = config.payer if named == ZERO_ADDRESS else named
    channel = channel_id(config, asset.chain)
    digest = voucher_digest(channel, voucher.amount, asset.chain)
    return is_signed_by_key(signer, digest, voucher.signature)
