"""
x402's `batch-settlement` channels on EVM: what a channel is, and what is signed.

Source: x402 `specs/schemes/batch-settlement/scheme_batch_settlement_evm.md`. The calls
and events of the contract are in `batch_settlement_abi`, which costs more to import.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from agentpay.evm.addresses import BATCH_SETTLEMENT
from agentpay.evm.hashing import (
    address_word,
    domain_separator,
    keccak,
    type_hash,
    typed_digest,
    uint_word,
)
from agentpay.types import UINT40_MAX, UINT128_MAX, Address, ChainId, Hash32

MIN_WITHDRAW_DELAY: Final = 900
MAX_WITHDRAW_DELAY: Final = 30 * 24 * 3600
REFUND_ALL: Final = UINT128_MAX
"""An amount to refund that the contract cuts to what is there."""

CHANNEL_CONFIG_TYPEHASH: Final = type_hash(
    "ChannelConfig(address payer,address payerAuthorizer,address receiver,"
    "address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)"
)
VOUCHER_TYPEHASH: Final = type_hash(
    "Voucher(bytes32 channelId,uint128 maxClaimableAmount)"
)
REFUND_TYPEHASH: Final = type_hash(
    "Refund(bytes32 channelId,uint256 nonce,uint128 amount)"
)
_CLAIM_ENTRY = (
    "ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
)
CLAIM_ENTRY_TYPEHASH: Final = type_hash(_CLAIM_ENTRY)
CLAIM_BATCH_TYPEHASH: Final = type_hash(
    "ClaimBatch(ClaimEntry[] claims)" + _CLAIM_ENTRY
)

PARALLEL_TAG: Final = keccak(b"agentpay parallel-vouchers v1")[:4]
"""The first bytes of the salt of a channel that serves requests in parallel."""
_TAGGED: Final = "0x" + PARALLEL_TAG.hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConfig:
    """The immutable terms of a channel; their hash is the channel's id."""

    payer: Address
    payer_authorizer: Address
    receiver: Address
    receiver_authorizer: Address
    token: Address
    withdraw_delay: int
    salt: Hash32

    def __post_init__(self) -> None:
        if not 0 <= self.withdraw_delay <= UINT40_MAX:
            raise ValueError(f"withdrawDelay {self.withdraw_delay} is not a uint40")

    @property
    def tagged(self) -> bool:
        """Whether both sides agreed, in the id itself, to serve in parallel."""
        return self.salt.startswith(_TAGGED)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherClaim:
    """One row of a claim: a payer's voucher, and how much of it is claimed."""

    config: ChannelConfig
    max_claimable: int
    signature: bytes
    total_claimed: int


@lru_cache(maxsize=64)
def separator(chain: ChainId) -> bytes:
    """The EIP-712 domain separator of the channel contract on a chain."""
    return domain_separator(
        name="x402 Batch Settlement",
        version="1",
        chain=chain,
        contract=BATCH_SETTLEMENT,
    )


@lru_cache(maxsize=4096)
def channel_id(config: ChannelConfig, chain: ChainId) -> Hash32:
    """The id of a channel: the EIP-712 digest of its terms."""
    struct = keccak(
        CHANNEL_CONFIG_TYPEHASH
        + address_word(config.payer)
        + address_word(config.payer_authorizer)
        + address_word(config.receiver)
        + address_word(config.receiver_authorizer)
        + address_word(config.token)
        + uint_word(config.withdraw_delay)
        + config.salt.to_bytes()
    )
    return Hash32.of(typed_digest(separator(chain), struct))


def voucher_digest(channel: Hash32, max_claimable: int, chain: ChainId) -> bytes:
    """What a payer signs to let a payee claim up to `max_claimable` in all."""
    struct = VOUCHER_TYPEHASH + bytes.fromhex(channel[2:]) + uint_word(max_claimable)
    return typed_digest(separator(chain), keccak(struct))


def refund_digest(channel: Hash32, *, nonce: int, amount: int, chain: ChainId) -> bytes:
    """What a receiver authorizer signs to give unclaimed money back."""
    words = channel.to_bytes() + uint_word(nonce) + uint_word(amount)
    return typed_digest(separator(chain), keccak(REFUND_TYPEHASH + words))


def claim_batch_digest(claims: Sequence[VoucherClaim], chain: ChainId) -> bytes:
    """What a receiver authorizer signs so that anyone may relay these claims."""
    entries = b"".join(
        keccak(
            CLAIM_ENTRY_TYPEHASH
            + channel_id(claim.config, chain).to_bytes()
            + uint_word(claim.max_claimable)
            + uint_word(claim.total_claimed)
        )
        for claim in claims
    )
    return typed_digest(
        separator(chain), keccak(CLAIM_BATCH_TYPEHASH + keccak(entries))
    )


def deposit_nonce(channel: Hash32, salt: Hash32) -> Hash32:
    """The EIP-3009 nonce that ties a deposit's authorization to one channel."""
    return Hash32.of(keccak(channel.to_bytes() + salt.to_bytes()))
