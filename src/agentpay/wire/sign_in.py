"""
The `sign-in-with-x` extension: who has paid says so again by a signed message.

Source: x402 `specs/extensions/sign-in-with-x.md`; the message is EIP-4361's, signed by
EIP-191, for EVM accounts alone. No field may hold a control character, so that no
message can be read in two ways.
"""

import calendar
import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError

from agentpay.errors import MalformedMessage
from agentpay.evm.hashing import checksummed, keccak
from agentpay.types import Address, ChainId, network_of
from agentpay.wire.fields import AddressText, NetworkText, SignatureText, WireMessage
from agentpay.wire.headers import JsonObject, JsonValue, decode_json

KEY: Final = "sign-in-with-x"
HEADER: Final = "SIGN-IN-WITH-X"
EIP191: Final = "eip191"
FRESH_SECONDS: Final = 300
"""How old a challenge may be."""
SKEW_SECONDS: Final = 5

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MOMENT: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d{1,9})?Z", re.ASCII
)
_TEXT: Final[JsonObject] = {"type": "string"}
_DATE: Final[JsonObject] = {"type": "string", "format": "date-time"}
_URI: Final[JsonObject] = {"type": "string", "format": "uri"}
_SCHEMA: Final[JsonObject] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "domain": _TEXT,
        "address": _TEXT,
        "statement": _TEXT,
        "uri": _URI,
        "version": _TEXT,
        "chainId": _TEXT,
        "type": _TEXT,
        "nonce": _TEXT,
        "issuedAt": _DATE,
        "expirationTime": _DATE,
        "notBefore": _DATE,
        "requestId": _TEXT,
        "resources": {"type": "array", "items": _URI},
        "signature": _TEXT,
    },
    "required": [
        *("domain", "address", "uri", "version", "chainId", "type"),
        *("nonce", "issuedAt", "signature"),
    ],
}


def _plain(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("has a control character")
    return text


def parse_moment(text: str) -> int:
    """
    Read a moment as EIP-4361 writes it, in whole seconds since 1970 and in UTC.

    Raises:
        ValueError: Not one.
    """
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError(f"not a moment in UTC: {text[:40]!r}")
    year, month, day, hour, minute, second = (int(part) for part in match.groups())
    in_range = year and 1 <= month <= 12 and hour < 24 and minute < 60 and second < 61
    if not in_range or not 1 <= day <= calendar.monthrange(year, month)[1]:
        raise ValueError(f"not a moment: {text[:40]!r}")
    return calendar.timegm((year, month, day, hour, minute, second))


def _moment(text: str) -> str:
    parse_moment(text)
    return text


Line = Annotated[str, Field(max_length=2048), AfterValidator(_plain)]
Moment = Annotated[str, Field(max_length=40), AfterValidator(_moment)]
Nonce = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{8,128}$")]


class Challenge(WireMessage):
    """What a server asks to be signed."""

    domain: Line
    uri: Line
    version: Literal["1"]
    nonce: Nonce
    issued_at: Moment
    statement: Line | None = None
    expiration_time: Moment | None = None
    not_before: Moment | None = None
    request_id: Line | None = None
    resources: list[Line] = Field(default_factory=list, max_length=32)

    def text(self, address: Address, chain: ChainId) -> str:
        """The message that is signed (EIP-4361)."""
        said = f"{self.statement}\n" if self.statement is not None else ""
        optional = (
            ("Expiration Time", self.expiration_time),
            ("Not Before", self.not_before),
            ("Request ID", self.request_id),
        )
        lines = [
            f"URI: {self.uri}",
            f"Version: {self.version}",
            f"Chain ID: {chain}",
            f"Nonce: {self.nonce}",
            f"Issued At: {self.issued_at}",
            *(f"{name}: {value}" for name, value in optional if value is not None),
        ]
        if self.resources:
            lines += ["Resources:", *(f"- {uri}" for uri in self.resources)]
        asking = f"{self.domain} wants you to sign in with your Ethereum account:"
        return f"{asking}\n{checksummed(address)}\n\n{said}\n" + "\n".join(lines)

    def digest(self, address: Address, chain: ChainId) -> bytes:
        """What is signed (EIP-191)."""
        text = self.text(address, chain).encode()
        return keccak(b"\x19Ethereum Signed Message:\n%d" % len(text) + text)

    def is_of(self, origin: str) -> bool:
        """Whether it is this origin (scheme, host and port) that asks."""
        try:
            ours, theirs = urlsplit(origin), urlsplit(self.uri)
        except ValueError:
            return False
        same = (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc)
        return same and self.domain == ours.netloc

    def wrong_time(self, now: int) -> str | None:
        """Whether it is too old, or not valid yet."""
        issued = parse_moment(self.issued_at)
        if not now - FRESH_SECONDS < issued <= now + SKEW_SECONDS:
            return "invalid_siwx_issued_at"
        if self.expiration_time and parse_moment(self.expiration_time) <= now:
            return "invalid_siwx_expired"
        if self.not_before and parse_moment(self.not_before) > now:
            return "invalid_siwx_not_before"
        return None


class SignIn(Challenge):
    """A signed challenge."""

    address: AddressText
    chain_id: NetworkText
    type: Literal["eip191"]
    signature: SignatureText


class _Method(WireMessage):
    chain_id: str
    type: str


class _Offered(WireMessage):
    info: Challenge
    supported_chains: list[_Method] = Field(max_length=64)


def offer(challenge: JsonObject, chain: ChainId) -> JsonObject:
    """The extension as a 402 carries it."""
    method: JsonObject = {"chainId": network_of(chain), "type": EIP191}
    return {"info": challenge, "supportedChains": [method], "schema": _SCHEMA}


def read_challenge(
    extensions: Mapping[str, JsonValue], chain: ChainId
) -> tuple[Challenge, JsonObject] | None:
    """What a 402 asks to be signed with an account of `chain`, and its own words."""
    words = extensions.get(KEY)
    try:
        offered = _Offered.model_validate(words)
    except ValidationError:
        return None
    wanted = (network_of(chain), EIP191)
    if wanted not in [(m.chain_id, m.type) for m in offered.supported_chains]:
        return None
    info = words.get("info") if isinstance(words, dict) else None
    return (offered.info, info) if isinstance(info, dict) else None


def write_sign_in(
    words: JsonObject, address: Address, chain: ChainId, signature: bytes
) -> JsonObject:
    """The message of the header: the challenge's own words, and the proof."""
    return {
        **words,
        "address": checksummed(address),
        "chainId": network_of(chain),
        "type": EIP191,
        "signature": "0x" + signature.hex(),
    }


def parse_sign_in(header: str) -> SignIn:
    """
    Read the `SIGN-IN-WITH-X` header of a request.

    Raises:
        MalformedMessage: It is not one.
    """
    message = decode_json(header, name=HEADER)
    try:
        return SignIn.model_validate(message)
    except ValidationError as error:
        raise MalformedMessage(f"{HEADER} is not a signed challenge") from error
