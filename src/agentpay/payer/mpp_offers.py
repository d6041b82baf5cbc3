"""
Reads the challenges of MPP: which of them may be paid.

Source: draft-httpauth-payment-00, "Amount Verification"; draft-evm-charge-00 and
draft-evm-session-00, "Request Schema". Chain, currency and escrow are ours, or named in
the policy; a description is for people, and is not read.
"""

from dataclasses import asdict
from typing import Final

from agentpay.errors import MalformedMessage
from agentpay.evm import addresses
from agentpay.payer.offer import ChallengeTerms, Offer, Request
from agentpay.payer.policy import Policy
from agentpay.payer.session_offer import price_in
from agentpay.types import (
    UINT128_MAX,
    ZERO_ADDRESS,
    Address,
    Asset,
    ChainId,
    to_base_units,
)
from agentpay.wire.mpp.challenge import Challenge
from agentpay.wire.mpp.evm_charge import (
    BY_AUTHORIZATION,
    BY_HASH,
    BY_PERMIT2,
    BY_TRANSACTION,
    CHARGE,
    METHOD,
    ChargeRequest,
    parse_charge_request,
)
from agentpay.wire.mpp.evm_session import (
    SESSION,
    SessionRequest,
    parse_session_request,
)
from agentpay.wire.mpp.preference import PaymentRange, format_accept_payment
from agentpay.wire.mpp.timestamps import parse_time
from agentpay.wire.x402 import EIP3009, PERMIT2

OWN_WAYS: Final = (BY_TRANSACTION, BY_HASH)
"""Transactions of the payer's own, which it pays gas for."""


def read_challenge(
    challenge: Challenge,
    request: Request,
    *,
    assets: tuple[Asset, ...],
    policy: Policy,
    now: int,
) -> Offer:
    """
    One challenge of a 402, for the request that it answered.

    Raises:
        MalformedMessage: It may not be paid, and why.
    """
    if challenge.method != METHOD or challenge.intent not in (CHARGE, SESSION):
        raise MalformedMessage("not a way we pay by")
    if challenge.intent not in policy.prefer:
        raise MalformedMessage("not an intent we pay by")
    asked: ChargeRequest | SessionRequest
    if challenge.intent == CHARGE:
        asked = parse_charge_request(challenge.decode_request())
        asset = _trusted(asked.currency, asked.method_details.chain_id, assets)
        method = _charge_method(asked, asset, policy)
        price = asked.amount
    else:
        asked = parse_session_request(challenge.decode_request())
        asset = _trusted(asked.currency, asked.method_details.chain_id, assets)
        price = _session_price(asked, asset, policy)
        method = _session_method(asked, asset, policy, price)
    if not 0 < asked.amount <= UINT128_MAX:
        raise MalformedMessage(f"its amount is {asked.amount}")
    if asked.recipient == ZERO_ADDRESS:
        raise MalformedMessage("it would be paid to nobody")
    expires_at = _expires_at(challenge, policy, now)
    terms = ChallengeTerms(challenge=challenge, request=asked, expires_at=expires_at)
    misfit = terms.misfit(request)
    if misfit:
        raise MalformedMessage(misfit)
    return Offer(
        scheme=challenge.intent,
        method=method,
        asset=asset,
        amount=price,
        pay_to=asked.recipient,
        max_timeout_seconds=expires_at - now,
        words={n: value for n, value in asdict(challenge).items() if value is not None},
        extensions={},
        mpp=terms,
    )


def _trusted(currency: Address, chain: ChainId, assets: tuple[Asset, ...]) -> Asset:
    for asset in assets:
        if (asset.chain, asset.address) == (chain, currency):
            return asset
    raise MalformedMessage(f"we do not trust asset {currency} on chain {chain}")


def _charge_method(asked: ChargeRequest, asset: Asset, policy: Policy) -> str:
    """How it is paid: the first of these that it takes, and that can be split."""
    details = asked.method_details
    if details.decimals not in (None, asset.decimals):
        raise MalformedMessage(
            f"it says that the token has {details.decimals} decimals, it has"
            f" {asset.decimals}"
        )
    types = details.credential_types
    if BY_AUTHORIZATION in types and asset.eip3009 and not asked.splits:
        return EIP3009
    if BY_PERMIT2 in types:
        _check_permit(asked)
        return PERMIT2
    if asked.splits:
        raise MalformedMessage(f"it is split, which only Permit2 does, not {types}")
    own = [way for way in types if way in OWN_WAYS]
    if own and policy.pay_gas:
        return own[0]
    gas = " (our own transactions need a policy with pay_gas)" if own else ""
    raise MalformedMessage(f"it wants to be paid by {types}{gas}")


def _check_permit(asked: ChargeRequest) -> None:
    """Whom Permit2 would let move how much, and where that is to go."""
    details = asked.method_details
    if details.permit2_address not in (None, addresses.PERMIT2):
        raise MalformedMessage(f"we do not know Permit2 at {details.permit2_address}")
    if details.spender in (None, ZERO_ADDRESS):
        raise MalformedMessage(
            "it does not say who sends a permit2 (methodDetails, spender), which is"
            " signed for one sender"
        )
    for split in asked.splits:
        if split.recipient == ZERO_ADDRESS or not split.amount:
            raise MalformedMessage(
                f"a split of {split.amount} to {split.recipient} is none"
            )


def _session_price(asked: SessionRequest, asset: Asset, policy: Policy) -> int:
    try:
        return price_in(asked, policy, asset.decimals)
    except ValueError as error:
        raise MalformedMessage(f"the most that it may cost: {error}") from error


def _session_method(
    asked: SessionRequest, asset: Asset, policy: Policy, price: int
) -> str:
    """How its channel is filled: by a signature, for which its payee pays the gas."""
    details = asked.method_details
    known = {addresses.SESSION_ESCROW, *map(Address, policy.escrows)}
    if details.escrow_contract not in known:
        raise MalformedMessage(
            f"we do not trust escrow {details.escrow_contract}: if you do, name it in"
            " the policy (escrows)"
        )
    headroom = to_base_units(policy.headroom, asset.decimals)
    step = max(price, details.min_voucher_delta)
    if step > headroom:
        raise MalformedMessage(
            f"its vouchers rise by {step}, above the {headroom} that our policy signs"
            " ahead in a channel"
        )
    if BY_AUTHORIZATION in details.credential_types and asset.eip3009:
        return EIP3009
    ours = details.permit2_contract in (None, addresses.PERMIT2)
    if BY_PERMIT2 in details.credential_types and ours:
        return PERMIT2
    raise MalformedMessage(f"it wants to be funded by {details.credential_types}")


def _expires_at(challenge: Challenge, policy: Policy, now: int) -> int:
    if challenge.expires is None:
        return now + policy.authorization_seconds_max
    expires_at = parse_time(challenge.expires, name="expires")
    if expires_at <= now:
        raise MalformedMessage(f"it expired at {challenge.expires}")
    return expires_at


def preference(policy: Policy) -> str:
    """The `Accept-Payment` of a policy; "" if it pays by nothing of MPP."""
    intents = [kind for kind in policy.prefer if kind in (CHARGE, SESSION)]
    ranges = [
        PaymentRange(method=METHOD, intent=intent, thousandths=1000 - 100 * place)
        for place, intent in enumerate(intents)
    ]
    return format_accept_payment(ranges)
