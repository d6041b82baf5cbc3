"""Times are the ones that the standard library reads and writes."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import MalformedMessage
from agentpay.wire.mpp.timestamps import format_time, parse_time

moments = st.integers(0, 253_402_300_799)


@given(moments)
def test_a_time_is_written_as_the_standard_library_writes_it(seconds: int) -> None:
    theirs = datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")

    assert format_time(seconds) == theirs
    assert parse_time(theirs, name="x") == seconds


@given(st.datetimes(), st.integers(-1439, 1439))
def test_a_time_of_any_zone_is_read(moment: datetime, minutes: int) -> None:
    zoned = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    exact = zoned - datetime(1970, 1, 1, tzinfo=UTC)

    assert parse_time(zoned.isoformat(), name="x") == exact // timedelta(seconds=1)


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-29t12:00:30z",
        "2026-01-29T12:00:30.999Z",
        "2026-01-29T12:00:30-00:00",
        "2026-01-29T17:30:30+05:30",
    ],
)
def test_the_same_moment_in_other_words(text: str) -> None:
    assert parse_time(text, name="x") == 1_769_688_030


def test_a_leap_second_is_the_second_after() -> None:
    assert parse_time("2016-12-31T23:59:60Z", name="x") == parse_time(
        "2017-01-01T00:00:00Z", name="x"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Jan 29 2026 12:00",
        "2026-01-29",
        "2026-01-29 12:00:00Z",
        "2026-01-29T12:00:00",
        "2026-02-29T12:00:00Z",
        "2026-00-10T12:00:00Z",
        "2026-13-10T12:00:00Z",
        "2026-01-00T12:00:00Z",
        "2026-01-29T24:00:00Z",
        "2026-01-29T12:60:00Z",
        "2026-01-29T12:00:61Z",
        "2026-01-29T12:00:00+24:00",
        "2026-01-29T12:00:00Z\n",
        "٢٠٢٦-01-29T12:00:00Z",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage, match="expires"):
        parse_time(text, name="expires")


@pytest.mark.parametrize("seconds", [-1, 253_402_300_800])
def test_a_time_without_four_digits_of_year_is_not_written(seconds: int) -> None:
    with pytest.raises(ValueError, match="1970 to 9999"):
        format_time(seconds)
