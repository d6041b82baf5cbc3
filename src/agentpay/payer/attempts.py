"""
Things that need doing once, and that many requests wait for.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

K = TypeVar("K")
T = TypeVar("T")


class Attempts(Generic[K, T]):
    """
    At most one attempt at a time for each key, whose outcome all who wait share.

    A failure is everybody's: nobody who waited tries again by itself, one after
    another. Who stops waiting does not end the attempt for the others. Keys do not
    wait for each other.
    """

    def __init__(self) -> None:
        self._running: dict[K, asyncio.Task[T]] = {}

    async def share(self, key: K, attempt: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The outcome of the attempt under way, or of this one if there is none."""
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(attempt(), name=f"attempt {key}")
            self._running[key] = task
            task.add_done_callback(lambda done: self._end(key, done))
        return await asyncio.shield(task)

    def _end(self, key: K, done: asyncio.Task[T]) -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # looked at, also where nobody waits any more

    async def aclose(self) -> None:
        """End what is under way."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
