"""
The extension `erc20ApprovalGasSponsoring`: a payer signs a whole transaction that
approves Permit2, and whoever settles pays its gas and sends it before the payment.

Source: x402 `specs/extensions/erc20_gas_sponsoring.md`. Official clients approve
without limit; that is their payers' risk and not ours, so any amount that covers the
payment is taken. Our own payer approves the payment's amount.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import Field, ValidationError

from agentpay.errors import MalformedMessage
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.approval import SignedApproval, read_approval
from agentpay.evm.eip2612 import SignedPermit
from agentpay.types import Address, Asset
from agentpay.wire.fields import AddressText, SignatureText, Uint256Text, WireMessage
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402 import Extension
from agentpay.wire.x402_sponsoring import permit_info, read_permit

APPROVAL_KEY: Final = "erc20ApprovalGasSponsoring"

_ADDRESS: Final[JsonObject] = {"type": "string", "pattern": "^0x[a-fA-F0-9]{40}$"}
_PROPERTIES: Final[JsonObject] = {
    "from": _ADDRESS,
    "asset": _ADDRESS,
    "spender": _ADDRESS,
    "amount": {"type": "string", "pattern": "^[0-9]+$"},
    "signedTransaction": {"type": "string", "pattern": "^0x[a-fA-F0-9]+$"},
    "version": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)*$"},
}
_SCHEMA: Final[JsonObject] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": _PROPERTIES,
    "required": list(_PROPERTIES),
}


def offer() -> JsonObject:
    """The extension as a 402 carries it."""
    description = "A signed approval of Permit2 is sent first, and its gas is paid."
    return {"info": {"description": description, "version": "1"}, "schema": _SCHEMA}


class ApprovalInfo(WireMessage):
    """A signed transaction that approves Permit2, as a payment carries it."""

    owner: AddressText = Field(alias="from")
    asset: AddressText
    spender: AddressText
    amount: Uint256Text
    signed_transaction: SignatureText
    version: str = Field(max_length=32)


def read_signed_approval(
    extensions: Mapping[str, Extension], asset: Asset, *, payer: Address, amount: int
) -> SignedApproval | None:
    """
    The approval that goes along with a payment of `amount`; None if there is none.

    Raises:
        MalformedMessage: It is another transaction, or not of this payment.
    """
    extension = extensions.get(APPROVAL_KEY)
    if extension is None or "signedTransaction" not in extension.info:
        return None
    try:
        info = ApprovalInfo.model_validate(extension.info)
        signed = read_approval(info.signed_transaction)
    except ValidationError as error:
        raise MalformedMessage(f"{APPROVAL_KEY}: not a signed approval") from error
    except ValueError as error:
        raise MalformedMessage(f"{APPROVAL_KEY}: {error}") from error
    approval = signed.approval
    said = info.owner, info.asset, info.spender, info.amount
    if said != (payer, asset.address, PERMIT2, approval.amount):
        raise MalformedMessage(f"{APPROVAL_KEY}: it is not what its info says")
    if (approval.chain, approval.token) != (asset.chain, asset.address):
        raise MalformedMessage(f"{APPROVAL_KEY}: it approves another token")
    if signed.owner != payer:
        raise MalformedMessage(f"{APPROVAL_KEY}: the signature is not of {payer}")
    if approval.amount < amount:
        raise MalformedMessage(
            f"{APPROVAL_KEY}: it approves {approval.amount}, the payment is {amount}"
        )
    return signed


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedApprovals:
    """What comes along with a payment to approve Permit2, of either kind."""

    permit: SignedPermit | None = None
    transaction: SignedApproval | None = None

    def info(self, asset: Asset) -> JsonObject:
        """The extensions as a payment carries them."""
        info: JsonObject = {}
        if self.permit is not None:
            info |= permit_info(self.permit, asset)
        if self.transaction is not None:
            info |= approval_info(self.transaction)
        return info


def read_approvals(
    extensions: Mapping[str, Extension],
    asset: Asset,
    *,
    payer: Address,
    amount: int,
    sponsors: bool,
) -> SignedApprovals:
    """
    What approves Permit2 for a payment; transactions only for one that `sponsors` them.

    Raises:
        MalformedMessage: It is none, or not of this payment.
    """
    permit = read_permit(extensions, asset, payer=payer, amount=amount)
    if permit is not None or not sponsors:
        return SignedApprovals(permit=permit)
    found = read_signed_approval(extensions, asset, payer=payer, amount=amount)
    return SignedApprovals(transaction=found)


def approval_info(signed: SignedApproval) -> JsonObject:
    """The extension as a payment carries it."""
    info: JsonObject = {
        "from": str(signed.owner),
        "asset": str(signed.approval.token),
        "spender": str(PERMIT2),
        "amount": str(signed.approval.amount),
        "signedTransaction": "0x" + signed.raw.hex(),
        "version": "1",
    }
    return {APPROVAL_KEY: {"info": info}}
