"""Challenges that who has paid signs, as messages carry them."""

import datetime as dt
from typing import Any

import pytest
from eth_account.messages import encode_defunct
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentpay import Wallet
from agentpay.errors import MalformedMessage
from agentpay.evm.signature import recover
from agentpay.types import Address, ChainId
from agentpay.wire import sign_in
from agentpay.wire.headers import encode_json
from tests.wire.schemas import faults

BASE_CHAIN = ChainId(8453)
ADDRESS = Address("0x857b06519E91e3A54538791bDbb0E22373e36b66")
WALLET = Wallet(bytes(31) + b"\x07")

# The example of the specification, "Message Format".
INFO: dict[str, Any] = {
    "domain": "api.example.com",
    "uri": "https://api.example.com/premium-data",
    "version": "1",
    "nonce": "a1b2c3d4e5f67890a1b2c3d4e5f67890",
    "issuedAt": "2024-01-15T10:30:00.000Z",
    "expirationTime": "2024-01-15T10:35:00.000Z",
    "statement": "Sign in to access premium data",
    "resources": ["https://api.example.com/premium-data"],
}
ISSUED = 1705314600
TEXT = """\
api.example.com wants you to sign in with your Ethereum account:
0x857b06519E91e3A54538791bDbb0E22373e36b66

Sign in to access premium data

URI: https://api.example.com/premium-data
Version: 1
Chain ID: 8453
Nonce: a1b2c3d4e5f67890a1b2c3d4e5f67890
Issued At: 2024-01-15T10:30:00.000Z
Expiration Time: 2024-01-15T10:35:00.000Z
Resources:
- https://api.example.com/premium-data"""


def challenge(**changes: Any) -> sign_in.Challenge:
    return sign_in.Challenge.model_validate({**INFO, **changes})


def test_the_specifications_message_is_written_word_for_word() -> None:
    # Its address has a checksum of its own; EIP-55's is compared in the same case.
    assert challenge().text(ADDRESS, BASE_CHAIN).lower() == TEXT.lower()


def test_without_a_statement_there_are_two_empty_lines() -> None:
    lines = challenge(statement=None).text(ADDRESS, BASE_CHAIN).split("\n")

    assert lines[2:5] == ["", "", "URI: https://api.example.com/premium-data"]


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"])))
def test_a_digest_is_the_one_that_wallets_sign(statement: str) -> None:
    asked = challenge(statement=statement)
    theirs = encode_defunct(text=asked.text(ADDRESS, BASE_CHAIN))
    whole = b"\x19" + theirs.version + theirs.header + theirs.body

    assert asked.digest(ADDRESS, BASE_CHAIN) == keccak(whole)


async def test_a_challenge_is_read_signed_and_read_again() -> None:
    extension = sign_in.offer(INFO, BASE_CHAIN)
    found = sign_in.read_challenge({sign_in.KEY: extension}, BASE_CHAIN)
    assert found is not None
    asked, words = found
    digest = asked.digest(WALLET.address, BASE_CHAIN)
    signature = await WALLET.sign_digest(digest, chain=ChainId(31337))
    message = sign_in.write_sign_in(words, WALLET.address, BASE_CHAIN, signature)
    signed = sign_in.parse_sign_in(encode_json(message))

    assert signed.address == WALLET.address
    again = signed.digest(signed.address, signed.chain_id)
    assert recover(again, signed.signature) == WALLET.address
    assert not faults(message, extension["schema"])
    assert sign_in.read_challenge({sign_in.KEY: extension}, ChainId(1)) is None


@pytest.mark.parametrize("end", ["\n", "\r", "\x00", "\u2028", "\x85"])
@pytest.mark.parametrize("name", ["domain", "uri", "statement", "requestId", "nonce"])
def test_no_field_may_begin_another_line(name: str, end: str) -> None:
    with pytest.raises(ValidationError):
        challenge(**{name: f"abcdefgh{end}URI: https://evil.example"})
    with pytest.raises(ValidationError):
        challenge(resources=[f"https://a.example{end}x"])


@pytest.mark.parametrize(
    ("changes", "after", "wrong"),
    [
        ({}, 0, None),
        ({}, 299, None),
        ({"expirationTime": None}, 300, "invalid_siwx_issued_at"),
        ({}, -6, "invalid_siwx_issued_at"),
        ({"expirationTime": "2024-01-15T10:31:00Z"}, 60, "invalid_siwx_expired"),
        ({"notBefore": "2024-01-15T10:31:00Z"}, 59, "invalid_siwx_not_before"),
        ({"notBefore": "2024-01-15T10:31:00Z"}, 60, None),
    ],
)
def test_a_challenge_is_good_for_five_minutes(
    changes: dict[str, Any], after: int, wrong: str | None
) -> None:
    assert challenge(**changes).wrong_time(ISSUED + after) == wrong


@pytest.mark.parametrize(
    ("changes", "origin", "same"),
    [
        ({}, "https://api.example.com/other", True),
        ({}, "http://api.example.com", False),
        ({}, "https://api.example.com:444", False),
        ({}, "https://evil.example", False),
        ({"domain": "evil.example"}, "https://api.example.com", False),
        ({"uri": "https://evil.example/x"}, "https://api.example.com", False),
        ({"uri": "https://[::1"}, "https://api.example.com", False),
    ],
)
def test_only_the_origin_that_asks_is_meant(
    changes: dict[str, Any], origin: str, same: bool
) -> None:
    assert challenge(**changes).is_of(origin) == same


@given(st.integers(0, 2**36))
def test_a_moment_is_read_as_the_standard_library_writes_it(seconds: int) -> None:
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)

    assert sign_in.parse_moment(moment.strftime("%Y-%m-%dT%H:%M:%SZ")) == seconds


@given(st.text(max_size=40))
def test_nothing_else_is_a_moment(text: str) -> None:
    with pytest.raises(ValueError, match="not a moment"):
        sign_in.parse_moment(text)


@pytest.mark.parametrize("text", ["2024-02-30T00:00:00Z", "2024-01-01T24:00:00Z"])
def test_a_moment_is_in_the_calendar(text: str) -> None:
    with pytest.raises(ValueError, match="not a moment"):
        sign_in.parse_moment(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*INFO, "address", "signature"]), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*INFO, "address", "signature"]), JSON))
def test_nonsense_is_no_sign_in(message: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        sign_in.parse_sign_in(encode_json(message))
    assert sign_in.read_challenge({sign_in.KEY: message}, BASE_CHAIN) is None
