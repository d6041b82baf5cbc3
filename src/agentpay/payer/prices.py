"""
What routes cost when we first agreed to their price, against prices that creep (C1).
"""

from collections import OrderedDict

from agentpay.errors import PriceRose
from agentpay.payer.payment import Target
from agentpay.types import MONEY_DECIMALS, format_money

_ROUTES_MAX = 4096


class Prices:
    """The first prices of one agent's routes, in 10^-18 of its currency."""

    def __init__(self, rise_max: int | None) -> None:
        """`rise_max` is how many times its first price a route may come to cost."""
        self._rise_max = rise_max
        self._first: OrderedDict[tuple[str, str], int] = OrderedDict()

    def check(self, target: Target, price: int) -> None:
        """
        Raises:
            PriceRose: It is more than so many times the first.
        """
        first = self._first.get(target.route)
        if first is None or self._rise_max is None or price <= first * self._rise_max:
            return
        was, now = (format_money(amount, MONEY_DECIMALS) for amount in (first, price))
        raise PriceRose(
            f"{target.method} {target.route[1]} costs {now}, and cost {was} when we"
            f" first paid for it: policy lets it rise {self._rise_max} times"
            " (price_rise_max)"
        )

    def agree(self, target: Target, price: int) -> None:
        """This price was paid: the first of a route is what later ones are held to."""
        if price:
            self._first.setdefault(target.route, price)
            self._first.move_to_end(target.route)
        if len(self._first) > _ROUTES_MAX:
            self._first.popitem(last=False)
