"""
ERC-6492: signatures of contract wallets that are not deployed yet.

Such a signature carries the call that makes the wallet. It is somebody else's call to
somebody else's contract: whoever unwraps one decides whether to trust that factory,
before anything is called.

Source: ERC-6492. Only the one encoding that ABI encoders write is read.
"""

from dataclasses import dataclass
from typing import Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError

from agentpay.evm.calls import Call
from agentpay.evm.signature import BadSignature
from agentpay.types import Address

MAGIC: Final = bytes.fromhex("6492" * 16)
"""What a wrapped signature ends with."""

WRAPPED_MAX: Final = 8192
"""Bytes; a factory's call and a passkey's signature take some 2,000."""

_TYPES = ("address", "bytes", "bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedSignature:
    """A wallet's signature, and the call that makes the wallet."""

    factory: Address
    factory_data: bytes
    signature: bytes

    def __post_init__(self) -> None:
        if is_wrapped(self.signature):
            raise BadSignature("a wrapped signature is wrapped once more")

    def deploy_call(self) -> Call:
        """Make the wallet; only if its factory is trusted."""
        what = f"deploy a wallet by {self.factory}"
        return Call(to=self.factory, data=self.factory_data, what=what)


def is_wrapped(signature: bytes) -> bool:
    """Whether a signature says that its wallet may have to be deployed."""
    return signature.endswith(MAGIC)


def wrap(wrapped: WrappedSignature) -> bytes:
    """
    Write a signature that travels with its wallet's deployment.

    Raises:
        BadSignature: It would be too long to be read.
    """
    values = (wrapped.factory, wrapped.factory_data, wrapped.signature)
    written = encode(_TYPES, values) + MAGIC
    _require_short(written)
    return written


def unwrap(signature: bytes) -> WrappedSignature:
    """
    Read a wrapped signature.

    Raises:
        BadSignature: Not wrapped, too long, wrapped twice, or not the one encoding.
    """
    if not is_wrapped(signature):
        raise BadSignature("the signature is not wrapped (ERC-6492)")
    _require_short(signature)
    body = signature[: -len(MAGIC)]
    try:
        factory, factory_data, inner = decode(_TYPES, body)
    except (DecodingError, OverflowError) as error:
        raise BadSignature("the wrapping does not decode (ERC-6492)") from error
    if encode(_TYPES, (factory, factory_data, inner)) != body:
        raise BadSignature("the wrapping is not in its one encoding (ERC-6492)")
    return WrappedSignature(
        factory=Address(factory), factory_data=factory_data, signature=inner
    )


def inner_signature(signature: bytes) -> bytes:
    """
    What a wallet itself is shown: the signature without its wrapping, if it has one.

    Raises:
        BadSignature: The wrapping cannot be read.
    """
    return unwrap(signature).signature if is_wrapped(signature) else signature


def _require_short(wrapped: bytes) -> None:
    if len(wrapped) > WRAPPED_MAX:
        raise BadSignature(
            f"a wrapped signature of {len(wrapped)} bytes is over {WRAPPED_MAX}"
        )
