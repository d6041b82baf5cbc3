"""
Chains and assets we know by name, as data. An asset is a chain and a contract.

Source of the public entries: Circle's list of USDC contracts; their EIP-712 domains are
what the contracts themselves answer. What is written here is still checked on chain.
"""

from dataclasses import dataclass
from typing import Final

from agentpay.errors import ConfigurationError
from agentpay.types import Address, Asset, ChainId


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A chain to pay on, and its dollar token."""

    name: str
    chain: ChainId
    usdc: Asset
    real_money: bool
    """Needs `allow_mainnet=True` until the contracts are audited."""
    rpc_url: str | None = None


def _usdc(chain: int, address: str, name: str) -> Asset:
    return Asset(
        chain=ChainId(chain),
        address=Address(address),
        decimals=6,
        name=name,
        version="2",
    )


LOCAL: Final = Network(
    name="local",
    chain=ChainId(31337),
    usdc=_usdc(31337, "0x7e5705dc00000000000000000000000000000001", "USDC"),
    real_money=False,
    rpc_url="http://127.0.0.1:8545",
)
BASE_SEPOLIA: Final = Network(
    name="base-sepolia",
    chain=ChainId(84532),
    usdc=_usdc(84532, "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC"),
    real_money=False,
)
BASE: Final = Network(
    name="base",
    chain=ChainId(8453),
    usdc=_usdc(8453, "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "USD Coin"),
    real_money=True,
)

NETWORKS: Final = {network.name: network for network in (LOCAL, BASE_SEPOLIA, BASE)}


def find_network(name: str | Network) -> Network:
    """
    Look a network up by name; a `Network` of your own is taken as it is.

    Raises:
        ConfigurationError: There is none of that name.
    """
    if isinstance(name, Network):
        return name
    try:
        return NETWORKS[name]
    except KeyError:
        known = ", ".join(NETWORKS)
        raise ConfigurationError(
            f"no network is called {name!r}; known are {known}"
        ) from None
