"""
Calls and events of a token with EIP-3009, and the reads that show what a token is.

Source: EIP-20, EIP-3009, EIP-5267 (`eip712Domain`) and USDC's FiatTokenV2_2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError

from agentpay.evm.calls import Call, Log
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.hashing import address_word, keccak, selector
from agentpay.types import Address, Hash32

_TRANSFER_AUTHORIZED = selector(
    "transferWithAuthorization"
    "(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)"
)
_TRANSFER_AUTHORIZED_BYTES = selector(
    "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)"
)
_AUTHORIZATION_STATE = selector("authorizationState(address,bytes32)")
_BALANCE_OF = selector("balanceOf(address)")
_DECIMALS = selector("decimals()")
_DOMAIN_SEPARATOR = selector("DOMAIN_SEPARATOR()")
_DOMAIN = selector("eip712Domain()")
_NAME = selector("name()")
_VERSION = selector("version()")
_IS_VALID_SIGNATURE = selector("isValidSignature(bytes32,bytes)")
_MAGIC_VALUE = _IS_VALID_SIGNATURE.ljust(32, b"\0")

TRANSFER: Final = Hash32.of(keccak(b"Transfer(address,address,uint256)"))
AUTHORIZATION_USED: Final = Hash32.of(keccak(b"AuthorizationUsed(address,bytes32)"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """What a token contract says of itself."""

    decimals: int
    domain_separator: Hash32


def transfer_call(
    token: Address, authorization: Authorization, signature: bytes
) -> Call:
    """
    Send a transfer that its payer signed.

    A key's signature goes in the `(v, r, s)` form that every EIP-3009 token has, any
    other in the `bytes` form for contract wallets (FiatTokenV2_2).
    """
    types = ["address", "address", "uint256", "uint256", "uint256", "bytes32"]
    values: list[object] = [
        authorization.payer,
        authorization.to,
        authorization.value,
        authorization.valid_after,
        authorization.valid_before,
        authorization.nonce.to_bytes(),
    ]
    if len(signature) == 65:
        selector = _TRANSFER_AUTHORIZED
        types += ["uint8", "bytes32", "bytes32"]
        values += [signature[64], signature[:32], signature[32:64]]
    else:
        selector = _TRANSFER_AUTHORIZED_BYTES
        types += ["bytes"]
        values += [signature]
    what = f"transfer {authorization.value} from {authorization.payer}"
    return Call(to=token, data=selector + encode(types, values), what=what)


def authorization_used_call(token: Address, payer: Address, nonce: Hash32) -> Call:
    """Whether an authorization was used or cancelled: one bool."""
    data = _AUTHORIZATION_STATE + address_word(payer) + nonce.to_bytes()
    return Call(to=token, data=data, what=f"read authorization {nonce}")


def balance_call(token: Address, owner: Address) -> Call:
    """What an account holds of a token: one uint256."""
    data = _BALANCE_OF + address_word(owner)
    return Call(to=token, data=data, what=f"read balance of {owner}")


def valid_signature_call(wallet: Address, digest: bytes, signature: bytes) -> Call:
    """Ask a contract wallet whether a signature is its own (ERC-1271)."""
    data = encode(["bytes32", "bytes"], [digest, signature])
    return Call(to=wallet, data=_IS_VALID_SIGNATURE + data, what="check signature")


def is_valid_answer(answer: bytes) -> bool:
    """Whether the answer to `valid_signature_call` says yes."""
    return answer == _MAGIC_VALUE


def decode_uint(answer: bytes) -> int:
    """
    Read one word.

    Raises:
        ValueError: The answer is not one word: the contract has no such function.
    """
    if len(answer) != 32:
        raise ValueError(f"expected one word, got {len(answer)} bytes")
    return int.from_bytes(answer, "big")


def token_fact_calls(token: Address) -> tuple[Call, Call, Call]:
    """The reads that make `TokenFacts`, and prove that the token knows EIP-3009."""
    probe = authorization_used_call(token, Address("0x" + "00" * 19 + "01"), _PROBE)
    return (
        Call(to=token, data=_DECIMALS, what=f"read decimals of {token}"),
        Call(to=token, data=_DOMAIN_SEPARATOR, what=f"read domain of {token}"),
        probe,
    )


_PROBE = Hash32("0x" + "00" * 32)


def decode_token_facts(answers: Sequence[bytes]) -> TokenFacts:
    """
    Read the answers to `token_fact_calls`.

    Raises:
        ValueError: The contract lacks one of the functions.
    """
    decimals, separator, used = answers
    try:
        (places,) = decode(["uint8"], decimals)
        (state,) = decode(["bool"], used)
    except DecodingError as error:
        raise ValueError("it is not a token with EIP-3009") from error
    if len(separator) != 32 or not isinstance(state, bool):
        raise ValueError("it has no EIP-712 domain separator")
    return TokenFacts(decimals=int(places), domain_separator=Hash32.of(separator))


def domain_call(token: Address) -> Call:
    """Ask a token for its EIP-712 domain (EIP-5267)."""
    return Call(to=token, data=_DOMAIN, what=f"read domain of {token}")


def decode_domain(answers: Sequence[bytes]) -> tuple[str, str]:
    """
    Read the name and version in the answer to `domain_call`.

    Raises:
        ValueError: The contract has no such function.
    """
    types = ["bytes1", "string", "string", "uint256", "address", "bytes32", "uint256[]"]
    (answer,) = answers
    try:
        _, name, version, *_ = decode(types, answer)
    except DecodingError as error:
        raise ValueError("it tells no EIP-712 domain") from error
    return str(name), str(version)


def name_calls(token: Address) -> tuple[Call, Call]:
    """What USDC's kind has in place of `domain_call`."""
    return (
        Call(to=token, data=_NAME, what=f"read name of {token}"),
        Call(to=token, data=_VERSION, what=f"read version of {token}"),
    )


def decode_names(answers: Sequence[bytes]) -> tuple[str, str]:
    """
    Read the answers to `name_calls`.

    Raises:
        ValueError: The contract lacks one of the functions.
    """
    try:
        ((name,), (version,)) = (decode(["string"], answer) for answer in answers)
    except DecodingError as error:
        raise ValueError("it tells no name and version") from error
    return str(name), str(version)


def amounts_paid(
    logs: Sequence[Log], token: Address, *, payer: Address, to: Address
) -> list[int]:
    """What a transaction really moved: its `Transfer` events, not its status."""
    moved = (TRANSFER, Hash32.of(address_word(payer)), Hash32.of(address_word(to)))
    return [
        int.from_bytes(log.data[:32], "big")
        for log in logs
        if log.address == token and log.topics == moved and len(log.data) >= 32
    ]
