"""What was acknowledged is there after SIGKILL, and the rules go on from it."""

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

import pytest

from agentpay.core.payee_channel import Fate
from agentpay.core.payee_events import Noted, OwnersDied, Spent
from agentpay.errors import StoreInUse
from agentpay.stores import SqliteStore, Store
from tests.stores.store_cases import channel, happens, voucher
from tests.stores.store_child import CHANNELS, digest, open_place

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store is kept that a process may die of using."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return str(tmp_path / "store.db")


async def start(*arguments: str) -> asyncio.subprocess.Process:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.stores.store_child",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )


async def first_line(child: asyncio.subprocess.Process) -> bytes:
    assert child.stdout is not None
    return await child.stdout.readline()


async def kill(child: asyncio.subprocess.Process) -> list[list[str]]:
    """Everything that it said before it died, in words."""
    child.kill()
    said, _ = await child.communicate()
    lines = said.decode().split("\n")[:-1]  # the last may be cut short
    return [line.split() for line in lines]


async def test_what_was_awaited_survives_a_kill_right_after(place: str) -> None:
    child = await start("once", place)

    assert await child.wait() == -signal.SIGKILL
    async with await open_place(place) as store:
        record = await store.payee.read(channel())
        assert await store.payee.read_cursor("deposits") == 7
        assert record is not None
        assert record.ledger.find_used(5) is not None
        assert record.ledger.running[0].owner == "killed"
        assert record.ledger.held[0].signature == voucher(5).signature


@pytest.mark.parametrize("seed", range(6))
async def test_all_that_was_acknowledged_survives_a_kill_at_any_moment(
    place: str, seed: int
) -> None:
    child = await start("drive", place, str(seed))
    await first_line(child)
    await asyncio.sleep(random.Random(seed).uniform(0, 0.3))
    said = await kill(child)

    async with await open_place(place) as store:
        for number in range(CHANNELS):
            await check_channel(store, number, Said(said, number))


class Said:
    """What the dead process said of one channel."""

    def __init__(self, lines: list[list[str]], number: int) -> None:
        mine = [line for line in lines if line[1] == str(number)]
        self.decided = {int(x[2]): x[3] for x in mine if x[0] == "decided"}
        self.saved = max((int(x[2]) for x in mine if x[0] == "saved"), default=0)
        self.admitted = [int(x[2]) for x in mine if x[0] == "admitted"]


async def check_channel(store: Store, number: int, said: Said) -> None:
    record = await store.payee.read(channel(number))
    if record is None:
        assert said.saved == 0
        return
    assert record.refund_nonce >= said.saved
    if record.refund_nonce in said.decided:  # its line may not have come out whole
        assert digest(record) == said.decided[record.refund_nonce]
    await store.payee.update(channel(number), happens(OwnersDied(owner="us")))
    for cumulative in said.admitted:
        again = await store.payee.update(channel(number), happens(voucher(cumulative)))
        assert isinstance(again, Spent)
        assert again.fate is not Fate.RUNNING


async def test_a_second_process_is_told_who_holds_the_file_until_that_dies(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store.db"
    child = await start("hold", str(path))
    await first_line(child)

    with pytest.raises(StoreInUse, match=f"process {child.pid}, "):
        await SqliteStore.open(path)

    await kill(child)
    async with await SqliteStore.open(path) as store:
        answer = await store.payee.update(channel(), happens(OwnersDied(owner="us")))
    assert answer == Noted()


async def test_one_process_cannot_open_a_file_twice(tmp_path: Path) -> None:
    async with await SqliteStore.open(tmp_path / "store.db"):
        with pytest.raises(StoreInUse, match=f"process {os.getpid()}, "):
            await SqliteStore.open(tmp_path / "." / "store.db")


async def test_a_link_to_the_file_is_the_same_file(tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "store.db")
    async with await SqliteStore.open(tmp_path / "store.db"):
        with pytest.raises(StoreInUse):
            await SqliteStore.open(link)
