"""
x402 version 2 messages, written: plain dictionaries for `headers.encode_json`.

Addresses go out in EIP-55's mixed case, as the official SDKs write them.
"""

from functools import lru_cache

from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.hashing import checksummed
from agentpay.evm.permit2 import PermitDeposit, Permitted, PermitTransfer
from agentpay.types import Address, ChainId, Hash32, network_of
from agentpay.wire.headers import JsonObject, JsonValue
from agentpay.wire.x402 import VERSION

_mixed_case = lru_cache(maxsize=4096)(checksummed)


def requirements(
    *,
    scheme: str,
    chain: ChainId,
    asset: Address,
    amount: int,
    pay_to: Address,
    max_timeout_seconds: int,
    extra: JsonObject,
) -> JsonObject:
    """One offer."""
    return {
        "scheme": scheme,
        "network": network_of(chain),
        "asset": _mixed_case(asset),
        "amount": str(amount),
        "payTo": _mixed_case(pay_to),
        "maxTimeoutSeconds": max_timeout_seconds,
        "extra": extra,
    }


def resource(url: str, about: JsonObject | None) -> JsonObject:
    """What is sold; `about` is what is said of it beside its URL."""
    return {"url": url, "description": "", "mimeType": "", **(about or {})}


def payment_required(
    *,
    url: str,
    accepts: list[JsonObject],
    error: str,
    extensions: JsonObject,
    about: JsonObject | None = None,
) -> JsonObject:
    """A 402; `about` is what it says of the resource beside its URL."""
    offers: list[JsonValue] = [*accepts]
    message: JsonObject = {
        "x402Version": VERSION,
        "error": error,
        "resource": resource(url, about),
        "accepts": offers,
    }
    if extensions:
        message["extensions"] = extensions
    return message


def payment(
    *,
    accepted: JsonObject,
    payload: JsonObject,
    url: str,
    extensions: JsonObject,
    about: JsonObject | None = None,
) -> JsonObject:
    """What a client pays with; `about` is what its 402 said of the resource."""
    message: JsonObject = {
        "x402Version": VERSION,
        "payload": payload,
        "accepted": accepted,
        "resource": {"url": url, **(about or {})},
    }
    if extensions:
        message["extensions"] = extensions
    return message


def exact_payload(authorization: Authorization, signature: bytes) -> JsonObject:
    """`exact` by EIP-3009."""
    fields: JsonObject = {
        "from": _mixed_case(authorization.payer),
        "to": _mixed_case(authorization.to),
        "value": str(authorization.value),
        "validAfter": str(authorization.valid_after),
        "validBefore": str(authorization.valid_before),
        "nonce": str(authorization.nonce),
    }
    return {"authorization": fields, "signature": "0x" + signature.hex()}


def permit2_payload(transfer: PermitTransfer, signature: bytes) -> JsonObject:
    """`exact` or `upto` by Permit2."""
    witness: JsonObject = {
        "to": _mixed_case(transfer.to),
        "validAfter": str(transfer.valid_after),
    }
    if transfer.facilitator is not None:
        witness["facilitator"] = _mixed_case(transfer.facilitator)
    fields = _permit2_fields(transfer, transfer.spender)
    fields["witness"] = witness
    return {"permit2Authorization": fields, "signature": "0x" + signature.hex()}


def _permit2_fields(permitted: Permitted, spender: Address) -> JsonObject:
    return {
        "from": _mixed_case(permitted.payer),
        "permitted": {
            "token": _mixed_case(permitted.token),
            "amount": str(permitted.amount),
        },
        "spender": _mixed_case(spender),
        "nonce": str(permitted.nonce),
        "deadline": str(permitted.deadline),
    }


def config_fields(config: ChannelConfig) -> JsonObject:
    """The terms of a channel."""
    return {
        "payer": _mixed_case(config.payer),
        "payerAuthorizer": _mixed_case(config.payer_authorizer),
        "receiver": _mixed_case(config.receiver),
        "receiverAuthorizer": _mixed_case(config.receiver_authorizer),
        "token": _mixed_case(config.token),
        "withdrawDelay": config.withdraw_delay,
        "salt": str(config.salt),
    }


def voucher_payload(
    kind: str, config: ChannelConfig, channel: Hash32, amount: int, signature: bytes
) -> JsonObject:
    """`batch-settlement` of kind `voucher`, `deposit` (add its part) or `refund`."""
    voucher: JsonObject = {
        "channelId": str(channel),
        "maxClaimableAmount": str(amount),
        "signature": "0x" + signature.hex(),
    }
    return {"type": kind, "channelConfig": config_fields(config), "voucher": voucher}


def deposit_part(
    *,
    amount: int,
    valid_before: int,
    salt: Hash32,
    signature: bytes,
    valid_after: int = 0,
) -> JsonObject:
    """The `deposit` member of a deposit payload, by EIP-3009."""
    authorization: JsonObject = {
        "validAfter": str(valid_after),
        "validBefore": str(valid_before),
        "salt": str(salt),
        "signature": "0x" + signature.hex(),
    }
    return {
        "amount": str(amount),
        "authorization": {"erc3009Authorization": authorization},
    }


def permit2_deposit_part(deposit: PermitDeposit, signature: bytes) -> JsonObject:
    """The `deposit` member of a deposit payload, by Permit2."""
    authorization = _permit2_fields(deposit, deposit.spender)
    authorization["witness"] = {"channelId": str(deposit.channel)}
    authorization["signature"] = "0x" + signature.hex()
    return {
        "amount": str(deposit.amount),
        "authorization": {"permit2Authorization": authorization},
    }


def channel_state(
    *,
    channel: Hash32,
    balance: int,
    claimed: int,
    withdraw_requested_at: int,
    refund_nonce: int,
    charged: int,
) -> JsonObject:
    """A payee's picture of a channel."""
    return {
        "channelId": str(channel),
        "balance": str(balance),
        "totalClaimed": str(claimed),
        "withdrawRequestedAt": withdraw_requested_at,
        "refundNonce": str(refund_nonce),
        "chargedCumulativeAmount": str(charged),
    }


def receipt(
    *,
    success: bool,
    chain: ChainId,
    payer: str = "",
    transaction: str = "",
    amount: str | None = None,
    error: str | None = None,
    message: str = "",
    extra: JsonObject | None = None,
    extensions: JsonObject | None = None,
) -> JsonObject:
    """A receipt, or with `error` the reason why there is none."""
    words: JsonObject = {"success": success}
    if error is not None:
        words["errorReason"] = error
    if message:
        words["errorMessage"] = message
    if payer:
        words["payer"] = payer
    words["transaction"] = transaction
    words["network"] = network_of(chain)
    if amount is not None:
        words["amount"] = amount
    if extra:
        words["extra"] = extra
    if extensions:
        words["extensions"] = extensions
    return words
