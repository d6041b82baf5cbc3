"""
Receipts of the `Payment` scheme: what an answer says of the payment.

Source: draft-httpauth-payment-00, "Payment-Receipt Header"; draft-evm-charge-00 and
draft-evm-session-00, "Receipt Generation". They stand on answers of 2xx only.
"""

from typing import Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agentpay.types import ChainId, Hash32
from agentpay.wire.fields import HashText, Uint128Text
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.encoding import decode_object, encode_object
from agentpay.wire.mpp.fields import ChainNumber, Message, TimeText, read
from agentpay.wire.mpp.timestamps import format_time

PAYMENT_RECEIPT: Final = "Payment-Receipt"


class Receipt(Message):
    """What every receipt says. Fields that we do not know are in `model_extra`."""

    model_config = ConfigDict(extra="allow")

    status: Literal["success"]
    method: str = Field(min_length=1, max_length=64)
    timestamp: TimeText
    reference: str = Field(min_length=1, max_length=1024)
    challenge_id: str | None = None
    external_id: str | None = None


class ChargeReceipt(Message):
    """A receipt of `evm/charge`; the official SDKs leave out the last three."""

    status: Literal["success"]
    method: Literal["evm"]
    timestamp: TimeText
    reference: HashText
    """The transaction that moved the money."""
    challenge_id: str | None = None
    chain_id: ChainNumber | None = None
    external_id: str | None = None


class SessionReceipt(Message):
    """A receipt of `evm/session`: where both sides' books now stand."""

    status: Literal["success"]
    method: Literal["evm"]
    intent: Literal["session"]
    timestamp: TimeText
    reference: HashText
    """The channel, once more."""
    challenge_id: str
    channel_id: HashText
    chain_id: ChainNumber
    accepted_cumulative: Uint128Text
    spent: Uint128Text
    units: int | None = Field(default=None, strict=True, ge=0)
    tx_hash: HashText | None = None
    confirmations: int | None = Field(default=None, strict=True, ge=0)

    @model_validator(mode="after")
    def _of_its_channel(self) -> Self:
        if self.reference != self.channel_id:
            raise ValueError("reference must be channelId")
        return self


R = TypeVar("R", bound=BaseModel)


def parse_receipt(header: str, model: type[R]) -> R:
    """
    Read a `Payment-Receipt` header as one of the kinds above.

    Raises:
        MessageTooLarge: More than 16 KiB.
        MalformedMessage: It is no such receipt.
    """
    return read(model, decode_object(header, name=PAYMENT_RECEIPT), PAYMENT_RECEIPT)


def format_receipt(receipt: JsonObject) -> str:
    """
    Write a `Payment-Receipt` header.

    Raises:
        ValueError: It has values that we do not write.
    """
    return encode_object(receipt)


def charge_receipt(
    *,
    challenge_id: str,
    chain: ChainId,
    transaction: Hash32,
    at: int,
    external_id: str | None = None,
) -> JsonObject:
    """What `evm/charge` says when money has moved."""
    receipt: JsonObject = {
        "method": "evm",
        "status": "success",
        "timestamp": format_time(at),
        "reference": str(transaction),
        "challengeId": challenge_id,
        "chainId": chain,
    }
    if external_id is not None:
        receipt["externalId"] = external_id
    return receipt


def session_receipt(
    *,
    challenge_id: str,
    chain: ChainId,
    channel: Hash32,
    accepted: int,
    spent: int,
    at: int,
    units: int | None = None,
    transaction: Hash32 | None = None,
) -> JsonObject:
    """What `evm/session` says after each paid request; `units` are this request's."""
    receipt: JsonObject = {
        "method": "evm",
        "intent": "session",
        "status": "success",
        "timestamp": format_time(at),
        "reference": str(channel),
        "challengeId": challenge_id,
        "channelId": str(channel),
        "chainId": chain,
        "acceptedCumulative": str(accepted),
        "spent": str(spent),
    }
    if units is not None:
        receipt["units"] = units
    if transaction is not None:
        receipt["txHash"] = str(transaction)
    return receipt
