"""
`evm/session`: a channel that is opened, drawn on by vouchers, and closed.

Source: draft-evm-session-00, "Request Schema", "Credential Schema" and "Insufficient
Balance During Streaming". Where the draft says a message must agree with itself, one
that does not is not read.
"""

from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator

from agentpay.types import ZERO_ADDRESS
from agentpay.wire.fields import (
    AddressText,
    HashText,
    SignatureText,
    Uint128Text,
    Uint256Text,
)
from agentpay.wire.headers import JsonObject, JsonValue
from agentpay.wire.mpp.evm_charge import TYPES_MAX
from agentpay.wire.mpp.fields import (
    ChainNumber,
    Message,
    Name,
    Words,
    read,
    read_one_of,
)
from agentpay.wire.parallel import KEY as PARALLEL

SESSION: Final = "session"


class SessionDetails(Message):
    """What is particular to EVM in a session."""

    chain_id: ChainNumber
    escrow_contract: AddressText
    channel_id: HashText | None = None
    """A channel that the server suggests to go on with."""
    min_voucher_delta: Uint128Text = 0
    fee_payer: bool = Field(default=False, strict=True)
    credential_types: tuple[Name, ...] = Field(default=("hash",), max_length=TYPES_MAX)
    permit2_contract: AddressText | None = None
    """None: where Permit2 is everywhere else."""
    parallel: JsonValue = Field(default=None, alias=PARALLEL)
    """Ours: many requests at once, on the terms of `wire.parallel`."""


class SessionRequest(Message):
    """What a server asks for each unit."""

    amount: Uint128Text
    """The price of one unit."""
    currency: AddressText
    recipient: AddressText
    unit_type: Name | None = None
    suggested_deposit: Uint128Text | None = None
    description: Words | None = None
    external_id: Words | None = None
    method_details: SessionDetails


class TokenAuthorization(Message):
    """An EIP-3009 authorization towards the escrow contract."""

    payer: AddressText = Field(alias="from")
    to: AddressText
    value: Uint128Text
    valid_after: Uint256Text
    valid_before: Uint256Text
    nonce: HashText


class Permitted(Message):
    """How much of a token Permit2 may move into the escrow."""

    token: AddressText
    amount: Uint128Text


class OpenWitness(Message):
    """The channel that a permit opens."""

    payee: AddressText
    salt: HashText
    authorized_signer: AddressText = ZERO_ADDRESS


class TopUpWitness(Message):
    """The channel that a permit fills up."""

    channel_id: HashText


class OpenPermit(Message):
    """A Permit2 authorization to open a channel."""

    payer: AddressText = Field(alias="from")
    permitted: Permitted
    nonce: Uint256Text
    deadline: Uint256Text
    witness: OpenWitness


class TopUpPermit(Message):
    """A Permit2 authorization to fill up a channel."""

    payer: AddressText = Field(alias="from")
    permitted: Permitted
    nonce: Uint256Text
    deadline: Uint256Text
    witness: TopUpWitness


class _OpensByAuthorization(Message):
    type: Literal["authorization"]
    authorization: TokenAuthorization
    signature: SignatureText
    salt: HashText
    authorized_signer: AddressText = ZERO_ADDRESS


class _OpensByPermit2(Message):
    type: Literal["permit2"]
    authorization: OpenPermit
    signature: SignatureText
    salt: HashText
    authorized_signer: AddressText = ZERO_ADDRESS

    @model_validator(mode="after")
    def _means_one_channel(self) -> Self:
        witness = self.authorization.witness
        signed = (witness.salt, witness.authorized_signer)
        if signed != (self.salt, self.authorized_signer):
            raise ValueError("the witness must name the same salt and signer")
        return self


class OpenByHash(Message):
    """A channel that the client has opened."""

    action: Literal["open"]
    type: Literal["hash"]
    channel_id: HashText
    transaction: HashText = Field(alias="hash")
    cumulative_amount: Uint128Text
    signature: SignatureText
    """Of the voucher."""
    salt: HashText
    authorized_signer: AddressText = ZERO_ADDRESS


class OpenByAuthorization(_OpensByAuthorization):
    """A channel for the server to open, by EIP-3009."""

    action: Literal["open"]
    channel_id: HashText
    cumulative_amount: Uint128Text
    voucher_signature: SignatureText


class OpenByPermit2(_OpensByPermit2):
    """A channel for the server to open, by Permit2."""

    action: Literal["open"]
    channel_id: HashText
    cumulative_amount: Uint128Text
    voucher_signature: SignatureText


class TopUpByHash(Message):
    """A deposit that the client has made."""

    action: Literal["topUp"]
    type: Literal["hash"]
    channel_id: HashText
    transaction: HashText = Field(alias="hash")
    additional_deposit: Uint128Text


class TopUpByAuthorization(Message):
    """A deposit for the server to make, by EIP-3009."""

    action: Literal["topUp"]
    type: Literal["authorization"]
    channel_id: HashText
    salt: HashText
    authorization: TokenAuthorization
    signature: SignatureText
    additional_deposit: Uint128Text

    @model_validator(mode="after")
    def _means_one_amount(self) -> Self:
        if self.additional_deposit != self.authorization.value:
            raise ValueError("additionalDeposit must be what is authorized")
        return self


