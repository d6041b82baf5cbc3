"""
What a payee asks a facilitator, read; and the facilitator's answers, written.

Source: x402 `specs/x402-specification-v2.md` section 7, and "Facilitator Interface" of
`specs/schemes/batch-settlement/scheme_batch_settlement_evm.md`; the codes are those of
the specs and of the official SDKs.
"""

from typing import Annotated, Final, Literal

from pydantic import (
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationError,
)

from agentpay.errors import MalformedMessage
from agentpay.evm.batch_settlement import (
    MAX_WITHDRAW_DELAY,
    MIN_WITHDRAW_DELAY,
    ChannelConfig,
    VoucherClaim,
    channel_id,
)
from agentpay.evm.batch_settlement_abi import ChannelOnChain
from agentpay.evm.hashing import checksummed
from agentpay.types import Address, ChainId, Hash32, network_of
from agentpay.wire.fields import (
    AddressText,
    SignatureText,
    Uint128Text,
    Uint256Text,
    WireMessage,
)
from agentpay.wire.headers import JsonObject, read_object
from agentpay.wire.x402 import (
    BATCH_SETTLEMENT,
    EXACT,
    PERMIT2,
    UPTO,
    VERSION,
    ConfigFields,
    DepositPayload,
    ExactPayload,
    Extensions,
    Permit2Payload,
    RefundPayload,
    Requirements,
    VoucherFields,
    VoucherPayload,
)
from agentpay.wire.x402_approvals import APPROVAL_KEY
from agentpay.wire.x402_deposits import read_config
from agentpay.wire.x402_sponsoring import EIP2612_KEY

CLAIMS_MAX: Final = 600
BODY_BYTES_MAX: Final = 1024 * 1024
"""A claim of so many channels, and nothing larger."""
_VALUES_MAX: Final = 8 * CLAIMS_MAX

PENDING: Final = "settlement_pending"
INVALID_PAYLOAD: Final = "invalid_payload"
UNSUPPORTED: Final = "unsupported_scheme"
CHANNEL_PREFIX: Final = "invalid_batch_settlement_evm_"
"""What every code of `batch-settlement` begins with."""


class WrongVersion(MalformedMessage):
    """A message of another version of x402."""

    code = "invalid_x402_version"


class ClaimVoucherFields(WireMessage):
    """The voucher of one row of a claim."""

    channel: ConfigFields
    max_claimable_amount: Uint128Text


class ClaimFields(WireMessage):
    """One row of a claim."""

    voucher: ClaimVoucherFields
    signature: SignatureText
    total_claimed: Uint128Text


class ClaimPayload(WireMessage):
    """`batch-settlement`: record what vouchers allow."""

    type: Literal["claim"]
    claims: list[ClaimFields] = Field(min_length=1, max_length=CLAIMS_MAX)
    claim_authorizer_signature: SignatureText | None = None


class SettlePayload(WireMessage):
    """`batch-settlement`: send a receiver all that was claimed for it."""

    type: Literal["settle"]
    receiver: AddressText
    token: AddressText


class RefundOrder(WireMessage):
    """`batch-settlement`: a refund as a payee has completed it."""

    type: Literal["refund"]
    channel_config: ConfigFields
    voucher: VoucherFields
    amount: Uint128Text
    refund_nonce: Uint256Text
    claims: list[ClaimFields] = Field(max_length=CLAIMS_MAX)
    refund_authorizer_signature: SignatureText | None = None
    claim_authorizer_signature: SignatureText | None = None


def _payload_kind(value: JsonValue) -> str:
    if not isinstance(value, dict):
        return EXACT
    kind = str(value.get("type", EXACT))
    if kind == "refund" and "refundNonce" in value:
        return "order"
    return PERMIT2 if kind == EXACT and "permit2Authorization" in value else kind


AnyPayload = Annotated[
    Annotated[ExactPayload, Tag(EXACT)]
    | Annotated[Permit2Payload, Tag(PERMIT2)]
    | Annotated[VoucherPayload, Tag("voucher")]
    | Annotated[DepositPayload, Tag("deposit")]
    | Annotated[RefundPayload, Tag("refund")]
    | Annotated[ClaimPayload, Tag("claim")]
    | Annotated[SettlePayload, Tag("settle")]
    | Annotated[RefundOrder, Tag("order")],
    Discriminator(_payload_kind),
]


class AskedRequirements(Requirements):
    """What a payee wants; at settlement it may leave the time out."""

    max_timeout_seconds: int = Field(default=0, strict=True, ge=0)


class AskedPayment(WireMessage):
    """What a client pays with, or what a payee asks to do with a channel."""

    x402_version: Literal[2] = Field(alias="x402Version")
    accepted: AskedRequirements
    payload: AnyPayload
    extensions: Extensions = Field(default_factory=dict)


class FacilitatorRequest(WireMessage):
    """The body of `/verify` and of `/settle`."""

    x402_version: Literal[2] = Field(alias="x402Version")
    payment_payload: AskedPayment
    payment_requirements: AskedRequirements


