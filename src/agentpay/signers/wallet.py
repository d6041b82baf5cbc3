"""
A key on this machine, and its encrypted file.

Signs with libsecp256k1; files are Ethereum keystores (version 3). What is derived from
the key is derived by HKDF (RFC 5869). The key is never shown, logged or pickled.
"""

import json
import os
import secrets
from pathlib import Path
from typing import NoReturn, Self

from coincurve import PrivateKey

from agentpay.errors import ConfigurationError
from agentpay.evm.signature import ORDER, address_of_key
from agentpay.evm.test_keys import refuse_test_key
from agentpay.types import Address, ChainId


class Wallet:
    """One secp256k1 key that signs payments. Implements `ports.Signer`."""

    __slots__ = ("_address", "_key", "_secret")

    def __init__(self, secret: bytes) -> None:
        """
        Raises:
            ConfigurationError: Not 32 bytes that make a key.
        """
        if len(secret) != 32 or not 0 < int.from_bytes(secret, "big") < ORDER:
            raise ConfigurationError(
                "a private key is 32 bytes between 1 and the order"
            )
        self._secret = secret
        self._key = PrivateKey(secret)
        self._address = address_of_key(
            self._key.public_key.format(compressed=False)[1:]
        )

    @classmethod
    def create(cls) -> Self:
        """Make a new key from the system's randomness."""
        return cls((secrets.randbelow(ORDER - 1) + 1).to_bytes(32, "big"))

    @classmethod
    def from_key(cls, text: str) -> Self:
        """
        Read a key in hex, with or without 0x.

        Raises:
            ConfigurationError: Not a key; the message does not repeat it.
        """
        try:
            secret = bytes.fromhex(text.removeprefix("0x"))
        except ValueError:
            raise ConfigurationError("a private key is 64 hex digits") from None
        return cls(secret)

    @classmethod
    def from_keystore(cls, path: str | Path, *, password: str) -> Self:
        """
        Read an encrypted key file.

        Raises:
            ConfigurationError: There is no such file, it is not a keystore, or the
                password is wrong.
        """
        from agentpay.signers.keystore import decrypt

        try:
            keystore = json.loads(Path(path).read_text(encoding="utf-8"))
            secret = decrypt(keystore, password=password)
        except OSError as error:
            why = error.strerror or "cannot be read"
            raise ConfigurationError(f"keystore {path}: {why}") from error
        except (ValueError, MemoryError, RecursionError) as error:
            raise ConfigurationError(f"keystore {path}: {error}") from error
        wallet = cls(secret)
        said = str(keystore.get("address") or wallet.address).lower()
        if said.removeprefix("0x") != wallet.address.removeprefix("0x"):
            raise ConfigurationError(
                f"keystore {path}: it says {said}, its key is that of {wallet.address}"
            )
        return wallet

    def save_keystore(self, path: str | Path, *, password: str) -> None:
        """
        Write the key to a new encrypted file that only its owner may read.

        Raises:
            ConfigurationError: The password is empty, or the file cannot be created
                (it is never overwritten).
        """
        if not password:
            raise ConfigurationError("a keystore needs a password")
        from agentpay.signers.keystore import encrypt

        keystore = encrypt(self._secret, password=password, address=self._address)
        text = json.dumps(keystore, indent=2) + "\n"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            why = error.strerror or "cannot be written"
            raise ConfigurationError(f"keystore {path}: {why}") from error

    @property
    def address(self) -> Address:
        return self._address

    async def sign_digest(self, digest: bytes, *, chain: ChainId) -> bytes:
        """See `ports.Signer.sign_digest`."""
        refuse_test_key(self._address, chain)
        signature = self._key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes((signature[64] + 27,))

    async def derive_secret(self, purpose: bytes) -> bytes:
        """See `ports.Signer.derive_secret`."""
        return self._derive(purpose, 32)

    def voucher_key(self, number: int = 0) -> "Wallet":
        """
        A key for vouchers that this key can make again, and that does not lead back.

        Channels that are opened with it are found again by the wallet alone, after both
        their store and their key were lost (`Agent.find_lost_channels`).
        """
        wide = int.from_bytes(self._derive(b"voucher key %d" % number, 48), "big")
        return Wallet((wide % (ORDER - 1) + 1).to_bytes(32, "big"))

    def _derive(self, purpose: bytes, length: int) -> bytes:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = b"agentpay " + purpose
        made = HKDF(algorithm=SHA256(), length=length, salt=None, info=info)
        return made.derive(self._secret)

    def gas_key(self) -> bytes:
        """The key itself, for the transaction sender that pays gas with it."""
        return self._secret

    def __repr__(self) -> str:
        return f"Wallet({self._address})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a wallet cannot be pickled")
