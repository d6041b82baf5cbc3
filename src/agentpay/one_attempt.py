"""
Something slow that many wait for at once: one attempt, and all get what came of it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from agentpay.errors import FacilitatorUnavailable

T = TypeVar("T")

_AGAIN_SECONDS: Final = 1.0


class OneAttempt(Generic[T]):
    """Tries for whoever asks, and a second after it failed again, not before."""

    def __init__(self, attempt: Callable[[], Awaitable[T]]) -> None:
        self._attempt = attempt
        self._running: asyncio.Task[T] | None = None
        self._failed: Exception | None = None
        self._failed_at = 0.0

    async def result(self) -> T:
        """
        What the attempt that runs now comes to, or a new one.

        A caller that is cancelled leaves it to the others. What an attempt raises is
        raised to all of its callers, and to those of the second after it.

        Raises:
            FacilitatorUnavailable: It was given up by `stop`.
        """
        running = self._running
        if running is None or running.done():
            late = time.monotonic() - self._failed_at >= _AGAIN_SECONDS
            if self._failed is not None and not late:
                raise self._failed.with_traceback(None)
            running = asyncio.create_task(self._try(), name="a shared attempt")
            running.add_done_callback(_look_at)
            self._running = running
        await asyncio.wait([running])
        if running.cancelled():
            raise FacilitatorUnavailable("it was stopped while it started")
        return running.result()

    async def stop(self) -> None:
        """Give up the attempt that runs, if any; the next caller begins a new one."""
        running, self._running, self._failed = self._running, None, None
        if running is not None and not running.done():
            running.cancel()
            await asyncio.wait([running])

    async def _try(self) -> T:
        self._failed = None
        try:
            return await self._attempt()
        except Exception as error:
            # Whatever it is, those who ask in the next second are told the same.
            self._failed, self._failed_at = error, time.monotonic()
            raise


def _look_at(attempt: asyncio.Task[T]) -> None:
    """Have its error known even if everybody left."""
    if not attempt.cancelled():
        attempt.exception()
