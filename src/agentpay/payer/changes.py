"""
Changes to channels that others wait for.
"""

import asyncio


class Change:
    """One change to come."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    @property
    def came(self) -> bool:
        """Whether it was already."""
        return self.event.is_set()

    async def wait(self, seconds: float) -> bool:
        """Whether it came in time."""
        try:
            async with asyncio.timeout(seconds):
                await self.event.wait()
        except TimeoutError:
            return False
        return True
