"""
Challenges of the `Payment` scheme: the offers of a 402, read and written.

Source: draft-httpauth-payment-00, "Challenge (WWW-Authenticate)". A challenge keeps
every value as it stood on the wire, since its id is bound to those very characters.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Final

from agentpay.errors import MalformedMessage, MessageTooLarge
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.encoding import decode_object
from agentpay.wire.mpp.schemes import SchemeValue, quote, read_schemes
from agentpay.wire.mpp.timestamps import parse_time

SCHEME: Final = "payment"
WWW_AUTHENTICATE: Final = "WWW-Authenticate"
AUTHORIZATION: Final = "Authorization"
CHALLENGES_MAX: Final = 32

_METHOD = re.compile(r"[a-z][a-z0-9:_-]{0,63}", re.ASCII)
"""The draft has letters only; both official SDKs allow the rest."""
_INTENT = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}", re.ASCII)
_FIELDS_WITH_A_JOB = {
    "accept-payment", "connection", "content-length", "content-type", "cookie", "host",
    "idempotency-key", "keep-alive", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """
    What a server asks for, or what a client echoes of it.

    None means that the parameter is absent.
    """

    id: str
    realm: str
    method: str
    intent: str
    request: str
    """An object, still encoded: `decode_request` reads it."""
    description: str | None = None
    """For people to see. It is bound to nothing and proves nothing."""
    digest: str | None = None
    expires: str | None = None
    header: str | None = None
    """The field that carries the credential, where it is not `Authorization`."""
    opaque: str | None = None
    """The server's own words, to be returned as they are."""

    def decode_request(self) -> JsonObject:
        """
        Read what is asked for.

        Raises:
            MalformedMessage: It is not an object.
        """
        return decode_object(self.request, name="request")

    @property
    def credential_field(self) -> str:
        """The name of the header field that carries the credential."""
        return AUTHORIZATION if is_default_field(self.header) else str(self.header)


NAMES: Final = tuple(field.name for field in fields(Challenge))
_REQUIRED = NAMES[:5]


def is_default_field(header: str | None) -> bool:
    """Whether a `header` parameter says what holds without it."""
    return not header or header.lower() == AUTHORIZATION.lower()


def make_challenge(values: Mapping[str, object], *, name: str) -> Challenge:
    """
    Check the parameters of a challenge, or the echo of them in a credential.

    Parameters that nobody defined are left out.

    Raises:
        MalformedMessage: A value is missing, empty, no text, or not of its form.
    """
    texts: dict[str, str] = {}
    for key in NAMES:
        value = values.get(key)
        if value is None:
            continue
        if not isinstance(value, str):
            raise MalformedMessage(f"{name}: {key} is not text")
        texts[key] = value
    for key in _REQUIRED:
        if not texts.get(key):
            raise MalformedMessage(f"{name}: {key} is missing")
    if not _METHOD.fullmatch(texts["method"]):
        raise MalformedMessage(f"{name}: no method: {texts['method'][:80]!r}")
    if not _INTENT.fullmatch(texts["intent"]):
        raise MalformedMessage(f"{name}: no intent: {texts['intent'][:80]!r}")
    header = texts.get("header")
    if not is_default_field(header):
        _check_field(str(header), name)
    return Challenge(**texts)


def _check_field(header: str, name: str) -> None:
    """No server makes us overwrite what a request needs to be itself."""
    usable = _FIELD_NAME.fullmatch(header) and header.lower() not in _FIELDS_WITH_A_JOB
    if not usable:
        raise MalformedMessage(f"{name}: no field for a credential: {header[:80]!r}")


def has_challenge(lines: Iterable[str]) -> bool:
    """Whether a `WWW-Authenticate` field speaks of payment, readable or not."""
    try:
        return any(s.scheme == SCHEME for line in lines for s in read_schemes(line))
    except MessageTooLarge:
        return True


def parse_challenges(lines: Iterable[str]) -> tuple[Challenge, ...]:
    """
    Read every `Payment` challenge of a 402, from all its `WWW-Authenticate` lines.

    Those that cannot be read are skipped. None at all is an empty answer: the server
    does not speak this protocol.

    Raises:
        MessageTooLarge: A line of more than 64 KiB, or more than 32 challenges.
        MalformedMessage: There are challenges, and none can be read.
    """
    found: list[Challenge] = []
    fault: MalformedMessage | None = None
    for line in lines:
        for scheme in read_schemes(line):
            if scheme.scheme != SCHEME:
                continue
            try:
                found.append(_read(scheme))
            except MalformedMessage as error:
                fault = fault or error
            if len(found) > CHALLENGES_MAX:
                raise MessageTooLarge(
                    f"a 402 has more than {CHALLENGES_MAX} challenges"
                )
    if fault is not None and not found:
        raise fault
    return tuple(found)


def _read(scheme: SchemeValue) -> Challenge:
    values = dict(scheme.params)
    if len(values) != len(scheme.params):
        raise MalformedMessage("challenge: a parameter stands twice")
    challenge = make_challenge(values, name="challenge")
    challenge.decode_request()
    if challenge.expires is not None:
        parse_time(challenge.expires, name="challenge: expires")
    return challenge


def format_challenge(challenge: Challenge) -> str:
    """
    Write one `WWW-Authenticate` line, in plain ASCII.

    Raises:
        MalformedMessage: A value has characters that no header carries.
    """
    params = (
        f"{name}={quote(value, name=name)}"
        for name in NAMES
        if (value := getattr(challenge, name)) is not None
    )
    return "Payment " + ", ".join(params)
