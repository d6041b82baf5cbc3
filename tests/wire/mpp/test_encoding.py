"""How values are written: one text for one value, and nothing else is read."""

import base64
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage, MessageTooLarge
from agentpay.wire.headers import JsonValue
from agentpay.wire.mpp.encoding import (
    OBJECT_CHARS_MAX,
    canonical,
    decode_base64url,
    decode_object,
    encode_base64url,
    encode_object,
)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
values: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)
    ),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=5)


@given(st.binary(max_size=200))
def test_bytes_come_back(raw: bytes) -> None:
    assert decode_base64url(encode_base64url(raw), name="x") == raw


@given(st.text(max_size=12) | st.from_regex(r"[0-9A-Za-z_\-=]{0,12}", fullmatch=True))
def test_a_text_is_read_only_if_it_is_what_we_would_write(text: str) -> None:
    try:
        raw = decode_base64url(text, name="x")
    except MalformedMessage:
        assert not re.fullmatch(r"(?:[0-9A-Za-z_-]{4})*", text)
    else:
        assert encode_base64url(raw) == text


@pytest.mark.parametrize("text", ["YQ==", "Y", "a+b/", "YR", "YQ\n", "Y Q", "é"])
def test_a_second_spelling_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage, match="x is not base64url"):
        decode_base64url(text, name="x")


@given(objects)
def test_a_canonical_object_is_the_same_object(value: dict[str, JsonValue]) -> None:
    assert json.loads(canonical(value)) == value
    assert decode_object(encode_object(value), name="x") == value


@given(objects, st.randoms(use_true_random=False))
def test_the_order_of_keys_changes_nothing(
    value: dict[str, JsonValue], random: object
) -> None:
    keys = list(value)
    random.shuffle(keys)  # type: ignore[attr-defined]

    assert canonical({key: value[key] for key in keys}) == canonical(value)


def test_the_example_of_rfc_8785_is_written_as_it_says() -> None:
    """Section 3.2.3, without its numbers that are fractions."""
    value: JsonValue = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    written = list(json.loads(canonical(value)).values())

    assert [text.split()[0] for text in written] == [
        "Carriage", "One", "Control", "Latin", "Euro", "Emoji:", "Hebrew",
    ]  # fmt: skip


def test_text_is_escaped_as_rfc_8785_has_it() -> None:
    """Section 3.2.2.2: two-letter escapes, lower-case hex, everything else as it is."""
    value: JsonValue = ['€$\u000f\nA\'B"\\\\"/\u007f\u2028<&>\b\f\t']
    expected = '["€$\\u000f\\nA\'B\\"\\\\\\\\\\"/\u007f\u2028<&>\\b\\f\\t"]'

    assert canonical(value) == expected.encode()


@pytest.mark.parametrize("value", [1.0, 2**53, -(2**53), "\ud800", {"\udfff": 1}])
def test_what_has_no_exact_form_is_not_written(value: JsonValue) -> None:
    with pytest.raises(ValueError, match=r"fraction|exact|surrogates"):
        canonical(value)


@pytest.mark.parametrize("raw", [b"[]", b"not json", b'{"a":NaN}', b"\xff", b"{" * 300])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_object(encode_base64url(raw), name="x")


def test_a_long_text_is_refused_unread() -> None:
    with pytest.raises(MessageTooLarge):
        decode_object("!" * (OBJECT_CHARS_MAX + 1), name="x")


def test_our_text_is_what_the_standard_library_writes_without_padding() -> None:
    raw = bytes(range(256))

    assert encode_base64url(raw) == base64.urlsafe_b64encode(raw).decode().rstrip("=")
