"""Credentials: exactly one, read as it was sent, and never shown."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage, MessageTooLarge
from agentpay.wire.headers import JsonValue
from agentpay.wire.mpp.challenge import Challenge
from agentpay.wire.mpp.credential import (
    CREDENTIAL_CHARS_MAX,
    Credential,
    SeveralCredentials,
    find_credential,
    format_credential,
    parse_credential,
)
from agentpay.wire.mpp.encoding import encode_base64url, encode_object

from .factories import CHALLENGE, challenges, objects, texts

LINE = format_credential(Credential(challenge=CHALLENGE, payload={"type": "hash"}))


def read(line: str) -> Credential:
    return parse_credential(find_credential([line]) or "")


@given(challenges, objects, st.none() | texts)
def test_a_credential_comes_back_word_by_word(
    challenge: Challenge, payload: dict[str, JsonValue], source: str | None
) -> None:
    sent = Credential(challenge=challenge, payload=payload, source=source)

    assert read(format_credential(sent)) == sent


def test_a_raw_request_is_echoed_even_if_it_is_not_canonical() -> None:
    odd = encode_base64url(b'{ "b": 1, "a": 2 }')
    sent = Credential(challenge=replace(CHALLENGE, request=odd), payload={})

    assert read(format_credential(sent)).challenge.request == odd


def test_other_schemes_may_stand_beside_it() -> None:
    assert find_credential(["Bearer abc", f'Digest a="b, c", {LINE}, Basic eHg=']) == (
        LINE.removeprefix("Payment ")
    )


@pytest.mark.parametrize("lines", [[], [""], ["Bearer abc"], ['Digest x="Payment y"']])
def test_a_request_without_one_is_unpaid(lines: list[str]) -> None:
    assert find_credential(lines) is None


@pytest.mark.parametrize(
    "lines", [[LINE, LINE], [f"{LINE}, {LINE}"], [LINE, "payment"]]
)
def test_a_second_credential_is_refused(lines: list[str]) -> None:
    with pytest.raises(SeveralCredentials, match="2 Payment credentials"):
        find_credential(lines)


@pytest.mark.parametrize(
    "line", ["Payment", "payment ", 'Payment id="x"', "Payment {}"]
)
def test_a_scheme_without_a_credential_is_malformed(line: str) -> None:
    with pytest.raises(MalformedMessage, match="nothing follows"):
        find_credential([line])


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"payload": {}},
        {"challenge": {}, "payload": {}},
        {"challenge": "x", "payload": {}},
        {"challenge": {"id": "a"}},
        {"challenge": {"id": "a"}, "payload": []},
        {"challenge": {"id": "a"}, "payload": {}, "source": 7},
    ],
)
def test_what_lacks_a_part_is_malformed(message: dict[str, JsonValue]) -> None:
    with pytest.raises(MalformedMessage, match="credential: "):
        parse_credential(encode_object(message))


@pytest.mark.parametrize("encoded", ["W10", "not-valid", "eyJ", "bm90IGpzb24", ""])
def test_what_is_no_object_is_malformed(encoded: str) -> None:
    with pytest.raises(MalformedMessage, match="credential is not"):
        parse_credential(encoded)


def test_too_long_a_credential_is_refused_unread() -> None:
    with pytest.raises(MessageTooLarge):
        parse_credential("!" * (CREDENTIAL_CHARS_MAX + 1))


@given(st.text(max_size=40))
def test_a_proof_is_neither_shown_nor_told(secret: str) -> None:
    marked = f"proof-{secret}"
    credential = Credential(challenge=CHALLENGE, payload={"signature": marked})

    assert "proof-" not in repr(credential)
    with pytest.raises(MalformedMessage) as raised:
        parse_credential(encode_object({"challenge": {"id": marked}, "payload": {}}))
    assert "proof-" not in str(raised.value)
