"""Challenges: what one server writes, every client reads, and nothing else."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage, MessageTooLarge
from agentpay.wire.mpp.challenge import (
    CHALLENGES_MAX,
    Challenge,
    format_challenge,
    make_challenge,
    parse_challenges,
)
from agentpay.wire.mpp.encoding import encode_object

from .factories import CHALLENGE, challenges

LINE = format_challenge(CHALLENGE)


@given(st.lists(challenges, min_size=1, max_size=4), st.booleans())
def test_every_challenge_of_a_402_is_read(
    sent: list[Challenge], one_line: bool
) -> None:
    lines = [format_challenge(challenge) for challenge in sent]

    assert parse_challenges([", ".join(lines)] if one_line else lines) == tuple(sent)


def test_other_schemes_stand_beside_it() -> None:
    lines = [f'Basic realm="x", {LINE}, Bearer', "Negotiate abc==", LINE]

    assert parse_challenges(lines) == (CHALLENGE, CHALLENGE)


def test_a_server_that_speaks_no_mpp_offers_nothing() -> None:
    assert parse_challenges(['Basic realm="x"', ""]) == ()
    assert parse_challenges([]) == ()


def test_names_are_read_in_any_case_and_order() -> None:
    request = encode_object({})
    line = f'PAYMENT Request={request},INTENT=charge , METHOD = evm, Realm="r",iD=a'

    assert parse_challenges([line]) == (
        Challenge(id="a", realm="r", method="evm", intent="charge", request=request),
    )


def test_what_nobody_defined_is_ignored() -> None:
    assert parse_challenges([LINE + ', id2="x", request-id=7']) == (CHALLENGE,)


def test_one_broken_challenge_does_not_hide_the_others() -> None:
    broken = LINE.replace('method="evm"', 'method="EVM"')

    assert parse_challenges([broken, LINE]) == (CHALLENGE,)
    with pytest.raises(MalformedMessage, match="no method: 'EVM'"):
        parse_challenges([broken])


@pytest.mark.parametrize("name", ["id", "realm", "method", "intent", "request"])
def test_what_is_required_is_missed(name: str) -> None:
    absent = LINE.replace(f"{name}=", f"x-{name}=")
    empty = f'{absent}, {name}=""'

    for line in (absent, empty):
        with pytest.raises(MalformedMessage, match=f"{name} is missing"):
            parse_challenges([line])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (CHALLENGE.request, "bm90IGpzb24"),
        (CHALLENGE.request, "W10"),
        (CHALLENGE.request, "e30="),
        (CHALLENGE.request, "a" * 16_385),
        ('intent="charge"', 'intent="char ge"'),
        ("2026-01-29T12:05:00Z", "soon"),
        ('id="', 'ID="x", id="'),
    ],
)
def test_what_is_not_of_its_form_is_refused(old: str, new: str) -> None:
    assert old in LINE
    with pytest.raises(MalformedMessage):
        parse_challenges([LINE.replace(old, new)])


@pytest.mark.parametrize("field", ["Payment-Authorization", "X-Pay"])
def test_a_server_may_name_the_field_of_the_credential(field: str) -> None:
    (challenge,) = parse_challenges([f'{LINE}, header="{field}"'])

    assert challenge.credential_field == field


def test_the_default_field_need_not_be_named() -> None:
    named = replace(CHALLENGE, header="authorization")

    assert CHALLENGE.credential_field == "Authorization"
    assert named.credential_field == "Authorization"


@pytest.mark.parametrize(
    "field", ["Host", "cookie", "Content-Length", "a b", "x:", "é"]
)
def test_no_server_makes_us_overwrite_another_field(field: str) -> None:
    with pytest.raises(MalformedMessage, match="no field for a credential"):
        parse_challenges([f'{LINE}, header="{field}"'])


@pytest.mark.parametrize("value", [7, None, [], {"a": "b"}, True])
def test_an_echo_is_made_of_texts(value: object) -> None:
    fields = dict.fromkeys(("id", "realm", "method", "intent", "request"), "a")
    with pytest.raises(MalformedMessage, match="realm is"):
        make_challenge({**fields, "realm": value}, name="credential")


@given(challenges, st.sampled_from("\r\n\x00\x7f"))
def test_a_line_break_never_gets_into_a_header(challenge: Challenge, bad: str) -> None:
    with pytest.raises(MalformedMessage, match="description"):
        format_challenge(replace(challenge, description=f"a{bad}b"))


@given(challenges)
def test_a_header_is_one_line_of_ascii(challenge: Challenge) -> None:
    line = format_challenge(challenge)

    assert line.isascii()
    assert line.isprintable()


def test_too_many_challenges_are_refused() -> None:
    with pytest.raises(MessageTooLarge, match="more than 32"):
        parse_challenges([LINE] * (CHALLENGES_MAX + 1))
