"""
MPP's `evm/session` channels and `evm/charge` nonces: what is hashed and signed.

Source: draft-evm-session-00, "Channel State", "Voucher Signing Format", "Payee-
initiated functions" and "Open Payload"; draft-evm-charge-00, "Challenge Binding". The
calls and events of the contract are in `session_escrow_abi`.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from agentpay.evm import permit2
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.batch_settlement import PARALLEL_TAG
from agentpay.evm.hashing import (
    address_word,
    domain_separator,
    keccak,
    type_hash,
    typed_digest,
    uint_word,
)
from agentpay.evm.permit2 import (
    PERMITTED_TYPE,
    TRANSFER_TYPE,
    Permitted,
    witnessed_digest,
)
from agentpay.types import (
    UINT128_MAX,
    ZERO_ADDRESS,
    Address,
    ChainId,
    Hash32,
)

GRACE_SECONDS_MIN: Final = 600
"""The shortest time between `requestClose` and `withdraw` that a payee may accept."""

VOUCHER_TYPEHASH: Final = type_hash(
    "Voucher(bytes32 channelId,uint128 cumulativeAmount)"
)
_PAYEE_FIELDS = (
    "(bytes32 channelId,uint128 cumulativeAmount,uint256 nonce,uint256 deadline)"
)
SETTLE_TYPEHASH: Final = type_hash("SettleAuthorization" + _PAYEE_FIELDS)
CLOSE_TYPEHASH: Final = type_hash("CloseAuthorization" + _PAYEE_FIELDS)

_OPEN_WITNESS = (
    "ChannelOpenWitness(address payee,bytes32 salt,address authorizedSigner)"
)
_TOP_UP_WITNESS = "ChannelTopUpWitness(bytes32 channelId)"
OPEN_WITNESS_TYPEHASH: Final = type_hash(_OPEN_WITNESS)
TOP_UP_WITNESS_TYPEHASH: Final = type_hash(_TOP_UP_WITNESS)
OPEN_WITNESS_TYPE: Final = (
    "ChannelOpenWitness witness)" + _OPEN_WITNESS + PERMITTED_TYPE
)
"""What a contract hands to Permit2 beside the witness."""
TOP_UP_WITNESS_TYPE: Final = (
    "ChannelTopUpWitness witness)" + _TOP_UP_WITNESS + PERMITTED_TYPE
)
_OPEN_PERMIT_TYPEHASH = type_hash(TRANSFER_TYPE + OPEN_WITNESS_TYPE)
_TOP_UP_PERMIT_TYPEHASH = type_hash(TRANSFER_TYPE + TOP_UP_WITNESS_TYPE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTerms:
    """The immutable terms of a channel; with contract and chain they are its id."""

    payer: Address
    payee: Address
    token: Address
    salt: Hash32
    authorized_signer: Address = ZERO_ADDRESS
    """The zero address leaves signing to the payer; both are not one channel."""

    @property
    def signer(self) -> Address:
        """Whose vouchers count."""
        delegated = self.authorized_signer != ZERO_ADDRESS
        return self.authorized_signer if delegated else self.payer


@dataclass(frozen=True, slots=True, kw_only=True)
class Escrow:
    """The escrow contract of a session, on its chain."""

    chain: ChainId
    contract: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """Everything that a session's id is the hash of."""

    terms: SessionTerms
    escrow: Escrow

    @property
    def channel(self) -> Hash32:
        """The id of the session."""
        return channel_id(self.terms, self.escrow)

    @property
    def payer(self) -> Address:
        return self.terms.payer

    @property
    def tagged(self) -> bool:
        """Whether both sides agreed, in the id itself, to serve in parallel."""
        return self.terms.salt.startswith("0x" + PARALLEL_TAG.hex())


@lru_cache(maxsize=256)
def separator(escrow: Escrow) -> bytes:
    """The EIP-712 domain separator of an escrow contract."""
    return domain_separator(
        name="EVM Payment Channel",
        version="1",
        chain=escrow.chain,
        contract=escrow.contract,
    )


@lru_cache(maxsize=4096)
def channel_id(terms: SessionTerms, escrow: Escrow) -> Hash32:
    """The id of a channel: the hash of its terms, contract and chain."""
    return Hash32.of(
        keccak(
            address_word(terms.payer)
            + address_word(terms.payee)
            + address_word(terms.token)
            + terms.salt.to_bytes()
            + address_word(terms.authorized_signer)
            + address_word(escrow.contract)
            + uint_word(escrow.chain)
        )
    )


