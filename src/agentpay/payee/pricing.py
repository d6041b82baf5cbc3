"""
What a route costs and when its payment is settled: said once, by the provider.
"""

from dataclasses import dataclass
from enum import StrEnum

from agentpay.core.evolve import evolve
from agentpay.core.meter import REQUEST, Tariff
from agentpay.errors import ConfigurationError
from agentpay.payee.about import About
from agentpay.types import Money, to_base_units
from agentpay.wire.bazaar import Listing
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402 import BATCH_SETTLEMENT, EXACT, UPTO
from agentpay.wire.x402_write import resource


class Order(StrEnum):
    """When the money moves, and who bears the risk until it has."""

    SETTLE_FIRST = "settle-first"
    """Nothing runs before it is paid; a client that leaves has paid all the same."""
    RESERVE = "reserve-then-settle"
    """Reserved first, due once the handler succeeds; a failed one costs nothing."""
    SERVE_FIRST = "serve-then-settle"
    """Answered at once, settled afterwards: cheap, and the provider's own risk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """How a metered answer is paid while it flows."""

    increment: Money
    """
    What is charged ahead of what has left: the most that a payer loses in a crash.

    The smaller, the more durable steps. A session's stream begins with so much.
    """
    wait_seconds: float = 60.0
    """For how long a stream waits for a voucher once what is signed is used up."""

    def __post_init__(self) -> None:
        if self.wait_seconds < 0:
            raise ConfigurationError(
                f"a stream waits for 0 seconds or more, not {self.wait_seconds}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A price and its terms. With `metered`, `price` is the most a request may cost."""

    price: Money
    metered: bool = False
    tariff: Tariff | None = None
    """What usage costs, in base units: for `await paid.meter.charge(tokens=1)`."""
    streaming: Streaming | None = None
    """Charge while the answer flows, and not before its first byte."""
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
        if self.tariff is not None and not self.metered:
            raise ConfigurationError("a tariff is for routes with metered=True")
        if self.streaming is not None and self.tariff is None:
            raise ConfigurationError("a streaming route needs a tariff to count by")
        late = self.order is Order.SERVE_FIRST
        if self.streaming is not None and UPTO in self.schemes and not late:
            raise ConfigurationError(
                "a stream by upto is settled once it has ended: it needs"
                " order=Order.SERVE_FIRST"
            )
        if self.access_seconds and self.metered:
            raise ConfigurationError("a metered route is paid for each time it is used")
        if self.access_seconds and self.order is Order.SERVE_FIRST:
            raise ConfigurationError(
                "who has paid may come back: serve-then-settle does not know that yet"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTerms:
    """How an answer is paid while it flows, in base units; see `Streaming`."""

    increment: int
    wait_seconds: float


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
    """What catalogues are told: the extension `bazaar`."""
    access_seconds: int = 0
    challenge: JsonObject | None = None
    """What who has paid already may sign instead of paying again."""
    bound: bool = False
    """Whether `url` is known, and not only what the request's `Host` says."""
    tariff: Tariff | None = None
    streaming: StreamTerms | None = None

    def at(self, resource: str, *, url: str, query: str, bound: bool) -> "Terms":
        """These terms for one request: what is bought, and where."""
        return evolve(self, resource=resource, url=url, query=query, bound=bound)

    @property
    def for_catalogue(self) -> Listing | None:
        """
        What a facilitator may list; nothing where who asks could say which host this
        is, and so have another's listed as ours. Nor what was asked for there.
        """
        if self.listing is None or self.about is None or not self.bound:
            return None
        place, _, _ = self.url.partition("?")
        return Listing(
            resource=resource(place, self.about.resource()),
            extension=self.listing,
            price=self.maximum,
        )

    @property
    def first(self) -> int:
        """What a session's request reserves when it begins: a stream's may grow."""
        return self.streaming.increment if self.streaming else self.maximum

    @property
    def reserves_durably(self) -> bool:
        """
        Whether a handler waits until what it may cost is on disk. A stream's does not:
        nothing of it leaves before its first slice is, and all that came before it.
        """
        return self.order is not Order.SERVE_FIRST and self.streaming is None

    @property
    def per_unit(self) -> tuple[int, str]:
        """The price of one unit as sessions say it, and what is counted."""
        if self.tariff is None:
            return self.maximum, REQUEST.name
        rate = self.tariff.rates[0]
        if rate.price % rate.per:
            return rate.price, f"{rate.per} {rate.unit.name}"
        return rate.price // rate.per, rate.unit.name


def terms_of(route: Route, *, resource: str, decimals: int) -> Terms:
    """
    A route's terms in base units of a token, before it is said where it is.

    Raises:
        ConfigurationError: The price cannot be expressed in it.
    """
    try:
        maximum = to_base_units(route.price, decimals)
    except ValueError as error:
        raise ConfigurationError(f"the price of {resource}: {error}") from error
    return Terms(
        maximum=maximum,
        metered=route.metered,
        order=route.order,
        schemes=route.schemes,
        resource=resource,
        url="",
        about=route.about,
        access_seconds=route.access_seconds,
        tariff=route.tariff,
        streaming=_stream_terms(route, maximum, decimals),
    )


def _stream_terms(route: Route, maximum: int, decimals: int) -> StreamTerms | None:
    """
    How a route's answers are paid while they flow, if they are.

    Raises:
        ConfigurationError: The increment cannot be read, or is not 1 to the maximum.
    """
    if route.streaming is None:
        return None
    try:
        increment = to_base_units(route.streaming.increment, decimals)
    except ValueError as error:
        raise ConfigurationError(f"the increment of a stream: {error}") from error
    if not 1 <= increment <= maximum:
        raise ConfigurationError(
            f"the increment of a stream is 1 to its price of {maximum}, not {increment}"
        )
    return StreamTerms(increment=increment, wait_seconds=route.streaming.wait_seconds)
