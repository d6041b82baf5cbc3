"""
A meter drifts in nobody's favour: charges add up to the charge of the whole.
"""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.core.meter import (
    CPU_SECOND,
    GB_MONTH,
    GPU_SECOND,
    REQUEST,
    SECOND,
    TOKEN,
    TOKEN_IN,
    TOKEN_OUT,
    Meter,
    Rate,
    Rounding,
    Tariff,
    Unit,
)

UNITS = (TOKEN_IN, TOKEN_OUT, SECOND, GB_MONTH, Unit(name="page", parts=3))
amounts = st.integers(1, 10**7)
roundings = st.sampled_from(Rounding)
Step = tuple[Unit, int]


@st.composite
def tariffs(draw: st.DrawFn) -> Tariff:
    units = draw(st.lists(st.sampled_from(UNITS), min_size=1, max_size=3, unique=True))
    rates = tuple(Rate(unit=u, price=draw(amounts), per=draw(amounts)) for u in units)
    increment = draw(st.just(1) | st.integers(1, 1000))
    return Tariff(rates=rates, rounding=draw(roundings), increment=increment)


@st.composite
def usages(draw: st.DrawFn, most: int = 8) -> tuple[Tariff, list[Step]]:
    tariff = draw(tariffs())
    units = st.sampled_from([rate.unit for rate in tariff.rates])
    parts = st.integers(0, 10**6) | st.integers(0, 10**18)
    return tariff, draw(st.lists(st.tuples(units, parts), max_size=most))


def run(meter: Meter, steps: list[Step]) -> tuple[Meter, list[int]]:
    charges = []
    for unit, parts in steps:
        meter, charge = meter.add(unit, parts)
        charges.append(charge)
    return meter, charges


def exact(tariff: Tariff, steps: list[Step]) -> Fraction:
    """What it costs before rounding, by other arithmetic."""
    price = Fraction(0)
    for unit, parts in steps:
        rate = tariff.rate(unit)
        price += Fraction(parts, unit.parts) * Fraction(rate.price, rate.per)
    return price


@given(usages())
def test_k14_charges_add_up_to_the_charge_of_the_whole(
    usage: tuple[Tariff, list[Step]],
) -> None:
    tariff, steps = usage
    meter, charges = run(Meter(tariff=tariff), steps)
    at_once: dict[Unit, int] = {}
    for unit, parts in steps:
        at_once[unit] = at_once.get(unit, 0) + parts
    whole, few = run(Meter(tariff=tariff), list(at_once.items()))

    assert sum(charges) == meter.total == whole.total == sum(few)
    assert all(charge >= 0 for charge in charges)


@given(usages(), st.randoms(use_true_random=False))
def test_the_order_of_usage_changes_nothing(
    usage: tuple[Tariff, list[Step]], random: object
) -> None:
    tariff, steps = usage
    shuffled = [*steps]
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    assert run(Meter(tariff=tariff), shuffled)[0].total == (
        run(Meter(tariff=tariff), steps)[0].total
    )


@given(usages())
def test_k14_a_total_is_off_by_less_than_one_increment_on_the_declared_side(
    usage: tuple[Tariff, list[Step]],
) -> None:
    tariff, steps = usage
    total = run(Meter(tariff=tariff), steps)[0].total
    error = total - exact(tariff, steps)

    assert total % tariff.increment == 0
    match tariff.rounding:
        case Rounding.UP:
            assert 0 <= error < tariff.increment
        case Rounding.DOWN:
            assert -tariff.increment < error <= 0
        case Rounding.NEAREST:
            assert -tariff.increment < 2 * error <= tariff.increment


@given(usages(most=3), st.integers(0, 10**12), st.data())
def test_what_is_affordable_is_the_most_that_money_buys(
    usage: tuple[Tariff, list[Step]], money: int, data: st.DataObject
) -> None:
    tariff, steps = usage
    meter, _ = run(Meter(tariff=tariff), steps)
    unit = data.draw(st.sampled_from([rate.unit for rate in tariff.rates]))
    parts = meter.affordable(unit, money)

    assert meter.add(unit, parts)[1] <= money
    assert meter.add(unit, parts + 1)[1] > money


@given(usages(most=4))
def test_more_usage_never_costs_less(usage: tuple[Tariff, list[Step]]) -> None:
    tariff, steps = usage
    totals = [run(Meter(tariff=tariff), steps[:n])[0].total for n in range(len(steps))]

    assert all(before <= after for before, after in pairwise(totals))


# Examples


