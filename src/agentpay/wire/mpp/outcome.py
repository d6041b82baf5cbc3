"""
`Payment-Voucher`: what became of one voucher of a session that serves many at once.

Our own, on every answer to a verified voucher of a tagged session, of whatever status:
a receipt stands on 2xx only, and an application's 404 has an outcome too. It is to MPP
what `parallel` is to x402; its rules are in `docs/parallel-channels.md`.
"""

from typing import Final

from pydantic import Field

from agentpay.types import Hash32
from agentpay.wire.fields import HashText, Uint128Text
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.encoding import decode_object, encode_object
from agentpay.wire.mpp.fields import Message, read

PAYMENT_VOUCHER: Final = "Payment-Voucher"


class SessionOutcome(Message):
    """What a payee says of one voucher: the only final word (rule 4)."""

    channel_id: HashText
    cumulative: Uint128Text
    fate: str = Field(strict=True, max_length=32)
    charged: Uint128Text = 0
    spent: Uint128Text | None = None
    """What the payee charged on the session in all, as far as it is final."""
    repeated: bool = Field(default=False, strict=True)
    """Its request was answered before, and is not answered again."""


def session_outcome(
    channel: Hash32,
    cumulative: int,
    fate: str,
    *,
    charged: int = 0,
    spent: int | None,
    repeated: bool = False,
) -> JsonObject:
    """What a payee says of one voucher; `spent` is for its payer alone."""
    outcome: JsonObject = {
        "channelId": str(channel),
        "cumulative": str(cumulative),
        "fate": fate,
        "charged": str(charged),
    }
    if spent is not None:
        outcome["spent"] = str(spent)
    if repeated:
        outcome["repeated"] = True
    return outcome


def format_outcome(outcome: JsonObject) -> str:
    """
    Write a `Payment-Voucher` header.

    Raises:
        ValueError: It has values that we do not write.
    """
    return encode_object(outcome)


def parse_outcome(header: str) -> SessionOutcome:
    """
    Read a `Payment-Voucher` header.

    Raises:
        MessageTooLarge: More than 16 KiB.
        MalformedMessage: It says what became of no voucher.
    """
    return read(
        SessionOutcome, decode_object(header, name=PAYMENT_VOUCHER), PAYMENT_VOUCHER
    )
