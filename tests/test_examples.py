"""The programs in `examples/` and in the README do what they say."""

import re
from pathlib import Path

import pytest

from agentpay.testing.local_chain import LocalChain
from tests.programs import load, run, serving

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture
async def keys(
    local_network: LocalChain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> LocalChain:
    provider = await local_network.funded_wallet("$0")
    agent = await local_network.funded_wallet("$100", ether=0)
    monkeypatch.setenv("PROVIDER_KEY", provider.gas_key().hex())
    monkeypatch.setenv("AGENT_KEY", agent.gas_key().hex())
    monkeypatch.chdir(tmp_path)
    return local_network


@pytest.mark.parametrize(
    ("provider", "agent", "path", "says"),
    [
        ("provider_fastapi", "agent", "/joke", "got 997000 back"),
        ("data_seller", "buy_data", "/records", "bought 1000 records"),
        ("streamed_inference", "buy_tokens", "/generate", "500 words for 10000"),
        ("streamed_inference", "buy_tokens", "/generate?tokens=7", "closed: 140 paid"),
    ],
)
async def test_an_example_agent_buys_from_an_example_provider(
    *,
    provider: str,
    agent: str,
    path: str,
    says: str,
    keys: LocalChain,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del keys
    app = load(EXAMPLES / f"{provider}.py")["app"]
    async with serving(app) as url:
        await run(EXAMPLES / f"{agent}.py", url + path, monkeypatch=monkeypatch)

    assert says in capsys.readouterr().out


async def test_inference_is_charged_by_the_token(
    keys: LocalChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentpay import Agent, Budget, Wallet

    del monkeypatch
    wallet = await keys.funded_wallet("$5", ether=0)
    budget = Budget(total="$2", per_request="$0.01")
    app = load(EXAMPLES / "metered_inference.py")["app"]
    async with (
        serving(app) as url,
        Agent(
            Wallet(wallet.gas_key()),
            budget=budget,
            network=keys.network,
            allow_private_networks=True,
        ) as agent,
    ):
        answers = [
            (await agent.post(f"{url}/generate", params={"seed": seed})).json()
            for seed in range(5)
        ]
        spending = await agent.spending()

    charged = sum(answer["tokens"] for answer in answers) * 20
    assert spending.spent == charged * 10**12


def test_every_example_fits_a_screen() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 60, path


async def test_row_readme_the_programs_of_the_readme_run(
    keys: LocalChain,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del keys
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    agent, provider = tmp_path / "agent.py", tmp_path / "provider.py"
    provider.write_text(next(b for b in blocks if "Paywall" in b))
    programs = [b for b in blocks if "asyncio.run(main())" in b]
    async with serving(load(provider)["app"]) as url:
        for program in programs:
            agent.write_text(program.replace("http://127.0.0.1:8402", url))
            await run(agent, monkeypatch=monkeypatch)
            assert "$0.001 spent" in capsys.readouterr().out

    assert len(programs) == 2  # with httpx, and with httpx2
