"""
What a refusal says of a price: what to pay instead, and whether the price is new here.

It pays nothing, and remembers nothing.
"""

from dataclasses import dataclass

import httpx

from agentpay.core.exchange import Next
from agentpay.errors import MalformedMessage, NoAcceptableOffer, OfferUntrusted
from agentpay.http.offered import allowed, choose
from agentpay.http.receipts import Receipts
from agentpay.payer.offer import Offer
from agentpay.payer.payer import Payer
from agentpay.payer.payment import Judgement, Target
from agentpay.payer.policy import scale

_OF_TERMS = (400, 402)
"""What a payment is refused with that may be for other terms (x402, HTTP transport)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A payment that bought nothing."""

    reason: str
    fresh: Offer | None
    """The offer to pay instead."""
    differs: bool
    """Whether it went by another URL's offer, where this one's offers are others."""
    agreed: int | None
    """What this URL was bought for before, in 10^-18; None if it was not."""

    def rose_from(self, offer: Offer) -> bool:
        """Whether this URL asks for more than what was agreed for it."""
        fresh = self.fresh
        if fresh is None or fresh.amount <= offer.amount:
            return False
        if not self.differs:
            return True
        return self.agreed is not None and price_of(fresh) > self.agreed


def price_of(offer: Offer) -> int:
    """What an offer costs, in 10^-18 of the currency."""
    return scale(offer.amount, offer.asset.decimals)


async def read_refused(
    response: httpx.Response,
    target: Target,
    judged: Judgement,
    *,
    offer: Offer,
    agreed: int | None,
    payer: Payer,
    receipts: Receipts,
) -> Refused:
    """
    What to pay now: a fresh offer, where the answer is a 402, or that of a session or
    an earlier voucher which it did not doubt.
    """
    fresh = None
    if judged.next in (Next.PAY_AGAIN, Next.RENEW):
        doubted = offer.mpp is None and response.status_code != 409
        fresh = None if doubted else offer
        if response.status_code == 402:
            try:
                fresh = await choose(response, target, payer=payer, receipts=receipts)
            except (MalformedMessage, NoAcceptableOffer, OfferUntrusted):
                fresh = None
    return Refused(
        reason=judged.reason,
        fresh=fresh,
        differs=_differs(response, target, judged.next, offer, payer),
        agreed=agreed,
    )


def _differs(
    response: httpx.Response,
    target: Target,
    following: Next,
    offer: Offer,
    payer: Payer,
) -> bool:
    """A refusal for anything but its terms offers the same again."""
    refuses = following in (Next.PAY_AGAIN, Next.RENEW, Next.REJECTED)
    of_terms = refuses and response.status_code in _OF_TERMS
    if not of_terms or offer.url == target.url:
        return False
    try:
        offers = allowed(response, payer)
    except (MalformedMessage, NoAcceptableOffer, OfferUntrusted):
        return True
    return not any(offer.same_price(other) for other in offers)