def test_a_token_of_a_million_for_three_dollars() -> None:
    """USDC has six decimals: 3 base units a token, and input at a tenth."""
    tariff = Tariff(
        rates=(
            Rate(unit=TOKEN_IN, price=300_000, per=1_000_000),
            Rate(unit=TOKEN_OUT, price=3_000_000, per=1_000_000),
        ),
        rounding=Rounding.UP,
    )
    meter, prompt = Meter(tariff=tariff).add(TOKEN_IN, 11)
    charges = []
    for _ in range(3):
        meter, charge = meter.add(TOKEN_OUT, 1)
        charges.append(charge)

    assert prompt == 4  # 3.3, rounded up
    assert charges == [3, 3, 3]  # 6.3, 9.3, 12.3: each 7, 10, 13 in all
    assert meter.total == 13


def test_ten_thousand_cheap_tokens_cost_what_they_cost_together() -> None:
    """At a third of a base unit each, a naive meter would charge 10,000 or nothing."""
    tariff = Tariff(rates=(Rate(unit=TOKEN, price=1, per=3),), rounding=Rounding.UP)
    meter = Meter(tariff=tariff)
    charged = 0
    for _ in range(10_000):
        meter, charge = meter.add(TOKEN, 1)
        charged += charge

    assert charged == meter.total == 3334


def test_time_is_charged_by_begun_increments() -> None:
    """0.002 dollars a GPU-second, in steps of half a cent."""
    tariff = Tariff(
        rates=(Rate(unit=GPU_SECOND, price=2000),),
        rounding=Rounding.UP,
        increment=5000,
    )
    meter, first = Meter(tariff=tariff).add(GPU_SECOND, 1)
    meter, second = meter.add(GPU_SECOND, 2499)
    meter, third = meter.add(GPU_SECOND, 1)

    assert (first, second, third) == (5000, 0, 5000)


def test_a_gigabyte_for_thirty_days_is_a_month_of_it() -> None:
    tariff = Tariff(rates=(Rate(unit=GB_MONTH, price=23_000),), rounding=Rounding.DOWN)
    month, _ = Meter(tariff=tariff).add(GB_MONTH, 10**9 * 30 * 86_400)
    less, _ = Meter(tariff=tariff).add(GB_MONTH, 10**9 * 30 * 86_400 - 1)

    assert (month.total, less.total) == (23_000, 22_999)


def test_nothing_costs_nothing() -> None:
    tariff = Tariff(rates=(Rate(unit=REQUEST, price=1000),), rounding=Rounding.NEAREST)
    meter = Meter(tariff=tariff)

    assert meter.total == 0
    assert meter.add(REQUEST, 0) == (meter, 0)


@pytest.mark.parametrize("parts", [-1, 1.0, True, "1", None])
def test_only_whole_numbers_are_counted(parts: object) -> None:
    tariff = Tariff(rates=(Rate(unit=REQUEST, price=1000),), rounding=Rounding.UP)
    with pytest.raises(ValueError, match="whole number of parts"):
        Meter(tariff=tariff).add(REQUEST, parts)  # type: ignore[arg-type]


def test_what_has_no_rate_is_not_free() -> None:
    meter = Meter(
        tariff=Tariff(rates=(Rate(unit=REQUEST, price=1),), rounding=Rounding.UP)
    )
    with pytest.raises(ValueError, match="no rate for 'cpu_second'"):
        meter.add(CPU_SECOND, 1)
    with pytest.raises(ValueError, match="no rate for 'cpu_second'"):
        meter.affordable(CPU_SECOND, 1)
    with pytest.raises(ValueError, match="no money"):
        meter.affordable(REQUEST, -1)


def test_what_cannot_be_a_tariff_is_refused() -> None:
    rate = Rate(unit=REQUEST, price=1)
    with pytest.raises(ValueError, match="one rate for each unit"):
        Tariff(rates=(), rounding=Rounding.UP)
    with pytest.raises(ValueError, match="one rate for each unit"):
        Tariff(rates=(rate, rate), rounding=Rounding.UP)
    with pytest.raises(ValueError, match="an increment is at least 1"):
        Tariff(rates=(rate,), rounding=Rounding.UP, increment=0)
    for price, per in ((0, 1), (1, 0), (-1, 1)):
        with pytest.raises(ValueError, match="at least 1"):
            Rate(unit=REQUEST, price=price, per=per)
    with pytest.raises(ValueError, match="below 0"):
        Meter(tariff=Tariff(rates=(rate,), rounding=Rounding.UP), exact=-1)
    for name, parts in (("", 1), ("x", 0)):
        with pytest.raises(ValueError, match="a unit needs"):
            Unit(name=name, parts=parts)
