"""`agentpay facilitator`: a process of its own, asked over HTTP."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from agentpay import Wallet
from agentpay.cli.facilitator import _serve
from agentpay.errors import UnsuitableToken
from agentpay.facilitator.host import FacilitatorHost
from agentpay.facilitator.service import FacilitatorService
from agentpay.http.facilitator_app import FacilitatorApp
from agentpay.testing.local_chain import LocalChain
from agentpay.wire import x402_asks as asks
from tests.facilitator.world import AMOUNT, a_transfer
from tests.payee.test_sponsored_approvals import mint
from tests.wallets import deploy

ON = ["--key-env", "GAS_KEY", "--token-env", "GAS_KEY", "--host"]
COMMAND = "from agentpay.cli.main import main; main()"


async def start(
    *arguments: str, cwd: Path, **environment: str
) -> asyncio.subprocess.Process:
    inherited = {"HOME": str(Path.home()), "PYTHONPATH": os.pathsep.join(sys.path)}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        COMMAND,
        "facilitator",
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", **inherited, **environment},
    )


async def test_it_serves_until_it_is_told_to_stop_and_keeps_its_book(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    keys = [await chain.funded_wallet(0) for _ in range(2)]
    stored = tmp_path / "key.json"
    keys[1].save_keystore(stored, password="hunter2")
    payer, payee = await chain.funded_wallet(ether=0), Wallet.create().address
    transfer = await a_transfer(chain.usdc, payer, payee)
    request = asks.transfer_request(transfer, AMOUNT)
    authorizer = Wallet.create()
    answers: list[httpx.Response] = []
    for _ in range(2):
        process = await start(
            *("--rpc-url", chain.rpc_url, "--port", "0"),
            *("--key-env", "GAS_KEY", "--keystore", str(stored)),
            *("--token-env", "DESK_TOKEN", "--payee", payee),
            *("--authorizer-env", "SIGNS_FOR_PAYEES"),
            *("--sponsor-wei", str(10**15), "--wallet-factory", payee),
            cwd=tmp_path,
            GAS_KEY=keys[0].gas_key().hex(),
            DESK_TOKEN="secret",
            SIGNS_FOR_PAYEES=authorizer.gas_key().hex(),
            AGENTPAY_PASSWORD="hunter2",
        )
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().split()[-1]
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            supported = (await client.get("/supported")).json()
            answers.append(await client.post("/settle", json=request))
            headers = {"authorization": "Bearer secret"}
            answers.append(await client.post("/settle", json=request, headers=headers))
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert b"Traceback" not in err, err.decode()

    signers = [s.lower() for s in supported["signers"]["eip155:*"]]
    assert signers == [key.address for key in keys]
    assert "erc20ApprovalGasSponsoring" in supported["extensions"]
    kinds = {kind["scheme"]: kind.get("extra", {}) for kind in supported["kinds"]}
    signs = kinds["batch-settlement"]["receiverAuthorizer"]
    assert signs.lower() == authorizer.address
    assert [a.status_code for a in answers] == [401, 200, 401, 200]
    assert answers[1].json()["success"]
    assert answers[3].json()["errorReason"] == "duplicate_settlement"
    assert await chain.balance(payee) == AMOUNT


async def test_it_pays_gas_for_what_it_is_told_to_and_for_nothing_else(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain, key = agentpay_shared_chain, await agentpay_shared_chain.funded_wallet(0)
    token = await deploy(chain, "Plain3009")
    plain = replace(chain.usdc, address=token, name="Plain 3009", version="1")
    payer, payee = await chain.funded_wallet(ether=0), Wallet.create().address
    await mint(chain, plain, payer.address, 3 * AMOUNT)
    process = await start(
        *("--rpc-url", chain.rpc_url, "--port", "0", "--key-env", "GAS_KEY"),
        *("--asset", token, "--scheme", "exact", "--amount-min", str(AMOUNT)),
        cwd=tmp_path,
        GAS_KEY=key.gas_key().hex(),
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().split()[-1]
    answers = []
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        supported = (await client.get("/supported")).json()
        for asset, amount in (
            (plain, AMOUNT),
            (plain, AMOUNT - 1),
            (chain.usdc, AMOUNT),
        ):
            transfer = await a_transfer(asset, payer, payee, amount)
            request = asks.transfer_request(transfer, amount)
            answers.append((await client.post("/settle", json=request)).json())
    process.send_signal(signal.SIGINT)
    await process.communicate()

    assert [kind["scheme"] for kind in supported["kinds"]] == ["exact"]
    assert [answer["success"] for answer in answers] == [True, False, False]
    assert "not worth its gas" in answers[1]["errorMessage"]
    assert "no gas is paid here for asset" in answers[2]["errorMessage"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give a --key-env or a --keystore"),
        (["--key-env", "GAS_KEY", "--key-env", "GAS_KEY"], "needs different keys"),
        ([*ON, "nowhere.invalid"], "cannot listen on nowhere.invalid:0: "),
        ([*ON, "a" * 64], "cannot listen on aaaa"),
        (["--key-env", "NOTHING"], "has no NOTHING"),
        (["--key-env", "GAS_KEY", "--host", "0.0.0.0"], "give a --token-env"),  # noqa: S104
        (["--key-env", "GAS_KEY", "--network", "base"], "mainnet_not_enabled"),
        (["--key-env", "GAS_KEY", "--payee", "0x12"], "not an address"),
        (["--key-env", "GAS_KEY", "--wallet-factory", "x"], "--wallet-factory: not"),
        (["--key-env", "GAS_KEY", "--authorizer-env", "GAS_KEY"], "require a token"),
        (["--key-env", "GAS_KEY", "--asset", "USDC"], "--asset: not an address"),
        (["--key-env", "GAS_KEY", "--asset", "0x" + "77" * 20], "no contract at this"),
        (["--key-env", "GAS_KEY", "--scheme", "gift"], "one of exact, upto, batch"),
        (["--key-env", "GAS_KEY", "--amount-min", "0"], "1 or more, not 0"),
    ],
)
async def test_what_it_cannot_do_is_one_sentence_and_a_status_of_1(
    arguments: list[str], says: str, agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    place = ["--rpc-url", agentpay_shared_chain.rpc_url, "--port", "0"]
    key = Wallet.create().gas_key().hex()
    process = await start(*arguments, *place, cwd=tmp_path, GAS_KEY=key)
    _, err = await process.communicate()

    assert process.returncode == 1
    assert says in err.decode()
    assert "Traceback" not in err.decode()
    assert key not in err.decode()


async def test_a_port_that_is_taken_is_said_before_the_chain_is_asked(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await start(
            *("--rpc-url", "http://127.0.0.1:9", "--port", str(port)),
            *("--key-env", "GAS_KEY"),
            cwd=tmp_path,
            GAS_KEY=Wallet.create().gas_key().hex(),
        )
        _, err = await process.communicate()

    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: " in err.decode()
    assert "Traceback" not in err.decode()
    assert "not up yet" not in err.decode()


async def test_a_port_that_there_is_not_is_a_wrong_option(tmp_path: Path) -> None:
    process = await start("--port", "65536", "--key-env", "GAS_KEY", cwd=tmp_path)
    _, err = await process.communicate()

    assert process.returncode == 2
    assert "65535" in err.decode()


class Broken(FacilitatorHost):
    """Cannot start."""

    stopped = False

    async def start(self) -> FacilitatorService:
        raise UnsuitableToken("there is no contract at this address")

    async def stop(self) -> None:
        self.stopped = True
        await super().stop()


async def test_what_it_opened_is_closed_when_it_cannot_go_on() -> None:
    host = Broken([Wallet.create()], network="local")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UnsuitableToken):
        await _serve(host, FacilitatorApp(host), "127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)):
        pass  # nobody listens there any more

    assert host.stopped
