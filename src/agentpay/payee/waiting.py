"""
Who waits for something to happen to a session, woken by whoever sees it happen.

Only within one process: what another one sees is found by looking again.
"""

import asyncio
from collections import Counter

from agentpay.types import Hash32

LOOK_SECONDS = 0.25
"""What waits may wait for what another process sees: look so often."""


class Waiting:
    """Who waits for which session."""

    def __init__(self) -> None:
        self._changed: dict[Hash32, asyncio.Event] = {}
        self._waiters: Counter[Hash32] = Counter()

    async def wait(self, channel: Hash32, *, seconds: float) -> None:
        """Until something is new of a session, and so many seconds at most."""
        changed = self._changed.setdefault(channel, asyncio.Event())
        self._waiters[channel] += 1
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            pass
        finally:
            self._waiters[channel] -= 1
            if not self._waiters[channel]:
                del self._waiters[channel]
                self._changed.pop(channel, None)

    def wake(self, channel: Hash32) -> None:
        """Something is new of a session."""
        changed = self._changed.pop(channel, None)
        if changed is not None:
            changed.set()
