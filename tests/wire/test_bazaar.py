"""What catalogues are told, against the examples of the specification."""

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import ConfigurationError
from agentpay.payee.about import About
from agentpay.wire import bazaar
from tests.wire.schemas import faults

TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
OUTPUT = {
    "type": "object",
    "properties": {"type": {"type": "string"}, "example": {"type": "object"}},
    "required": ["type"],
}
DRAFT = "https://json-schema.org/draft/2020-12/schema"

# `specs/extensions/bazaar.md`, "Example: GET Endpoint" and "Example: POST Endpoint".
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
WEATHER: dict[str, Any] = {
    "city": "San Francisco",
    "weather": "foggy",
    "temperature": 60,
}
GET: dict[str, Any] = {
    "info": {
        "input": {
            "type": "http",
            "method": "GET",
            "queryParams": {"city": "San Francisco"},
        },
        "output": {"type": "json", "example": WEATHER},
    },
    "schema": {
        "$schema": DRAFT,
        "type": "object",
        "properties": {
            "input": {
                "type": "object",
                "properties": {
                    "type": {"type": "string", "const": "http"},
                    "method": {"type": "string", "enum": ["GET", "HEAD", "DELETE"]},
                    "queryParams": CITY,
                    "headers": TEXTS,
                },
                "required": ["type", "method"],
                "additionalProperties": False,
            },
            "output": OUTPUT,
        },
        "required": ["input"],
    },
}
POST: dict[str, Any] = {
    "info": {
        "input": {
            "type": "http",
            "method": "POST",
            "bodyType": "json",
            "body": {"query": "example"},
        },
        "output": {"type": "json", "example": {"results": []}},
    },
    "schema": {
        "$schema": DRAFT,
        "type": "object",
        "properties": {
            "input": {
                "type": "object",
                "properties": {
                    "type": {"type": "string", "const": "http"},
                    "method": {"type": "string", "enum": ["POST", "PUT", "PATCH"]},
                    "bodyType": {
                        "type": "string",
                        "enum": ["json", "form-data", "text"],
                    },
                    "body": {"type": "object"},
                    "queryParams": TEXTS,
                    "headers": TEXTS,
                },
                "required": ["type", "method", "bodyType", "body"],
                "additionalProperties": False,
            },
            "output": OUTPUT,
        },
        "required": ["input"],
    },
}


def test_the_specifications_examples_are_made_word_for_word() -> None:
    weather = About(query={"city": "San Francisco"}, query_schema=CITY, output=WEATHER)
    search = About(body={"query": "example"}, output={"results": []})

    assert weather.listing("GET", path={}, template="/weather") == GET
    assert search.listing("POST", path={}, template="/search") == POST


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=9,
)
OBJECTS = st.dictionaries(st.text(max_size=9), JSON, max_size=3)
NAMES = st.text(string.ascii_letters + "_", min_size=1, max_size=9)


@given(
    st.sampled_from(bazaar.QUERY_METHODS + bazaar.BODY_METHODS),
    st.tuples(st.none() | OBJECTS, JSON),
    JSON,
    st.sampled_from(bazaar.BODY_TYPES),
    st.dictionaries(NAMES, st.text(), max_size=2),
)
def test_what_is_said_is_what_its_own_schema_says(
    method: str,
    said: tuple[Any, Any],
    body: Any,
    body_type: str,
    path: dict[str, str],
) -> None:
    if body is None and body_type == "text":
        body = ""
    about = About(query=said[0], body=body, body_type=body_type, output=said[1])
    template = "".join(f"/:{name}" for name in path) or "/x"
    listing = about.listing(method, path=path, template=template)

    assert listing is not None
    assert not faults(listing["info"], listing["schema"])
    assert listing.get("routeTemplate") == (template if path else None)
    info: Any = listing["info"]
    assert info["input"].get("pathParams", {}) == path
    assert ("body" in info["input"]) == (method in bazaar.BODY_METHODS)


@pytest.mark.parametrize("template", ["/a b/:x", "/../:x", "/\u00e9/:x", "x"])
def test_a_template_that_catalogues_would_drop_is_not_sent(template: str) -> None:
    listing = About().listing("GET", path={"x": "1"}, template=template)

    assert listing is not None
    assert "routeTemplate" not in listing


@pytest.mark.parametrize(
    ("method", "listed"), [("TRACE", True), ("get", True), ("GET", False)]
)
def test_what_catalogues_do_not_know_is_not_told_them(
    method: str, listed: bool
) -> None:
    about = About(listed=listed)

    assert about.listing(method, path={}, template="/") is None


@pytest.mark.parametrize(
    "fields",
    [
        {"service_name": "x" * 33},
        {"service_name": "caf\u00e9"},
        {"tags": ("a",) * 6},
        {"tags": ("",)},
        {"tags": ("tab\t",)},
        {"icon_url": "data:image/png;base64,AA"},
        {"icon_url": "https://user@icons.example/x"},
        {"icon_url": "https://icons.example/" + "x" * 2048},
        {"body_type": "xml"},
    ],
)
def test_what_catalogues_would_drop_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        About(**fields)


def test_a_resource_says_only_what_is_known_of_it() -> None:
    about = About(
        description="Weather data endpoint",
        mime_type="application/json",
        service_name="Example Weather",
        tags=("weather", "forecast"),
        icon_url="https://api.example.com/icon.png",
    )

    assert about.resource() == {
        "description": "Weather data endpoint",
        "mimeType": "application/json",
        "serviceName": "Example Weather",
        "tags": ["weather", "forecast"],
        "iconUrl": "https://api.example.com/icon.png",
    }
    assert About().resource() == {}
