"""
The conformance adapter: MPP's public test vectors, run on what this library does.

Shaped as `conformance/HARNESS_SPEC.md` of `tempoxyz/mpp-tools` says. Each line of stdin
is a request, and each has one line of answer:

    {"schema": 1, "op": "challenge.parse", "input": {"header": "Payment id=..."}}
    {"ok": true, "value": {"id": "...", ...}}

    {"ok": false, "error": {"type": "parse_error", "message": "..."}}
"""

import json
import sys
from collections.abc import Callable

from agentpay.errors import AgentPayError
from agentpay.wire.headers import JsonObject, JsonValue
from agentpay.wire.mpp.binding import BindingSecrets, challenge_id
from agentpay.wire.mpp.challenge import (
    NAMES,
    Challenge,
    format_challenge,
    make_challenge,
    parse_challenges,
)
from agentpay.wire.mpp.credential import (
    Credential,
    find_credential,
    format_credential,
    parse_credential,
)
from agentpay.wire.mpp.encoding import (
    decode_base64url,
    encode_base64url,
    encode_object,
)
from agentpay.wire.mpp.fields import read
from agentpay.wire.mpp.receipt import Receipt, format_receipt, parse_receipt


class Refused(ValueError):
    """An input that the operation has to refuse."""


def parse_challenge(given: JsonObject) -> JsonValue:
    found = parse_challenges([text_of(given, "header")])
    if len(found) != 1:
        raise Refused(f"one Payment challenge expected, {len(found)} found")
    return shown(found[0])


def write_challenge(given: JsonObject) -> JsonValue:
    return {"header": format_challenge(challenge_of(given))}


def parse_authorization(given: JsonObject) -> JsonValue:
    encoded = find_credential([text_of(given, "header")])
    if encoded is None:
        raise Refused("no Payment credential")
    credential = parse_credential(encoded)
    value: JsonObject = {
        "challenge": shown(credential.challenge),
        "payload": credential.payload,
    }
    if credential.source is not None:
        value["source"] = credential.source
    return value


def write_authorization(given: JsonObject) -> JsonValue:
    payload, source = object_of(given, "payload"), given.get("source")
    if source is not None and not isinstance(source, str):
        raise Refused("source is not text")
    challenge = challenge_of(object_of(given, "challenge"))
    credential = Credential(challenge=challenge, payload=payload, source=source)
    return {"header": format_credential(credential)}


def read_receipt(given: JsonObject) -> JsonValue:
    receipt = parse_receipt(text_of(given, "header"), Receipt)
    return receipt.model_dump(by_alias=True, exclude_none=True)


def write_receipt(given: JsonObject) -> JsonValue:
    read(Receipt, given, "receipt")
    return {"header": format_receipt(given)}


def encode(given: JsonObject) -> JsonValue:
    return {"text": encode_base64url(text_of(given, "text").encode("utf-8"))}


def decode(given: JsonObject) -> JsonValue:
    return {"text": decode_base64url(text_of(given, "text"), name="text").decode()}


def bind(given: JsonObject) -> JsonValue:
    secret = text_of(given, "secretKey").encode("utf-8")
    (first,) = BindingSecrets(secrets=(secret,)).secrets
    return {"id": challenge_id(challenge_of({**given, "id": "unbound"}), first)}


def shown(challenge: Challenge) -> JsonObject:
    """A challenge as the vectors show it: its request is an object."""
    value: JsonObject = {
        name: text for name in NAMES if (text := getattr(challenge, name)) is not None
    }
    return {**value, "request": challenge.decode_request()}


def challenge_of(given: JsonObject) -> Challenge:
    request = encode_object(object_of(given, "request"))
    return make_challenge({**given, "request": request}, name="challenge")


def text_of(given: JsonObject, name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise Refused(f"{name} is not text")
    return value


def object_of(given: JsonObject, name: str) -> JsonObject:
    value = given.get(name)
    if not isinstance(value, dict):
        raise Refused(f"{name} is not an object")
    return value


OPERATIONS: dict[str, tuple[Callable[[JsonObject], JsonValue], str]] = {
    "challenge.parse": (parse_challenge, "parse_error"),
    "challenge.format": (write_challenge, "format_error"),
    "credential.parse": (parse_authorization, "parse_error"),
    "credential.format": (write_authorization, "format_error"),
    "receipt.parse": (read_receipt, "parse_error"),
    "receipt.format": (write_receipt, "format_error"),
    "base64url.encode": (encode, "encoding_error"),
    "base64url.decode": (decode, "encoding_error"),
    "challenge.id": (bind, "generation_error"),
}
"""What each does, and what its refusal is called."""


def answer(line: str) -> JsonObject:
    """The answer to one request."""
    try:
        request = json.loads(line)
        operation, given = request["op"], request["input"]
    except (ValueError, TypeError, KeyError) as error:
        return failed("unknown_error", f"no request: {error!r}")
    if not isinstance(operation, str) or operation not in OPERATIONS:
        return failed("unsupported_operation", f"no operation {operation!r}"[:200])
    carry_out, refusal = OPERATIONS[operation]
    if not isinstance(given, dict):
        return failed(refusal, "input is not an object")
    try:
        return {"ok": True, "value": carry_out(given)}
    except (AgentPayError, ValueError) as error:
        return failed(refusal, str(error))


def failed(kind: str, message: str) -> JsonObject:
    error: JsonObject = {"type": kind, "message": message}
    return {"ok": False, "error": error}


def main() -> None:
    """Answer every line of stdin."""
    for line in sys.stdin:
        if line.strip():
            print(json.dumps(answer(line)), flush=True)


if __name__ == "__main__":
    main()
