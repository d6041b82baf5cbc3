"""Finding, starting and ending Anvil: a real one, and small programs in its place."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agentpay.errors import ChainError, ChainUnreachable, ToolMissing
from agentpay.testing.anvil import Anvil
from agentpay.testing.anvil_binary import ANVIL_VERSION, find_anvil
from agentpay.types import Address

SOMEBODY = Address("0x" + "5a" * 20)


@pytest.fixture
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, a cache and a PATH with nothing of ours in them."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("AGENTPAY_ANVIL", raising=False)
    return tmp_path


def program(path: Path, text: str = "exit 0") -> Path:
    """A shell script; it names its tools in full, since PATH is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def fake_npm(machine: Path, *, then: str = "") -> Path:
    """An npm that "installs" a script; what it was asked goes into `npm.log`."""
    return program(
        machine / "bin" / "npm",
        f"""
        echo "$@" >> {machine}/npm.log
        while [ "$1" != --prefix ]; do shift; done
        folder="$2/node_modules/${{3%@*}}/bin"
        /bin/mkdir -p "$folder"
        printf '#!/bin/sh\\n{then}exit 0\\n' > "$folder/anvil"
        /bin/chmod +x "$folder/anvil"
        """,
    )


def test_a_chosen_program_comes_first(empty_machine: Path) -> None:
    program(empty_machine / "bin" / "anvil")
    chosen = program(empty_machine / "mine")

    assert find_anvil(chosen) == chosen


