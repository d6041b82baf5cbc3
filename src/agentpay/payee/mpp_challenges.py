"""
Challenges of MPP beside the offers of x402: fresh with every 402.

Source: draft-httpauth-payment-00, "Challenge (WWW-Authenticate)" and "Client Payment
Preferences".
"""

import secrets as randomness
from collections.abc import Sequence
from dataclasses import replace

from agentpay.errors import MalformedMessage
from agentpay.payee.mpp_offers import (
    NO_BODY,
    Asked,
    MppTerms,
    charge_offer,
    error_of,
)
from agentpay.payee.offers import NO_PAYMENT, PayeeSettings
from agentpay.payee.pricing import Terms
from agentpay.payee.sales import Refusal
from agentpay.payee.session_offers import session_offer
from agentpay.wire.mpp import binding
from agentpay.wire.mpp.challenge import (
    WWW_AUTHENTICATE,
    Challenge,
    format_challenge,
)
from agentpay.wire.mpp.evm_charge import CHARGE
from agentpay.wire.mpp.evm_session import SESSION
from agentpay.wire.mpp.preference import parse_accept_payment, rank
from agentpay.wire.mpp.problem import PROBLEM_JSON, ProblemKind, write_problem


def mpp_offers(
    settings: PayeeSettings, mpp: MppTerms, terms: Terms
) -> tuple[binding.Terms, ...]:
    """
    What a route asks for by MPP.

    The charge is first: some clients know no other, and look no further.
    """
    offers = charge_offer(settings, mpp, terms), session_offer(settings, mpp, terms)
    return tuple(offer for offer in offers if offer is not None)


def challenges(
    settings: PayeeSettings, mpp: MppTerms, terms: Terms, asked: Asked, *, now: int
) -> tuple[Challenge, ...]:
    """Fresh challenges for one request, in the order that its client likes."""
    offers = mpp_offers(settings, mpp, terms)
    if asked.body is None:
        offers = tuple(offer for offer in offers if offer.intent == SESSION)
    order: Sequence[int] = range(len(offers))
    if asked.preference and offers:
        try:
            ranges = parse_accept_payment(asked.preference)
        except MalformedMessage:
            ranges = ()  # the draft: a server may ignore it
        if ranges:
            order = rank(ranges, [(offer.method, offer.intent) for offer in offers])
    return tuple(
        binding.issue(
            offers[index],
            secrets=mpp.binding,
            nonce=randomness.token_bytes(binding.NONCE_BYTES),
            expires_at=now + settings.max_timeout_seconds,
            body=(asked.body or b"") if offers[index].intent == CHARGE else b"",
        )
        for index in order
    )


def with_challenges(
    refusal: Refusal,
    settings: PayeeSettings,
    mpp: MppTerms,
    terms: Terms,
    asked: Asked,
    *,
    now: int,
) -> Refusal:
    """A 402 with fresh challenges beside its offers, and a problem for its body."""
    if refusal.status != 402:
        return refusal
    headers = {**refusal.headers, "content-type": PROBLEM_JSON}
    fresh = challenges(settings, mpp, terms, asked, now=now)
    if fresh:
        lines = [format_challenge(challenge) for challenge in fresh]
        headers[WWW_AUTHENTICATE.lower()] = ", ".join(lines)
    if refusal.body != NO_BODY:
        return replace(refusal, headers=headers)
    error = error_of(refusal)
    unpaid = error == NO_PAYMENT
    kind = ProblemKind.PAYMENT_REQUIRED if unpaid else ProblemKind.VERIFICATION_FAILED
    return replace(refusal, headers=headers, body=write_problem(kind, error))
