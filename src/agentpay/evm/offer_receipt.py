"""
Offers and receipts that a payee signs, and a payer can show to anybody.

Source: x402 `specs/extensions/extension-offer-and-receipt.md`, sections 3.2, 4.3 and
5.3: the chain in the domain is always 1, because nothing of this is for a chain.
"""

from dataclasses import dataclass
from typing import Final

from agentpay.evm.hashing import keccak, type_hash, typed_digest, uint_word
from agentpay.evm.signature import recover
from agentpay.types import UINT256_MAX, Address, ChainId

VERSION: Final = 1

_DOMAIN: Final = type_hash("EIP712Domain(string name,string version,uint256 chainId)")
_OFFER: Final = type_hash(
    "Offer(uint256 version,string resourceUrl,string scheme,string network,"
    "string asset,string payTo,string amount,uint256 validUntil)"
)
_RECEIPT: Final = type_hash(
    "Receipt(uint256 version,string network,string resourceUrl,string payer,"
    "uint256 issuedAt,string transaction)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferPayload:
    """The terms that are signed, each exactly as it is written in a message."""

    resource_url: str
    scheme: str
    network: str
    asset: str
    pay_to: str
    amount: str
    valid_until: int = 0
    """0 is for ever."""

    def __post_init__(self) -> None:
        _check(self.valid_until)

    def digest(self) -> bytes:
        """What is signed."""
        struct = keccak(
            _OFFER
            + uint_word(VERSION)
            + _texts(self.resource_url, self.scheme, self.network)
            + _texts(self.asset, self.pay_to, self.amount)
            + uint_word(self.valid_until)
        )
        return typed_digest(_separator("x402 offer"), struct)

    def signer(self, signature: bytes) -> Address:
        """
        Who signed it. That they may speak for the resource is another question.

        Raises:
            BadSignature: Nobody did.
        """
        return recover(self.digest(), signature)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptPayload:
    """That somebody paid for a resource and was served it."""

    network: str
    resource_url: str
    payer: str
    issued_at: int
    transaction: str = ""
    """Left out for the payer's privacy, unless the payee means to be checked by it."""

    def __post_init__(self) -> None:
        _check(self.issued_at)

    def digest(self) -> bytes:
        """What is signed."""
        struct = keccak(
            _RECEIPT
            + uint_word(VERSION)
            + _texts(self.network, self.resource_url, self.payer)
            + uint_word(self.issued_at)
            + _texts(self.transaction)
        )
        return typed_digest(_separator("x402 receipt"), struct)

    def signer(self, signature: bytes) -> Address:
        """
        Who signed it. That they may speak for the resource is another question.

        Raises:
            BadSignature: Nobody did.
        """
        return recover(self.digest(), signature)


def _check(moment: int) -> None:
    if not 0 <= moment <= UINT256_MAX:
        raise ValueError(f"{moment} is not a uint256")


def _texts(*texts: str) -> bytes:
    return b"".join(keccak(text.encode()) for text in texts)


def _separator(name: str) -> bytes:
    names = keccak(name.encode()) + keccak(b"1")
    return keccak(_DOMAIN + names + uint_word(ChainId(1)))
