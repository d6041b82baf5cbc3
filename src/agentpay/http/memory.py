"""
What routes cost, as an agent learned it: so that the next request carries its payment.

A price is taken to hold for a route with any query, until a payment by the offer of one
query is refused for another that offers something else. From then on the route is
remembered by its URLs. That one request is paid anew where the rules say that what was
refused bought nothing, finally: a voucher that is void. A refused transfer is still out
and might move money beside a second one: that request fails, as any does whose transfer
is refused, its money stays held, and from the next one on each URL's own price is paid.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from agentpay.payer.offer import Offer, Request
from agentpay.payer.payment import Target

V = TypeVar("V")

_ROUTES_MAX = 1024
_URLS_MAX = 1024
"""Of routes whose queries differ, which push no other route out."""
_AGREED_MAX = 4096
_FRESH_SECONDS = 300.0
_LEFT_SECONDS = 10
"""What a challenge must have left to be answered once more."""


Key = tuple[str, str]
"""A method, and a route or a URL of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What a route costs."""

    offer: Offer | None
    """None is free, or has a price that is asked for each time (MPP's `charge`)."""
    until: float

    def fits(self, request: Callable[[], Request]) -> Offer | None:
        """Its offer, if that is for this request too."""
        offer = self.offer
        if offer is None or (offer.mpp is not None and offer.mpp.misfit(request())):
            return None
        return offer


class Memory:
    """The prices of an agent's routes, and which of them are being learned."""

    def __init__(self) -> None:
        self._offers: OrderedDict[Key, Remembered] = OrderedDict()
        self._by_url: OrderedDict[Key, None] = OrderedDict()
        """The routes whose price depends on the query."""
        self._offers_by_url: OrderedDict[Key, Remembered] = OrderedDict()
        self._agreed: OrderedDict[Key, int] = OrderedDict()
        self._learning: dict[Key, asyncio.Event] = {}
        self._charging: set[str] = set()

    async def recall(self, target: Target) -> Remembered | None:
        """
        What a route costs; at an origin that charges, one request finds out.

        The others wait for it once: if it learns nothing, they all ask, at once.
        """
        known = self._fresh(target)
        learning = self._learning.get(self._key(target))
        if known is None and learning is not None:
            await learning.wait()
            known = self._fresh(target)
        return known

    def _fresh(self, target: Target) -> Remembered | None:
        known = self._table(target).get(self._key(target))
        fresh = known is not None and known.until > time.monotonic()
        return known if fresh else None

    def _key(self, target: Target) -> Key:
        by_url = target.route in self._by_url
        return (target.method, target.url) if by_url else target.route

    def _table(self, target: Target) -> OrderedDict[Key, Remembered]:
        by_url = target.route in self._by_url
        return self._offers_by_url if by_url else self._offers

    @contextlib.contextmanager
    def learning(self, target: Target, *, alone: bool) -> Generator[None]:
        """
        A route's price is asked for. With `alone`, others that would ask the same of an
        origin that charges wait.
        """
        learned, key = asyncio.Event(), self._key(target)
        if alone and target.origin in self._charging:
            self._learning.setdefault(key, learned)
        try:
            yield
        finally:
            if self._learning.get(key) is learned:
                del self._learning[key]
            learned.set()

    def charges(self, origin: str) -> bool:
        """Whether something at this origin has a price."""
        return origin in self._charging

    def remember(self, target: Target, offer: Offer | None) -> None:
        """What a route costs now; None is nothing."""
        seconds = _FRESH_SECONDS
        if offer is not None:
            self._charging.add(target.origin)
        if offer is not None and offer.mpp is not None:
            seconds = min(seconds, offer.max_timeout_seconds - _LEFT_SECONDS)
            offer = None if offer.mpp.single_use else offer
        until = time.monotonic() + seconds
        known = Remembered(offer=offer, until=until)
        most = _URLS_MAX if target.route in self._by_url else _ROUTES_MAX
        _put(self._table(target), self._key(target), known, most=most)

    def forget(self, target: Target) -> None:
        """It may cost something else now."""
        self._table(target).pop(self._key(target), None)

    def tell_apart(self, target: Target) -> None:
        """
        A URL costs something else than another one of its route: remember the route by
        its URLs. What was known of it holds for the URL that it was learned of.
        """
        if target.route in self._by_url:
            return
        known = self._offers.pop(target.route, None)
        _put(self._by_url, target.route, None, most=_ROUTES_MAX)
        if known is not None and known.offer is not None:
            key = target.method, known.offer.url
            _put(self._offers_by_url, key, known, most=_URLS_MAX)

    def note_agreed(self, target: Target, price: int) -> None:
        """This very URL was bought for so much, by whatever URL's offer."""
        _put(self._agreed, (target.method, target.url), price, most=_AGREED_MAX)

    def agreed(self, target: Target) -> int | None:
        """What this very URL was bought for the last time; None if it was not."""
        return self._agreed.get((target.method, target.url))


def _put(table: OrderedDict[Key, V], key: Key, value: V, *, most: int) -> None:
    """The newest of so many."""
    table[key] = value
    table.move_to_end(key)
    if len(table) > most:
        table.popitem(last=False)
