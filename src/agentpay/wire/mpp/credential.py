"""
Credentials of the `Payment` scheme: what pays for a challenge, read and written.

Source: draft-httpauth-payment-00, "Credentials (Authorization)". The challenge in it is
an echo, kept word by word; the payload is left to its method and intent. A credential
is a bearer token: it is in no message and no `repr`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from agentpay.errors import MalformedMessage, MessageTooLarge
from agentpay.wire.headers import JsonObject, read_object
from agentpay.wire.mpp.challenge import NAMES, SCHEME, Challenge, make_challenge
from agentpay.wire.mpp.encoding import decode_base64url, encode_object
from agentpay.wire.mpp.schemes import read_schemes

CREDENTIAL_CHARS_MAX: Final = 48 * 1024
"""Room for a request of 16 KiB, encoded once more, and a payload."""


class SeveralCredentials(MalformedMessage):
    """A request carries more than one `Payment` credential: the draft's 400."""

    code = "several_credentials"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A proof of payment, and the challenge that it answers."""

    challenge: Challenge
    payload: JsonObject = field(repr=False)
    source: str | None = None
    """Who pays, as a DID: a claim, until the payload proves it."""


def find_credential(lines: Iterable[str]) -> str | None:
    """
    Find the one `Payment` credential among the lines of its header field, unread.

    Other schemes may stand beside it. None means that there is no such credential.

    Raises:
        SeveralCredentials: There is more than one.
        MalformedMessage: There is one with nothing in it.
        MessageTooLarge: A line has more than 64 KiB.
    """
    schemes = [scheme for line in lines for scheme in read_schemes(line)]
    ours = [scheme for scheme in schemes if scheme.scheme == SCHEME]
    if not ours:
        return None
    if len(ours) > 1:
        raise SeveralCredentials(
            f"a request carries {len(ours)} Payment credentials; send one"
        )
    if ours[0].bare is None:
        raise MalformedMessage("credential: nothing follows `Payment`")
    return ours[0].bare


def parse_credential(encoded: str) -> Credential:
    """
    Read what `find_credential` found.

    Raises:
        MessageTooLarge: More than 48 KiB.
        MalformedMessage: Not base64url of a JSON object with a challenge and a payload.
    """
    if len(encoded) > CREDENTIAL_CHARS_MAX:
        raise MessageTooLarge(
            f"a credential has {len(encoded)} characters,"
            f" we read {CREDENTIAL_CHARS_MAX}"
        )
    raw = decode_base64url(encoded, name="credential")
    message = read_object(raw, name="credential")
    challenge, payload = message.get("challenge"), message.get("payload")
    source = message.get("source")
    if not isinstance(challenge, dict):
        raise MalformedMessage("credential: challenge is not an object")
    if not isinstance(payload, dict):
        raise MalformedMessage("credential: payload is not an object")
    if source is not None and not isinstance(source, str):
        raise MalformedMessage("credential: source is not text")
    echo = make_challenge(challenge, name="credential")
    return Credential(challenge=echo, payload=payload, source=source)


def format_credential(credential: Credential) -> str:
    """
    Write the value of the header field that the challenge names.

    Raises:
        ValueError: The payload has values that we do not write.
    """
    echo: JsonObject = {
        name: value
        for name in NAMES
        if (value := getattr(credential.challenge, name)) is not None
    }
    message: JsonObject = {"challenge": echo, "payload": credential.payload}
    if credential.source is not None:
        message["source"] = credential.source
    return f"Payment {encode_object(message)}"
