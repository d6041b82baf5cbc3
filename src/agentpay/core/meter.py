"""
What usage costs: integer rates, summed exactly and rounded once.

A meter counts everything used since it began, and what it charges is the growth of the
rounded total. So however usage is split into steps, the charges add up to the charge of
the whole, to the unit: nobody gains by many small steps or by few large ones. The total
itself is off from the exact price by less than one increment, on the side that the
tariff's rounding names.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from math import lcm
from typing import Final, assert_never


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Something that is used, and into how many countable parts one of it goes."""

    name: str
    """As a message writes it: `unitType`."""
    parts: int = 1
    """Usage is counted in these: whole numbers, however fine."""
    counted_in: str = ""
    """The word for these parts: `charge(milliseconds=20)`. If empty, the name."""

    def __post_init__(self) -> None:
        if not self.name or self.parts < 1:
            raise ValueError(f"a unit needs a name and parts, not {self!r}")

    @property
    def word(self) -> str:
        """What its parts are called where usage is counted."""
        return self.counted_in or self.name


REQUEST: Final = Unit(name="request", counted_in="requests")
TOKEN: Final = Unit(name="llm_token", counted_in="tokens")
TOKEN_IN: Final = Unit(name="llm_token_in", counted_in="tokens_in")
TOKEN_OUT: Final = Unit(name="llm_token_out", counted_in="tokens_out")
BYTE: Final = Unit(name="byte", counted_in="bytes")
FRAME: Final = Unit(name="frame", counted_in="frames")
SECOND: Final = Unit(name="second", parts=1000, counted_in="milliseconds")
GPU_SECOND: Final = Unit(name="gpu_second", parts=1000, counted_in="gpu_milliseconds")
CPU_SECOND: Final = Unit(name="cpu_second", parts=1000, counted_in="cpu_milliseconds")
GB_MONTH: Final = Unit(
    name="gb_month", parts=10**9 * 30 * 24 * 3600, counted_in="byte_seconds"
)
"""10^9 bytes for 30 days. Anything else is a `Unit` of one's own."""


class Rounding(StrEnum):
    """Whom the rest that is finer than an increment belongs to."""

    UP = "up"
    """A begun increment is paid for."""
    DOWN = "down"
    """Only a whole increment is paid for."""
    NEAREST = "nearest"
    """Whichever is nearer; the middle is paid for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What so many units cost, in base units: 3,000,000 for 1,000,000 tokens."""

    unit: Unit
    price: int
    per: int = 1

    def __post_init__(self) -> None:
        if self.price < 1 or self.per < 1:
            raise ValueError(
                f"a rate of {self.unit.name} needs a price and a number of units of at"
                f" least 1, not {self.price} per {self.per}; what is free has no rate"
            )

    @property
    def parts(self) -> int:
        """How many parts the price is for."""
        return self.per * self.unit.parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """The rates of everything that a service meters, and how their sum is rounded."""

    rates: tuple[Rate, ...]
    rounding: Rounding
    increment: int = 1
    """Totals are multiples of this many base units."""
    scale: int = field(init=False, repr=False, compare=False)
    """Into how many parts a base unit goes, so that a part of every unit is whole."""

    def __post_init__(self) -> None:
        names = [rate.unit.name for rate in self.rates]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"a tariff needs one rate for each unit, not {names}")
        words = [rate.unit.word for rate in self.rates]
        if len(set(words)) != len(words):
            raise ValueError(f"two units of a tariff are counted in one word: {words}")
        if self.increment < 1:
            raise ValueError(f"an increment is at least 1, not {self.increment}")
        scale = lcm(*(rate.parts for rate in self.rates))
        object.__setattr__(self, "scale", scale)

    def rate(self, unit: Unit) -> Rate:
        """
        Raises:
            ValueError: The tariff has no rate for it.
        """
        for rate in self.rates:
            if rate.unit == unit:
                return rate
        known = ", ".join(rate.unit.name for rate in self.rates)
        raise ValueError(f"no rate for {unit.name!r}; the tariff has {known}")

    def price_of(self, unit: Unit) -> int:
        """
        What one part of a unit costs, in parts of a base unit: exactly.

        Raises:
            ValueError: The tariff has no rate for it.
        """
        rate = self.rate(unit)
        return rate.price * (self.scale // rate.parts)

    def total(self, exact: int) -> int:
        """What usage of an exact price costs, rounded."""
        step = self.increment * self.scale
        whole, rest = divmod(exact, step)
        return (whole + _rounds_up(self.rounding, rest, step)) * self.increment

    def bound(self, money: int) -> int:
        """The highest exact price of usage that costs at most this much."""
        highest = money // self.increment * self.increment
        return highest * self.scale + _slack(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """Everything used under a tariff since the meter began."""

    tariff: Tariff
    exact: int = 0
    """Its price before rounding, in parts of a base unit (`tariff.scale`)."""

    def __post_init__(self) -> None:
        if self.exact < 0:
            raise ValueError(f"a meter does not count below 0: {self.exact}")

    @property
    def total(self) -> int:
        """What all of it costs."""
        return self.tariff.total(self.exact)

    def add(self, unit: Unit, parts: int) -> tuple["Meter", int]:
        """
        Count some more usage; give the meter after it, and what that costs now.

        Raises:
            ValueError: Less than nothing, no whole number, or a unit without a rate.
        """
        check_parts(parts)
        exact = self.exact + parts * self.tariff.price_of(unit)
        after = Meter(tariff=self.tariff, exact=exact)
        return after, after.total - self.total

    def affordable(self, unit: Unit, money: int) -> int:
        """
        The most parts of a unit that can be added for at most this much.

        Raises:
            ValueError: The tariff has no rate for the unit, or money is negative.
        """
        if money < 0:
            raise ValueError(f"no money is {money}")
        bound = self.tariff.bound(self.total + money)
        return (bound - self.exact) // self.tariff.price_of(unit)


def check_parts(parts: int) -> None:
    """
    Raises:
        ValueError: Usage is less than nothing, or no whole number.
    """
    # Not every caller is typed, and a float must never become money.
    if type(parts) is not int or parts < 0:
        raise ValueError(f"usage is a whole number of parts, not {parts!r}")


def _rounds_up(rounding: Rounding, rest: int, step: int) -> bool:
    match rounding:
        case Rounding.UP:
            return rest > 0
        case Rounding.DOWN:
            return False
        case Rounding.NEAREST:
            return 2 * rest >= step
    assert_never(rounding)


def _slack(tariff: Tariff) -> int:
    """How far the exact price may be above a total that it is rounded to."""
    step = tariff.increment * tariff.scale
    match tariff.rounding:
        case Rounding.UP:
            return 0
        case Rounding.DOWN:
            return step - 1
        case Rounding.NEAREST:
            return (step - 1) // 2
    assert_never(tariff.rounding)
