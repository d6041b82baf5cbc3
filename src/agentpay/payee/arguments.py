"""
What a payee is told in words, as values; what cannot be used is refused with its name.
"""

from collections.abc import Iterable

from agentpay.errors import ConfigurationError, MainnetNotEnabled
from agentpay.evm.batch_settlement import MAX_WITHDRAW_DELAY, MIN_WITHDRAW_DELAY
from agentpay.evm.hashing import checked_address
from agentpay.evm.networks import BASE, BASE_SEPOLIA, Network
from agentpay.types import Address, Asset, Money, to_base_units
from agentpay.wire.x402 import EIP3009, PERMIT2

_IN_ETHER = frozenset({BASE.chain, BASE_SEPOLIA.chain})
_DEPOSIT_WEI_PER_HOUR = 2 * 10**16
"""0.02 ether: about 5,000 deposits an hour on Base."""


def units_of(money: Money, decimals: int, name: str) -> int:
    """
    Raises:
        ConfigurationError: Not money, or finer than the token.
    """
    try:
        return to_base_units(money, decimals)
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from error


def limit_of(money: Money | None, decimals: int, name: str) -> int | None:
    """
    Raises:
        ConfigurationError: Not money, finer than the token, or nothing at all.
    """
    if money is None:
        return None
    limit = units_of(money, decimals, name)
    if limit <= 0:
        raise ConfigurationError(f"{name}: more than 0, or None for no limit")
    return limit


def check_delay(seconds: int) -> None:
    """
    Raises:
        ConfigurationError: The contract has no such withdraw delay.
    """
    if not MIN_WITHDRAW_DELAY <= seconds <= MAX_WITHDRAW_DELAY:
        raise ConfigurationError(f"withdraw_delay is 900 s to 30 days, not {seconds} s")


def check_own_gas(sponsor_wei: int, batch_seconds: float, *, remote: bool) -> None:
    """
    Raises:
        ConfigurationError: Asked of our own wallet, where a facilitator pays the gas.
    """
    if sponsor_wei and (remote or sponsor_wei < 0):
        raise ConfigurationError(
            "sponsor_approvals_up_to is wei of the payee's own wallet, which does"
            " not pay where a facilitator does"
        )
    if batch_seconds and (remote or batch_seconds < 0):
        raise ConfigurationError(
            "batch_seconds is for the payee's own transactions: where a facilitator"
            " sends them, it is the one to gather them"
        )


def methods_of(wanted: tuple[str, ...] | None, asset: Asset) -> tuple[str, ...]:
    """
    How payers may move a token, as it lets them, or as its payee wants them to.

    Raises:
        ConfigurationError: The token cannot be moved so.
    """
    if wanted is None:
        return (EIP3009,) if asset.eip3009 else (PERMIT2,)
    possible = {EIP3009, PERMIT2} if asset.eip3009 else {PERMIT2}
    if not wanted or not set(wanted) <= possible:
        raise ConfigurationError(
            f"transfer_methods are some of {sorted(possible)} for this token,"
            f" not {list(wanted)}"
        )
    return wanted


def account_of(text: str, name: str = "pay_to") -> Address:
    """
    Raises:
        ConfigurationError: Not an address, or one with a wrong checksum.
    """
    try:
        return checked_address(text)
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from error


def accounts_of(texts: Iterable[str], name: str) -> frozenset[Address]:
    """
    Raises:
        ConfigurationError: One is not an address, or has a wrong checksum.
    """
    return frozenset(account_of(text, name) for text in texts)


def endpoint_of(url: str | None, network: Network) -> str:
    """
    What was asked for, or what is usual.

    Raises:
        ConfigurationError: Neither is known.
    """
    endpoint = url or network.rpc_url
    if not endpoint:
        raise ConfigurationError(f"network {network.name} needs an rpc_url")
    return endpoint


def deposit_wei_of(wanted: int | None, network: Network) -> int | None:
    """
    What was asked for, or what is usual on Base; None is no limit, as on a local chain
    and wherever we do not know what the coin is worth.

    Raises:
        ConfigurationError: It is not above 0.
    """
    if wanted is None:
        return _DEPOSIT_WEI_PER_HOUR if network.chain in _IN_ETHER else None
    if wanted < 1:
        raise ConfigurationError(
            f"deposit_wei_per_hour is above 0, not {wanted}: channels need deposits"
        )
    return wanted


def check_network(network: Network, *, allow_mainnet: bool) -> None:
    """
    Raises:
        MainnetNotEnabled: Real money, and nobody said yes to that.
    """
    if network.real_money and not allow_mainnet:
        raise MainnetNotEnabled(
            f"{network.name} is real money and these contracts are not audited for it:"
            " pass allow_mainnet=True if you accept that (see SECURITY.md)"
        )
