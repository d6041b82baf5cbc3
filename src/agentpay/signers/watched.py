"""
An account whose key is elsewhere: it is known, and signs nothing.

For an agent that has only a voucher key: it spends channels that the wallet's own
process opened, and cannot open, fund or pay by itself.
"""

from typing import NoReturn

from agentpay.errors import ConfigurationError, KeyElsewhere
from agentpay.evm.hashing import checked_address
from agentpay.types import Address, ChainId


class WatchedWallet:
    """An address that refuses to sign. Implements `ports.Signer`."""

    __slots__ = ("_address",)

    def __init__(self, address: str) -> None:
        """
        Raises:
            ConfigurationError: Not an address.
        """
        try:
            self._address = checked_address(address)
        except ValueError as error:
            raise ConfigurationError(f"a watched wallet: {error}") from error

    @property
    def address(self) -> Address:
        return self._address

    async def sign_digest(self, digest: bytes, *, chain: ChainId) -> bytes:
        """
        Raises:
            KeyElsewhere: Always.
        """
        del digest, chain
        self._refuse("sign a deposit or a transfer")

    async def derive_secret(self, purpose: bytes) -> bytes:
        """
        Raises:
            KeyElsewhere: Always.
        """
        del purpose
        self._refuse("open a channel, or find one again")

    def _refuse(self, what: str) -> NoReturn:
        raise KeyElsewhere(
            f"wallet {self._address} is only watched here and cannot {what}: do that"
            " where its key is"
        )

    def __repr__(self) -> str:
        return f"WatchedWallet({self._address})"