def test_a_program_named_in_the_environment_comes_before_path(
    empty_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(empty_machine / "bin" / "anvil")
    named = program(empty_machine / "named")
    monkeypatch.setenv("AGENTPAY_ANVIL", str(named))

    assert find_anvil() == named


def test_a_chosen_program_that_is_not_there_is_not_passed_over(
    empty_machine: Path,
) -> None:
    program(empty_machine / "bin" / "anvil")
    with pytest.raises(ToolMissing, match="no-such-file"):
        find_anvil(empty_machine / "no-such-file")


def test_path_comes_before_foundry_and_foundry_before_the_cache(
    empty_machine: Path,
) -> None:
    cached = program(empty_machine / "cache" / "agentpay" / f"anvil-{ANVIL_VERSION}")
    found = [find_anvil()]
    foundry = program(empty_machine / ".foundry" / "bin" / "anvil")
    found.append(find_anvil())
    on_path = program(empty_machine / "bin" / "anvil")
    found.append(find_anvil())

    assert found == [cached, foundry, on_path]


def test_the_launcher_of_npm_is_never_run(empty_machine: Path) -> None:
    launcher = program(empty_machine / "bin" / "anvil")
    launcher.write_text("#!/usr/bin/env node\n")
    with pytest.raises(ToolMissing, match="launcher"):
        find_anvil(launcher)
    with pytest.raises(ToolMissing, match="not installed"):
        find_anvil(install=False)


def test_without_anvil_and_npm_the_error_says_what_to_install(
    empty_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ToolMissing, match=r"Foundry.*npm.*local") as caught:
        find_anvil()

    assert caught.value.code == "tool_missing"
    assert not (
        empty_machine / "cache" / "agentpay" / f"anvil-{ANVIL_VERSION}"
    ).exists()


def test_npm_installs_the_pinned_native_program_once_and_runs_no_scripts(
    empty_machine: Path,
) -> None:
    fake_npm(empty_machine)
    first, second = find_anvil(), find_anvil()
    asked = (empty_machine / "npm.log").read_text().splitlines()

    assert first == second
    assert first.parent == empty_machine / "cache" / "agentpay"
    assert len(asked) == 1
    assert f"@{ANVIL_VERSION}" in asked[0]
    assert "--ignore-scripts" in asked[0]
    assert os.listdir(first.parent) == [first.name]  # noqa: PTH208 - names only


def test_two_that_install_at_once_get_one_whole_program(empty_machine: Path) -> None:
    fake_npm(empty_machine)
    with ThreadPoolExecutor(max_workers=4) as executor:
        found = list(executor.map(lambda _: find_anvil(), range(4)))

    assert len(set(found)) == 1
    assert subprocess.run([found[0]], check=False).returncode == 0  # noqa: S603


def test_a_fetched_program_that_does_not_run_here_is_not_kept(
    empty_machine: Path,
) -> None:
    fake_npm(empty_machine, then="echo GLIBC_2.35 not found >&2; exit 1; ")
    with pytest.raises(ToolMissing, match=r"GLIBC_2\.35"):
        find_anvil()

    assert not list((empty_machine / "cache" / "agentpay").iterdir())


def test_what_npm_complains_of_is_passed_on(empty_machine: Path) -> None:
    program(empty_machine / "bin" / "npm", "echo no network >&2; exit 1")
    with pytest.raises(ToolMissing, match="no network"):
        find_anvil()


async def test_it_mines_by_itself_on_a_free_port_of_loopback() -> None:
    async with Anvil() as first, Anvil() as second:
        before = int(await first.rpc("eth_blockNumber"), 16)
        await asyncio.sleep(0.5)
        after = int(await first.rpc("eth_blockNumber"), 16)

        assert after >= before + 2
        assert first.url != second.url
        assert first.url.startswith("http://127.0.0.1:")


async def test_without_mining_a_block_comes_only_when_asked_for() -> None:
    async with Anvil(no_mining=True) as node:
        await asyncio.sleep(0.3)
        before = int(await node.rpc("eth_blockNumber"), 16)
        await node.mine(2)

        assert before == 0
        assert int(await node.rpc("eth_blockNumber"), 16) == 2


async def test_after_the_block_it_is_gone_and_says_so() -> None:
    async with Anvil() as node:
        process_id = node.process_id

    assert not is_running(process_id)
    with pytest.raises(ChainUnreachable, match="not running"):
        _ = node.url


async def test_it_can_be_started_again() -> None:
    node = Anvil()
    for _ in range(2):
        async with node:
            await node.rpc("eth_chainId")


async def test_a_taken_port_is_an_error_that_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        node = Anvil(port=taken.getsockname()[1])
        with pytest.raises(ChainUnreachable, match="in use"):
            await node.start()

    assert node.log() == ""


async def test_an_anvil_that_is_never_ready_is_killed(tmp_path: Path) -> None:
    said = tmp_path / "pid"
    slow = program(tmp_path / "anvil", f"echo $$ > {said}; exec sleep 60")
    with pytest.raises(ChainUnreachable, match="not ready"):
        await Anvil(executable=slow, start_seconds_max=0.5).start()

    assert not is_running(int(said.read_text()))


async def test_a_cancelled_start_leaves_nothing_behind(tmp_path: Path) -> None:
    said = tmp_path / "pid"
    slow = program(tmp_path / "anvil", f"echo $$ > {said}; exec sleep 60")
    start = asyncio.create_task(Anvil(executable=slow).start())
    while not (said.exists() and said.read_text().strip()):  # noqa: ASYNC110 - a file
        await asyncio.sleep(0.01)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start

    assert not is_running(int(said.read_text()))


def test_no_orphan_is_left_when_the_parent_is_killed() -> None:
    code = textwrap.dedent(
        """
        import asyncio
        from agentpay.testing.anvil import Anvil

        async def main():
            async with Anvil() as node:
                print(node.process_id, flush=True)
                await asyncio.sleep(60)

        asyncio.run(main())
        """
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:  # noqa: S603
        assert parent.stdout is not None
        process_id = int(parent.stdout.readline())
        was_running = is_running(process_id)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while is_running(process_id) and time.monotonic() < deadline:
        time.sleep(0.02)

    assert was_running
    assert not is_running(process_id)


async def test_a_snapshot_is_gone_back_to_once() -> None:
    async with Anvil(no_mining=True) as node:
        snapshot = await node.snapshot()
        await node.set_balance(SOMEBODY, 7)
        held = await node.rpc("eth_getBalance", SOMEBODY, "latest")
        await node.revert(snapshot)

        assert held == "0x7"
        assert await node.rpc("eth_getBalance", SOMEBODY, "latest") == "0x0"
        with pytest.raises(ChainError):
            await node.revert(snapshot)


async def test_a_revert_undoes_what_was_done_to_the_clock() -> None:
    async with Anvil() as node:
        await node.increase_time(50_000)
        ahead = await node.rpc("evm_increaseTime", 0)
        snapshot = await node.snapshot()
        await node.increase_time(3600)
        await node.revert(snapshot)

        assert await node.rpc("evm_increaseTime", 0) == ahead


async def test_a_clock_does_not_stand_still_between_snapshot_and_revert() -> None:
    async with Anvil() as node:
        snapshot = await node.snapshot()
        await asyncio.sleep(2)
        await node.revert(snapshot)

        assert await node.rpc("evm_increaseTime", 0) >= -1


async def test_a_block_of_another_time_does_not_set_the_clock() -> None:
    """As one that was mined while the chain was turned back, and is in the snapshot."""
    async with Anvil(no_mining=True) as node:
        await node.rpc("evm_increaseTime", 900)
        await node.mine()
        await node.rpc("evm_setTime", int(time.time()))
        snapshot = await node.snapshot()
        await node.revert(snapshot)
        await node.mine()

        assert await timestamp(node) < time.time() + 60


class HoleInTheChain(Anvil):
    """As after a block that was mined while the chain was turned back."""

    looks = 0
    holes = 1

    async def rpc(self, method: str, *params: object) -> Any:
        looked = method == "eth_getBlockByNumber"
        self.looks += looked
        hole = looked and self.looks <= self.holes
        return None if hole else await super().rpc(method, *params)


async def test_a_chain_that_was_not_turned_back_whole_is_turned_back_again() -> None:
    async with HoleInTheChain(no_mining=True) as node:
        snapshot = await node.snapshot()
        await node.set_balance(SOMEBODY, 7)
        await node.mine(5)
        await node.revert(snapshot)

        assert node.looks == 1 + 2
        assert await node.rpc("eth_blockNumber") == "0x1"
        assert await node.rpc("eth_getBalance", SOMEBODY, "latest") == "0x0"


class WrittenDown(HoleInTheChain):
    """Remembers what was asked, and which block was the last one."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.asked: list[tuple[str, Any]] = []

    async def rpc(self, method: str, *params: object) -> Any:
        answer = await super().rpc(method, *params)
        self.asked.append((method, answer))
        return answer


async def test_a_chain_is_turned_back_again_just_after_a_block() -> None:
    """The next one is far then: a block that was being mined is what makes a hole."""
    async with WrittenDown(block_seconds=0.2) as node:
        await node.revert(await node.snapshot())

        again = [n for n, (method, _) in enumerate(node.asked) if "revert" in method][1]
        (before, old), (after, new) = node.asked[again - 2 : again]
        assert before == after == "eth_blockNumber"
        assert int(new, 16) == int(old, 16) + 1


async def test_a_chain_that_cannot_be_turned_back_whole_says_so() -> None:
    async with HoleInTheChain(no_mining=True) as node:
        node.holes = 1000
        snapshot = await node.snapshot()
        with pytest.raises(ChainError, match="lacks blocks"):
            await node.revert(snapshot)


async def test_time_goes_forward_when_asked() -> None:
    async with Anvil(no_mining=True) as node:
        before = await timestamp(node)
        await node.increase_time(3600)

        assert await timestamp(node) >= before + 3600


async def test_an_error_of_the_node_is_passed_on() -> None:
    async with Anvil(no_mining=True) as node:
        with pytest.raises(ChainError, match="no_such_method"):
            await node.rpc("no_such_method")


async def timestamp(node: Anvil) -> int:
    latest = await block(node, "latest")
    assert latest is not None
    return int(latest["timestamp"], 16)


async def block(node: Anvil, which: str) -> dict[str, str] | None:
    with_transactions = False
    found = await node.rpc("eth_getBlockByNumber", which, with_transactions)
    return dict(found) if found else None


def is_running(process_id: int) -> bool:
    """Whether a process exists, and not only as a remainder for its parent."""
    try:
        state = (
            Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0]
        )
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
