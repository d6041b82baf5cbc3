"""Authentication headers: everything legal is read, and nothing is read twice."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage, MessageTooLarge
from agentpay.wire.mpp.schemes import LINE_CHARS_MAX, SchemeValue, quote, read_schemes

TOKEN_LETTERS = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
tokens = st.text(TOKEN_LETTERS, min_size=1, max_size=8)
bares = st.from_regex(r"[0-9A-Za-z\-._~+/]{1,12}={0,2}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20)
blanks = st.text(" \t", max_size=3)
gaps = st.text(" \t", min_size=1, max_size=3)
commas = st.from_regex(r"[ \t]{0,2},[ \t,]{0,3}", fullmatch=True)


@st.composite
def schemes(draw: st.DrawFn) -> tuple[str, SchemeValue]:
    """A scheme as somebody might write it, and what it says."""
    name = draw(tokens)
    upper = name.upper() if draw(st.booleans()) else name
    kind = draw(st.sampled_from(["nothing", "bare", "params"]))
    if kind == "nothing":
        return upper, SchemeValue(scheme=name, bare=None, params=())
    if kind == "bare":
        bare = draw(bares)
        line = upper + draw(gaps) + bare
        return line, SchemeValue(scheme=name, bare=bare, params=())
    params = draw(st.lists(st.tuples(tokens, texts), min_size=1, max_size=4))
    line = upper + draw(gaps)
    for index, (param, value) in enumerate(params):
        line += draw(commas) if index else ""
        line += param + draw(blanks) + "=" + draw(blanks)
        plain = value != "" and set(value) <= set(TOKEN_LETTERS)
        as_token = plain and draw(st.booleans())
        line += value if as_token else quote(value, name=param)
    return line, SchemeValue(scheme=name, bare=None, params=tuple(params))


@given(st.lists(schemes(), max_size=4), st.data())
def test_every_scheme_of_a_line_is_read(
    written: list[tuple[str, SchemeValue]], data: st.DataObject
) -> None:
    line = data.draw(st.text(" \t,", max_size=2))
    for index, (part, _) in enumerate(written):
        line += (data.draw(commas) if index else "") + part
    line += data.draw(st.text(" \t,", max_size=2))

    assert read_schemes(line) == tuple(scheme for _, scheme in written)


@given(texts)
def test_a_quoted_value_is_plain_ascii_and_comes_back(text: str) -> None:
    quoted = quote(text, name="x")

    assert quoted.isascii()
    assert quoted.isprintable()
    assert read_schemes(f"a b={quoted}")[0].params == (("b", text),)


@given(st.text(max_size=60) | st.text('Payment a="b",=\\ ', max_size=60))
def test_any_line_is_read_without_a_fault(line: str) -> None:
    for scheme in read_schemes(line):
        assert scheme.scheme


@given(texts, texts)
def test_text_inside_a_broken_value_becomes_no_parameter(
    before: str, after: str
) -> None:
    torn = f'a b={quote(before, name="b")}x{after}, c="d", Payment e="f"'
    (scheme,) = read_schemes(torn)

    assert scheme.params == (("b", before),)


def test_a_scheme_named_in_a_value_is_no_scheme() -> None:
    (scheme,) = read_schemes('Payment realm="ask, Payment id=\\"x\\", support"')

    assert scheme.params == (("realm", 'ask, Payment id="x", support'),)


def test_what_mppx_writes_beyond_latin_1_is_read() -> None:
    (scheme,) = read_schemes(
        r'Payment a="caf\u00e9 \u2615 \ud83d\ude00 \ud83d \\u0041"'
    )

    assert scheme.params == (("a", "café ☕ 😀 \ufffd \\u0041"),)


@pytest.mark.parametrize(
    "line",
    [
        "",
        ", ,",
        "=x",
        '"quoted"',
        'id="x", Payment',
        "\x00Payment a=b",
    ],
)
def test_a_line_that_begins_with_no_scheme_has_none(line: str) -> None:
    assert read_schemes(line) == ()


@pytest.mark.parametrize(
    "line",
    [
        "Basic Payment abc",
        "Basic a b, Payment abc",
        'Basic realm="x, Payment abc',
        'Basic realm="x\ny", Payment abc',
        "Basic realm=x y, Payment abc",
    ],
)
def test_nothing_after_a_fault_is_a_scheme(line: str) -> None:
    assert [scheme.scheme for scheme in read_schemes(line)] == ["basic"]


@pytest.mark.parametrize("text", ["a\rb", "a\nb", "a\x00b", "a\x7fb", "\ud800"])
def test_what_no_header_carries_is_not_written(text: str) -> None:
    with pytest.raises(MalformedMessage, match="description"):
        quote(text, name="description")


@pytest.mark.parametrize(
    "tail",
    [
        "\\" * 60_000,
        'b="' * 20_000,
        "a " * 30_000,
        "=" * 60_000,
        " " * 60_000,
        "b=c," * 15_000,
        '"\\"' * 20_000,
        "/" * 60_000 + "!",
        "\t," * 30_000 + "\x00",
    ],
    ids=lambda tail: repr(tail[:6]),
)
def test_a_hostile_line_takes_linear_time(tail: str) -> None:
    began = time.process_time()
    read_schemes('Payment id="x", fuzz="' + tail)
    read_schemes("Payment " + tail)
    read_schemes(tail)

    assert time.process_time() - began < 1


def test_a_line_too_long_is_refused_unread() -> None:
    with pytest.raises(MessageTooLarge, match="65537 characters"):
        read_schemes("," * (LINE_CHARS_MAX + 1))
