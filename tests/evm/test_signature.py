"""
One digest and key, one signature: every other form of it is refused (K3).
"""

import pytest
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm import signature as signatures
from agentpay.evm.signature import ORDER, BadSignature, check_form, recover
from agentpay.types import Address

KEYS = st.integers(1, ORDER - 1).map(lambda n: n.to_bytes(32, "big"))
DIGESTS = st.binary(min_size=32, max_size=32)
KEY = b"\x07" * 32
DIGEST = b"\x11" * 32


def sign(digest: bytes, key: bytes) -> bytes:
    return bytes(Account.unsafe_sign_hash(digest, key).signature)


def rebuilt(r: int, s: int, v: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes((v,))


def parts(signed: bytes) -> tuple[int, int, int]:
    return (
        int.from_bytes(signed[:32], "big"),
        int.from_bytes(signed[32:64], "big"),
        signed[64],
    )


@given(DIGESTS, KEYS)
def test_the_signer_is_the_one_that_eth_account_signed_with(
    digest: bytes, key: bytes
) -> None:
    address = Account.from_key(key).address

    assert recover(digest, sign(digest, key)) == Address(address)


@given(DIGESTS, KEYS)
def test_without_libsecp256k1_the_same_account_is_found(
    digest: bytes, key: bytes
) -> None:
    signed = sign(digest, key)
    with pytest.warns(RuntimeWarning, match="coincurve is not installed"):
        slow = signatures._eth_keys_recover()
    fast = signatures._coincurve_recover()
    recoverable = signed[:64] + bytes((signed[64] - 27,))

    assert slow(digest, recoverable) == fast(digest, recoverable)


@given(DIGESTS, KEYS)
def test_k3_the_mirrored_form_is_refused(digest: bytes, key: bytes) -> None:
    """r, n - s and the other v verify as well, and would be a second signature."""
    r, s, v = parts(sign(digest, key))

    with pytest.raises(BadSignature, match="lower half"):
        recover(digest, rebuilt(r, ORDER - s, 27 + 28 - v))


@given(DIGESTS, KEYS, st.integers(0, 64), st.integers(1, 255))
def test_a_changed_byte_never_gives_the_same_signer(
    digest: bytes, key: bytes, place: int, change: int
) -> None:
    signed = bytearray(sign(digest, key))
    signed[place] ^= change
    try:
        found = recover(digest, bytes(signed))
    except BadSignature:
        return

    assert found != Address(Account.from_key(key).address)


@given(st.binary(max_size=80))
def test_bytes_of_any_length_are_a_signature_or_refused(raw: bytes) -> None:
    try:
        recover(DIGEST, raw)
    except BadSignature:
        return

    assert len(raw) == 65


@pytest.mark.parametrize("length", [0, 1, 64, 66, 130])
def test_a_signature_is_65_bytes(length: int) -> None:
    """The compact 64-byte form would be a second one."""
    with pytest.raises(BadSignature, match="65 bytes"):
        check_form((sign(DIGEST, KEY) * 2)[:length])


@pytest.mark.parametrize("v", [0, 1, 26, 29, 30, 35, 36, 255])
def test_k3_v_is_27_or_28(v: int) -> None:
    with pytest.raises(BadSignature, match="v must be"):
        check_form(sign(DIGEST, KEY)[:64] + bytes((v,)))


@pytest.mark.parametrize("r", [0, ORDER, ORDER + 1, 2**256 - 1])
def test_r_is_below_the_order_and_not_zero(r: int) -> None:
    with pytest.raises(BadSignature, match="r is out of range"):
        check_form(rebuilt(r, 1, 27))


@pytest.mark.parametrize("s", [0, ORDER // 2 + 1, ORDER - 1, ORDER, 2**256 - 1])
def test_k3_s_is_in_the_lower_half_and_not_zero(s: int) -> None:
    with pytest.raises(BadSignature, match="lower half"):
        check_form(rebuilt(1, s, 27))


def test_the_highest_allowed_s_is_allowed() -> None:
    check_form(rebuilt(1, ORDER // 2, 28))


def test_an_r_without_a_point_is_refused() -> None:
    """5 is no x coordinate on the curve."""
    with pytest.raises(BadSignature, match="no key"):
        recover(DIGEST, rebuilt(5, 1, 27))
