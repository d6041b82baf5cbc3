"""
An offer we are willing to pay, of either protocol, whatever it said on the wire.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from agentpay.types import Address, Asset
from agentpay.wire.headers import JsonObject, JsonValue
from agentpay.wire.mpp.challenge import Challenge
from agentpay.wire.mpp.digest import digest_matches
from agentpay.wire.mpp.evm_charge import ChargeRequest
from agentpay.wire.mpp.evm_session import SessionRequest
from agentpay.wire.offer_receipt import SignedOffer
from agentpay.wire.parallel import ParallelTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What an offer must fit beside its target: the request that was answered 402."""

    body: bytes = b""
    fields: Collection[str] = ()
    """The names of its header fields, in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelTerms:
    """What a channel offer of x402 adds to a price."""

    authorizer: Address
    withdraw_delay: int
    min_deposit: int
    parallel: ParallelTerms | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeTerms:
    """What an offer of MPP adds to a price: its challenge, and what that asks for."""

    challenge: Challenge
    request: ChargeRequest | SessionRequest
    expires_at: int
    """When it is over (Unix time); our own bound where it does not say."""

    @property
    def single_use(self) -> bool:
        """Whether it buys one answer, and the next one needs a challenge of its own."""
        return isinstance(self.request, ChargeRequest)

    def misfit(self, request: Request) -> str:
        """
        Why it is not for this request; "" if it is.

        Its credential takes the place of no field that the request already has.
        """
        digest, field = self.challenge.digest, self.challenge.credential_field
        if digest is not None and not digest_matches(digest, request.body):
            return "it is for a request with another body"
        if field.lower() in request.fields:
            return f"its credential goes into {field[:80]}, which the request has"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An offer we are willing to pay, with its own words for the echo."""

    scheme: str
    """One of `Policy.prefer`: a scheme of x402, or an intent of MPP."""
    method: str
    """How it wants its asset moved."""
    asset: Asset
    amount: int
    """What one request costs at most; a stream may be let cost more as it goes."""
    pay_to: Address
    max_timeout_seconds: int
    words: JsonObject
    extensions: JsonObject
    about: JsonObject = field(default_factory=dict[str, JsonValue])
    """What it says of the resource beside its URL, for the echo."""
    channel: ChannelTerms | None = None
    facilitator: Address | None = None
    """Who settles it, of `upto` offers."""
    first_network: str | None = None
    """What a server of x402's first version calls the chain; None of the second."""
    signed: SignedOffer | None = None
    """The same, signed by somebody (x402's `offer-receipt`)."""
    mpp: ChallengeTerms | None = None
    """Of MPP; None of x402."""
    url: str = ""
    """The URL that was asked when it was made; "" where nothing was asked to pay it."""

    def same_price(self, other: "Offer") -> bool:
        """Whether what pays the one would pay the other, whatever else they say."""
        return (
            (self.scheme, self.method) == (other.scheme, other.method)
            and (self.asset, self.amount) == (other.asset, other.amount)
            and self.pay_to == other.pay_to
        )
