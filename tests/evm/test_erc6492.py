"""Signatures of wallets that are not there yet: one encoding, bounded, never nested."""

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm.erc6492 import (
    MAGIC,
    WRAPPED_MAX,
    WrappedSignature,
    inner_signature,
    is_wrapped,
    unwrap,
    wrap,
)
from agentpay.evm.hashing import address_word, uint_word
from agentpay.evm.signature import BadSignature
from agentpay.types import Address
from tests.evm.signed import ADDRESSES

FACTORY = Address("0x" + "11" * 20)
WRAPPED = st.builds(
    WrappedSignature,
    factory=ADDRESSES,
    factory_data=st.binary(max_size=500),
    signature=st.binary(max_size=500),
)


@given(WRAPPED)
def test_what_was_wrapped_is_unwrapped(wrapped: WrappedSignature) -> None:
    values = [wrapped.factory, wrapped.factory_data, wrapped.signature]
    theirs = encode(["address", "bytes", "bytes"], values) + MAGIC

    assert wrap(wrapped) == theirs
    assert is_wrapped(theirs)
    assert unwrap(theirs) == wrapped


@given(WRAPPED)
def test_the_deployment_is_the_factorys_own_call(wrapped: WrappedSignature) -> None:
    call = wrapped.deploy_call()

    assert (call.to, call.data) == (wrapped.factory, wrapped.factory_data)


@given(st.binary(max_size=300))
def test_any_other_bytes_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(BadSignature, match="6492"):
        unwrap(data + MAGIC)
    if not is_wrapped(data):
        with pytest.raises(BadSignature, match="not wrapped"):
            unwrap(data)


@given(WRAPPED, st.data())
def test_a_changed_byte_never_unwraps_to_the_same(
    wrapped: WrappedSignature, data: st.DataObject
) -> None:
    """K3: no two byte strings say the same."""
    written = bytearray(wrap(wrapped))
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] ^= data.draw(st.integers(1, 255))
    try:
        other = unwrap(bytes(written))
    except BadSignature:
        return

    assert other != wrapped


@given(WRAPPED)
def test_another_encoding_of_the_same_is_refused(wrapped: WrappedSignature) -> None:
    """K3."""
    body = wrap(wrapped)[: -len(MAGIC)]
    head = [address_word(wrapped.factory), uint_word(0x60), uint_word(0x60)]
    first, second = body[0x60:], encode(["bytes"], [wrapped.signature])[0x20:]
    data = encode(["bytes"], [wrapped.factory_data])[0x20:]
    swapped = [head[0], uint_word(0x60 + len(second)), head[2], second, data]
    gap = [head[0], uint_word(0x80), uint_word(0x80 + len(data)), bytes(32), first]

    for other in (body + bytes(32), b"".join(swapped), b"".join(gap)):
        if other == body:
            continue
        with pytest.raises(BadSignature, match="one encoding"):
            unwrap(other + MAGIC)


@given(WRAPPED)
def test_wrapping_twice_is_refused(wrapped: WrappedSignature) -> None:
    inner = wrap(wrapped)
    twice = encode(["address", "bytes", "bytes"], [FACTORY, b"", inner]) + MAGIC

    with pytest.raises(BadSignature, match="once more"):
        unwrap(twice)
    with pytest.raises(BadSignature, match="once more"):
        WrappedSignature(factory=FACTORY, factory_data=b"", signature=inner)


def test_what_is_too_long_is_neither_written_nor_read() -> None:
    long = WrappedSignature(
        factory=FACTORY, factory_data=b"\x01" * WRAPPED_MAX, signature=b""
    )
    written = encode(["address", "bytes", "bytes"], [FACTORY, long.factory_data, b""])

    with pytest.raises(BadSignature, match=str(WRAPPED_MAX)):
        wrap(long)
    with pytest.raises(BadSignature, match=str(WRAPPED_MAX)):
        unwrap(written + MAGIC)


@given(WRAPPED)
def test_a_wallet_is_shown_its_own_signature(wrapped: WrappedSignature) -> None:
    assert inner_signature(wrap(wrapped)) == wrapped.signature
    assert inner_signature(wrapped.signature) == wrapped.signature
