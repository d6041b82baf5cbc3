"""
What a running answer has used, what of it has left, and what is charged ahead of that.

A stream is charged in slices: one durable step charges for so much content before any
of it leaves, and the content is counted off in memory, so that a token costs
microseconds. Three sentences hold at every moment:

- What has left was charged before: nothing is served unpaid.
- What is charged is at most one increment, or one piece that costs more than that,
  ahead of what has left: that much is lost to its payer in a crash, and no more.
- A stream that ends, however it ends, costs what has left of it.

Changed in place, and without I/O: `http` makes the steps durable.
"""

from collections.abc import Mapping

from agentpay.core.meter import Tariff, check_parts
from agentpay.errors import InvariantViolated


class Tab:
    """The tab of one answer. Amounts are base units, prices exact (`Tariff.scale`)."""

    __slots__ = (
        "_bound",
        "_floor",
        "_given",
        "_left",
        "_prices",
        "_used",
        "charged",
        "counted",
        "increment",
        "tariff",
    )

    def __init__(
        self, tariff: Tariff, *, increment: int, charged: int = 0, floor: int = 0
    ) -> None:
        """
        `increment` is what is charged ahead, and `charged` what is already. It never
        costs less than `floor`: content may have left before a crash.
        """
        self.tariff = tariff
        self.increment = increment
        self.charged = charged
        self.counted = False
        """Whether anything was ever counted, be it nothing."""
        self._floor = floor
        self._used = 0
        self._given = 0
        self._left = 0
        self._bound = tariff.bound(charged)
        self._prices = {
            rate.unit.word: tariff.price_of(rate.unit) for rate in tariff.rates
        }

    @property
    def used(self) -> int:
        """What all usage costs."""
        return max(self._floor, self.tariff.total(self._used))

    @property
    def left(self) -> int:
        """What the content that has left costs."""
        return max(self._floor, self.tariff.total(self._left))

    @property
    def units(self) -> int | None:
        """How many parts have left, where one thing is counted."""
        if len(self._prices) != 1:
            return None
        (price,) = self._prices.values()
        return self._left // price

    def price(self, usage: Mapping[str, int]) -> int:
        """
        The exact price of some more usage, by the words of its units.

        Raises:
            ValueError: Less than nothing, no whole number, or a word without a rate.
        """
        exact = 0
        for word, parts in usage.items():
            check_parts(parts)
            price = self._prices.get(word)
            if price is None:
                known = ", ".join(self._prices)
                raise ValueError(f"nothing is counted in {word!r}, only in {known}")
            exact += parts * price
        return exact

    def count(self, exact: int) -> bool:
        """Count some more usage, if it is charged already; whether it was counted."""
        used = self._used + exact
        if used > self._bound:
            return False
        self._used = used
        self.counted = True
        return True

    def need(self, exact: int) -> int:
        """What has to be charged in all before that much more may be counted."""
        return self.tariff.total(self._used + exact)

    def wish(self, exact: int) -> int:
        """What to charge in all then: an increment ahead of what has left."""
        return max(self.need(exact), self.left + self.increment)

    def charge(self, charged: int) -> None:
        """
        So much is charged in all, durably.

        Raises:
            InvariantViolated: It is less than before.
        """
        if charged < self.charged:
            raise InvariantViolated(f"charged {charged}, and {self.charged} before")
        self.charged = charged
        self._bound = self.tariff.bound(charged)

    def leave(self) -> None:
        """All that was counted has left."""
        self._left = self._given = self._used

    def leave_in_part(self) -> None:
        """Of the last piece only a part has left, and all of those before it."""
        self._left, self._given = self._given, self._used

    def hold_back(self) -> None:
        """The last piece is held back, and perhaps others before it."""
        self._given = self._used

    def let_go(self) -> None:
        """What was held back has left."""
        self._left = self._given
