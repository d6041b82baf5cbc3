"""
x402 version 2 messages: what a 402 offers, what pays it, and what answers.

Source: x402 `specs/x402-specification-v2.md` and `specs/schemes/`. Models are frozen;
unknown fields are kept, so that an offer can be echoed as it came.
"""

import json
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from agentpay.errors import MalformedMessage
from agentpay.wire.fields import (
    AddressText,
    HashText,
    HeardMessage,
    NetworkText,
    SignatureText,
    Uint40,
    Uint128Text,
    Uint256Text,
    WireMessage,
)
from agentpay.wire.headers import JsonObject, JsonValue, decode_json

PAYMENT_REQUIRED: Final = "PAYMENT-REQUIRED"
PAYMENT_SIGNATURE: Final = "PAYMENT-SIGNATURE"
PAYMENT_RESPONSE: Final = "PAYMENT-RESPONSE"
VERSION: Final = 2
OFFERS_MAX: Final = 32
ABOUT_BYTES_MAX: Final = 1024

EXACT: Final = "exact"
UPTO: Final = "upto"
BATCH_SETTLEMENT: Final = "batch-settlement"

EIP3009: Final = "eip3009"
PERMIT2: Final = "permit2"
"""How an asset is moved: `extra.assetTransferMethod`, EIP-3009 if it is not given."""


class Resource(HeardMessage):
    """What a 402 says it is about; what it says beside its URL is kept as it came."""

    model_config = ConfigDict(extra="allow")

    url: str = Field(max_length=8192)
    description: str = ""
    mime_type: str = ""

    def about(self) -> JsonObject:
        """What a payment echoes of it; nothing, where that would be large."""
        said: JsonObject = self.model_dump(
            by_alias=True, exclude={"url"}, exclude_unset=True
        )
        return said if len(json.dumps(said)) <= ABOUT_BYTES_MAX else {}


class Requirements(HeardMessage):
    """One offer of a 402: a scheme, a price and the terms to pay it on."""

    scheme: str = Field(max_length=64)
    network: NetworkText
    asset: AddressText
    amount: Uint256Text
    pay_to: AddressText
    max_timeout_seconds: int = Field(strict=True, ge=0)
    extra: dict[str, JsonValue] = Field(default_factory=dict)


class Extension(WireMessage):
    """Something optional that a server offers beside the payment."""

    info: dict[str, JsonValue] = Field(default_factory=dict)


def _is_extension(value: JsonValue) -> bool:
    return isinstance(value, dict) and isinstance(value.get("info", {}), dict)


def _readable(value: JsonValue) -> JsonObject:
    extensions = value if isinstance(value, dict) else {}
    return {n: e for n, e in extensions.items() if _is_extension(e)}


Extensions = Annotated[dict[str, Extension], BeforeValidator(_readable)]
"""By their names. What we do not know is ignored, whatever it looks like."""


class PaymentRequired(HeardMessage):
    """The whole of a 402. Offers we cannot read are skipped, not fatal."""

    x402_version: Literal[2] = Field(alias="x402Version")
    error: str = ""
    resource: Resource | None = None
    accepts: list[JsonValue] = Field(max_length=OFFERS_MAX)
    extensions: dict[str, JsonValue] = Field(default_factory=dict)

    def readable_offers(self) -> list[tuple[Requirements, JsonObject]]:
        """Each offer we understand, with its own words for the echo."""
        offers, _ = self.read_offers()
        return offers

    def read_offers(self) -> tuple[list[tuple[Requirements, JsonObject]], list[str]]:
        """The same, and what is wrong with each other offer for an EVM chain."""
        offers: list[tuple[Requirements, JsonObject]] = []
        wrong: list[str] = []
        for number, words in enumerate(self.accepts):
            if not isinstance(words, dict):
                continue
            try:
                offers.append((Requirements.model_validate(words), words))
            except ValidationError as error:
                if not str(words.get("network")).startswith("eip155:"):
                    continue  # of another family of chains
                first = error.errors()[0]
                field = ".".join(map(str, first["loc"]))
                said = f"{first['msg']}, not {first['input']!r}"
                wrong.append(f"accepts[{number}].{field}: {said[:200]}")
        return offers, wrong


class AuthorizationFields(WireMessage):
    """An EIP-3009 authorization as `exact` carries it."""

    payer: AddressText = Field(alias="from")
    to: AddressText
    value: Uint256Text
    valid_after: Uint256Text
    valid_before: Uint256Text
    nonce: HashText


class ExactPayload(WireMessage):
    """`exact` by EIP-3009."""

    authorization: AuthorizationFields
    signature: SignatureText


class PermittedFields(WireMessage):
    """The most that a Permit2 signature moves, and of what."""

    token: AddressText
    amount: Uint256Text


class WitnessFields(WireMessage):
    """What an x402 proxy is bound to; `facilitator` in `upto` alone."""

    to: AddressText
    facilitator: AddressText | None = None
    valid_after: Uint256Text


class Permit2Fields(WireMessage):
    """A Permit2 transfer as `exact` and `upto` carry it."""

    payer: AddressText = Field(alias="from")
    permitted: PermittedFields
    spender: AddressText
    nonce: Uint256Text
    deadline: Uint256Text
    witness: WitnessFields


class Permit2Payload(WireMessage):
    """`exact` or `upto` by Permit2."""

    permit2_authorization: Permit2Fields = Field(alias="permit2Authorization")
    signature: SignatureText


