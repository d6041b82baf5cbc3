"""
What routes cost, as an agent learned it: so that the next request carries its payment.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass

from agentpay.payer.offer import Offer, Request
from agentpay.payer.payment import Target

_ROUTES_MAX = 1024
_FRESH_SECONDS = 300.0
_LEFT_SECONDS = 10
"""What a challenge must have left to be answered once more."""


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
        self._offers: OrderedDict[tuple[str, str], Remembered] = OrderedDict()
        self._learning: dict[tuple[str, str], asyncio.Event] = {}
        self._charging: set[str] = set()

    async def recall(self, target: Target) -> Remembered | None:
        """
        What a route costs; at an origin that charges, one request finds out.

        The others wait for it once: if it learns nothing, they all ask, at once.
        """
        known = self._fresh(target)
        learning = self._learning.get(target.route)
        if known is None and learning is not None:
            await learning.wait()
            known = self._fresh(target)
        return known

    def _fresh(self, target: Target) -> Remembered | None:
        known = self._offers.get(target.route)
        fresh = known is not None and known.until > time.monotonic()
        return known if fresh else None

    @contextlib.contextmanager
    def learning(self, target: Target, *, alone: bool) -> Generator[None]:
        """
        A route's price is asked for. With `alone`, others that would ask the same of an
        origin that charges wait.
        """
        learned = asyncio.Event()
        if alone and target.origin in self._charging:
            self._learning.setdefault(target.route, learned)
        try:
            yield
        finally:
            if self._learning.get(target.route) is learned:
                del self._learning[target.route]
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
        self._offers[target.route] = Remembered(offer=offer, until=until)
        self._offers.move_to_end(target.route)
        if len(self._offers) > _ROUTES_MAX:
            self._offers.popitem(last=False)

    def forget(self, target: Target) -> None:
        """It may cost something else now."""
        self._offers.pop(target.route, None)
