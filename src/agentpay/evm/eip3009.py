"""
EIP-3009: transfers that a token lets its holder sign and anybody send.

Source: EIP-3009; the two struct types and their hashes are the ones that USDC uses.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from agentpay.evm.hashing import (
    address_word,
    domain_separator,
    keccak,
    type_hash,
    typed_digest,
    uint_word,
)
from agentpay.types import UINT256_MAX, Address, Asset, Hash32

_FIELDS = (
    "(address from,address to,uint256 value,uint256 validAfter,"
    "uint256 validBefore,bytes32 nonce)"
)
TRANSFER_TYPEHASH: Final = type_hash("TransferWithAuthorization" + _FIELDS)
RECEIVE_TYPEHASH: Final = type_hash("ReceiveWithAuthorization" + _FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """Permission to move `value` from one account to another once, within a time."""

    payer: Address
    to: Address
    value: int
    valid_after: int
    valid_before: int
    nonce: Hash32

    def __post_init__(self) -> None:
        for amount in (self.value, self.valid_after, self.valid_before):
            if not 0 <= amount <= UINT256_MAX:
                raise ValueError(f"{amount} is not a uint256")


@lru_cache(maxsize=256)
def token_separator(asset: Asset) -> bytes:
    """The EIP-712 domain separator that a token should have, as declared."""
    return domain_separator(
        name=asset.name,
        version=asset.version,
        chain=asset.chain,
        contract=asset.address,
    )


def _digest(kind: bytes, authorization: Authorization, asset: Asset) -> bytes:
    struct = keccak(
        kind
        + address_word(authorization.payer)
        + address_word(authorization.to)
        + uint_word(authorization.value)
        + uint_word(authorization.valid_after)
        + uint_word(authorization.valid_before)
        + authorization.nonce.to_bytes()
    )
    return typed_digest(token_separator(asset), struct)


def transfer_digest(authorization: Authorization, asset: Asset) -> bytes:
    """What a payer signs so that anyone may send this transfer."""
    return _digest(TRANSFER_TYPEHASH, authorization, asset)


def receive_digest(authorization: Authorization, asset: Asset) -> bytes:
    """What a payer signs so that only `to` itself may pull this transfer."""
    return _digest(RECEIVE_TYPEHASH, authorization, asset)