class ConfigFields(WireMessage):
    """The terms of a channel."""

    payer: AddressText
    payer_authorizer: AddressText
    receiver: AddressText
    receiver_authorizer: AddressText
    token: AddressText
    withdraw_delay: Uint40
    salt: HashText


class VoucherFields(WireMessage):
    """A cumulative amount, signed."""

    channel_id: HashText
    max_claimable_amount: Uint128Text
    signature: SignatureText


class Erc3009Fields(WireMessage):
    """The authorization that funds a channel."""

    valid_after: Uint256Text
    valid_before: Uint256Text
    salt: HashText
    signature: SignatureText


class DepositWitnessFields(WireMessage):
    """The channel that a Permit2 deposit is bound to."""

    channel_id: HashText


class Permit2DepositFields(WireMessage):
    """The Permit2 transfer that funds a channel."""

    payer: AddressText = Field(alias="from")
    permitted: PermittedFields
    spender: AddressText
    nonce: Uint256Text
    deadline: Uint256Text
    witness: DepositWitnessFields
    signature: SignatureText


class DepositAuthorization(WireMessage):
    """How a deposit is authorized: exactly one way."""

    erc3009_authorization: Erc3009Fields | None = Field(
        default=None, alias="erc3009Authorization"
    )
    permit2_authorization: Permit2DepositFields | None = Field(
        default=None, alias="permit2Authorization"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.erc3009_authorization is None) == (self.permit2_authorization is None):
            raise ValueError("a deposit is authorized in exactly one way")
        return self


class DepositFields(WireMessage):
    """Money for a channel."""

    amount: Uint128Text
    authorization: DepositAuthorization


class VoucherPayload(WireMessage):
    """`batch-settlement`: one more request on a funded channel."""

    type: Literal["voucher"]
    channel_config: ConfigFields
    voucher: VoucherFields


class DepositPayload(WireMessage):
    """`batch-settlement`: a request that funds its channel."""

    type: Literal["deposit"]
    channel_config: ConfigFields
    voucher: VoucherFields
    deposit: DepositFields


class RefundPayload(WireMessage):
    """`batch-settlement`: give back what is left. `amount` None is all of it."""

    type: Literal["refund"]
    channel_config: ConfigFields
    voucher: VoucherFields
    amount: Uint128Text | None = None


def _payload_type(value: JsonValue) -> str:
    if isinstance(value, dict):
        return str(value.get("type", PERMIT2 if _PERMIT2_KEY in value else EXACT))
    return EXACT


_PERMIT2_KEY = "permit2Authorization"


Payload = Annotated[
    Annotated[ExactPayload, Tag(EXACT)]
    | Annotated[Permit2Payload, Tag(PERMIT2)]
    | Annotated[VoucherPayload, Tag("voucher")]
    | Annotated[DepositPayload, Tag("deposit")]
    | Annotated[RefundPayload, Tag("refund")],
    Discriminator(_payload_type),
]


class PaymentPayload(WireMessage):
    """What a client pays with."""

    x402_version: Literal[2] = Field(alias="x402Version")
    accepted: JsonObject
    payload: Payload
    resource: Resource | None = None
    extensions: Extensions = Field(default_factory=dict)


class ChannelStateFields(WireMessage):
    """A payee's picture of a channel: a hint, never a proof."""

    channel_id: HashText
    balance: Uint128Text
    total_claimed: Uint128Text
    withdraw_requested_at: Uint40 = 0
    refund_nonce: Uint256Text = 0
    charged_cumulative_amount: Uint128Text | None = None


class SettleExtra(WireMessage):
    """What `batch-settlement` adds to a receipt."""

    charged_amount: Uint128Text | None = None
    channel_state: ChannelStateFields | None = None


class VoucherOutcome(WireMessage):
    """What a parallel channel says of one voucher: the only final word (rule 4)."""

    cumulative: Uint128Text
    fate: str = Field(max_length=32)
    charged: Uint128Text = 0
    repeated: bool = Field(default=False, strict=True)


class PaymentResponse(HeardMessage):
    """A receipt, or the reason why there is none."""

    success: bool = Field(strict=True)
    error_reason: str | None = None
    error_message: str | None = None
    payer: str | None = None
    transaction: str = Field(default="", max_length=256)
    network: str = ""
    amount: str | None = None
    extra: SettleExtra | None = None
    extensions: Extensions = Field(default_factory=dict)


M = TypeVar("M", bound=BaseModel)


def _parse(model: type[M], header: str, name: str) -> M:
    message = decode_json(header, name=name)
    try:
        return model.model_validate(message)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        raise MalformedMessage(f"{name}: {where}: {first['msg'][:200]}") from error


def parse_payment_required(header: str) -> PaymentRequired:
    """
    Read the `PAYMENT-REQUIRED` header of a 402.

    Raises:
        MalformedMessage: It is not one.
    """
    return _parse(PaymentRequired, header, PAYMENT_REQUIRED)


def parse_payment(header: str) -> PaymentPayload:
    """
    Read the `PAYMENT-SIGNATURE` header of a request.

    Raises:
        MalformedMessage: It is not one.
    """
    return _parse(PaymentPayload, header, PAYMENT_SIGNATURE)


def parse_response(header: str) -> PaymentResponse:
    """
    Read the `PAYMENT-RESPONSE` header of an answer.

    Raises:
        MalformedMessage: It is not one.
    """
    return _parse(PaymentResponse, header, PAYMENT_RESPONSE)