def voucher_digest(channel: Hash32, cumulative: int, escrow: Escrow) -> bytes:
    """What a payer signs to let a payee settle up to `cumulative` in all."""
    struct = VOUCHER_TYPEHASH + bytes.fromhex(channel[2:]) + _uint128_word(cumulative)
    return typed_digest(separator(escrow), keccak(struct))


def settle_digest(
    channel: Hash32, cumulative: int, *, nonce: int, deadline: int, escrow: Escrow
) -> bytes:
    """What a payee signs so that anyone may settle for it."""
    words = _payee_words(channel, cumulative, nonce, deadline)
    return typed_digest(separator(escrow), keccak(SETTLE_TYPEHASH + words))


def close_digest(
    channel: Hash32, cumulative: int, *, nonce: int, deadline: int, escrow: Escrow
) -> bytes:
    """What a payee signs so that anyone may close for it."""
    words = _payee_words(channel, cumulative, nonce, deadline)
    return typed_digest(separator(escrow), keccak(CLOSE_TYPEHASH + words))


def _payee_words(channel: Hash32, cumulative: int, nonce: int, deadline: int) -> bytes:
    return (
        channel.to_bytes()
        + _uint128_word(cumulative)
        + uint_word(nonce)
        + uint_word(deadline)
    )


def _uint128_word(value: int) -> bytes:
    if not 0 <= value <= UINT128_MAX:
        raise ValueError(f"{value} is not a uint128")
    return uint_word(value)


def open_nonce(terms: SessionTerms) -> Hash32:
    """The EIP-3009 nonce that ties a deposit to the channel it opens."""
    return Hash32.of(
        keccak(
            address_word(terms.payer)
            + address_word(terms.payee)
            + address_word(terms.token)
            + terms.salt.to_bytes()
            + address_word(terms.authorized_signer)
        )
    )


def top_up_nonce(
    channel: Hash32, *, additional_deposit: int, payer: Address, salt: Hash32
) -> Hash32:
    """The EIP-3009 nonce that ties a deposit to the channel it fills up."""
    return Hash32.of(
        keccak(
            channel.to_bytes()
            + _uint128_word(additional_deposit)
            + address_word(payer)
            + salt.to_bytes()
        )
    )


def open_witness_hash(
    *, payee: Address, salt: Hash32, authorized_signer: Address
) -> bytes:
    """The Permit2 witness of a channel that is opened."""
    words = address_word(payee) + salt.to_bytes() + address_word(authorized_signer)
    return keccak(OPEN_WITNESS_TYPEHASH + words)


def top_up_witness_hash(channel: Hash32) -> bytes:
    """The Permit2 witness of a channel that is filled up."""
    return keccak(TOP_UP_WITNESS_TYPEHASH + channel.to_bytes())


def open_permit_digest(
    signed: Permitted, terms: SessionTerms, escrow: Escrow, contract: Address = PERMIT2
) -> bytes:
    """
    What a payer signs so that an escrow may open a channel by Permit2.

    The spender is always the escrow: Permit2 takes it to be its caller.
    """
    witness = open_witness_hash(
        payee=terms.payee, salt=terms.salt, authorized_signer=terms.authorized_signer
    )
    domain = permit2.separator(escrow.chain, contract)
    return witnessed_digest(
        _OPEN_PERMIT_TYPEHASH, signed, escrow.contract, witness, domain
    )


def top_up_permit_digest(
    signed: Permitted, channel: Hash32, escrow: Escrow, contract: Address = PERMIT2
) -> bytes:
    """What a payer signs so that an escrow may fill up a channel by Permit2."""
    witness = top_up_witness_hash(channel)
    domain = permit2.separator(escrow.chain, contract)
    return witnessed_digest(
        _TOP_UP_PERMIT_TYPEHASH, signed, escrow.contract, witness, domain
    )


def charge_nonce(challenge_id: str, realm: str) -> Hash32:
    """The draft's EIP-3009 nonce of a charge: id and realm, one after the other."""
    return Hash32.of(keccak((challenge_id + realm).encode("utf-8")))


def charge_nonce_of_json(challenge_id: str, realm: str) -> Hash32:
    """pympp's: a JSON array of the two, which no other pair can be mistaken for."""
    pair = json.dumps([challenge_id, realm], separators=(",", ":"), ensure_ascii=False)
    return Hash32.of(keccak(pair.encode("utf-8")))


def is_charge_nonce(nonce: Hash32, challenge_id: str, realm: str) -> bool:
    """Whether a nonce ties a charge to its challenge, in either form."""
    return nonce in (
        charge_nonce(challenge_id, realm),
        charge_nonce_of_json(challenge_id, realm),
    )
