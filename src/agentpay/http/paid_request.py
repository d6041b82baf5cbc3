"""
What a handler knows of its payment, and how it says what it used.
"""

from agentpay.core.tab import Tab
from agentpay.errors import ConfigurationError
from agentpay.http.flow import Flow
from agentpay.payee.pricing import Terms
from agentpay.payee.sales import Sale
from agentpay.stream_errors import StreamExhausted
from agentpay.types import Address, Money, to_base_units


class RequestMeter:
    """Counts what an answer uses, by its route's tariff."""

    def __init__(self, tab: Tab, flow: Flow | None, resource: str) -> None:
        """Without a `flow`, `tab` holds all that the answer may cost."""
        self._tab = tab
        self._flow = flow
        self._resource = resource
        self.closed = False
        """Whether the answer has started, and its receipt with it."""

    @property
    def used(self) -> int:
        """What all that was counted costs, in base units."""
        return self._tab.used

    @property
    def counted(self) -> bool:
        """Whether anything was ever counted, be it nothing."""
        return self._tab.counted

    async def charge(self, **usage: int) -> None:
        """
        Count some more usage, before what it was used for leaves: `charge(tokens=1)`.

        The words are those in which the tariff's units are counted. On a streaming
        route it returns once it is charged, durably; it may wait for the client to sign
        more.

        Raises:
            StreamEnded: Nothing more is paid for. What was delivered is charged, and
                nothing else: let it pass, and the answer ends in good order.
            ConfigurationError: The tariff does not count so, or the answer started and
                its route does not stream.
        """
        try:
            exact = self._tab.price(usage)
        except ValueError as error:
            raise ConfigurationError(f"{self._resource}: {error}") from error
        if self.closed:
            raise ConfigurationError("the receipt is in the answer's headers: too late")
        if self._flow is not None:
            self._flow.check()
        if self._tab.count(exact):
            return
        if self._flow is None:
            covered = self._tab.charged
            raise StreamExhausted(needed=self._tab.need(exact), covered=covered)
        await self._flow.pay(exact)


class PaidRequest:
    """Who paid for this request, and how a metered handler says what it used."""

    def __init__(
        self,
        sale: Sale,
        terms: Terms,
        decimals: int,
        *,
        flow: Flow | None = None,
    ) -> None:
        self._sale = sale
        self._terms = terms
        self._decimals = decimals
        self._charged: int | None = None
        self._final = False
        self._meter: RequestMeter | None = None
        if terms.tariff is not None:
            whole = Tab(terms.tariff, increment=1, charged=sale.maximum)
            tab = flow.tab if flow else whole
            self._meter = RequestMeter(tab, flow, terms.resource)

    @property
    def payer(self) -> Address:
        """The account that pays."""
        return self._sale.payer

    @property
    def maximum(self) -> int:
        """The most this request may cost, in base units."""
        return self._terms.maximum if self._terms.streaming else self._sale.maximum

    @property
    def meter(self) -> RequestMeter:
        """
        Counts what the request uses.

        Raises:
            ConfigurationError: The route has no tariff.
        """
        if self._meter is None:
            raise ConfigurationError(f"{self._terms.resource} has no tariff")
        return self._meter

    @property
    def charged(self) -> int:
        """What this request costs as things stand, in base units."""
        if self._meter is not None and self._meter.counted:
            return self._meter.used
        return self.maximum if self._charged is None else self._charged

    def charge(self, money: Money) -> None:
        """
        Say what the request really costs, before its answer starts.

        Raises:
            ConfigurationError: The route is not metered, or streams; the amount is
                above its maximum; or the answer has started and its receipt with it.
        """
        try:
            amount = to_base_units(money, self._decimals)
        except ValueError as error:
            raise ConfigurationError(f"{self._terms.resource}: {error}") from error
        if not self._terms.metered:
            raise ConfigurationError(f"{self._terms.resource} is not a metered route")
        if self._terms.streaming is not None:
            raise ConfigurationError(
                f"{self._terms.resource} streams: await paid.meter.charge(...)"
            )
        if amount > self.maximum:
            raise ConfigurationError(
                f"{self._terms.resource} may cost {self.maximum} at most, not {amount}"
            )
        if self._final:
            raise ConfigurationError("the receipt is in the answer's headers: too late")
        self._charged = amount

    def close(self) -> int:
        """Fix the charge: the answer starts."""
        self._final = True
        if self._meter is not None and self._terms.streaming is None:
            self._meter.closed = True
        return self.charged
