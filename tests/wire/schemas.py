"""As much of JSON Schema (2020-12) as the schemas of x402's extensions use."""

from typing import Any

from agentpay.wire.headers import JsonValue

KNOWN = {
    *("$schema", "type", "properties", "required", "additionalProperties", "items"),
    *("const", "enum", "minLength", "maxLength", "minimum", "format", "description"),
}
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def faults(value: JsonValue, schema: Any, at: str = "$") -> list[str]:
    """Where a value is not what its schema says."""
    assert set(schema) <= KNOWN, f"{at}: this checker does not know {set(schema)}"
    found: list[str] = []
    kind = schema.get("type")
    if kind is not None and not _is(value, kind):
        return [f"{at} is no {kind}"]
    if "const" in schema and value != schema["const"]:
        found.append(f"{at} is not {schema['const']}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at} is none of {schema['enum']}")
    if isinstance(value, str):
        size = schema.get("minLength", 0) <= len(value)
        if not size or len(value) > schema.get("maxLength", len(value)):
            found.append(f"{at} has the wrong length")
    if isinstance(value, list):
        for number, item in enumerate(value):
            found += faults(item, schema.get("items", {}), f"{at}[{number}]")
    if isinstance(value, dict):
        found += _members(value, schema, at)
    return found


def _members(value: dict[str, JsonValue], schema: Any, at: str) -> list[str]:
    found = [f"{at} lacks {n}" for n in schema.get("required", ()) if n not in value]
    properties, more = schema.get("properties", {}), schema.get("additionalProperties")
    for name, item in value.items():
        if name in properties:
            found += faults(item, properties[name], f"{at}.{name}")
        elif more is False:
            found.append(f"{at} may not have {name}")
        elif isinstance(more, dict):
            found += faults(item, more, f"{at}.{name}")
    return found


def _is(value: JsonValue, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, TYPES[kind])
