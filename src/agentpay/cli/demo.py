"""
The demo: an agent pays a provider through one channel, on a real local chain.

Nothing is taken from our own books: who lost and gained what is read from the chain.
"""

import asyncio
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agentpay.agent import Agent
from agentpay.cli.demo_server import ServerSettings
from agentpay.errors import AgentPayError
from agentpay.evm.addresses import BATCH_SETTLEMENT, ERC3009_COLLECTOR
from agentpay.payer.policy import Budget, Policy
from agentpay.signers.wallet import Wallet
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from agentpay.wire.x402 import PAYMENT_RESPONSE

_log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
_FAILURES_SHOWN = 10


@dataclass(slots=True, kw_only=True)
class DemoReport:
    """What happened, so that every figure can be recomputed from chain and log."""

    paid_requests: int = 0
    failed_requests: int = 0
    failures: list[str] = field(default_factory=list[str])
    channels_opened: int = 0
    http_round_trips: int = 0
    onchain_transactions: int = 0
    conserved: bool = False
    seconds: float = 0.0
    requests_per_second: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    gas_used: int = 0
    gas_if_exact: int = 0
    agent_lost: int = 0
    provider_got: int = 0
    escrow_holds: int = 0
    refunded: int = 0
    agent_address: str = ""
    provider_address: str = ""
    token: str = ""
    channel_contract: str = BATCH_SETTLEMENT
    deposit_collector: str = ERC3009_COLLECTOR
    channel: str = ""
    chain_id: int = 0
    first_block: int = 0
    last_block: int = 0
    transactions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    access_log: str = ""

    @property
    def passed(self) -> bool:
        """Whether everything was paid, answered and accounted for."""
        return self.conserved and not self.failed_requests


