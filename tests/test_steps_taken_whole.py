"""A step of a store ends whole, whoever leaves, and what nobody waits for is undone."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import StoreUnavailable
from agentpay.whole_steps import take_whole


class Store:
    """A step that waits for so many things, some of which fail and are tried again."""

    def __init__(self, waits: list[bool]) -> None:
        self.waits = waits
        self.ended = 0
        self.undone: list[str] = []

    async def step(self) -> str:
        for fails in self.waits:
            try:
                await asyncio.shield(self._one(fails=fails))
            except ValueError:
                await asyncio.sleep(0)
        self.ended += 1
        return "taken"

    async def undo(self, taken: str) -> None:
        await asyncio.sleep(0)
        self.undone.append(taken)

    async def _one(self, *, fails: bool) -> None:
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[None] = loop.create_future()
        if fails:
            loop.call_soon(heard.set_exception, ValueError("again"))
        else:
            loop.call_soon(heard.set_result, None)
        await heard


async def left_after(store: Store, turns: int) -> str | None:
    """What a caller gets that is cancelled after so many turns of the loop."""
    caller = asyncio.create_task(take_whole(store.step(), store.undo))
    for _ in range(turns):
        await asyncio.sleep(0)
    caller.cancel()
    (outcome,) = await asyncio.gather(caller, return_exceptions=True)
    return None if isinstance(outcome, BaseException) else outcome


@given(st.lists(st.booleans(), max_size=4), st.integers(1, 20))
def test_a_begun_step_is_finished_and_had_or_undone(
    waits: list[bool], turns: int
) -> None:
    store = Store(waits)
    had = asyncio.run(left_after(store, turns))

    assert store.ended == 1
    assert store.undone == ([] if had else ["taken"])
    assert had in ("taken", None)


@pytest.mark.parametrize("waits", [[], [False], [True, False]])
async def test_who_stays_has_it_and_nothing_is_undone(waits: list[bool]) -> None:
    store = Store(waits)

    assert await take_whole(store.step(), store.undo) == "taken"
    assert (store.ended, store.undone) == (1, [])


async def test_a_step_that_waits_for_nothing_is_taken_at_once() -> None:
    step = take_whole(Store([]).step(), Store([]).undo)
    with pytest.raises(StopIteration) as done:
        step.send(None)

    assert done.value.value == "taken"


async def test_a_step_whose_caller_stays_is_no_task_of_its_own() -> None:
    seen: list[asyncio.Task[object] | None] = []

    async def step() -> str:
        for _ in range(2):
            seen.append(asyncio.current_task())
            await asyncio.sleep(0.001)
        seen.append(asyncio.current_task())
        return "taken"

    await take_whole(step(), Store([]).undo)

    assert set(seen) == {asyncio.current_task()}


@pytest.mark.parametrize("leaves", [False, True])
async def test_others_may_wait_for_what_a_step_waits_for(leaves: bool) -> None:
    commit: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    store = Store([])

    async def waits() -> str:
        return await commit

    caller = asyncio.create_task(take_whole(waits(), store.undo))
    other = asyncio.create_task(waits())
    await asyncio.sleep(0.001)
    if leaves:
        caller.cancel()
        await asyncio.sleep(0.001)
    another = asyncio.create_task(waits())
    await asyncio.sleep(0.001)
    commit.set_result("saved")

    assert set(await asyncio.gather(other, another)) == {"saved"}
    (had,) = await asyncio.gather(caller, return_exceptions=True)
    assert (had == "saved") is not leaves
    assert store.undone == (["saved"] if leaves else [])


@pytest.mark.parametrize("waits", [0, 1])
async def test_a_step_that_fails_says_so_and_undoes_nothing(waits: int) -> None:
    store = Store([])

    async def failing() -> str:
        for _ in range(waits):
            await asyncio.sleep(0)
        raise StoreUnavailable("the disk is full")

    with pytest.raises(StoreUnavailable):
        await take_whole(failing(), store.undo)
    assert store.undone == []
