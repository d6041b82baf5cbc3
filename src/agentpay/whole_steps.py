"""
Steps of a store that are finished even if who waits for them leaves.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import TypeVar

from agentpay.errors import AgentPayError

T = TypeVar("T")


async def take_whole(
    step: Coroutine[object, object, T], undo: Callable[[T], Awaitable[object]]
) -> T:
    """
    Take a step; if its caller is cancelled meanwhile, wait for it and undo it.

    The store goes on without whoever leaves, so what it reserved is given back. The
    step is carried by its caller for as long as that stays, and needs no task.
    """
    while True:
        try:
            waits_for = step.send(None)
        except StopIteration as done:
            taken: T = done.value
            return taken
        try:
            await _heard(waits_for)
        except asyncio.CancelledError:
            rest = asyncio.create_task(_go_on(_Begun(step, waits_for)))
            with contextlib.suppress(AgentPayError):
                await asyncio.shield(_undone(rest, undo))
            raise


async def _heard(waits_for: object) -> None:
    """Until that is there. To cancel this cancels nothing of it."""
    if not asyncio.isfuture(waits_for):
        await asyncio.sleep(0)  # a step that only lets others run
        return
    # As a task does with what it waits for, so that others may wait for it too.
    waits_for._asyncio_future_blocking = False  # noqa: SLF001
    heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waits_for.add_done_callback(partial(_hear, heard))
    await heard


def _hear(heard: asyncio.Future[None], _: object) -> None:
    if not heard.done():
        heard.set_result(None)


class _Begun(Awaitable[T]):
    """The rest of a step that has begun, and waits for something."""

    def __init__(self, step: Coroutine[object, object, T], waits_for: object) -> None:
        self._step = step
        self._waits_for = waits_for

    def __await__(self) -> Generator[object, object, T]:
        waits_for = self._waits_for
        if asyncio.isfuture(waits_for):  # a task takes no other
            waits_for._asyncio_future_blocking = True  # noqa: SLF001
        while True:
            try:
                try:
                    heard = yield waits_for
                except BaseException as error:  # noqa: BLE001 - the step decides
                    waits_for = self._step.throw(error)
                else:
                    waits_for = self._step.send(heard)
            except StopIteration as done:
                taken: T = done.value
                return taken


async def _go_on(begun: _Begun[T]) -> T:
    return await begun


async def _undone(
    task: asyncio.Task[T], undo: Callable[[T], Awaitable[object]]
) -> None:
    await undo(await task)
