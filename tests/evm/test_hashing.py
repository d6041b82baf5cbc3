"""
Our digests are the ones that everybody else computes.
"""

import pytest
from eth_account.messages import encode_typed_data
from eth_utils.address import is_checksum_address, to_checksum_address
from eth_utils.crypto import keccak as their_keccak
from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm import hashing
from agentpay.types import UINT256_MAX, Address, ChainId

ADDRESSES = st.binary(min_size=20, max_size=20).map(lambda b: Address("0x" + b.hex()))
WORDS = st.integers(0, UINT256_MAX)
NAMES = st.text(st.characters(codec="utf-8"), max_size=40)

MAIL = "Mail(address from,uint256 amount,bytes32 id)"
MAIL_FIELDS = [
    {"name": "from", "type": "address"},
    {"name": "amount", "type": "uint256"},
    {"name": "id", "type": "bytes32"},
]


def struct_hash(sender: Address, amount: int, mail_id: bytes) -> bytes:
    words = hashing.address_word(sender) + hashing.uint_word(amount) + mail_id
    return hashing.keccak(hashing.type_hash(MAIL) + words)


@given(st.binary(max_size=300))
def test_keccak_is_keccak(data: bytes) -> None:
    assert hashing.keccak(data) == their_keccak(data)


@given(st.binary(max_size=300))
def test_keccak_is_the_same_with_the_extra_and_without(data: bytes) -> None:
    assert hashing.plain_keccak(data) == hashing.keccak(data)


def test_the_extra_is_what_is_used_where_it_is_installed() -> None:
    assert hashing.keccak is not hashing.plain_keccak


@given(
    name=NAMES,
    version=st.none() | NAMES,
    chain=WORDS,
    contract=ADDRESSES,
    sender=ADDRESSES,
    amount=WORDS,
    mail_id=st.binary(min_size=32, max_size=32),
)
def test_a_typed_digest_is_the_one_that_eth_account_signs(
    *,
    name: str,
    version: str | None,
    chain: int,
    contract: Address,
    sender: Address,
    amount: int,
    mail_id: bytes,
) -> None:
    domain: dict[str, str | int] = {
        "name": name,
        "chainId": chain,
        "verifyingContract": contract,
    }
    if version is not None:
        domain["version"] = version
    theirs = encode_typed_data(
        domain, {"Mail": MAIL_FIELDS}, {"from": sender, "amount": amount, "id": mail_id}
    )
    ours = hashing.domain_separator(
        name=name, version=version, chain=ChainId(chain), contract=contract
    )
    digest = hashing.typed_digest(ours, struct_hash(sender, amount, mail_id))

    assert ours == theirs.header
    assert digest == their_keccak(b"\x19" + theirs.version + ours + theirs.body)


@pytest.mark.parametrize("value", [-1, UINT256_MAX + 1])
def test_what_does_not_fit_a_word_is_not_cut_to_fit(value: int) -> None:
    with pytest.raises(OverflowError):
        hashing.uint_word(value)


@given(ADDRESSES)
def test_checksums_are_those_of_eip_55(address: Address) -> None:
    assert hashing.checksummed(address) == to_checksum_address(address)
    assert hashing.checked_address(to_checksum_address(address)) == address


@given(ADDRESSES, st.integers(0, 39))
def test_one_letter_in_the_wrong_case_is_noticed(address: Address, place: int) -> None:
    digits = hashing.checksummed(address)[2:]
    mistyped = "0x" + digits[:place] + digits[place].swapcase() + digits[place + 1 :]
    uniform = mistyped[2:] in (mistyped[2:].lower(), mistyped[2:].upper())
    if is_checksum_address(mistyped) or uniform:
        return

    with pytest.raises(ValueError, match="checksum"):
        hashing.checked_address(mistyped)


def test_addresses_without_case_are_taken_as_they_are() -> None:
    lower = "0x" + "ab" * 20

    assert hashing.checked_address(lower) == lower
    assert hashing.checked_address("0x" + "AB" * 20) == lower
