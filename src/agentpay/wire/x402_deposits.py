"""
Signed deposits as `batch-settlement` messages carry them, and what is wrong with one.

Source: x402 `specs/schemes/batch-settlement/scheme_batch_settlement_evm.md`. Codes are
without the prefix that all of that scheme's have.
"""

from agentpay.errors import MalformedMessage
from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.evm.deposit import Deposit, TokenDeposit
from agentpay.types import Asset
from agentpay.wire.x402 import ConfigFields, DepositPayload


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


def read_deposit(
    payload: DepositPayload, config: ChannelConfig, asset: Asset
) -> Deposit:
    """
    The deposit that a message carries; nothing of it is checked.

    Raises:
        MalformedMessage: It is authorized in a way that we do not know.
    """
    fields = payload.deposit.authorization.erc3009_authorization
    if fields is None:
        raise MalformedMessage("deposit: authorized in no way that we know")
    return TokenDeposit(
        config=config,
        asset=asset,
        amount=payload.deposit.amount,
        valid_after=fields.valid_after,
        valid_before=fields.valid_before,
        salt=fields.salt,
        signature=fields.signature,
    )


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
