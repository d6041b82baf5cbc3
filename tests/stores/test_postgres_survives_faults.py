"""
A PostgreSQL store says that nothing was saved only when that is true, and recovers.

Every step counts by one and answers with the number before it, so that a step that was
saved and called failed, or saved twice, or called saved and lost, shows in the sum.
"""

import asyncio
import gc
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from agentpay.errors import StoreOutcomeUnknown, StoreUnavailable
from agentpay.records import PayeeRecord, PayeeStep
from agentpay.stores import PostgresStore
from agentpay.stores.postgres.connection import connect
from agentpay.whole_steps import take_whole
from tests.postgres_server import PostgresServer
from tests.stores.cut_wire import CutWire, cut_wire
from tests.stores.store_cases import channel, payee_record


def count(record: PayeeRecord | None) -> PayeeStep[int]:
    before = record or payee_record()
    number = before.refund_nonce
    return PayeeStep(record=replace(before, refund_nonce=number + 1), answer=number)


async def counted(store: PostgresStore) -> int:
    record = await store.payee.read(channel())
    return record.refund_nonce if record is not None else 0


async def count_once(store: PostgresStore) -> int | None:
    """The number, or None if it says that nothing was saved."""
    try:
        return await store.payee.update(channel(), count)
    except StoreUnavailable:
        return None


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_commit_whose_answer_is_lost_is_told_as_it_ended(
    postgres_url: str, cut: str
) -> None:
    async with (
        cut_wire(postgres_url) as (url, wire),
        await PostgresStore.open(url) as store,
    ):
        await store.payee.update(channel(), count)
        left = [cut]

        def cuts(piece: bytes) -> str:
            return left.pop() if left and b"COMMIT" in piece else ""

        wire.cuts = cuts
        answers = await asyncio.gather(*(count_once(store) for _ in range(10)))

        assert wire.connections == 2
        assert answers == list(range(1, 11))
        assert await counted(store) == 11


def cuts_commit_and_then(all_later: Callable[[], bool]) -> Callable[[bytes], str]:
    """Lose the answer of the next commit, and then everything while that is wanted."""
    committed = False

    def cuts(piece: bytes) -> str:
        nonlocal committed
        if not committed and b"COMMIT" in piece:
            committed = True
            return "after"
        return "before" if committed and all_later() else ""

    return cuts


async def lost_session(wire: CutWire) -> None:
    """Until somebody tries to come back."""
    for _ in range(1000):
        if wire.connections > 2:
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


async def test_nothing_is_saved_again_that_was_in_doubt_for_a_month(
    postgres_url: str,
) -> None:
    away = True
    async with (
        cut_wire(postgres_url) as (url, wire),
        await PostgresStore.open(url) as store,
    ):
        await store.payee.update(channel(), count)
        wire.cuts = cuts_commit_and_then(lambda: away)
        counting = asyncio.create_task(count_once(store))
        await lost_session(wire)
        await an_operator_does(
            postgres_url, "UPDATE owners SET seen_at = now() - interval '40 days'"
        )
        away = False

        assert await counting == 1
        assert await counted(store) == 2


async def test_many_steps_in_doubt_at_the_end_are_neither_saved_again_nor_failed(
    postgres_url: str,
) -> None:
    async with cut_wire(postgres_url) as (url, wire):
        store = await PostgresStore.open(url, timeout_seconds=1)
        await store.payee.update(channel(), count)
        wire.cuts = cuts_commit_and_then(lambda: True)
        counting = [
            asyncio.create_task(store.payee.update(channel(), count)) for _ in range(3)
        ]
        await lost_session(wire)
        await store.close()
        answers = await asyncio.gather(*counting, return_exceptions=True)

    assert [type(answer) for answer in answers] == [StoreOutcomeUnknown] * 3


async def test_steps_in_doubt_are_not_called_failed_by_a_newer_schema(
    postgres_url: str,
) -> None:
    away = True
    async with cut_wire(postgres_url) as (url, wire):
        store = await PostgresStore.open(url)
        await store.payee.update(channel(), count)
        wire.cuts = cuts_commit_and_then(lambda: away)
        counting = [
            asyncio.create_task(store.payee.update(channel(), count)) for _ in range(3)
        ]
        await lost_session(wire)
        await an_operator_does(postgres_url, "UPDATE schema_version SET version = 99")
        away = False
        answers = await asyncio.gather(*counting, return_exceptions=True)
        await store.close()

    assert [type(answer) for answer in answers] == [StoreOutcomeUnknown] * 3


async def an_operator_does(url: str, statement: str) -> None:
    connection = await connect(url, settings={"search_path": "agentpay"}, timeout=5)
    await connection.execute(statement)
    await connection.close(timeout=5)


