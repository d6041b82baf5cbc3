"""
Permit2: transfers of any token that its holder signs, and what x402 has signed with it.

A holder approves Permit2 once. From then on a signature moves tokens, once, and only
the spender that it names may use it. x402's spenders are contracts that obey the
witness, which is signed too: the payee, or the channel that is funded.

Source: Permit2's `SignatureTransfer`; x402 `scheme_exact_evm.md` (2), its siblings for
`upto` and `batch-settlement`, and `contracts/evm` for the types.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from agentpay.evm.addresses import (
    EXACT_PROXY,
    PERMIT2,
    PERMIT2_COLLECTOR,
    UPTO_PROXY,
)
from agentpay.evm.hashing import (
    address_word,
    domain_separator,
    keccak,
    type_hash,
    typed_digest,
    uint_word,
)
from agentpay.types import UINT256_MAX, Address, ChainId, Hash32

PERMITTED_TYPE: Final = "TokenPermissions(address token,uint256 amount)"
TRANSFER_TYPE: Final = (
    "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,"
    "uint256 nonce,uint256 deadline,"
)
_EXACT = "Witness(address to,uint256 validAfter)"
_UPTO = "Witness(address to,address facilitator,uint256 validAfter)"
_DEPOSIT = "DepositWitness(bytes32 channelId)"

TOKEN_PERMISSIONS_TYPEHASH: Final = type_hash(PERMITTED_TYPE)
EXACT_WITNESS_TYPEHASH: Final = type_hash(_EXACT)
UPTO_WITNESS_TYPEHASH: Final = type_hash(_UPTO)
DEPOSIT_WITNESS_TYPEHASH: Final = type_hash(_DEPOSIT)

# The types that a type refers to follow it in alphabetical order.
EXACT_TYPEHASH: Final = type_hash(
    TRANSFER_TYPE + "Witness witness)" + PERMITTED_TYPE + _EXACT
)
UPTO_TYPEHASH: Final = type_hash(
    TRANSFER_TYPE + "Witness witness)" + PERMITTED_TYPE + _UPTO
)
DEPOSIT_TYPEHASH: Final = type_hash(
    TRANSFER_TYPE + "DepositWitness witness)" + _DEPOSIT + PERMITTED_TYPE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Permitted:
    """What every transfer by Permit2 says, whoever its spender is."""

    payer: Address
    token: Address
    amount: int
    nonce: int
    """Any number that this payer has not used with Permit2; they have no order."""
    deadline: int
    """The last second in which it is valid."""

    def __post_init__(self) -> None:
        for number in (self.amount, self.nonce, self.deadline):
            _require_uint256(number)


@dataclass(frozen=True, slots=True, kw_only=True)
class PermitTransfer(Permitted):
    """
    Permission to pay `to`, once.

    Without a `facilitator` it is of the scheme `exact`: anyone may send it, and all of
    it. With one it is of the scheme `upto`: that one may send as much of it as it says.
    """

    to: Address
    valid_after: int
    """The first second in which it is valid."""
    facilitator: Address | None = None

    def __post_init__(self) -> None:
        Permitted.__post_init__(self)
        _require_uint256(self.valid_after)

    @property
    def spender(self) -> Address:
        """The contract that may use it."""
        return EXACT_PROXY if self.facilitator is None else UPTO_PROXY


@dataclass(frozen=True, slots=True, kw_only=True)
class PermitDeposit(Permitted):
    """Permission to fund `channel`, once; anyone may send it."""

    channel: Hash32

    @property
    def spender(self) -> Address:
        """The contract that may use it."""
        return PERMIT2_COLLECTOR


@lru_cache(maxsize=64)
def separator(chain: ChainId, contract: Address = PERMIT2) -> bytes:
    """The EIP-712 domain separator of Permit2 on a chain; it has no version."""
    return domain_separator(
        name="Permit2", version=None, chain=chain, contract=contract
    )


def transfer_digest(transfer: PermitTransfer, chain: ChainId) -> bytes:
    """What a payer signs so that a payment may be sent."""
    to, valid_after = address_word(transfer.to), uint_word(transfer.valid_after)
    if transfer.facilitator is None:
        witness = keccak(EXACT_WITNESS_TYPEHASH + to + valid_after)
        return witnessed_digest(
            EXACT_TYPEHASH, transfer, transfer.spender, witness, separator(chain)
        )
    facilitator = address_word(transfer.facilitator)
    witness = keccak(UPTO_WITNESS_TYPEHASH + to + facilitator + valid_after)
    return witnessed_digest(
        UPTO_TYPEHASH, transfer, transfer.spender, witness, separator(chain)
    )


def deposit_digest(deposit: PermitDeposit, chain: ChainId) -> bytes:
    """What a payer signs so that a channel may be funded."""
    witness = keccak(DEPOSIT_WITNESS_TYPEHASH + deposit.channel.to_bytes())
    return witnessed_digest(
        DEPOSIT_TYPEHASH, deposit, deposit.spender, witness, separator(chain)
    )


def witnessed_digest(
    kind: bytes, signed: Permitted, spender: Address, witness: bytes, domain: bytes
) -> bytes:
    """What a payer signs so that a spender may use a transfer with this witness."""
    permitted = keccak(
        TOKEN_PERMISSIONS_TYPEHASH
        + address_word(signed.token)
        + uint_word(signed.amount)
    )
    struct = keccak(
        kind
        + permitted
        + address_word(spender)
        + uint_word(signed.nonce)
        + uint_word(signed.deadline)
        + witness
    )
    return typed_digest(domain, struct)


def _require_uint256(number: int) -> None:
    if not 0 <= number <= UINT256_MAX:
        raise ValueError(f"{number} is not a uint256")
