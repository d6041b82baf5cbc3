"""
What a service says of itself before it is asked for money: an OpenAPI document.

Source: draft-payment-discovery-00. It is a hint for who looks for services; what a 402
says then is what counts.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from agentpay.wire.headers import JsonObject, JsonValue

OPENAPI_PATH: Final = "/openapi.json"
LLMS_PATH: Final = "/llms.txt"
PAYMENT_INFO: Final = "x-payment-info"
SERVICE_INFO: Final = "x-service-info"
CATEGORIES_MAX: Final = 5

_VERSION = "3.1.0"
_PAYMENT_REQUIRED: Final[JsonObject] = {"description": "Payment Required"}


def discovered_offer(*, method: str, intent: str, request: JsonObject) -> JsonObject:
    """One way to pay for an operation, from what its challenge would ask for."""
    return {
        "intent": intent,
        "method": method,
        "amount": request["amount"],
        "currency": request["currency"],
    }


def paid_operation(operation: JsonObject, offers: Sequence[JsonObject]) -> JsonObject:
    """
    The same operation, which has to be paid for; nothing else of it changes.

    Without offers it is not paid for by the `Payment` scheme, and may be by another.
    """
    responses = operation.get("responses")
    known = responses if isinstance(responses, dict) else {}
    paid: JsonObject = {
        **operation,
        "responses": {**known, "402": known.get("402", _PAYMENT_REQUIRED)},
    }
    if offers:
        paid[PAYMENT_INFO] = {"offers": [*offers]}
    return paid


def service_info(
    *, categories: Sequence[str], homepage: str, api_reference: str, llms: str
) -> JsonObject:
    """What a service is; what is empty is not said."""
    links = {"homepage": homepage, "apiReference": api_reference, "llms": llms}
    docs: JsonObject = {name: uri for name, uri in links.items() if uri}
    info: JsonObject = {"categories": [*categories]} if categories else {}
    return {**info, "docs": docs} if docs else info


def openapi_document(
    *, title: str, version: str, description: str, origin: str | None
) -> JsonObject:
    """A document without operations."""
    info: JsonObject = {"title": title, "version": version}
    if description:
        info["description"] = description
    document: JsonObject = {"openapi": _VERSION, "info": info}
    if origin is not None:
        document["servers"] = [{"url": origin}]
    document["paths"] = {}
    return document


def described_operation(
    *,
    summary: str,
    tags: Sequence[str],
    path: Sequence[str],
    query: Mapping[str, JsonValue],
    body: JsonObject | None,
    answer: JsonObject | None,
) -> JsonObject:
    """
    An operation of which nobody else says anything.

    `path` and `query` are its parameters; `body` and `answer` the content of each, by
    its type.
    """
    parameters: list[JsonValue] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in path
    ]
    parameters += [
        {"name": name, "in": "query", "schema": {}, "example": example}
        for name, example in query.items()
    ]
    operation: JsonObject = {"summary": summary} if summary else {}
    if tags:
        operation["tags"] = [*tags]
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"content": body}
    success: JsonObject = {"description": "Successful response"}
    if answer is not None:
        success["content"] = answer
    operation["responses"] = {"200": success}
    return operation


def content(kind: str, schema: JsonObject | None, example: JsonValue) -> JsonObject:
    """A body as OpenAPI describes it."""
    described: JsonObject = {"schema": schema or {}}
    if example is not None:
        described["example"] = example
    return {kind: described}
