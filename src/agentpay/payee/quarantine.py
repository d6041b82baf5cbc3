"""
What failed by itself on the chain: left alone for a while, so that it holds up nobody.

Kept in memory. A restart tries everything once more, which loses nothing.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentpay.types import Hash32

_log = logging.getLogger(__name__)

FIRST_SECONDS: Final = 60.0
LONGEST_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failed:
    """How long it is left alone, and until when."""

    seconds: float
    until: float


class Quarantine:
    """Channels that are not tried again before a pause, twice as long each time."""

    def __init__(
        self, what: str, *, longest: float = LONGEST_SECONDS, clock: Callable[[], float]
    ) -> None:
        """`what` could not be done, as the log says it; no pause is above `longest`."""
        self._what = what
        self._longest = longest
        self._clock = clock
        self._failed: dict[Hash32, _Failed] = {}

    def put(self, channel: Hash32, error: Exception) -> None:
        """It failed by itself: a warning the first time, and not each round."""
        known = self._failed.get(channel)
        wanted = FIRST_SECONDS if known is None else 2 * known.seconds
        seconds = min(wanted, self._longest)
        level = logging.WARNING if known is None else logging.DEBUG
        _log.log(
            level,
            "channel %s cannot be %s, tried again in %d s: %s",
            channel,
            self._what,
            seconds,
            error,
        )
        until = self._clock() + seconds
        self._failed[channel] = _Failed(seconds=seconds, until=until)

    def release(self, channel: Hash32) -> None:
        """It went through, or it cannot wait."""
        self._failed.pop(channel, None)

    def held(self) -> set[Hash32]:
        """Whatever is not to be tried now."""
        now, forget = self._clock(), 10 * self._longest
        # What never came back is not due any more. A clock that was set back by hours
        # holds nothing for longer than it would have.
        self._failed = {
            channel: failed
            for channel, failed in self._failed.items()
            if now - forget < failed.until <= now + failed.seconds
        }
        return {c for c, failed in self._failed.items() if failed.until > now}
