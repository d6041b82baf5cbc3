"""
Values that exist are valid; money never loses a unit on its way in or out.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.types import (
    UINT256_MAX,
    Address,
    Asset,
    ChainId,
    Hash32,
    format_money,
    network_of,
    parse_amount,
    parse_network,
    to_base_units,
)

DECIMALS = st.integers(0, 18)
BYTES20 = st.binary(min_size=20, max_size=20)
BYTES32 = st.binary(min_size=32, max_size=32)


@given(BYTES20)
def test_an_address_is_lower_case_whatever_it_was_read_from(raw: bytes) -> None:
    mixed = "0x" + raw.hex().upper()

    assert Address(mixed) == "0x" + raw.hex()
    assert Address(mixed).to_bytes() == raw


@given(BYTES32)
def test_a_hash_keeps_its_bytes(raw: bytes) -> None:
    assert Hash32.of(raw).to_bytes() == raw
    assert Hash32("0x" + raw.hex().upper()) == Hash32.of(raw)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        "0x" + "0" * 39,
        "0x" + "0" * 41,
        "0X" + "0" * 40,
        "0" * 42,
        "0x" + "g" * 40,
        "0x" + "0" * 39 + "\n",
        "0x" + "0" * 40 + "\n",
        " 0x" + "0" * 40,
        "0x" + "\u0660" * 40,
    ],
)
def test_what_is_not_an_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        Address(text)


@pytest.mark.parametrize(
    "text", ["", "0x" + "0" * 63, "0x" + "0" * 64 + "\n", "0" * 66]
)
def test_what_is_not_a_hash_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not 32 bytes"):
        Hash32(text)


@given(st.integers(0, UINT256_MAX))
def test_an_amount_is_read_as_it_was_written(amount: int) -> None:
    assert parse_amount(str(amount)) == amount


@pytest.mark.parametrize(
    "text",
    [
        *("", "-1", "+1", "1.0", "1e3", "0x10", "01", "1_000", " 1", "1\n"),
        *("\u0661", "9" * 78, str(UINT256_MAX + 1)),
    ],
)
def test_what_is_not_an_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        parse_amount(text)


def test_an_amount_above_its_maximum_is_refused() -> None:
    assert parse_amount("10", maximum=10) == 10

    with pytest.raises(ValueError, match="above 9"):
        parse_amount("10", maximum=9)


@given(st.integers(0, 10**60), DECIMALS)
def test_money_written_for_people_is_read_back_exactly(
    amount: int, decimals: int
) -> None:
    digits = amount % 10 ** (40 + decimals)

    assert to_base_units(format_money(digits, decimals), decimals) == digits


@given(st.integers(0, 10**12), st.integers(0, 10**6 - 1))
def test_dollars_and_millionths_are_counted_exactly(
    whole: int, millionths: int
) -> None:
    money = f"${whole}.{millionths:06d}"

    assert to_base_units(money, 6) == whole * 10**6 + millionths
    assert to_base_units(money, 18) == (whole * 10**6 + millionths) * 10**12


@given(st.integers(0, UINT256_MAX), DECIMALS)
def test_an_int_is_base_units_already(amount: int, decimals: int) -> None:
    assert to_base_units(amount, decimals) == amount


@pytest.mark.parametrize(
    "money",
    [
        *(0.1, 1.0, True, False, None, b"$1", -1, UINT256_MAX + 1),
        *("1", "0.1", "$", "$.5", "$1.", "$-1", "-$1", "$1,000", "$1e3", "$ 1", "€1"),
        *("$1\n", "$1.5 ", "$\u0661", "$" + "9" * 41, "$0.0000001"),
    ],
)
def test_what_is_not_money_is_refused(money: object) -> None:
    with pytest.raises(ValueError, match=r"money|price|amount|finer"):
        to_base_units(money, 6)  # type: ignore[arg-type] # what callers get wrong


def test_a_price_finer_than_the_token_is_refused_not_rounded() -> None:
    assert to_base_units("$0.1230000", 3) == 123

    with pytest.raises(ValueError, match="finer than 3 decimals"):
        to_base_units("$0.1231", 3)


@given(st.integers(0, 2**62))
def test_a_network_is_read_as_it_was_named(chain: int) -> None:
    assert parse_network(network_of(ChainId(chain))) == chain


@pytest.mark.parametrize(
    "text", ["", "eip155:", "eip155:01", "base", "solana:1", "eip155:1\n"]
)
def test_what_is_not_an_evm_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="CAIP-2"):
        parse_network(text)


@pytest.mark.parametrize("decimals", [-1, 19])
def test_a_token_has_decimals_that_our_budgets_can_count(decimals: int) -> None:
    with pytest.raises(ValueError, match="decimals"):
        Asset(
            chain=ChainId(1),
            address=Address("0x" + "11" * 20),
            decimals=decimals,
            name="USD Coin",
            version="2",
        )
