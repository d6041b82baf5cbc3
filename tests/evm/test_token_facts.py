"""What a token tells of its EIP-712 domain is read, or it tells none."""

import contextlib

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm.eip3009_abi import decode_domain, decode_names

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
DOMAIN = ["bytes1", "string", "string", "uint256", "address", "bytes32", "uint256[]"]


@given(name=NAMES, version=NAMES)
def test_names_are_read_as_either_kind_of_token_tells_them(
    name: str, version: str
) -> None:
    rest = [31337, "0x" + "11" * 20, bytes(32), []]
    domain = encode(DOMAIN, [b"\x0f", name, version, *rest])
    names = [encode(["string"], [word]) for word in (name, version)]

    assert decode_domain([domain]) == decode_names(names) == (name, version)


@given(st.binary(max_size=300))
def test_whatever_else_is_answered_is_a_domain_or_a_value_error(answer: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert all(isinstance(name, str) for name in decode_domain([answer]))


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_whatever_else_is_answered_is_names_or_a_value_error(
    name: bytes, version: bytes
) -> None:
    with contextlib.suppress(ValueError):
        assert all(isinstance(name, str) for name in decode_names([name, version]))


def test_a_token_without_these_functions_tells_nothing() -> None:
    with pytest.raises(ValueError, match="no EIP-712 domain"):
        decode_domain([b""])
    with pytest.raises(ValueError, match="no name and version"):
        decode_names([b"", b""])