def parse_request(body: bytes) -> FacilitatorRequest:
    """
    Read the body of `/verify` or `/settle`.

    Raises:
        WrongVersion: It is not of version 2.
        MalformedMessage: It is not one.
    """
    message = read_object(body, name="body", values_max=_VALUES_MAX)
    if message.get("x402Version", VERSION) != VERSION:
        raise WrongVersion(f"x402Version: we speak {VERSION}")
    try:
        return FacilitatorRequest.model_validate(message)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        raise MalformedMessage(f"{where}: {first['msg'][:200]}") from error


def read_claims(fields: list[ClaimFields]) -> tuple[VoucherClaim, ...]:
    """The rows of a claim."""
    return tuple(
        VoucherClaim(
            config=read_config(row.voucher.channel),
            max_claimable=row.voucher.max_claimable_amount,
            signature=row.signature,
            total_claimed=row.total_claimed,
        )
        for row in fields
    )


def wrong_agreement(request: FacilitatorRequest) -> str | None:
    """
    Whether a payer accepted something else than its payee asks for.

    The amount of `upto` differs at settlement, where it is what is really due.
    """
    ours, accepted = request.payment_requirements, request.payment_payload.accepted
    channels = ours.scheme == BATCH_SETTLEMENT
    if accepted.scheme != ours.scheme or not _pays_by(request):
        return CHANNEL_PREFIX + "scheme" if channels else UNSUPPORTED
    if accepted.network != ours.network:
        return CHANNEL_PREFIX + "network_mismatch" if channels else "invalid_network"
    same = (accepted.asset, accepted.pay_to) == (ours.asset, ours.pay_to)
    fixed = ours.scheme == EXACT
    if not same or (fixed and accepted.amount != ours.amount):
        return "invalid_payment_requirements"
    return None


def _pays_by(request: FacilitatorRequest) -> bool:
    match request.payment_payload.payload:
        case ExactPayload():
            return request.payment_requirements.scheme == EXACT
        case Permit2Payload():
            return request.payment_requirements.scheme in (EXACT, UPTO)
        case _:
            return request.payment_requirements.scheme == BATCH_SETTLEMENT


def wrong_channel(
    config: ChannelConfig, named: Hash32, wanted: Requirements
) -> str | None:
    """Whether a channel is not on its payee's terms; without the prefix."""
    if channel_id(config, wanted.network) != named:
        return "channel_id_mismatch"
    if config.token != wanted.asset:
        return "token_mismatch"
    if config.receiver != wanted.pay_to:
        return "receiver_mismatch"
    authorizer = wanted.extra.get("receiverAuthorizer")
    if str(authorizer).lower() != config.receiver_authorizer:
        return "receiver_authorizer_mismatch"
    delay = wanted.extra.get("withdrawDelay")
    if delay is not None and str(delay) != str(config.withdraw_delay):
        return "withdraw_delay_mismatch"
    if not MIN_WITHDRAW_DELAY <= config.withdraw_delay <= MAX_WITHDRAW_DELAY:
        return "withdraw_delay_out_of_range"
    return None


def wrong_amount(state: ChannelOnChain, amount: int, *, added: int = 0) -> str | None:
    """Whether a voucher is not covered by its channel, to which `added` comes."""
    if not state.balance + added:
        return "channel_not_found"
    if amount > state.balance + added:
        return "cumulative_exceeds_balance"
    return None


# Answers.


def valid(payer: Address, extra: JsonObject | None = None) -> JsonObject:
    """A payment that would go through now."""
    answer: JsonObject = {"isValid": True, "payer": checksummed(payer)}
    if extra:
        answer["extra"] = extra
    return answer


def invalid(reason: str, message: str = "", *, payer: str = "") -> JsonObject:
    """A payment that would not."""
    answer: JsonObject = {"isValid": False, "invalidReason": reason}
    if message:
        answer["invalidMessage"] = message
    if payer:
        answer["payer"] = payer
    return answer


def snapshot(channel: Hash32, state: ChannelOnChain) -> JsonObject:
    """What the chain says of a channel."""
    return {
        "channelId": str(channel),
        "balance": str(state.balance),
        "totalClaimed": str(state.claimed),
        "withdrawRequestedAt": state.withdrawal_started,
        "refundNonce": str(state.refund_nonce),
    }


def supported(
    chain: ChainId,
    *,
    schemes: tuple[str, ...],
    signers: tuple[Address, ...],
    authorizer: Address | None,
    sponsors: bool = False,
) -> JsonObject:
    """What a facilitator does, and who sends it."""
    kinds: list[JsonValue] = []
    for scheme in schemes:
        kind: JsonObject = {
            "x402Version": VERSION,
            "scheme": scheme,
            "network": network_of(chain),
        }
        if scheme == UPTO:
            kind["extra"] = {"facilitatorAddress": checksummed(signers[0])}
        if scheme == BATCH_SETTLEMENT and authorizer is not None:
            kind["extra"] = {"receiverAuthorizer": checksummed(authorizer)}
        kinds.append(kind)
    extensions: list[JsonValue] = [EIP2612_KEY]
    if sponsors:
        extensions.append(APPROVAL_KEY)
    accounts: list[JsonValue] = [checksummed(signer) for signer in signers]
    return {"kinds": kinds, "extensions": extensions, "signers": {"eip155:*": accounts}}
