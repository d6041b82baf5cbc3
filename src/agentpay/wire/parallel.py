"""
The `parallel-vouchers` extension: how a payee says that it serves many at once.

Our own, announced in a 402's `extensions` and ignored by everyone else; its rules are
in `docs/parallel-channels.md`. The mode itself is in the channel's salt, never in here.
"""

from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from agentpay.wire.headers import JsonObject, JsonValue
from agentpay.wire.x402 import Extension, PaymentResponse, VoucherOutcome

KEY: Final = "parallel-vouchers"
_SCHEMA: Final[JsonObject] = {
    "type": "object",
    "properties": {
        "version": {"const": 1},
        "window": {"type": "integer", "minimum": 1},
        "maxInFlight": {"type": "integer", "minimum": 1},
    },
    "required": ["version", "window", "maxInFlight"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelTerms:
    """How many amounts a payee remembers, and how many requests it serves at once."""

    window: int
    in_flight_max: int


def offer(terms: ParallelTerms) -> JsonObject:
    """The extension as a 402 carries it."""
    return {"info": info(terms), "schema": _SCHEMA}


def info(terms: ParallelTerms) -> JsonObject:
    """What it says: also in `methodDetails` of an MPP session, under the same name."""
    return {
        "version": 1,
        "window": terms.window,
        "maxInFlight": terms.in_flight_max,
    }


def read_offer(extensions: dict[str, JsonValue]) -> ParallelTerms | None:
    """The terms that a 402 offers, if it offers any that we know."""
    try:
        said = Extension.model_validate(extensions.get(KEY)).info
    except ValidationError:
        return None
    return read_info(said)


def read_info(info: JsonObject) -> ParallelTerms | None:
    """What it says: also in `methodDetails` of an MPP session, under the same name."""
    window, in_flight_max = info.get("window"), info.get("maxInFlight")
    if info.get("version") != 1:
        return None
    if type(window) is not int or type(in_flight_max) is not int:
        return None
    if not 1 <= window <= 2**16 or not 1 <= in_flight_max <= window:
        return None
    return ParallelTerms(window=window, in_flight_max=in_flight_max)


def echo(terms: ParallelTerms, *, query: bool = False) -> JsonObject:
    """The extension as a payment carries it; `query` asks and runs nothing."""
    said = info(terms)
    if query:
        said["query"] = True
    return {KEY: {"info": said}}


def is_query(extensions: dict[str, Extension]) -> bool:
    """Whether a payment only asks what became of its voucher."""
    extension = extensions.get(KEY)
    return extension is not None and extension.info.get("query") is True


def outcome(
    cumulative: int, fate: str, charged: int, *, repeated: bool = False
) -> JsonObject:
    """
    What became of a voucher, as a receipt carries it.

    `repeated` says that its request was answered before and is not answered again.
    """
    said = outcome_info(cumulative, fate, charged)
    if repeated:
        said["repeated"] = True
    return {KEY: {"info": said}}


def outcome_info(cumulative: int, fate: str, charged: int) -> JsonObject:
    """The same without a frame: as the last receipt of a session's stream has it."""
    return {"cumulative": str(cumulative), "fate": fate, "charged": str(charged)}


def read_outcome(response: PaymentResponse) -> VoucherOutcome | None:
    """What a receipt says of a voucher, if it names one."""
    extension = response.extensions.get(KEY)
    if extension is None:
        return None
    try:
        return VoucherOutcome.model_validate(extension.info)
    except ValidationError:
        return None
