"""What a person types, and what the machine answers."""

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from tests.programs import load, serving

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


async def agentpay(
    *arguments: str, password: str | None = "hunter2", cwd: Path | None = None
) -> tuple[int, str, str]:
    """Run the command as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from agentpay.cli.main import main; main()",
        *arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(Path.home()),
            **({} if password is None else {"AGENTPAY_PASSWORD": password}),
        },
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_the_demo_pays_for_everything_and_conserves_money(
    concurrency: int, agentpay_chain: LocalChain
) -> None:
    status, out, err = await agentpay(
        "demo",
        "--json",
        "--requests",
        "100",
        "--concurrency",
        str(concurrency),
        "--rpc-url",
        agentpay_chain.rpc_url,
    )
    assert status == 0, err
    report: dict[str, Any] = json.loads(out)

    assert report["paid_requests"] == 102
    assert report["failed_requests"] == 0
    assert report["channels_opened"] == 1
    assert report["http_round_trips"] <= 110
    assert report["onchain_transactions"] <= 8
    assert report["conserved"] is True
    assert Path(report["access_log"]).read_text().count("200") >= 102


async def test_every_figure_of_the_demo_can_be_recomputed_from_the_chain(
    agentpay_chain: LocalChain,
) -> None:
    _, out, _ = await agentpay(
        "demo", "--json", "--requests", "20", "--rpc-url", agentpay_chain.rpc_url
    )
    report: dict[str, Any] = json.loads(out)
    gas = 0
    for transaction in report["transactions"]:
        receipt = await agentpay_chain.node.rpc(
            "eth_getTransactionReceipt", transaction["hash"]
        )
        gas += int(receipt["gasUsed"], 16)
        assert report["first_block"] <= int(receipt["blockNumber"], 16)
        assert int(receipt["blockNumber"], 16) <= report["last_block"]
    provider = Address(report["provider_address"])

    assert gas == report["gas_used"]
    assert await agentpay_chain.balance(provider) == report["provider_got"]
    assert report["provider_got"] == 10_000 + 11 * 1000 + 10 * 400


async def test_a_demo_on_an_unreachable_chain_says_what_to_do() -> None:
    status, _, err = await agentpay("demo", "--rpc-url", "http://127.0.0.1:9")

    assert status == 1
    assert "chain_unreachable" in err
    assert "Traceback" not in err


async def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, err = await agentpay("chain", "--port", str(port))

    assert status == 1
    assert str(port) in err
    assert "Traceback" not in err


async def test_a_wallet_is_made_once_and_read_with_its_password(tmp_path: Path) -> None:
    path = str(tmp_path / "agent.json")
    status, made, err = await agentpay("wallet", "new", path)
    assert status == 0, err
    _, shown, _ = await agentpay("wallet", "show", path)
    again, _, exists = await agentpay("wallet", "new", path)
    wrong, _, why = await agentpay("wallet", "show", path, password="guess")

    assert made == shown
    assert made.startswith("0x")
    assert again == 1
    assert "agent.json" in exists
    assert wrong == 1
    assert "password" in why
    assert Path(path).stat().st_mode & 0o077 == 0


async def test_one_url_is_paid_from_a_keystore(
    local_network: LocalChain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider = await local_network.funded_wallet("$0")
    agent = await local_network.funded_wallet("$1", ether=0)
    agent.save_keystore(tmp_path / "agent.json", password="hunter2")
    monkeypatch.setenv("PROVIDER_KEY", provider.gas_key().hex())
    monkeypatch.chdir(tmp_path)
    app = load(EXAMPLES / "provider_fastapi.py")["app"]
    common = ("--wallet", "agent.json")
    rpc = ("--rpc-url", local_network.rpc_url)
    async with serving(app) as url:
        status, out, err = await agentpay(
            "pay", f"{url}/joke", *common, *rpc, "--private", cwd=tmp_path
        )
        refused, _, why = await agentpay(
            "pay", f"{url}/joke", *common, *rpc, cwd=tmp_path
        )
    _, listed, _ = await agentpay("channels", *common, cwd=tmp_path)
    _, balance, _ = await agentpay(
        "wallet", "balance", "agent.json", *rpc, cwd=tmp_path
    )

    assert status == 0, err
    assert "joke" in json.loads(out)
    assert "$0.001 spent" in err
    assert refused == 1
    assert "private network" in why
    assert "open" in listed
    assert balance.strip() == "$0.95"


async def test_a_voucher_key_pays_where_the_wallets_file_is_not(
    local_network: LocalChain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider = await local_network.funded_wallet("$0")
    agent = await local_network.funded_wallet("$1", ether=0)
    agent.save_keystore(tmp_path / "agent.json", password="hunter2")
    monkeypatch.setenv("PROVIDER_KEY", provider.gas_key().hex())
    monkeypatch.chdir(tmp_path)
    app = load(EXAMPLES / "provider_fastapi.py")["app"]
    status, made, err = await agentpay(
        "wallet", "new", "hot.json", "--voucher-of", "agent.json", cwd=tmp_path
    )
    assert status == 0, err
    rest = (
        "--voucher-key",
        "hot.json",
        "--rpc-url",
        local_network.rpc_url,
        "--private",
    )
    async with serving(app) as url:
        pay = ("pay", f"{url}/joke", *rest)
        alone, _, why = await agentpay(*pay, "--wallet", agent.address, cwd=tmp_path)
        await agentpay(*pay, "--wallet", "agent.json", cwd=tmp_path)
        (tmp_path / "agent.json").unlink()
        paid, out, err = await agentpay(*pay, "--wallet", agent.address, cwd=tmp_path)
    _, listed, _ = await agentpay(
        "channels", "--wallet", agent.address, cwd=tmp_path, password=None
    )

    assert Address(made.strip()) == agent.voucher_key().address
    assert (alone, paid) == (1, 0), err
    assert "key_elsewhere" in why
    assert "joke" in json.loads(out)
    assert "$0.002 spent" in err
    assert listed.count("open") == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/joke", "joke", "http://[joke"])
async def test_a_url_that_cannot_be_had_is_a_sentence(url: str, tmp_path: Path) -> None:
    await agentpay("wallet", "new", "main.json", cwd=tmp_path)
    paying = ("pay", url, "--wallet", "main.json", "--private")
    status, out, err = await agentpay(*paying, cwd=tmp_path)

    assert (status, out) == (1, "")
    assert "Traceback" not in err
    assert err.startswith("http_error: ")
