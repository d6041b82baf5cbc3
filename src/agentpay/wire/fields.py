"""
The values that messages are made of, read strictly: addresses, hashes, amounts, bytes.
"""

import re
from collections.abc import Callable
from typing import Annotated, Final, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator
from pydantic.alias_generators import to_camel

from agentpay.types import (
    UINT40_MAX,
    UINT128_MAX,
    UINT256_MAX,
    Address,
    ChainId,
    Hash32,
    parse_amount,
    parse_network,
)

SIGNATURE_BYTES_MAX: Final = 4096

T = TypeVar("T")

_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*", re.ASCII)


def _from_text(read: Callable[[str], T]) -> PlainValidator:
    def validate(value: object) -> T:
        if not isinstance(value, str):
            raise ValueError("must be a string")  # noqa: TRY004 - pydantic's contract
        return read(value)

    return PlainValidator(validate)


def _read_bytes(text: str) -> bytes:
    if len(text) > 2 + 2 * SIGNATURE_BYTES_MAX or not _HEX.fullmatch(text):
        raise ValueError("not a signature in hex")
    return bytes.fromhex(text[2:])


def _read_uint128(text: str) -> int:
    return parse_amount(text, maximum=UINT128_MAX)


def _read_uint256(text: str) -> int:
    return parse_amount(text, maximum=UINT256_MAX)


AddressText = Annotated[Address, _from_text(Address)]
HashText = Annotated[Hash32, _from_text(Hash32)]
Uint128Text = Annotated[int, _from_text(_read_uint128)]
Uint256Text = Annotated[int, _from_text(_read_uint256)]
NetworkText = Annotated[ChainId, _from_text(parse_network)]
SignatureText = Annotated[bytes, _from_text(_read_bytes)]
Uint40 = Annotated[int, Field(strict=True, ge=0, le=UINT40_MAX)]


class WireMessage(BaseModel):
    """Frozen, camelCase on the wire; unknown fields are ignored."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True
    )


class HeardMessage(WireMessage):
    """What others say to us: a member that is null is one that is not there."""

    @model_validator(mode="before")
    @classmethod
    def _there(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        members = cast("dict[object, object]", value)
        return {name: said for name, said in members.items() if said is not None}
