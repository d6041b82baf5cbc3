"""Idempotency keys, and the names of payers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage
from agentpay.types import Address, ChainId
from agentpay.wire.mpp.idempotency import parse_idempotency_key
from agentpay.wire.mpp.source import format_source, parse_source

from .factories import addresses, chains

ASCII = "".join(map(chr, range(0x20, 0x7F)))
keys = st.text(ASCII, min_size=1, max_size=255).filter(lambda k: k == k.strip())


@given(keys)
def test_a_quoted_key_is_the_key(key: str) -> None:
    quoted = key.replace("\\", "\\\\").replace('"', '\\"')

    assert parse_idempotency_key([f' "{quoted}" ']) == key


@given(keys.filter(lambda key: key[0] != '"'))
def test_a_bare_key_is_itself(key: str) -> None:
    assert parse_idempotency_key([f"\t{key}"]) == key


def test_a_request_need_not_have_one() -> None:
    assert parse_idempotency_key([]) is None


@pytest.mark.parametrize(
    "lines",
    [
        [""],
        [" "],
        ['""'],
        ['"'],
        ['"a'],
        ['"a"b'],
        ['"a\\b"'],
        ["é"],
        ["a\nb"],
        ["a", "a"],
        ["a" * 256],
        ['"' + '\\"' * 256 + '"'],
        ["a" * 100_000],
    ],
)
def test_what_is_no_key_is_refused(lines: list[str]) -> None:
    with pytest.raises(MalformedMessage, match="Idempotency-Key"):
        parse_idempotency_key(lines)


@given(chains, addresses)
def test_a_payer_comes_back(chain: ChainId, account: Address) -> None:
    assert parse_source(format_source(chain, account)) == (chain, account)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "did:key:z6Mkh",
        "did:pkh:solana:1:0x" + "ab" * 20,
        "did:pkh:eip155:01:0x" + "ab" * 20,
        "did:pkh:eip155:1:0x" + "ab" * 19,
        "did:pkh:eip155:1:0x" + "ab" * 20 + "\n",
    ],
)
def test_what_names_no_evm_account_is_refused(source: str) -> None:
    with pytest.raises(MalformedMessage, match="no EVM account"):
        parse_source(source)
