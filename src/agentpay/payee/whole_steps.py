"""
Steps of a store that are finished even if who waits for them leaves.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

from agentpay.errors import StoreError

T = TypeVar("T")


async def take_whole(
    step: Coroutine[object, object, T], undo: Callable[[T], Awaitable[object]]
) -> T:
    """
    Take a step; if its caller is cancelled meanwhile, wait for it and undo it.

    The store goes on without whoever leaves, so what it reserved is given back.
    """
    task = asyncio.create_task(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(StoreError):
            await asyncio.shield(_undone(task, undo))
        raise


async def _undone(
    task: asyncio.Task[T], undo: Callable[[T], Awaitable[object]]
) -> None:
    await undo(await task)
