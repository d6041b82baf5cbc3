"""Challenge ids: ours are known again, and not one character of them can change."""

from dataclasses import asdict, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agentpay.errors import ConfigurationError
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.binding import (
    BindingSecrets,
    EchoFault,
    Terms,
    challenge_id,
    check_echo,
    issue,
)
from agentpay.wire.mpp.challenge import (
    NAMES,
    Challenge,
    format_challenge,
    parse_challenges,
)
from agentpay.wire.mpp.encoding import decode_object, encode_object

from .factories import challenges, filled, objects, texts

OLD, NEW, OTHER = b"o" * 32, b"n" * 32, b"x" * 32
SECRETS = BindingSecrets(secrets=(NEW, OLD))
NOW = 1_769_688_030
TERMS = Terms(
    realm="api.example.com",
    method="evm",
    intent="charge",
    request={"amount": "1000"},
    scope="GET /report",
)
nonces = st.binary(min_size=16, max_size=32)
bodies = st.binary(max_size=10)
terms = st.builds(
    Terms,
    realm=filled.filter(lambda realm: "|" not in realm),
    method=st.just("evm"),
    intent=st.just("session"),
    request=objects,
    scope=filled,
    description=st.none() | texts,
    header=st.sampled_from([None, "Authorization", "Payment-Authorization"]),
)


def fresh(given: Terms = TERMS, *, nonce: bytes = b"1" * 16) -> Challenge:
    return issue(given, secrets=SECRETS, nonce=nonce, expires_at=NOW + 300)


def changed(challenge: Challenge, name: str, value: str | None) -> Challenge:
    return Challenge(**{**asdict(challenge), name: value})


def fault(echo: Challenge, given: Terms = TERMS, *, now: int = NOW) -> EchoFault | None:
    return check_echo(echo, given, secrets=SECRETS, now=now)


@given(terms, nonces, bodies)
def test_what_was_issued_is_honoured_after_the_way_through_a_header(
    given: Terms, nonce: bytes, body: bytes
) -> None:
    challenge = issue(
        given, secrets=SECRETS, nonce=nonce, expires_at=NOW + 1, body=body
    )
    (echo,) = parse_challenges([format_challenge(challenge)])

    assert check_echo(echo, given, secrets=SECRETS, now=NOW, body=body) is None


@given(terms, nonces, nonces)
def test_no_two_challenges_have_one_id(
    given: Terms, nonce: bytes, another: bytes
) -> None:
    assume(nonce != another)

    assert fresh(given, nonce=nonce).id != fresh(given, nonce=another).id


@given(st.data(), terms, nonces)
def test_not_one_bound_field_can_change(
    data: st.DataObject, given: Terms, nonce: bytes
) -> None:
    challenge = fresh(given, nonce=nonce)
    name = data.draw(st.sampled_from([n for n in NAMES if n != "description"]))
    other = data.draw(st.none() | texts) if name not in NAMES[:5] else data.draw(filled)
    assume((other or "") != (getattr(challenge, name) or ""))
    assume(not (name == "header" and (other or "").lower() == "authorization"))

    assert fault(changed(challenge, name, other), given) is EchoFault.NOT_OURS


@given(challenges, st.data())
def test_what_anybody_makes_up_is_not_ours(
    made_up: Challenge, data: st.DataObject
) -> None:
    own_id = challenge_id(made_up, OTHER)
    chosen = data.draw(
        st.sampled_from([made_up.id, own_id, own_id[:-1], "é", "\ud800"])
    )

    assert fault(replace(made_up, id=chosen)) is EchoFault.NOT_OURS


