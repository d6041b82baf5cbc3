"""
ECDSA signatures over secp256k1: recover who signed, refuse every second form.

A signature is 65 bytes r, s, v with low s (EIP-2) and v 27 or 28, so that no two byte
strings say the same. libsecp256k1 (coincurve) recovers in 0.05 ms; where it has no
wheels, eth-keys does the same in several milliseconds, with one warning.
"""

from collections.abc import Callable
from functools import lru_cache

from agentpay.evm.hashing import keccak
from agentpay.types import Address

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_HALF_ORDER = ORDER // 2


class BadSignature(ValueError):
    """These bytes are not a signature we accept."""


def _coincurve_recover() -> Callable[[bytes, bytes], bytes]:
    from coincurve import PublicKey

    def recover_key(digest: bytes, recoverable: bytes) -> bytes:
        key = PublicKey.from_signature_and_message(recoverable, digest, hasher=None)
        return key.format(compressed=False)[1:]

    return recover_key


def _eth_keys_recover() -> Callable[[bytes, bytes], bytes]:
    import warnings

    from eth_keys.datatypes import Signature

    warnings.warn(
        "coincurve is not installed: verifying a signature takes milliseconds",
        RuntimeWarning,
        stacklevel=2,
    )

    def recover_key(digest: bytes, recoverable: bytes) -> bytes:
        signature = Signature(recoverable)
        return signature.recover_public_key_from_msg_hash(digest).to_bytes()

    return recover_key


def _load_recover() -> Callable[[bytes, bytes], bytes]:
    try:
        return _coincurve_recover()
    except ImportError:
        return _eth_keys_recover()


_recover_key = _load_recover()


def check_form(signature: bytes) -> None:
    """
    Raises:
        BadSignature: Not 65 bytes, v is not 27 or 28, or r or s is out of range.
    """
    if len(signature) != 65:
        raise BadSignature(f"a signature is 65 bytes, not {len(signature)}")
    if signature[64] not in (27, 28):
        raise BadSignature(f"v must be 27 or 28, not {signature[64]}")
    r = int.from_bytes(signature[:32], "big")
    s = int.from_bytes(signature[32:64], "big")
    if not 0 < r < ORDER:
        raise BadSignature("r is out of range")
    if not 0 < s <= _HALF_ORDER:
        raise BadSignature("s is not in the lower half of the order (EIP-2)")


def recover(digest: bytes, signature: bytes) -> Address:
    """
    Find the account that signed a digest.

    Raises:
        BadSignature: The signature's form is refused, or no key matches it.
    """
    check_form(signature)
    recoverable = signature[:64] + bytes((signature[64] - 27,))
    try:
        key = _recover_key(digest, recoverable)
    except Exception as error:  # the libraries raise bare Exception for "no such point"
        raise BadSignature("no key matches this signature") from error
    return address_of_key(key)


def is_signed_by_key(account: Address, digest: bytes, signature: bytes) -> bool:
    """Whether the key of an account signed a digest."""
    try:
        return recover(digest, signature) == account
    except BadSignature:
        return False


@lru_cache(maxsize=4096)
def address_of_key(public_key: bytes) -> Address:
    """The account of an uncompressed public key (64 bytes, without the 0x04)."""
    return Address("0x" + keccak(public_key)[12:].hex())
