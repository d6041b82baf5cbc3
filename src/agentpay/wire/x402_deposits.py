"""
Signed deposits as `batch-settlement` messages carry them, and what is wrong with one.

Source: x402 `specs/schemes/batch-settlement/scheme_batch_settlement_evm.md`. Codes are
without the prefix that all of that scheme's have.
"""

from agentpay.errors import InvariantViolated
from agentpay.evm.addresses import PERMIT2_COLLECTOR
from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.evm.deposit import Deposit, TokenDeposit
from agentpay.evm.permit2_signed import Permit2Deposit
from agentpay.types import Asset, Hash32
from agentpay.wire import x402_write as write
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402 import ConfigFields, DepositPayload
from agentpay.wire.x402_approvals import SignedApprovals


def read_config(fields: ConfigFields) -> ChannelConfig:
    """The terms of a channel, from a message."""
    return ChannelConfig(
        payer=fields.payer,
        payer_authorizer=fields.payer_authorizer,
        receiver=fields.receiver,
        receiver_authorizer=fields.receiver_authorizer,
        token=fields.token,
        withdraw_delay=fields.withdraw_delay,
        salt=fields.salt,
    )


def wrong_deposit(
    payload: DepositPayload, config: ChannelConfig, channel: Hash32
) -> str | None:
    """The code of what is wrong with a deposit for a channel; None if nothing is."""
    fields = payload.deposit.authorization.permit2_authorization
    if fields is None:
        return None
    if fields.spender != PERMIT2_COLLECTOR:
        return "permit2_invalid_spender"
    if fields.payer != config.payer or fields.permitted.token != config.token:
        return "token_mismatch"
    if fields.permitted.amount != payload.deposit.amount:
        return "permit2_amount_mismatch"
    if fields.witness.channel_id != channel:
        return "channel_id_mismatch"
    return None


def read_deposit(
    payload: DepositPayload,
    config: ChannelConfig,
    asset: Asset,
    *,
    approvals: SignedApprovals | None = None,
) -> Deposit:
    """The deposit in a message in which `wrong_deposit` found nothing."""
    authorization = payload.deposit.authorization
    if (by_permit := authorization.permit2_authorization) is not None:
        return Permit2Deposit(
            config=config,
            asset=asset,
            amount=payload.deposit.amount,
            nonce=by_permit.nonce,
            deadline=by_permit.deadline,
            signature=by_permit.signature,
            permit=approvals.permit if approvals else None,
            approval=approvals.transaction if approvals else None,
        )
    fields = authorization.erc3009_authorization
    if fields is None:
        raise InvariantViolated("a deposit is authorized in one of two ways")
    return TokenDeposit(
        config=config,
        asset=asset,
        amount=payload.deposit.amount,
        valid_after=fields.valid_after,
        valid_before=fields.valid_before,
        salt=fields.salt,
        signature=fields.signature,
    )


def deposit_part(deposit: Deposit, signature: bytes) -> JsonObject:
    """
    A deposit as a message carries it, under this signature.

    Raises:
        TypeError: It is of no kind that x402 has.
    """
    match deposit:
        case TokenDeposit():
            return write.deposit_part(
                amount=deposit.amount,
                valid_before=deposit.valid_before,
                salt=deposit.salt,
                signature=signature,
            )
        case Permit2Deposit():
            return write.permit2_deposit_part(deposit.permitted, signature)
        case _:
            raise TypeError(f"x402 has no payload for a {type(deposit).__name__}")


def deposit_signature_code(deposit: Deposit) -> str:
    """The code of a signature that is not its payer's."""
    plain = isinstance(deposit, TokenDeposit)
    return "receive_authorization_signature" if plain else "permit2_invalid_signature"


def wrong_time(deposit: Deposit, now: int) -> str | None:
    """Whether a deposit is valid yet, and still."""
    plain = isinstance(deposit, TokenDeposit)
    if deposit.valid_after > now:
        return "payload_authorization_valid_after"
    if deposit.valid_before <= now:
        late = "payload_authorization_valid_before"
        return late if plain else "permit2_deadline_expired"
    return None
