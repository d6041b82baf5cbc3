"""
Values that cannot be invalid: addresses, hashes, assets and money.

Text is checked here once, at the edge; whoever holds one of these need not look again.
Amounts are `int` in an asset's base units, everywhere and always.
"""

import re
from dataclasses import dataclass
from typing import NewType, Self

ChainId = NewType("ChainId", int)

UINT40_MAX = 2**40 - 1
UINT128_MAX = 2**128 - 1
UINT256_MAX = 2**256 - 1

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_HASH = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_DIGITS = re.compile(r"0|[1-9][0-9]{0,77}", re.ASCII)
_DOLLARS = re.compile(r"\$([0-9]{1,40})(?:\.([0-9]{1,40}))?", re.ASCII)
_NETWORK = re.compile(r"eip155:(0|[1-9][0-9]{0,18})", re.ASCII)


class Address(str):
    """A 20-byte account in lower-case hex. If you hold one, it is valid."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not _ADDRESS.fullmatch(text):
            raise ValueError(f"not an address: {text[:80]!r}")
        return super().__new__(cls, text.lower())

    def to_bytes(self) -> bytes:
        return bytes.fromhex(self[2:])


ZERO_ADDRESS = Address("0x" + "00" * 20)


class Hash32(str):
    """32 bytes in lower-case hex: a channel id, nonce, salt or transaction hash."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not _HASH.fullmatch(text):
            raise ValueError(f"not 32 bytes of hex: {text[:80]!r}")
        return super().__new__(cls, text.lower())

    @classmethod
    def of(cls, raw: bytes) -> Self:
        return cls("0x" + raw.hex())

    def to_bytes(self) -> bytes:
        return bytes.fromhex(self[2:])


def parse_amount(text: str, *, maximum: int = UINT256_MAX) -> int:
    """
    Read base units from the decimal digits a message carries.

    Raises:
        ValueError: Not plain digits without leading zeros, or above `maximum`.
    """
    if not _DIGITS.fullmatch(text):
        raise ValueError(f"not an amount in base units: {text[:90]!r}")
    if (amount := int(text)) > maximum:
        raise ValueError(f"amount {amount} is above {maximum}")
    return amount


def network_of(chain: ChainId) -> str:
    """Name a chain the way messages do (CAIP-2): `eip155:8453`."""
    return f"eip155:{chain}"


def parse_network(text: str) -> ChainId:
    """
    Read a CAIP-2 name of an EVM chain.

    Raises:
        ValueError: Not `eip155:` and a number.
    """
    if not (match := _NETWORK.fullmatch(text)):
        raise ValueError(f"not an EVM network in CAIP-2 form: {text[:80]!r}")
    return ChainId(int(match[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A token, known by its chain and contract and never by its symbol."""

    chain: ChainId
    address: Address
    decimals: int
    name: str
    """The EIP-712 domain name of the token contract; empty if it has none."""
    version: str
    """The EIP-712 domain version of the token contract."""
    eip3009: bool = True
    """Whether it has EIP-3009 transfers; without them only Permit2 moves it."""

    def __post_init__(self) -> None:
        if not 0 <= self.decimals <= MONEY_DECIMALS:
            raise ValueError(f"decimals must be 0 to 18, not {self.decimals}")


Money = str | int
"""`"$0.001"`, or an `int` in the asset's base units. Never a float."""

MONEY_DECIMALS = 18


def to_base_units(money: Money, decimals: int) -> int:
    """
    Turn `"$0.001"` into base units of a dollar token; an `int` is base units already.

    Raises:
        ValueError: Negative, a float, malformed, or finer than the token can express.
    """
    # Not every caller is typed, and a float must never become money.
    typed = isinstance(money, str | int)  # pyright: ignore[reportUnnecessaryIsInstance]
    if isinstance(money, bool) or not typed:
        raise ValueError(f'money is "$0.001" or an int in base units, not {money!r}')
    if isinstance(money, int):
        if not 0 <= money <= UINT256_MAX:
            raise ValueError(f"not an amount in base units: {money}")
        return money
    if not (match := _DOLLARS.fullmatch(money)):
        raise ValueError(f'not a price like "$0.001": {money[:80]!r}')
    whole, fraction = match[1], (match[2] or "").rstrip("0")
    if len(fraction) > decimals:
        raise ValueError(f"{money} is finer than {decimals} decimals can express")
    return int(whole + fraction.ljust(decimals, "0"))


def format_money(amount: int, decimals: int) -> str:
    """Write base units of a dollar token for people: 1500 of 6 decimals, `$0.0015`."""
    whole, fraction = divmod(amount, 10**decimals)
    digits = f"{fraction:0{decimals}d}".rstrip("0") if decimals else ""
    return f"${whole}.{digits}" if digits else f"${whole}"
