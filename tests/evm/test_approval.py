"""Approvals that a payer signs whole: what eth-account signs, and nothing else."""

from dataclasses import replace
from typing import Any

import pytest
from coincurve import PrivateKey
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm import rlp
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.allowance_abi import approve_call
from agentpay.evm.approval import (
    ApprovalTransaction,
    SignedApproval,
    read_approval,
)
from agentpay.evm.hashing import keccak
from agentpay.types import UINT256_MAX, Address, ChainId
from tests.evm.signed import ADDRESSES

KEY = bytes(31) + b"\x07"
OTHER = Address("0x" + "77" * 20)
APPROVALS = st.builds(
    ApprovalTransaction,
    chain=st.integers(1, 2**64 - 1).map(ChainId),
    nonce=st.integers(0, 2**64 - 2),
    tip=st.integers(0, 2**96),
    fee_max=st.integers(2**96, 2**97),
    gas=st.integers(21_000, 2**32),
    token=ADDRESSES,
    amount=st.integers(0, UINT256_MAX),
)
GOOD = ApprovalTransaction(
    chain=ChainId(31337),
    nonce=3,
    tip=1,
    fee_max=10**9,
    gas=70_000,
    token=Address("0x" + "22" * 20),
    amount=1000,
)


def signed(approval: ApprovalTransaction) -> SignedApproval:
    signature = PrivateKey(KEY).sign_recoverable(approval.digest(), hasher=None)
    return approval.signed(signature[:64] + bytes((signature[64] + 27,)))


def theirs(approval: ApprovalTransaction, **changes: Any) -> bytes:
    """What eth-account signs."""
    call = approve_call(approval.token, spender=PERMIT2, amount=approval.amount)
    fields = {
        "type": 2,
        "chainId": approval.chain,
        "nonce": approval.nonce,
        "to": approval.token.to_bytes(),
        "value": 0,
        "data": call.data,
        "gas": approval.gas,
        "maxFeePerGas": approval.fee_max,
        "maxPriorityFeePerGas": approval.tip,
    }
    fields = {key: value for key, value in {**fields, **changes}.items() if value != ""}
    return bytes(Account.sign_transaction(fields, KEY).raw_transaction)


@given(APPROVALS)
def test_f7_an_approval_is_the_transaction_that_others_sign(
    approval: ApprovalTransaction,
) -> None:
    ours = signed(approval)

    assert ours.raw == theirs(approval)
    assert read_approval(ours.raw) == ours
    assert ours.owner == Account.from_key(KEY).address.lower()
    assert ours.hash == "0x" + keccak(ours.raw).hex()
    assert ours.approval.cost == approval.gas * approval.fee_max


APPROVE = approve_call(GOOD.token, spender=PERMIT2, amount=1000).data
ACCESS = [{"address": str(GOOD.token), "storageKeys": ["0x" + "00" * 32]}]
NO_FEES = {"maxFeePerGas": "", "maxPriorityFeePerGas": "", "gasPrice": 10**9}
CHANGES: dict[str, dict[str, Any]] = {
    "sends coin": {"value": 1},
    "carries an access list": {"accessList": ACCESS},
    "has a tail": {"data": APPROVE + b"\0"},
    "approves another": {
        "data": approve_call(GOOD.token, spender=OTHER, amount=1).data
    },
    "transfers": {"data": bytes.fromhex("a9059cbb") + APPROVE[4:]},
    "calls nothing": {"data": b""},
    "makes a contract": {"to": b""},
    "is of the old kind": {"type": "", **NO_FEES},
    "is of type 1": {"type": 1, **NO_FEES},
    "delegates": {
        "type": 4,
        "authorizationList": [
            Account.from_key(KEY).sign_authorization(
                {"chainId": 1, "address": OTHER.to_bytes(), "nonce": 4}
            )
        ],
    },
}


@pytest.mark.parametrize("change", CHANGES)
def test_f7_a_transaction_that_does_anything_else_is_refused(change: str) -> None:
    raw = theirs(GOOD, **CHANGES[change])

    with pytest.raises(ValueError, match=r"."):
        read_approval(raw)


@given(st.integers(0, 200), st.integers(1, 255))
def test_f7_a_changed_byte_is_another_signer_or_nothing(at: int, flip: int) -> None:
    raw = bytearray(signed(GOOD).raw)
    at %= len(raw)
    raw[at] ^= flip
    try:
        read = read_approval(bytes(raw))
    except ValueError:
        return

    assert read.raw == bytes(raw)
    assert read.owner != signed(GOOD).owner


@given(st.binary(max_size=600))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    for raw in (data, b"\x02" + data):
        with pytest.raises(ValueError, match=r"."):
            read_approval(raw)


def test_f7_a_second_form_of_its_signature_is_refused() -> None:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    ours = signed(GOOD)
    s = order - int.from_bytes(ours.signature[32:64], "big")
    parity = 1 - (ours.signature[64] - 27)
    r = int.from_bytes(ours.signature[:32], "big")
    other = [*GOOD.transaction.fields(), *map(rlp.encode_uint, (parity, r, s))]

    with pytest.raises(ValueError, match="lower half"):
        read_approval(b"\x02" + rlp.encode(other))


@pytest.mark.parametrize("name", ["nonce", "tip", "fee_max", "gas", "amount"])
def test_numbers_that_no_transaction_has_make_no_approval(name: str) -> None:
    for number in (-1, UINT256_MAX + 1):
        changes: dict[str, Any] = {name: number}
        with pytest.raises(ValueError, match="uint256"):
            replace(GOOD, **changes)
