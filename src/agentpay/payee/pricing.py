"""
What a route costs and when its payment is settled: said once, by the provider.
"""

from dataclasses import dataclass
from enum import StrEnum

from agentpay.errors import ConfigurationError
from agentpay.payee.about import About
from agentpay.types import Money
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402 import BATCH_SETTLEMENT, EXACT, UPTO


class Order(StrEnum):
    """When the money moves, and who bears the risk until it has."""

    SETTLE_FIRST = "settle-first"
    """Nothing runs before it is paid; a client that leaves has paid all the same."""
    RESERVE = "reserve-then-settle"
    """Reserved first, due once the handler succeeds; a failed one costs nothing."""
    SERVE_FIRST = "serve-then-settle"
    """Answered at once, settled afterwards: cheap, and the provider's own risk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A price and its terms. With `metered`, `price` is the most a request may cost."""

    price: Money
    metered: bool = False
    order: Order = Order.RESERVE
    schemes: tuple[str, ...] = (BATCH_SETTLEMENT, EXACT)
    """`upto` too, on metered routes: for payers that let Permit2 move their tokens."""
    about: About | None = None
    access_seconds: int = 0
    """For how long who has paid may come back by signing in, without paying again: for
    the same method, path and query."""

    def __post_init__(self) -> None:
        unknown = set(self.schemes) - {BATCH_SETTLEMENT, EXACT, UPTO}
        if unknown or not self.schemes:
            raise ConfigurationError(f"a route is not paid by {sorted(unknown)}")
        if UPTO in self.schemes and not self.metered:
            raise ConfigurationError("upto is for routes with metered=True")
        if UPTO in self.schemes and self.order is Order.SETTLE_FIRST:
            raise ConfigurationError(
                "upto settles what was used: it cannot settle first"
            )
        if self.access_seconds and self.metered:
            raise ConfigurationError("a metered route is paid for each time it is used")
        if self.access_seconds and self.order is Order.SERVE_FIRST:
            raise ConfigurationError(
                "who has paid may come back: serve-then-settle does not know that yet"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A route's terms in base units, and what is bought: a method and a path."""

    maximum: int
    metered: bool
    order: Order
    schemes: tuple[str, ...]
    resource: str
    url: str
    query: str = ""
    about: About | None = None
    listing: JsonObject | None = None
    """What catalogues are told."""
    access_seconds: int = 0
    challenge: JsonObject | None = None
    """What who has paid already may sign instead of paying again."""
    bound: bool = False
    """Whether `url` is known, and not only what the request's `Host` says."""
