"""
A key on this machine, and its encrypted file.

Signs with libsecp256k1; files are Ethereum keystores (version 3), read and written by
eth-account, which is loaded only for that. The key is never shown, logged or pickled.
"""

import hashlib
import hmac
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
        from eth_account import Account

        try:
            keystore = json.loads(Path(path).read_text(encoding="utf-8"))
            secret = bytes(Account.decrypt(keystore, password))
        except OSError as error:
            why = error.strerror or "cannot be read"
            raise ConfigurationError(f"keystore {path}: {why}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"keystore {path}: not a keystore, or the password is wrong"
            ) from error
        return cls(secret)

    def save_keystore(self, path: str | Path, *, password: str) -> None:
        """
        Write the key to a new encrypted file that only its owner may read.

        Raises:
            ConfigurationError: The password is empty, or the file cannot be created
                (it is never overwritten).
        """
        if not password:
            raise ConfigurationError("a keystore needs a password")
        from eth_account import Account

        text = json.dumps(Account.encrypt(self._secret, password), indent=2) + "\n"
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
        return hmac.new(self._secret, b"agentpay " + purpose, hashlib.sha256).digest()

    def gas_key(self) -> bytes:
        """The key itself, for the transaction sender that pays gas with it."""
        return self._secret

    def __repr__(self) -> str:
        return f"Wallet({self._address})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a wallet cannot be pickled")