def test_fields_cannot_be_cut_elsewhere() -> None:
    """The slot of `header` is optional: without care, these two are one message."""
    named = fresh(replace(TERMS, header="X-Pay"))
    cut = replace(named, digest=f"{named.digest or ''}|{named.header}", header=None)

    assert challenge_id(cut, NEW) == named.id
    assert fault(cut) is EchoFault.NOT_OURS


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"realm": "other.example.com"}, EchoFault.REALM),
        ({"method": "tempo"}, EchoFault.METHOD),
        ({"intent": "session"}, EchoFault.INTENT),
        ({"request": {"amount": "1001"}}, EchoFault.REQUEST),
        ({"scope": "GET /dear"}, EchoFault.OPAQUE),
        ({"description": "another"}, EchoFault.DESCRIPTION),
        ({"header": "X-Pay"}, EchoFault.HEADER),
    ],
)
def test_a_challenge_of_another_route_is_not_honoured_here(
    change: dict[str, str | JsonObject], expected: EchoFault
) -> None:
    here = replace(TERMS, description="here")
    elsewhere = replace(here, **change)  # type: ignore[arg-type]

    assert fault(fresh(elsewhere), here) is expected


def test_a_description_need_not_be_echoed() -> None:
    described = replace(TERMS, description="a report")

    assert fault(replace(fresh(described), description=None), described) is None


def test_an_old_secret_still_verifies_and_a_dropped_one_does_not() -> None:
    old = issue(
        TERMS,
        secrets=BindingSecrets(secrets=(OLD,)),
        nonce=b"1" * 16,
        expires_at=NOW + 300,
    )
    rotated = BindingSecrets(secrets=(NEW,))

    assert fault(old) is None
    assert fresh().id == challenge_id(fresh(), NEW)
    assert check_echo(old, TERMS, secrets=rotated, now=NOW) is EchoFault.NOT_OURS


def test_a_challenge_ends_at_its_second() -> None:
    assert fault(fresh(), now=NOW + 299) is None
    assert fault(fresh(), now=NOW + 300) is EchoFault.EXPIRED


@pytest.mark.parametrize(("name", "value"), [("expires", None), ("expires", "never")])
def test_a_challenge_without_an_end_is_over(name: str, value: str | None) -> None:
    """Somebody else with our secret might issue such a one."""
    endless = changed(fresh(), name, value)
    endless = replace(endless, id=challenge_id(endless, NEW))

    assert fault(endless) is EchoFault.EXPIRED


@pytest.mark.parametrize("opaque", [None, "trace-123", encode_object({"nonce": "x"})])
def test_a_challenge_without_a_scope_is_for_nothing(opaque: str | None) -> None:
    unscoped = replace(fresh(), opaque=opaque)
    unscoped = replace(unscoped, id=challenge_id(unscoped, NEW))

    assert fault(unscoped) is EchoFault.OPAQUE


@given(bodies, bodies)
def test_a_challenge_is_for_one_body(body: bytes, other: bytes) -> None:
    assume(body != other)
    challenge = issue(
        TERMS, secrets=SECRETS, nonce=b"1" * 16, expires_at=NOW + 1, body=body
    )
    found = check_echo(challenge, TERMS, secrets=SECRETS, now=NOW, body=other)

    assert found is EchoFault.DIGEST


@given(nonces)
def test_the_random_bytes_are_in_opaque(nonce: bytes) -> None:
    opaque = decode_object(fresh(nonce=nonce).opaque or "", name="opaque")

    assert set(opaque) == {"nonce", "scope"}
    assert all(isinstance(value, str) for value in opaque.values())


@pytest.mark.parametrize("secrets", [(), (b"x" * 31,), (NEW, b"short")])
def test_a_weak_secret_is_refused(secrets: tuple[bytes, ...]) -> None:
    with pytest.raises(ConfigurationError, match="32"):
        BindingSecrets(secrets=secrets)


def test_a_secret_is_not_shown() -> None:
    assert "nnn" not in repr(SECRETS)


@pytest.mark.parametrize(
    "change",
    [
        {"realm": "a|b"},
        {"realm": ""},
        {"method": "EVM"},
        {"intent": "a b"},
        {"scope": ""},
        {"request": {"amount": 0.5}},
        {"header": "Host"},
        {"header": "X|Pay"},
    ],
)
def test_terms_that_cannot_be_written_are_a_fault_of_the_program(
    change: dict[str, str | JsonObject],
) -> None:
    with pytest.raises(ConfigurationError):
        fresh(replace(TERMS, **change))  # type: ignore[arg-type]


def test_a_short_nonce_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="16 random bytes"):
        fresh(nonce=b"1" * 15)
