"""
How high a chain was seen, and what to make of an answer from below that.

An answer from a block before one that was seen may be over. It comes from a node that
lags, where several are behind one URL or there are several URLs: the next to be asked
may have caught up. Or the chain has turned back, which is believed only later.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from agentpay.errors import ChainUnreachable

_log = logging.getLogger(__name__)

T = TypeVar("T")

TURNED_BACK_SECONDS: Final = 60.0
"""So long nobody must have had a block that was seen, before it is called gone."""
FAR_BACK_SECONDS: Final = 600.0
"""The same, where more is missing than a reorg takes: what was seen may be a lie."""
_REORG_BLOCKS_MAX: Final = 64
"""No chain that money is on takes back more."""
_QUIET_SECONDS: Final = 10.0
"""Of the time between two answers from behind, so much counts: nobody asked."""
_PAUSES: Final = (0.1, 0.2, 0.4, 0.8)
"""Before who is behind is asked again: a block's time on most chains."""


class BehindOthers(ChainUnreachable):
    """An endpoint has not got a block that was seen before."""

    code = "behind_others"

    def __init__(self, where: str, *, block: int, seen: int) -> None:
        super().__init__(f"{where} is at block {block}, {seen} was seen")
        self.blocks = seen - block
        """How many it has not got."""


class Height:
    """The highest block that was seen. Belongs to one event loop."""

    def __init__(
        self,
        *,
        turned_back_seconds: float,
        far_back_seconds: float = FAR_BACK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        A block that nobody has had for `turned_back_seconds` is none of the chain any
        more; for `far_back_seconds`, if too many are missing: one answer that is too
        high stops nobody for good. With 0, the first word is believed.
        """
        self._turned_back_seconds = turned_back_seconds
        self._far_back_seconds = far_back_seconds
        self._clock = clock
        self._gone_seconds = 0.0
        self._missed_at: float | None = None
        self.seen = 0

    def see(self, block: int, *, before: int, where: str) -> None:
        """
        Take note of the last block that somebody has, who was asked when `before` was
        seen: what came in meanwhile says nothing of it.

        Raises:
            BehindOthers: What it says may be over.
        """
        if block < before:
            raise BehindOthers(where, block=block, seen=before)
        if block >= self.seen:
            self._begin_at(block)

    async def ask(self, once: Callable[[], Awaitable[T]]) -> T:
        """
        Ask again while the answer is from behind, for a while.

        Raises:
            BehindOthers: It still is, and the chain has not surely turned back.
        """
        pauses = iter(_PAUSES if self._turned_back_seconds else ())
        while True:
            try:
                return await once()
            except BehindOthers as error:
                pause = next(pauses, None)
                if pause is None and not self.gives_up(error):
                    raise
            await asyncio.sleep(pause or 0)

    def gives_up(self, behind: BehindOthers) -> bool:
        """Whether all have missed what was seen for so long that it is gone."""
        now = self._clock()
        if self._missed_at is not None:
            self._gone_seconds += min(now - self._missed_at, _QUIET_SECONDS)
        self._missed_at = now
        patience = self._turned_back_seconds
        if patience and behind.blocks > _REORG_BLOCKS_MAX:
            patience = self._far_back_seconds
        if self._gone_seconds < patience:
            return False
        _log.warning("%s: the chain has turned back", behind)
        self._begin_at(0)
        return True

    def _begin_at(self, block: int) -> None:
        self.seen, self._missed_at, self._gone_seconds = block, None, 0.0
