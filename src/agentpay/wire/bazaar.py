"""
The `bazaar` extension: how a resource is called and what it answers, for catalogues.

Source: x402 `specs/extensions/bazaar.md`. What is said here is checked by facilitators
against the schema that goes along, so both are made from the same parts.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agentpay.wire.headers import JsonObject, JsonValue, decode_json

KEY: Final = "bazaar"

OUTCOMES: Final = "extension-responses"
"""The header in which a facilitator tells the payee alone what came of a listing."""

BYTES_MAX: Final = 8 * 1024
"""Of what a facilitator is told: it must not refuse a payment for its length."""

QUERY_METHODS: Final = ("GET", "HEAD", "DELETE")
BODY_METHODS: Final = ("POST", "PUT", "PATCH")
BODY_TYPES: Final = ("json", "form-data", "text")

_TEXTS: Final[JsonObject] = {
    "type": "object",
    "additionalProperties": {"type": "string"},
}
_TEMPLATE: Final = re.compile(r"/[a-zA-Z0-9_/:.\-~%]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a payee tells its facilitator's catalogue of what it sells."""

    resource: JsonObject
    """Its URL, and what a 402 says of it beside that."""
    extension: JsonObject
    price: int
    """What is asked for it, whatever a voucher adds up to."""

    @property
    def fits(self) -> bool:
        """Whether it is short enough to go along with a payment."""
        return len(json.dumps([self.resource, self.extension])) <= BYTES_MAX


def offer(
    *,
    method: str,
    query: tuple[JsonObject | None, JsonObject | None],
    body: tuple[JsonValue, JsonObject | None],
    body_type: str,
    output: tuple[JsonValue, JsonObject | None],
    output_type: str,
    path: Mapping[str, str],
    template: str,
) -> JsonObject:
    """
    The extension as a 402 carries it.

    `query`, `body` and `output` are an example and its JSON schema; `path` and
    `template` are what stands for the parameters of a path, and "" if it has none.
    """
    wanted: JsonObject = {"type": "http", "method": method}
    if path:
        wanted["pathParams"] = dict(path)
    if query[0] is not None:
        wanted["queryParams"] = query[0]
    if method in BODY_METHODS:
        wanted["bodyType"] = body_type
        wanted["body"] = body[0] if body[0] is not None else {}
    info: JsonObject = {"input": wanted}
    parts: JsonObject = {"input": _input_schema(method, query, body, body_type, path)}
    if output[0] is not None or output[1] is not None:
        info["output"] = {"type": output_type, **_example(output[0])}
        parts["output"] = {
            "type": "object",
            "properties": {
                "type": {"type": "string"},
                "example": output[1] or _schema_like(output[0]),
            },
            "required": ["type"],
        }
    extension: JsonObject = {
        "info": info,
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": parts,
            "required": ["input"],
        },
    }
    if path and _TEMPLATE.fullmatch(template) and ".." not in template:
        extension["routeTemplate"] = template
    return extension


def rejection(outcomes: str) -> str | None:
    """
    Why a catalogue did not take a listing; None if it did, or if that is not said.

    Source: `specs/extensions/bazaar.md`, "Verify and Settlement Response Sidechannel".

    Raises:
        MalformedMessage: What a facilitator said of it cannot be read.
    """
    said = decode_json(outcomes, name=OUTCOMES).get(KEY)
    if not isinstance(said, dict) or said.get("status") != "rejected":
        return None
    return str(said.get("rejectedReason") or "no reason is given")


def _example(value: JsonValue) -> JsonObject:
    return {} if value is None else {"example": value}


def _input_schema(
    method: str,
    query: tuple[JsonObject | None, JsonObject | None],
    body: tuple[JsonValue, JsonObject | None],
    body_type: str,
    path: Mapping[str, str],
) -> JsonObject:
    texts = all(isinstance(value, str) for value in (query[0] or {}).values())
    properties: JsonObject = {"type": {"type": "string", "const": "http"}}
    required: list[JsonValue] = ["type", "method"]
    if method in BODY_METHODS:
        properties["method"] = {"type": "string", "enum": [*BODY_METHODS]}
        properties["bodyType"] = {"type": "string", "enum": [*BODY_TYPES]}
        properties["body"] = body[1] or _body_schema(body[0], body_type)
        required += ["bodyType", "body"]
    else:
        properties["method"] = {"type": "string", "enum": [*QUERY_METHODS]}
    if path:
        properties["pathParams"] = _TEXTS
    properties["queryParams"] = query[1] or (_TEXTS if texts else {"type": "object"})
    properties["headers"] = _TEXTS
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _body_schema(example: JsonValue, body_type: str) -> JsonObject:
    if example is None:
        return {"type": "string"} if body_type == "text" else {"type": "object"}
    return _schema_like(example)


def _schema_like(example: JsonValue) -> JsonObject:
    return {"type": "object"} if isinstance(example, dict) else {}
