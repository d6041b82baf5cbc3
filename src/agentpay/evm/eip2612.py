"""
EIP-2612: allowances that a token's holder signs and anybody sends.

x402 uses it to approve Permit2 without the holder's gas
(`specs/extensions/eip2612_gas_sponsoring.md`). The specification says "typically
MaxUint"; what the contracts take is the amount of the payment and no other.

Source: EIP-2612.
"""

from dataclasses import dataclass
from typing import Final

from agentpay.evm.eip3009 import token_separator
from agentpay.evm.hashing import (
    address_word,
    keccak,
    type_hash,
    typed_digest,
    uint_word,
)
from agentpay.evm.signature import check_form
from agentpay.types import UINT256_MAX, Address, Asset

PERMIT_TYPEHASH: Final = type_hash(
    "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """Permission for `spender` to take `value` from `owner`."""

    owner: Address
    spender: Address
    value: int
    nonce: int
    """The owner's next one in this token; they are used in order."""
    deadline: int
    """The last second in which it is valid."""

    def __post_init__(self) -> None:
        for number in (self.value, self.nonce, self.deadline):
            if not 0 <= number <= UINT256_MAX:
                raise ValueError(f"{number} is not a uint256")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedPermit:
    """A permit with a key's signature: the form that every EIP-2612 token takes."""

    permit: Permit
    signature: bytes

    def __post_init__(self) -> None:
        check_form(self.signature)

    @property
    def r(self) -> bytes:
        return self.signature[:32]

    @property
    def s(self) -> bytes:
        return self.signature[32:64]

    @property
    def v(self) -> int:
        return self.signature[64]


def permit_digest(permit: Permit, asset: Asset) -> bytes:
    """What an owner signs to set an allowance."""
    struct = keccak(
        PERMIT_TYPEHASH
        + address_word(permit.owner)
        + address_word(permit.spender)
        + uint_word(permit.value)
        + uint_word(permit.nonce)
        + uint_word(permit.deadline)
    )
    return typed_digest(token_separator(asset), struct)
