"""
The account of a contract, which takes the signatures of an owner as its own (ERC-1271).

Its vouchers need a key of their own (`Agent(voucher_key=)`). One that is not deployed
yet can pay all the same, where the payee trusts its factory (ERC-6492).
"""

from agentpay.errors import ConfigurationError
from agentpay.evm.erc6492 import WrappedSignature, wrap
from agentpay.evm.hashing import checked_address
from agentpay.ports import Signer
from agentpay.types import Address, ChainId


class SmartWallet:
    """A contract wallet and its owner. Implements `ports.Signer`."""

    __slots__ = ("_address", "_factory", "_factory_data", "_owner")

    def __init__(
        self,
        address: str,
        owner: Signer,
        *,
        factory: str | None = None,
        factory_data: bytes = b"",
    ) -> None:
        """
        The contract has to take what `owner` signs as it is. Calling `factory` with
        `factory_data` makes the contract, where it is not deployed yet.

        Raises:
            ConfigurationError: Not an address, or only half of what makes the contract.
        """
        try:
            self._address = checked_address(address)
            self._factory = checked_address(factory) if factory else None
        except ValueError as error:
            raise ConfigurationError(f"a smart wallet: {error}") from error
        if (self._factory is None) != (not factory_data):
            raise ConfigurationError(
                "a smart wallet is made by a factory and its factory_data: give both,"
                " or neither"
            )
        self._factory_data = factory_data
        self._owner = owner

    @property
    def address(self) -> Address:
        return self._address

    async def sign_digest(self, digest: bytes, *, chain: ChainId) -> bytes:
        """See `ports.Signer.sign_digest`; of the contract once it is deployed."""
        return await self._owner.sign_digest(digest, chain=chain)

    async def derive_secret(self, purpose: bytes) -> bytes:
        """See `ports.Signer.derive_secret`; another one for each of an owner's."""
        whose = b"smart wallet " + self._address.to_bytes() + b" "
        return await self._owner.derive_secret(whose + purpose)

    def wrap(self, signature: bytes) -> bytes:
        """
        A signature of ours, with the call that makes the contract (ERC-6492).

        Raises:
            ConfigurationError: We do not know what makes it.
        """
        if self._factory is None:
            raise ConfigurationError(
                f"the smart wallet {self._address} is not deployed: deploy it, or give"
                " its factory and factory_data"
            )
        wrapped = WrappedSignature(
            factory=self._factory,
            factory_data=self._factory_data,
            signature=signature,
        )
        return wrap(wrapped)

    def __repr__(self) -> str:
        return f"SmartWallet({self._address})"
