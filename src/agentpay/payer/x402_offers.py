"""
Reads the offers of x402: which of them may be paid.

Nothing a 402 says is trusted: the chain and the asset are ours, the domain is read from
the contract, and what may be signed is bounded by policy.
"""

from agentpay.errors import MalformedMessage
from agentpay.evm.batch_settlement import MAX_WITHDRAW_DELAY, MIN_WITHDRAW_DELAY
from agentpay.payer.offer import ChannelTerms, Offer
from agentpay.payer.policy import Policy
from agentpay.types import (
    UINT128_MAX,
    ZERO_ADDRESS,
    Address,
    Asset,
    parse_amount,
    to_base_units,
)
from agentpay.wire import parallel
from agentpay.wire.headers import JsonObject, JsonValue
from agentpay.wire.x402 import (
    BATCH_SETTLEMENT,
    EIP3009,
    EXACT,
    PERMIT2,
    UPTO,
    PaymentRequired,
    Requirements,
)


def read_offer(
    requirements: Requirements,
    words: JsonObject,
    *,
    required: PaymentRequired,
    assets: tuple[Asset, ...],
    policy: Policy,
) -> Offer:
    """
    One offer of a 402.

    Raises:
        MalformedMessage: It may not be paid, and why.
    """
    asset = _trusted(requirements, assets)
    if requirements.scheme not in policy.prefer:
        raise MalformedMessage("not a scheme we pay by")
    if requirements.amount > UINT128_MAX:
        raise MalformedMessage("the amount is absurd")
    if requirements.pay_to == ZERO_ADDRESS:
        raise MalformedMessage("it would be paid to nobody")
    method = _method(requirements, asset)
    flow = requirements.extra.get("paymentFlow", "authorization")
    if flow not in ("authorization", "upfront"):
        raise MalformedMessage(f"its payment flow is {str(flow)[:40]}")
    channel = facilitator = None
    if requirements.scheme == BATCH_SETTLEMENT:
        headroom = to_base_units(policy.headroom, asset.decimals)
        if requirements.amount > headroom:
            raise MalformedMessage(
                f"its price of {requirements.amount} is above the {headroom} that our"
                " policy signs ahead in a channel"
            )
        channel = _channel_terms(requirements, required, policy)
    elif requirements.scheme == UPTO:
        facilitator = _facilitator(requirements)
    elif requirements.scheme != EXACT:
        raise MalformedMessage("not a scheme we know")
    return Offer(
        scheme=requirements.scheme,
        method=method,
        asset=asset,
        amount=requirements.amount,
        pay_to=requirements.pay_to,
        max_timeout_seconds=requirements.max_timeout_seconds,
        words=without_state(words),
        extensions=required.extensions,
        about=required.resource.about() if required.resource else {},
        channel=channel,
        facilitator=facilitator,
    )


def _method(requirements: Requirements, asset: Asset) -> str:
    """
    How an offer is paid. One that does not say leaves it to us, except where its scheme
    knows one way only.

    Source: x402 `specs/schemes/exact/scheme_exact_evm.md`, "assetTransferMethod".
    """
    default = EIP3009 if asset.eip3009 and requirements.scheme != UPTO else PERMIT2
    method = requirements.extra.get("assetTransferMethod", default)
    if method == PERMIT2 or (method == EIP3009 and default == EIP3009):
        return str(method)
    raise MalformedMessage(f"it wants to be paid by {str(method)[:40]}")


def _facilitator(requirements: Requirements) -> Address:
    try:
        return Address(_text(requirements.extra.get("facilitatorAddress")))
    except ValueError as error:
        raise MalformedMessage(f"who settles it? {error}") from error


def _trusted(requirements: Requirements, assets: tuple[Asset, ...]) -> Asset:
    for asset in assets:
        if (asset.chain, asset.address) != (requirements.network, requirements.asset):
            continue
        declared = requirements.extra.get("name"), requirements.extra.get("version")
        by_permit = requirements.extra.get("assetTransferMethod") == PERMIT2
        if by_permit and declared == (None, None):
            return asset  # Permit2 has a domain of its own
        if declared != (asset.name, asset.version):
            raise MalformedMessage(
                f"it declares the token's domain as {declared}, the contract says"
                f" {(asset.name, asset.version)}"
            )
        return asset
    raise MalformedMessage(
        f"we do not trust asset {requirements.asset} on chain {requirements.network}"
    )


def _channel_terms(
    requirements: Requirements, required: PaymentRequired, policy: Policy
) -> ChannelTerms:
    extra = requirements.extra
    try:
        authorizer = Address(_text(extra.get("receiverAuthorizer")))
        min_deposit = parse_amount(
            _text(extra.get("minDeposit", "0")), maximum=UINT128_MAX
        )
    except ValueError as error:
        raise MalformedMessage(str(error)) from error
    delay = extra.get("withdrawDelay")
    if type(delay) is not int or not MIN_WITHDRAW_DELAY <= delay <= MAX_WITHDRAW_DELAY:
        raise MalformedMessage("its withdraw delay is not 15 minutes to 30 days")
    if delay > policy.withdraw_delay_max:
        raise MalformedMessage(f"its withdraw delay of {delay} s is above our policy")
    if authorizer == ZERO_ADDRESS:
        raise MalformedMessage("its receiver authorizer is nobody")
    return ChannelTerms(
        authorizer=authorizer,
        withdraw_delay=delay,
        min_deposit=min_deposit,
        parallel=parallel.read_offer(required.extensions),
    )


def _text(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise ValueError("an address or amount is missing")  # noqa: TRY004 - a bad value
    return value


def without_state(words: JsonObject) -> JsonObject:
    """A corrective offer's words without the snapshot, which is not part of it."""
    extra = words.get("extra")
    if not isinstance(extra, dict) or "channelState" not in extra:
        return words
    kept = {
        key: value
        for key, value in extra.items()
        if key not in ("channelState", "voucherState")
    }
    return {**words, "extra": kept}
