"""
Sales that are closed later, because their books could not be written when they ended.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from agentpay.errors import ChainError, StoreClosed, StoreError

_log = logging.getLogger(__name__)

_AGAIN_SECONDS: Final = 1.0

Close = Callable[[], Awaitable[object]]


class Closings:
    """
    Closes sales once their store can be written again: each holds a slot.

    What is not closed when the store is belongs to an owner that is dead then.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self, close: Close) -> None:
        """Close a sale now; or later, where its books cannot be written now."""
        try:
            await close()
        except (ChainError, StoreError):
            self.add(close)

    def add(self, close: Close) -> None:
        task = asyncio.create_task(_close(close), name="close a sale")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _close(close: Close) -> None:
    while True:
        await asyncio.sleep(_AGAIN_SECONDS)
        try:
            await close()
        except StoreClosed:
            _log.warning("a sale was not closed before its store was")
            return
        except (ChainError, StoreError) as error:
            _log.warning("a sale cannot be closed yet: %s", error)
        else:
            return
