"""
The extension `eip2612GasSponsoring`: a payer signs its approval of Permit2, and whoever
settles sends it along, so that the payer needs no gas.

Source: x402 `specs/extensions/eip2612_gas_sponsoring.md`. The specification's example
approves without limit; here an approval is for the payment's amount and no more.
"""

from collections.abc import Mapping
from typing import Final

from pydantic import Field, ValidationError

from agentpay.errors import MalformedMessage
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.eip2612 import Permit, SignedPermit, permit_digest
from agentpay.evm.signature import BadSignature, is_signed_by_key
from agentpay.types import Address, Asset
from agentpay.wire.fields import AddressText, SignatureText, Uint256Text, WireMessage
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402 import Extension

EIP2612_KEY: Final = "eip2612GasSponsoring"

_ADDRESS: Final[JsonObject] = {"type": "string", "pattern": "^0x[a-fA-F0-9]{40}$"}
_NUMBER: Final[JsonObject] = {"type": "string", "pattern": "^[0-9]+$"}
_SCHEMA: Final[JsonObject] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "from": _ADDRESS,
        "asset": _ADDRESS,
        "spender": _ADDRESS,
        "amount": _NUMBER,
        "nonce": _NUMBER,
        "deadline": _NUMBER,
        "signature": {"type": "string", "pattern": "^0x[a-fA-F0-9]+$"},
        "version": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)*$"},
    },
    "required": [
        "from",
        "asset",
        "spender",
        "amount",
        "nonce",
        "deadline",
        "signature",
        "version",
    ],
}


def offer() -> JsonObject:
    """The extension as a 402 carries it."""
    description = "The approval of Permit2 is sent along with the payment."
    return {"info": {"description": description, "version": "1"}, "schema": _SCHEMA}


class PermitInfo(WireMessage):
    """An approval of Permit2 as a payment carries it."""

    owner: AddressText = Field(alias="from")
    asset: AddressText
    spender: AddressText
    amount: Uint256Text
    nonce: Uint256Text
    deadline: Uint256Text
    signature: SignatureText
    version: str = Field(max_length=32)


def read_permit(
    extensions: Mapping[str, Extension], asset: Asset, *, payer: Address, amount: int
) -> SignedPermit | None:
    """
    The approval that goes along with a payment; None if there is none.

    Raises:
        MalformedMessage: It is not one, or not of this payment.
    """
    extension = extensions.get(EIP2612_KEY)
    if extension is None or "signature" not in extension.info:
        return None
    try:
        info = PermitInfo.model_validate(extension.info)
        permit = Permit(
            owner=info.owner,
            spender=info.spender,
            value=info.amount,
            nonce=info.nonce,
            deadline=info.deadline,
        )
        signed = SignedPermit(permit=permit, signature=info.signature)
    except (ValidationError, BadSignature) as error:
        raise MalformedMessage(f"{EIP2612_KEY}: not a signed permit") from error
    if (info.owner, info.asset, info.spender) != (payer, asset.address, PERMIT2):
        raise MalformedMessage(f"{EIP2612_KEY}: not an approval of Permit2 by {payer}")
    if info.amount != amount:
        raise MalformedMessage(
            f"{EIP2612_KEY}: it approves {info.amount}, the payment is {amount}"
        )
    if not is_signed_by_key(payer, permit_digest(permit, asset), info.signature):
        raise MalformedMessage(f"{EIP2612_KEY}: the signature is not of {payer}")
    return signed


def permit_info(signed: SignedPermit, asset: Asset) -> JsonObject:
    """The extension as a payment carries it."""
    permit = signed.permit
    info: JsonObject = {
        "from": str(permit.owner),
        "asset": str(asset.address),
        "spender": str(permit.spender),
        "amount": str(permit.value),
        "nonce": str(permit.nonce),
        "deadline": str(permit.deadline),
        "signature": "0x" + signed.signature.hex(),
        "version": "1",
    }
    return {EIP2612_KEY: {"info": info}}
