"""ERC-20 transfers that payers send themselves: read to the last byte."""

from dataclasses import replace

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm.calls import Log
from agentpay.evm.eip3009_abi import AUTHORIZATION_USED, TRANSFER
from agentpay.evm.hashing import address_word, uint_word
from agentpay.evm.plain_transfer import PlainTransfer, read_plain_transfer
from agentpay.types import UINT256_MAX, Address, Hash32
from tests.evm.signed import ADDRESSES

TRANSFERS = st.builds(
    PlainTransfer, token=ADDRESSES, to=ADDRESSES, amount=st.integers(0, UINT256_MAX)
)
OTHER = Address("0x" + "77" * 20)


def log(transfer: PlainTransfer, payer: Address) -> Log:
    return Log(
        address=transfer.token,
        topics=(
            TRANSFER,
            Hash32.of(address_word(payer)),
            Hash32.of(address_word(transfer.to)),
        ),
        data=uint_word(transfer.amount),
        block=1,
        transaction=Hash32("0x" + "11" * 32),
        index=0,
    )


@given(TRANSFERS)
def test_a_call_is_read_back(transfer: PlainTransfer) -> None:
    call = transfer.call()

    assert call.to == transfer.token
    assert call.data == bytes.fromhex("a9059cbb") + encode(
        ["address", "uint256"], [transfer.to, transfer.amount]
    )
    assert read_plain_transfer(call.to, call.data) == transfer


@given(TRANSFERS, st.integers(0, 15), st.integers(1, 255), st.binary(min_size=1))
def test_nothing_else_is_read(
    transfer: PlainTransfer, at: int, flip: int, tail: bytes
) -> None:
    data = bytearray(transfer.call().data)
    data[at] ^= flip
    for other in (bytes(data), transfer.call().data + tail, transfer.call().data[:-1]):
        with pytest.raises(ValueError, match="nothing else"):
            read_plain_transfer(transfer.token, other)


@given(TRANSFERS, ADDRESSES)
def test_f4_only_its_one_event_says_who_paid(
    transfer: PlainTransfer, payer: Address
) -> None:
    own = log(transfer, payer)
    used = replace(own, topics=(AUTHORIZATION_USED, *own.topics[1:]))

    assert transfer.payer_in([own]) == payer
    assert transfer.payer_in([used, own]) == payer
    for logs in (
        [],
        [used],
        [own, own],
        [replace(own, address=OTHER)],
        [replace(own, topics=own.topics[:2])],
        [replace(own, topics=(*own.topics[:2], Hash32.of(address_word(OTHER))))],
        [replace(own, data=uint_word(transfer.amount ^ 1))],
        [own, replace(own, address=OTHER)],
    ):
        assert transfer.payer_in(logs) is None
