"""
RFC 3339 times as whole Unix seconds, without a clock.

The `Payment` scheme writes expiries and receipts with them. A fraction is cut off, so
that nothing lives longer than it says.
"""

import re

from agentpay.errors import MalformedMessage

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.\d{1,12})?"
    r"(?:[Zz]|([+-])(\d\d):(\d\d))",
    re.ASCII,
)
_DAYS_OF_400_YEARS = 146_097
_DAYS_TO_1970 = 719_468
"""From 1 March of the year 0, where the count of days is simplest."""
_LAST_SECOND = 253_402_300_799
"""The end of the year 9999."""


def parse_time(text: str, *, name: str) -> int:
    """
    Read the Unix seconds that an RFC 3339 date-time means.

    Raises:
        MalformedMessage: It is not one, or names a day that does not exist.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise MalformedMessage(f"{name} is not an RFC 3339 time: {text[:40]!r}")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    sign, zone_hour, zone_minute = match[7], int(match[8] or 0), int(match[9] or 0)
    days = _days(year, month, day)
    # A second 60 is a leap second: the one after 59 in Unix time.
    in_range = hour < 24 and minute < 60 and second <= 60
    if not in_range or zone_hour > 23 or zone_minute > 59 or not 1 <= month <= 12:
        raise MalformedMessage(f"{name} is not a time: {text[:40]!r}")
    if _date(days) != (year, month, day):
        raise MalformedMessage(f"{name} names no day: {text[:40]!r}")
    offset = (zone_hour * 60 + zone_minute) * 60 * (-1 if sign == "-" else 1)
    return days * 86_400 + (hour * 60 + minute) * 60 + second - offset


def format_time(seconds: int) -> str:
    """
    Write Unix seconds as RFC 3339 has them: `2026-01-29T12:05:00Z`.

    Raises:
        ValueError: Before 1970 or after the year 9999.
    """
    if not 0 <= seconds <= _LAST_SECOND:
        raise ValueError(f"{seconds} is not a time from 1970 to 9999")
    days, rest = divmod(seconds, 86_400)
    year, month, day = _date(days)
    return (
        f"{year:04}-{month:02}-{day:02}"
        f"T{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}Z"
    )


def _days(year: int, month: int, day: int) -> int:
    """Days from 1970, of the Gregorian calendar. Years begin in March inside."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    leaps = of_era // 4 - of_era // 100
    return era * _DAYS_OF_400_YEARS + of_era * 365 + leaps + of_year - _DAYS_TO_1970


def _date(days: int) -> tuple[int, int, int]:
    """The inverse of `_days`."""
    era, of_era = divmod(days + _DAYS_TO_1970, _DAYS_OF_400_YEARS)
    leaps = of_era // 1460 - of_era // 36_524 + of_era // 146_096
    year = (of_era - leaps) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    march = (5 * of_year + 2) // 153
    day = of_year - (153 * march + 2) // 5 + 1
    month = march + 3 if march < 10 else march - 9
    return era * 400 + year + (month <= 2), month, day
