"""Signed transactions, read from their bytes."""

import pytest
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm import rlp
from agentpay.evm.calls import Call
from agentpay.evm.transaction import read_signed_call
from agentpay.types import Address

KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
TO = Address("0x" + "ab" * 20)


def signed(**changed: object) -> bytes:
    fields: dict[str, object] = {
        "type": 2,
        "chainId": 31337,
        "nonce": 7,
        "to": TO.to_bytes(),
        "value": 3,
        "data": b"\x01\x02",
        "gas": 50_000,
        "maxFeePerGas": 90,
        "maxPriorityFeePerGas": 2,
    }
    transaction = Account.from_key(KEY).sign_transaction({**fields, **changed})
    return bytes(transaction.raw_transaction)


@given(
    nonce=st.integers(0, 2**32),
    value=st.integers(0, 2**96),
    data=st.binary(max_size=300),
    gas=st.integers(21_000, 2**24),
    most=st.integers(1, 2**64),
)
def test_what_was_signed_is_read_back(
    nonce: int, value: int, data: bytes, gas: int, most: int
) -> None:
    raw = signed(nonce=nonce, value=value, data=data, gas=gas, maxFeePerGas=most + 2)
    read = read_signed_call(raw)

    assert (read.chain, read.nonce, read.gas) == (31337, nonce, gas)
    assert (read.tip, read.fee_max) == (2, most + 2)
    assert read.call("pay") == Call(to=TO, value=value, data=data, what="pay")
    assert read.raw == raw


def test_its_hash_is_the_one_that_nodes_know_it_by() -> None:
    fields = {
        "type": 2,
        "chainId": 31337,
        "nonce": 7,
        "to": TO.to_bytes(),
        "value": 0,
        "gas": 50_000,
        "maxFeePerGas": 90,
        "maxPriorityFeePerGas": 2,
    }
    transaction = Account.from_key(KEY).sign_transaction(fields)
    read = read_signed_call(bytes(transaction.raw_transaction))

    assert read.hash.to_bytes() == bytes(transaction.hash)


def test_it_carries_the_call_that_it_was_made_for_and_no_other() -> None:
    read = read_signed_call(signed())

    assert read.carries(Call(to=TO, value=3, data=b"\x01\x02", what="whatever"))
    assert not read.carries(Call(to=TO, value=4, data=b"\x01\x02", what="whatever"))
    assert not read.carries(Call(to=TO, value=3, data=b"\x01", what="whatever"))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x02",
        b"\x01" + signed()[1:],
        signed()[:-1],
        signed() + b"\0",
        signed(to=b""),
        signed(accessList=[{"address": TO, "storageKeys": []}]),
        b"\x02" + rlp.encode([b""] * 11),
    ],
)
def test_what_is_no_call_signed_whole_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_signed_call(raw)
