"""
`evm/charge`: one payment in a token, asked for and proven.

Source: draft-payment-intent-charge-00; draft-evm-charge-00, "Request Schema" and
"Credential Schema". Addresses are compared by their bytes: the drafts' own examples
have wrong checksums.
"""

from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import Field, TypeAdapter, model_validator

from agentpay.wire.fields import (
    AddressText,
    HashText,
    SignatureText,
    Uint256Text,
)
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.fields import (
    ChainNumber,
    Message,
    Name,
    Words,
    read,
    read_one_of,
)

METHOD: Final = "evm"
CHARGE: Final = "charge"
BY_AUTHORIZATION: Final = "authorization"
BY_PERMIT2: Final = "permit2"
BY_TRANSACTION: Final = "transaction"
BY_HASH: Final = "hash"
SPLITS_MAX: Final = 10
MEMO_MAX: Final = 256
TYPES_MAX: Final = 16


class Split(Message):
    """A share of a charge for somebody else."""

    recipient: AddressText
    amount: Uint256Text
    memo: str | None = Field(default=None, max_length=MEMO_MAX)


class ChargeDetails(Message):
    """What is particular to EVM in a charge."""

    chain_id: ChainNumber
    credential_types: tuple[Name, ...] = Field(
        default=("transaction", "hash"), max_length=TYPES_MAX
    )
    """In the server's order; unknown ones are not ours to produce."""
    permit2_address: AddressText | None = None
    """None: where Permit2 is everywhere else."""
    spender: AddressText | None = None
    """Who will submit a Permit2 transfer, which is signed for one spender: the draft
    says it nowhere, so we say it here."""
    decimals: int | None = Field(default=None, strict=True, ge=0, le=255)
    splits: tuple[Split, ...] | None = Field(
        default=None, min_length=1, max_length=SPLITS_MAX
    )


class ChargeRequest(Message):
    """What a server asks for, once."""

    amount: Uint256Text
    """The whole of it, shares included."""
    currency: AddressText
    recipient: AddressText
    description: Words | None = None
    external_id: Words | None = None
    method_details: ChargeDetails

    @property
    def splits(self) -> tuple[Split, ...]:
        return self.method_details.splits or ()

    @property
    def primary_amount(self) -> int:
        """What is left for `recipient` itself."""
        return self.amount - sum(split.amount for split in self.splits)

    @model_validator(mode="after")
    def _leaves_something(self) -> Self:
        if self.splits and self.primary_amount <= 0:
            raise ValueError("the splits must be less than the amount")
        return self


class AuthorizationPayload(Message):
    """An EIP-3009 transfer, for the server to send."""

    type: Literal["authorization"]
    payer: AddressText = Field(alias="from")
    to: AddressText
    value: Uint256Text
    valid_after: Uint256Text
    valid_before: Uint256Text
    nonce: HashText
    signature: SignatureText


class HashPayload(Message):
    """A transfer that the client has sent."""

    type: Literal["hash"]
    transaction: HashText = Field(alias="hash")


class TransactionPayload(Message):
    """A signed EIP-1559 transaction, for the server to broadcast."""

    type: Literal["transaction"]
    raw: SignatureText = Field(alias="signature")


class Permitted(Message):
    """How much of a token Permit2 may move."""

    token: AddressText
    amount: Uint256Text


class Permit(Message):
    """What a payer permits, primary transfer first."""

    permitted: tuple[Permitted, ...] = Field(min_length=1, max_length=SPLITS_MAX + 1)
    nonce: Uint256Text
    deadline: Uint256Text


class TransferDetail(Message):
    """Where one permitted amount goes."""

    to: AddressText
    requested_amount: Uint256Text


class PaymentWitness(Message):
    """What ties a permit to its challenge."""

    challenge_hash: HashText
    external_id: Words = ""


class Permit2Payload(Message):
    """Permit2 transfers, for the server to send: the only kind that can be split."""

    type: Literal["permit2"]
    permit: Permit
    transfer_details: tuple[TransferDetail, ...]
    witness: PaymentWitness
    signature: SignatureText

    @model_validator(mode="after")
    def _one_place_for_each(self) -> Self:
        if len(self.transfer_details) != len(self.permit.permitted):
            raise ValueError("permitted and transferDetails must be equally many")
        return self


ChargePayload: TypeAlias = (
    AuthorizationPayload | HashPayload | TransactionPayload | Permit2Payload
)
_PAYLOAD: Final[TypeAdapter[ChargePayload]] = TypeAdapter(
    Annotated[ChargePayload, Field(discriminator="type")]
)


def parse_charge_request(request: JsonObject) -> ChargeRequest:
    """
    Read the decoded `request` of a challenge.

    Raises:
        MalformedMessage: It asks for no charge that could be paid.
    """
    return read(ChargeRequest, request, "request")


def parse_charge_payload(payload: JsonObject) -> ChargePayload:
    """
    Read the `payload` of a credential.

    Raises:
        MalformedMessage: It is no proof that the draft knows.
    """
    return read_one_of(_PAYLOAD, payload, "payload")