class TopUpByPermit2(Message):
    """A deposit for the server to make, by Permit2."""

    action: Literal["topUp"]
    type: Literal["permit2"]
    channel_id: HashText
    authorization: TopUpPermit
    signature: SignatureText
    additional_deposit: Uint128Text

    @model_validator(mode="after")
    def _means_one_deposit(self) -> Self:
        if self.additional_deposit != self.authorization.permitted.amount:
            raise ValueError("additionalDeposit must be what is permitted")
        if self.channel_id != self.authorization.witness.channel_id:
            raise ValueError("the witness must name the same channel")
        return self


class OpenDepositByAuthorization(_OpensByAuthorization):
    """The deposit of a voucher that opens its channel, by EIP-3009."""

    action: Literal["open"]


class OpenDepositByPermit2(_OpensByPermit2):
    """The deposit of a voucher that opens its channel, by Permit2."""

    action: Literal["open"]


class TopUpDepositByAuthorization(Message):
    """The deposit of a voucher that fills up its channel, by EIP-3009."""

    action: Literal["topUp"]
    type: Literal["authorization"]
    salt: HashText
    authorization: TokenAuthorization
    signature: SignatureText


class TopUpDepositByPermit2(Message):
    """The deposit of a voucher that fills up its channel, by Permit2."""

    action: Literal["topUp"]
    type: Literal["permit2"]
    authorization: TopUpPermit
    signature: SignatureText


def _kind(value: JsonValue) -> str:
    """`voucher`, `close`, or an action and how it is done: `open/permit2`."""
    if not isinstance(value, dict):
        return ""
    action = str(value.get("action"))[:32]
    if action in ("voucher", "close"):
        return action
    return f"{action}/{str(value.get('type'))[:32]}"


Deposit = Annotated[
    Annotated[OpenDepositByAuthorization, Tag("open/authorization")]
    | Annotated[OpenDepositByPermit2, Tag("open/permit2")]
    | Annotated[TopUpDepositByAuthorization, Tag("topUp/authorization")]
    | Annotated[TopUpDepositByPermit2, Tag("topUp/permit2")],
    Discriminator(_kind),
]


class RaisedRequest(Message):
    """
    Which running request a voucher is for, and the most that may cost from now on.

    Our own, for sessions that serve many requests at once: there, what one request
    signed is not another's. Others ignore it, as the draft has them do.
    """

    cumulative: Uint128Text
    """The amount that the request came with."""
    maximum: Uint128Text


class VoucherPayload(Message):
    """A cumulative amount, and perhaps the deposit that covers it."""

    action: Literal["voucher"]
    channel_id: HashText
    cumulative_amount: Uint128Text
    signature: SignatureText
    deposit: Deposit | None = None
    raises: RaisedRequest | None = None

    @model_validator(mode="after")
    def _means_one_channel(self) -> Self:
        if not isinstance(self.deposit, TopUpDepositByPermit2):
            return self
        if self.deposit.authorization.witness.channel_id != self.channel_id:
            raise ValueError("the witness must name the same channel")
        return self


class ClosePayload(Message):
    """The last cumulative amount: close the channel with it."""

    action: Literal["close"]
    channel_id: HashText
    cumulative_amount: Uint128Text
    signature: SignatureText


OpenPayload: TypeAlias = OpenByHash | OpenByAuthorization | OpenByPermit2
TopUpPayload: TypeAlias = TopUpByHash | TopUpByAuthorization | TopUpByPermit2
OpenDeposit: TypeAlias = OpenDepositByAuthorization | OpenDepositByPermit2
TopUpDeposit: TypeAlias = TopUpDepositByAuthorization | TopUpDepositByPermit2
SessionPayload: TypeAlias = OpenPayload | TopUpPayload | VoucherPayload | ClosePayload

_PAYLOAD: Final[TypeAdapter[SessionPayload]] = TypeAdapter(
    Annotated[
        Annotated[OpenByHash, Tag("open/hash")]
        | Annotated[OpenByAuthorization, Tag("open/authorization")]
        | Annotated[OpenByPermit2, Tag("open/permit2")]
        | Annotated[TopUpByHash, Tag("topUp/hash")]
        | Annotated[TopUpByAuthorization, Tag("topUp/authorization")]
        | Annotated[TopUpByPermit2, Tag("topUp/permit2")]
        | Annotated[VoucherPayload, Tag("voucher")]
        | Annotated[ClosePayload, Tag("close")],
        Discriminator(_kind),
    ]
)


class NeedVoucher(Message):
    """`payment-need-voucher`: what a stream waits for."""

    channel_id: HashText
    required_cumulative: Uint128Text
    accepted_cumulative: Uint128Text
    deposit: Uint128Text
    """Where more is required than this, a deposit comes first."""


def parse_session_request(request: JsonObject) -> SessionRequest:
    """
    Read the decoded `request` of a challenge.

    Raises:
        MalformedMessage: It asks for no session that could be had.
    """
    return read(SessionRequest, request, "request")


def parse_session_payload(payload: JsonObject) -> SessionPayload:
    """
    Read the `payload` of a credential.

    Raises:
        MalformedMessage: It is no action of a session, or contradicts itself.
    """
    return read_one_of(_PAYLOAD, payload, "payload")
