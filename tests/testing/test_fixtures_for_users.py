"""The pytest plugin as its users meet it: in a project of their own, in any mode."""

import subprocess
import sys
from pathlib import Path

import pytest

STRICT = ("-W", "error::ResourceWarning", "-W", "error::RuntimeWarning")
PROJECT = """
import asyncio

import pytest


def test_plain(agentpay_chain, agentpay_wallet, agentpay_token):
    held = asyncio.run(agentpay_chain.balance(agentpay_wallet.address))

    assert held == 100 * 10**agentpay_token.decimals


@pytest.mark.asyncio
async def test_async(agentpay_chain, agentpay_wallet):
    assert await agentpay_chain.balance(agentpay_wallet.address) == 100_000_000
"""


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_one_line_is_enough_in_either_mode_of_pytest_asyncio(
    tmp_path: Path, mode: str
) -> None:
    (tmp_path / "test_mine.py").write_text(PROJECT)
    done = run_python(
        "-m", "pytest", "-q", f"--asyncio-mode={mode}", *STRICT, cwd=tmp_path
    )

    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_loads_nothing_heavy_for_those_who_do_not_use_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import sys\n\n\ndef test_light():\n"
        "    assert 'agentpay.testing.plugin' in sys.modules\n"
        "    heavy = {'web3', 'eth_account', 'httpx', 'coincurve', 'eth_abi'}\n"
        "    assert not heavy & sys.modules.keys()\n"
    )
    done = run_python("-m", "pytest", "-q", "-p", "no:hypothesispytest", cwd=tmp_path)

    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("turn", [1, 2])
async def test_what_one_test_did_to_the_chain_is_gone_in_the_next(
    agentpay_chain: object, turn: int
) -> None:
    from agentpay.testing.local_chain import LocalChain

    assert isinstance(agentpay_chain, LocalChain)
    account = agentpay_chain.usdc.address
    if turn == 1:
        await agentpay_chain.fund(account, "$1")

    assert await agentpay_chain.balance(account) == (1_000_000 if turn == 1 else 0)


def run_python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
