"""
Challenge ids that prove what was offered, without anything being stored.

Source: draft-httpauth-payment-00, "Challenge Binding". An id is an HMAC over every
field but `description`. The HMAC says that we issued these words; the terms of the
route say that they are the words for this request: both are checked, in every field.

The draft's ids repeat when the same offer is made twice in one moment, and then two
payers sign one nonce. So `opaque` always carries 16 random bytes.
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from agentpay.errors import ConfigurationError, MalformedMessage
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.challenge import Challenge, is_default_field, make_challenge
from agentpay.wire.mpp.digest import body_digest, digest_matches
from agentpay.wire.mpp.encoding import decode_object, encode_base64url, encode_object
from agentpay.wire.mpp.timestamps import format_time, parse_time

SECRET_BYTES_MIN: Final = 32
NONCE_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingSecrets:
    """
    The secrets behind the ids: the first one signs, and all of them verify.

    To rotate, put a new one in front and drop the old one when its challenges are over.
    """

    secrets: tuple[bytes, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.secrets:
            raise ConfigurationError("challenges need a secret of at least 32 bytes")
        for secret in self.secrets:
            if len(secret) < SECRET_BYTES_MIN:
                raise ConfigurationError(
                    f"a secret for challenges has {len(secret)} bytes and needs at"
                    f" least {SECRET_BYTES_MIN}; take secrets.token_bytes(32)"
                )


class EchoFault(StrEnum):
    """Why an echoed challenge is not one to be honoured here and now."""

    NOT_OURS = "not-ours"
    """No secret of ours made this id from these words."""
    REALM = "realm"
    METHOD = "method"
    INTENT = "intent"
    REQUEST = "request"
    DESCRIPTION = "description"
    HEADER = "header"
    OPAQUE = "opaque"
    DIGEST = "digest"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a route asks for now: the fields that an echo must repeat."""

    realm: str
    method: str
    intent: str
    request: JsonObject
    scope: str
    """What it is good for, such as `GET /report`: part of `opaque`, never empty."""
    description: str | None = None
    header: str | None = None


def challenge_id(challenge: Challenge, secret: bytes) -> str:
    """
    The id that a secret gives to a challenge, whatever id it has now.

    Values are taken as they are; a field other than `Authorization` has a slot of its
    own, as the official SDKs have it.
    """
    slots = [
        challenge.realm,
        challenge.method,
        challenge.intent,
        challenge.request,
        challenge.expires or "",
        challenge.digest or "",
        *([] if is_default_field(challenge.header) else [challenge.header or ""]),
        challenge.opaque or "",
    ]
    message = "|".join(slots).encode("utf-8", errors="surrogatepass")
    return encode_base64url(hmac.new(secret, message, hashlib.sha256).digest())


def issue(
    terms: Terms,
    *,
    secrets: BindingSecrets,
    nonce: bytes,
    expires_at: int,
    body: bytes = b"",
) -> Challenge:
    """
    Make a challenge that no other one equals.

    `nonce` is 16 fresh random bytes. Where a body is given, the challenge is for
    requests with that body; a session, whose vouchers have none, gives none.

    Raises:
        ConfigurationError: The terms cannot be written, or the nonce is too short.
    """
    if len(nonce) < NONCE_BYTES:
        raise ConfigurationError(f"a nonce needs {NONCE_BYTES} random bytes")
    opaque: JsonObject = {"nonce": encode_base64url(nonce), "scope": terms.scope}
    try:
        draft = make_challenge(
            {
                "id": "unbound",
                "realm": terms.realm,
                "method": terms.method,
                "intent": terms.intent,
                "request": encode_object(terms.request),
                "description": terms.description,
                "digest": body_digest(body) if body else None,
                "expires": format_time(expires_at),
                "header": None if is_default_field(terms.header) else terms.header,
                "opaque": encode_object(opaque),
            },
            name="terms",
        )
    except (MalformedMessage, ValueError) as error:
        raise ConfigurationError(
            f"no challenge can be made of this: {error}"
        ) from error
    if not terms.scope or "|" in terms.realm or "|" in (terms.header or ""):
        raise ConfigurationError("terms need a scope; realm and header have no |")
    return replace(draft, id=challenge_id(draft, secrets.secrets[0]))


def check_echo(
    echo: Challenge,
    terms: Terms,
    *,
    secrets: BindingSecrets,
    now: int,
    body: bytes = b"",
) -> EchoFault | None:
    """Why a credential's challenge is not honoured for a request, if it is not."""
    if not _is_ours(echo, secrets.secrets):
        return EchoFault.NOT_OURS
    if echo.realm != terms.realm:
        return EchoFault.REALM
    if echo.method != terms.method:
        return EchoFault.METHOD
    if echo.intent != terms.intent:
        return EchoFault.INTENT
    if echo.request != encode_object(terms.request):
        return EchoFault.REQUEST
    if echo.description not in (None, terms.description):
        return EchoFault.DESCRIPTION
    if _field(echo.header) != _field(terms.header):
        return EchoFault.HEADER
    if _scope(echo.opaque) != terms.scope:
        return EchoFault.OPAQUE
    if not _digest_holds(echo.digest, body):
        return EchoFault.DIGEST
    if _is_over(echo.expires, now):
        return EchoFault.EXPIRED
    return None


def _is_ours(echo: Challenge, secrets: Iterable[bytes]) -> bool:
    """Every secret is tried, so that the time taken says nothing."""
    slots = (
        echo.realm,
        echo.request,
        echo.expires,
        echo.digest,
        echo.header,
        echo.opaque,
    )
    if any("|" in (slot or "") for slot in slots):
        return False  # two ways of cutting the same message; we issue none of them
    given = echo.id.encode("utf-8", errors="surrogatepass")
    matches = [
        hmac.compare_digest(given, challenge_id(echo, secret).encode("ascii"))
        for secret in secrets
    ]
    return any(matches)


def _field(header: str | None) -> str:
    return "" if is_default_field(header) else str(header).lower()


def _scope(opaque: str | None) -> object:
    try:
        return decode_object(opaque or "", name="opaque").get("scope")
    except MalformedMessage:
        return None


def _digest_holds(digest: str | None, body: bytes) -> bool:
    return digest_matches(digest, body) if digest is not None else not body


def _is_over(expires: str | None, now: int) -> bool:
    try:
        return now >= parse_time(expires or "", name="expires")
    except MalformedMessage:
        return True
