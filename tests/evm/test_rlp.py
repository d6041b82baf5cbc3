"""RLP: what is written is what others write, and nothing else is read."""

import pytest
import rlp as theirs  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from agentpay.evm import rlp
from agentpay.evm.rlp import Item

STRINGS = st.binary(max_size=80) | st.binary(min_size=250, max_size=300)
ITEMS: st.SearchStrategy[Item] = st.recursive(
    STRINGS, lambda inner: st.lists(inner, max_size=4), max_leaves=8
).filter(lambda item: _depth(item) <= 4)


def _depth(item: Item) -> int:
    if isinstance(item, bytes):
        return 0
    return 1 + max((_depth(part) for part in item), default=0)


@given(ITEMS)
def test_what_is_written_is_read_and_others_write_it_so(item: Item) -> None:
    written = rlp.encode(item)

    assert written == theirs.encode(item)
    assert rlp.decode(written) == item


@given(st.binary(max_size=120))
def test_bytes_are_read_only_if_they_are_the_one_encoding(data: bytes) -> None:
    try:
        item = rlp.decode(data)
    except ValueError:
        return

    assert rlp.encode(item) == data


@given(ITEMS, st.binary(min_size=1, max_size=3))
def test_nothing_may_follow(item: Item, tail: bytes) -> None:
    with pytest.raises(ValueError, match="RLP"):
        rlp.decode(rlp.encode(item) + tail)


@pytest.mark.parametrize(
    "data",
    ["", "8101", "b8", "b80100", "b9003800", "f800", "bf" + "ff" * 8, "82ff", "c2c1"],
)
def test_other_encodings_are_refused(data: str) -> None:
    with pytest.raises(ValueError, match="RLP"):
        rlp.decode(bytes.fromhex(data))


def test_lists_are_not_followed_for_ever() -> None:
    nested: Item = b""
    for _ in range(6):
        nested = [nested]
    with pytest.raises(ValueError, match="too deeply"):
        rlp.decode(rlp.encode(nested))


@given(st.integers(0, 2**256 - 1))
def test_numbers_have_one_form(number: int) -> None:
    written = rlp.encode_uint(number)

    assert rlp.decode_uint(written) == number
    for wrong in (b"\0" + written, [written]):
        with pytest.raises(ValueError, match="number"):
            rlp.decode_uint(wrong)