@pytest.mark.parametrize("piece", range(1, 13))
async def test_a_connection_cut_between_any_two_messages_loses_and_doubles_nothing(
    postgres_url: str, piece: int
) -> None:
    async with (
        cut_wire(postgres_url) as (url, wire),
        await PostgresStore.open(url) as store,
    ):
        await store.payee.update(channel(), count)
        sent = 0

        def cuts(_: bytes) -> str:
            nonlocal sent
            sent += 1
            return "after" if sent == piece else ""

        wire.cuts = cuts
        answers = [await count_once(store) for _ in range(5)]

        assert answers == [1, 2, 3, 4, 5]
        assert await counted(store) == 6


@pytest.mark.parametrize("seed", range(4))
async def test_what_two_processes_count_over_bad_wires_adds_up(
    postgres_url: str, seed: int
) -> None:
    chance = random.Random(seed)

    def cuts(_: bytes) -> str:
        return chance.choice(["before", "after"]) if chance.random() < 0.03 else ""

    async with (
        cut_wire(postgres_url) as (first, wire),
        cut_wire(postgres_url) as (second, other),
        await PostgresStore.open(first) as one,
        await PostgresStore.open(second) as two,
    ):
        wire.cuts = other.cuts = cuts
        answers: list[int | None] = []
        for _ in range(15):
            steps = [count_once(store) for store in (one, two) for _ in range(4)]
            answers += await asyncio.gather(*steps)
        wire.cuts = other.cuts = lambda _: ""
        saved = sorted(a for a in answers if a is not None)

        assert wire.connections + other.connections > 4
        assert saved == list(range(len(saved)))
        assert await counted(one) == len(saved)


async def test_an_idle_store_whose_server_is_away_says_nothing(
    postgres_url: str,
) -> None:
    said: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: said.append(context))
    async with (
        cut_wire(postgres_url) as (url, wire),
        await PostgresStore.open(url, timeout_seconds=1),
    ):
        wire.cuts = lambda _: "before"
        wire.cut_all()
        await asyncio.sleep(2.5)
        gc.collect()

    assert wire.connections > 1
    assert said == []


@contextmanager
def a_server() -> Iterator[PostgresServer]:
    """One that a test may stop and start again."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


async def test_a_server_that_stops_and_starts_is_used_again() -> None:
    with a_server() as server:
        async with await PostgresStore.open(server.new_database()) as store:
            before = await count_once(store)
            await asyncio.to_thread(server.halt)
            while_down = [await count_once(store) for _ in range(3)]
            await asyncio.to_thread(server.start)
            after = await count_once(store)

            assert (before, while_down, after) == (0, [None] * 3, 1)


async def test_a_server_that_crashes_while_many_count_loses_nothing_it_said() -> None:
    with a_server() as server:
        async with await PostgresStore.open(server.new_database()) as store:
            answers: list[int | None] = []

            over = asyncio.Event()

            async def keep_counting() -> None:
                while not over.is_set():
                    answers.append(await count_once(store))
                    await asyncio.sleep(0.005)

            async def keep_crashing() -> None:
                for _ in range(3):
                    await asyncio.sleep(0.2)
                    await asyncio.to_thread(server.halt, how=signal.SIGQUIT)
                    await asyncio.to_thread(server.start)
                await asyncio.sleep(0.2)
                over.set()

            await asyncio.gather(keep_crashing(), *(keep_counting() for _ in range(8)))
            saved = sorted(a for a in answers if a is not None)

            assert None in answers
            assert saved == list(range(len(saved)))
            assert await counted(store) == len(saved)


@pytest.mark.parametrize("held_up", ["deciding", "committing"])
async def test_who_waits_is_told_where_all_tasks_are_cancelled(
    postgres_url: str, held_up: str
) -> None:
    """As an event loop does at its end, which comes once all of them are over."""
    table = {"deciding": "payee_channels", "committing": "owners"}[held_up]
    settings = {"search_path": "agentpay"}
    undone: list[int] = []

    async def undo(number: int) -> None:
        undone.append(number)

    async with await PostgresStore.open(postgres_url) as store:
        await store.payee.update(channel(), count)
        other = await connect(postgres_url, settings=settings, timeout=5)
        await other.execute(f"BEGIN; LOCK TABLE {table}")
        before = asyncio.all_tasks() - {asyncio.current_task()}
        step = store.payee.update(channel(), count)
        counting = asyncio.create_task(take_whole(step, undo))
        await asyncio.sleep(0.2)
        for task in (*before, counting):
            task.cancel()
        await asyncio.wait([*before, counting], timeout=5)
        over = [task.done() for task in (*before, counting)]
        with pytest.raises(StoreUnavailable):
            await store.payee.read(channel())
        await other.close(timeout=5)

    assert all(over)
    assert undone == []
