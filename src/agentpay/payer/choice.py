"""
Choosing among the offers of a 402, of both protocols: which may be paid, which is best.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from agentpay.errors import MalformedMessage, NoAcceptableOffer
from agentpay.payer.mpp_offers import OWN_WAYS, read_challenge
from agentpay.payer.offer import Offer, Request
from agentpay.payer.policy import Policy
from agentpay.payer.x402_offers import read_offer
from agentpay.types import Asset
from agentpay.wire.mpp.challenge import Challenge
from agentpay.wire.x402 import EIP3009, PaymentRequired
from agentpay.wire.x402_terms import is_upfront


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """Everything that a 402 offers, and the request that it answered."""

    required: PaymentRequired | None
    """Of x402."""
    challenges: tuple[Challenge, ...] = ()
    """Of MPP."""
    request: Request = field(default_factory=Request)
    refused: tuple[str, ...] = ()
    """Why some of what it said is not here."""


def acceptable(
    offered: Offered, *, assets: tuple[Asset, ...], policy: Policy, now: int
) -> tuple[Offer, ...]:
    """
    The offers of a 402 that the policy allows.

    Raises:
        NoAcceptableOffer: There is none; the message says why for each.
    """
    reasons = list(offered.refused)
    offers: list[Offer] = []
    if (required := offered.required) is not None:
        readable, wrong = required.read_offers()
        for requirements, words in readable:
            try:
                offer = read_offer(
                    requirements,
                    words,
                    required=required,
                    assets=assets,
                    policy=policy,
                )
            except MalformedMessage as error:
                reasons.append(f"{requirements.scheme}: {error}")
            else:
                offers.append(offer)
        reasons += wrong
    for challenge in offered.challenges:
        try:
            offer = read_challenge(
                challenge, offered.request, assets=assets, policy=policy, now=now
            )
        except MalformedMessage as error:
            reasons.append(f"{challenge.method}/{challenge.intent}: {error}")
        else:
            offers.append(offer)
    if not offers:
        why = "; ".join(reasons) or "it has no offers for an EVM chain"
        raise NoAcceptableOffer(f"no offer can be paid: {why[:1000]}")
    return tuple(offers)


def best(offers: Sequence[Offer], *, opened: Sequence[Offer], policy: Policy) -> Offer:
    """
    The one to pay. `opened` are those to whose payee a channel is open: its money is
    there already, so they come first. Of two that are liked as much, the one that is
    paid only for an answer (x402 `specs/schemes/exact/scheme_exact.md`, "Payment
    Flow").
    """
    order = {scheme: place for place, scheme in enumerate(policy.prefer)}

    def rank(offer: Offer) -> tuple[bool, int, int, bool, int]:
        liked, price = order[offer.scheme], offer.amount
        first, second = (price, liked) if policy.cheapest else (liked, price)
        early = is_upfront(offer.words)
        return offer not in opened, _needs(offer), first, early, second

    return min(offers, key=rank)


def _needs(offer: Offer) -> int:
    """What the token itself moves needs no approval; what we send ourselves, gas."""
    if offer.method in OWN_WAYS:
        return 2
    return int(offer.method != EIP3009)
