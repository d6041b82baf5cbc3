"""
What the models of MPP share: how a field is named, and how a fault in one is told.
"""

from typing import Annotated, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic.alias_generators import to_camel

from agentpay.errors import MalformedMessage
from agentpay.types import ChainId
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.timestamps import parse_time

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

ChainNumber = Annotated[ChainId, Field(strict=True, ge=1, le=2**53 - 1)]
"""A chain's EIP-155 number, as JSON writes numbers."""


def _time(text: str) -> str:
    try:
        parse_time(text, name="it")
    except MalformedMessage as error:
        raise ValueError(str(error)) from error
    return text


Words = Annotated[str, Field(strict=True, max_length=4096)]
"""Text for people, or a reference that is the other side's own."""

Name = Annotated[str, Field(strict=True, max_length=64)]

TimeText = Annotated[str, Field(strict=True, max_length=64), AfterValidator(_time)]
"""An RFC 3339 time, as it was written."""


class Message(BaseModel):
    """Frozen, and read by the drafts' names alone; what we do not know is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)


def read(model: type[M], message: JsonObject, name: str) -> M:
    """
    Read an object as a model.

    Raises:
        MalformedMessage: It is not one; the first fault is named.
    """
    try:
        return model.model_validate(message)
    except ValidationError as error:
        raise _malformed(error, name) from error


def read_one_of(union: TypeAdapter[T], message: JsonObject, name: str) -> T:
    """
    Read an object as one of several models.

    Raises:
        MalformedMessage: It is none of them.
    """
    try:
        return union.validate_python(message)
    except ValidationError as error:
        raise _malformed(error, name) from error


def _malformed(error: ValidationError, name: str) -> MalformedMessage:
    """The first fault that a model found, in one bounded line."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:200] or "it"
    return MalformedMessage(f"{name}: {where}: {first['msg'][:200]}")