class Provider:
    """The provider's process, spoken to by lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.url = ""

    @classmethod
    @asynccontextmanager
    async def running(cls, settings: ServerSettings) -> AsyncGenerator["Provider"]:
        """Start it, wait until it listens, and end it by its process id."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agentpay.cli.demo_server",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        provider = cls(process)
        try:
            started = await provider.ask(json.dumps(asdict(settings)))
            provider.url = f"http://127.0.0.1:{started['port']}"
            yield provider
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    async def ask(self, line: str) -> dict[str, Any]:
        """
        Send a line and read the answer.

        Raises:
            AgentPayError: The process ended instead.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise AgentPayError("the provider has no pipes")
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()
        answer = await self._process.stdout.readline()
        if not answer:
            raise AgentPayError("the provider ended: see its messages above")
        said: dict[str, Any] = json.loads(answer)
        return said


async def run_demo(
    *,
    requests: int,
    concurrency: int,
    rpc_url: str | None,
    progress: Progress,
) -> DemoReport:
    """
    Run the whole story and report it.

    Raises:
        AgentPayError: It could not even begin.
    """
    folder = Path(tempfile.mkdtemp(prefix="agentpay-demo-"))
    async with LocalChain(rpc_url=rpc_url) as chain:
        provider_wallet = await chain.funded_wallet("$0")
        dollars = 10 + requests // 400
        agent_wallet = await chain.funded_wallet(f"${dollars}", ether=0)
        settings = ServerSettings(
            key=provider_wallet.gas_key().hex(),
            rpc_url=chain.rpc_url,
            chain=chain.chain_id,
            store=str(folder / "provider.db"),
            access_log=str(folder / "access.log"),
        )
        report = DemoReport(
            agent_address=agent_wallet.address,
            provider_address=provider_wallet.address,
            token=chain.usdc.address,
            chain_id=chain.chain_id,
            access_log=settings.access_log,
        )
        before = await _balances(chain, report)
        report.first_block = await _block_number(chain) + 1
        async with Provider.running(settings) as provider:
            story = _Story(
                chain=chain,
                provider=provider,
                wallet=agent_wallet,
                store=str(folder / "agent.db"),
                report=report,
                progress=progress,
            )
            await story.tell(requests=requests, concurrency=concurrency)
        report.last_block = await _block_number(chain)
        await _read_transactions(chain, report)
        _reconcile(report, before, await _balances(chain, report))
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Story:
    chain: LocalChain
    provider: Provider
    wallet: Wallet
    store: str
    report: DemoReport
    progress: Progress

    async def tell(self, *, requests: int, concurrency: int) -> None:
        cents = requests // 10 + 100
        deposit = f"${cents // 100}.{cents % 100:02d}"
        budget = Budget(total=f"${10 + requests // 400}", per_request="$0.05")
        async with Agent(
            self.wallet,
            budget=budget,
            network=self.chain.network,
            store=self.store,
            policy=Policy(deposit=deposit),
            allow_private_networks=True,
        ) as agent:
            await self._get(agent, "/report")
            await self._get(agent, "/answer?number=0")
            await self._many(agent, requests=requests, concurrency=concurrency)
            await self.provider.ask("settle")
            for record in await agent.channels():
                closed = await agent.close_channel(record.channel)
                self.report.channels_opened += 1
                self.report.channel = record.channel
                self.report.refunded += closed.returned
            self.report.http_round_trips = agent.round_trips

    async def _many(self, agent: Agent, *, requests: int, concurrency: int) -> None:
        numbers = iter(range(1, requests + 1))
        latencies: list[float] = []

        async def worker() -> None:
            for number in numbers:
                route = "/metered" if number % 2 else "/answer"
                path = f"{route}?number={number}"
                began = time.perf_counter()
                await self._get(agent, path)
                latencies.append(time.perf_counter() - began)
                self.progress(len(latencies), requests)

        began = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        seconds = time.perf_counter() - began
        report = self.report
        report.seconds = round(seconds, 3)
        report.requests_per_second = round(requests / seconds, 1)
        if len(latencies) > 1:
            hundredths = statistics.quantiles(latencies, n=100, method="inclusive")
            report.p50_ms = round(hundredths[49] * 1000, 2)
            report.p99_ms = round(hundredths[98] * 1000, 2)

    async def _get(self, agent: Agent, path: str) -> None:
        try:
            response = await agent.get(self.provider.url + path)
        except AgentPayError as error:
            self._failed(f"{path}: {type(error).__name__}: {error}")
            return
        if response.status_code == 200 and PAYMENT_RESPONSE in response.headers:
            self.report.paid_requests += 1
        else:
            self._failed(f"{path}: status {response.status_code}, or no receipt")

    def _failed(self, why: str) -> None:
        self.report.failed_requests += 1
        if len(self.report.failures) < _FAILURES_SHOWN:
            self.report.failures.append(why)


async def _balances(chain: LocalChain, report: DemoReport) -> dict[str, int]:
    return {
        name: await chain.balance(Address(address))
        for name, address in (
            ("agent", report.agent_address),
            ("provider", report.provider_address),
            ("escrow", report.channel_contract),
        )
    }


def _reconcile(
    report: DemoReport, before: dict[str, int], after: dict[str, int]
) -> None:
    report.agent_lost = before["agent"] - after["agent"]
    report.provider_got = after["provider"] - before["provider"]
    report.escrow_holds = after["escrow"] - before["escrow"]
    report.conserved = report.agent_lost == report.provider_got + report.escrow_holds


async def _block_number(chain: LocalChain) -> int:
    return int(await chain.node.rpc("eth_blockNumber"), 16)


async def _read_transactions(chain: LocalChain, report: DemoReport) -> None:
    """Every transaction of the provider and the agent in the blocks of the story."""
    ours = {report.agent_address, report.provider_address}
    for number in range(report.first_block, report.last_block + 1):
        receipts = await chain.node.rpc("eth_getBlockReceipts", hex(number))
        for receipt in receipts or ():
            if receipt["from"].lower() in ours:
                gas = int(receipt["gasUsed"], 16)
                report.transactions.append(
                    {
                        "hash": receipt["transactionHash"],
                        "block": number,
                        "gas": gas,
                        "to": receipt["to"],
                        "succeeded": receipt["status"] == "0x1",
                    }
                )
                report.gas_used += gas
    report.onchain_transactions = len(report.transactions)
    transfers = [t for t in report.transactions if t["to"].lower() == report.token]
    if transfers:
        report.gas_if_exact = transfers[0]["gas"] * report.paid_requests
