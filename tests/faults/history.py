"""
One history: an agent's errand, the faults that strike it, and the count at the end.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from agentpay import Agent, AgentPayError, Wallet
from agentpay.core.payer_channel import PayerStatus
from agentpay.errors import StoreUnavailable
from agentpay.testing.faulty_http import FaultyHttp
from agentpay.testing.faulty_rpc import FaultyRpc

from .days import Day, Planned, plan
from .money import Money, count
from .pool import Pool, Provider, run_module
from .provider import PRICE, USED
from .shopper import PREFER, Errand, Note, make_agent, read_notes

FUNDS = 2_000_000
ERRAND_SECONDS = 120.0
REST_SECONDS = 120.0
_PATHS = ("/exact", "/fixed", "/metered")
_PRICES = {"/exact": PRICE, "/fixed": PRICE, "/metered": USED}
_OPEN = ("begun", "unknown", "cut", "gateway", "store_unavailable", "store_closed")


@dataclass(slots=True, kw_only=True)
class Report:
    """What a history came to. Money is base units, by the chain."""

    seed: int
    provider: str
    protocol: str
    requests: int
    paid: int = 0
    """Requests whose answer the agent has."""
    lost_answers: int = 0
    refused: int = 0
    unknown: int = 0
    """Requests that ended with their process, or of unknown outcome at the time."""
    moved: int = 0
    faults: dict[str, int] = field(default_factory=dict[str, int])
    recovery_seconds: float = 0.0
    """From the worst fault to the next answer."""
    seconds: float = 0.0
    lost: int = 0
    doubled: int = 0
    unpaid: int = 0
    stuck: int = 0
    wrong: list[str] = field(default_factory=list[str])
    """What is not right, in words."""


class History:
    """One seed, lived over a pool."""

    def __init__(self, seed: int, pool: Pool) -> None:
        self._dice = random.Random(seed)
        self._pool = pool
        self._provider: Provider = self._dice.choice(pool.providers)
        store = f"{self._dice.choice(pool.stores)}-agent-{seed}"
        self._postgres = "postgres" in store + self._provider.name
        self._store = pool.new_store(store)
        self._paths = tuple(
            self._dice.choices(_PATHS, (1, 2, 2), k=self._dice.randint(20, 60))
        )
        self._protocol = self._dice.choice(tuple(PREFER))
        self._at_once = self._dice.choice((1, 4, 16, 32))
        self._process: asyncio.subprocess.Process | None = None
        self._notes = pool.directory / f"agent-{seed}.notes"
        self._struck_at: list[float] = []
        self._asked_once_more = False
        self._perhaps_paid = 0
        self.report = Report(
            seed=seed,
            provider=self._provider.name,
            protocol=self._protocol,
            requests=len(self._paths),
        )

    async def live(self, room: asyncio.Semaphore) -> Report:
        """Run the errand under faults, let all come to rest, and count; coming to rest
        is mostly waiting, and takes no room."""
        chain = self._pool.chain
        key = chain.new_key()
        wallet = Wallet.from_key(key)
        await chain.fund(wallet.address, FUNDS)
        async with AsyncExitStack() as opened:
            http = await opened.enter_async_context(FaultyHttp(self._provider.base))
            rpc = await opened.enter_async_context(FaultyRpc(chain.rpc_url))
            errand = Errand(
                chain_url=chain.rpc_url,
                rpc_url=rpc.url,
                key=key,
                store=self._store,
                base=http.url,
                protocol=self._protocol,
                paths=self._paths,
                name=str(self.report.seed),
                at_once=self._at_once,
                notes=str(self._notes),
            )
            async with room:
                began = time.monotonic()
                await self._run(errand, self._day(http, rpc))
            http.heal()
            rpc.heal()
            while not await self._came_to_rest(errand):
                pass
        self.report.seconds = time.monotonic() - began
        return self.report

    def _day(self, http: FaultyHttp, rpc: FaultyRpc) -> Day:
        return Day(
            dice=self._dice,
            pool=self._pool,
            provider=self._provider,
            http=http,
            agent_rpc=rpc,
            kill_agent=self._kill_agent,
        )

    # The errand.

    async def _run(self, errand: Errand, day: Day) -> None:
        planned = plan(self._dice, requests=len(self._paths), postgres=self._postgres)
        started = time.monotonic()
        await self._start(errand)
        try:
            while self._process is not None:
                if time.monotonic() - started > ERRAND_SECONDS:
                    self._blame("stuck", 1, "the errand has no end")
                    break
                await self._strike_what_is_due(planned, day)
                if self._process.returncode is not None:
                    if self._process.returncode == 0:
                        break
                    await self._start(errand)
                await asyncio.sleep(0.02)
        finally:
            await self._kill_agent()
        for kind in day.struck:
            self.report.faults[kind] = self.report.faults.get(kind, 0) + 1

    async def _strike_what_is_due(self, planned: list[Planned], day: Day) -> None:
        done = len(read_notes(str(self._notes)))
        while planned and planned[0].after <= done:
            self._struck_at.append(time.time())
            await day.strike(planned.pop(0).kind)

    async def _start(self, errand: Errand) -> None:
        self._process = await run_module(
            "tests.faults.shopper", asdict(errand), log=self._notes.with_suffix(".log")
        )

    async def _kill_agent(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    # The count.

    async def _came_to_rest(self, errand: Errand) -> bool:
        """False while its database is away, which other histories kill as well."""
        try:
            await self._come_to_rest(errand)
        except StoreUnavailable:
            await asyncio.sleep(0.5)
            return False
        return True

    async def _come_to_rest(self, errand: Errand) -> None:
        async with make_agent(errand) as agent:
            deadline = time.monotonic() + REST_SECONDS
            notes = read_notes(errand.notes)
            while True:
                try:
                    await self._ask_once_more(agent, errand)
                    settled, why = await self._settled(agent)
                except (AgentPayError, httpx.TransportError) as error:
                    settled, why = None, str(error)
                if settled is not None:
                    break
                if time.monotonic() > deadline:
                    self._blame("stuck", 1, f"no rest: {why}")
                    settled = await self._count(agent)
                    break
                await asyncio.sleep(0.5)
            spending = await agent.spending()
        self._judge(notes, settled, booked=spending.spent // 10**12)

    async def _ask_once_more(self, agent: Agent, errand: Errand) -> None:
        """One more request on the channel, so that nothing is under way on it."""
        if self._asked_once_more or not await agent.channels():
            return
        self._perhaps_paid += 1  # until it is answered, nobody knows
        answer = await agent.get(errand.base + "/fixed", headers={"x-request": "last"})
        self._perhaps_paid -= 1
        self._asked_once_more = answer.status_code == 200

    async def _settled(self, agent: Agent) -> tuple[Money | None, str]:
        """What all came to; before it does, what is missing."""
        await agent.payer.resolve()
        records = await agent.channels()
        spending = await agent.spending()
        # What asks to close a channel is open until a close has come through.
        asked = [r for r in records if r.ledger.status is not PayerStatus.CLOSING]
        opened = [ticket for record in asked for ticket in record.ledger.open]
        if spending.held or opened:
            return None, f"{spending.held} is held, and {opened} are open"
        for record in records:
            if record.ledger.status is not PayerStatus.CLOSED:
                await agent.close_channel(record.channel)
        records = await agent.channels()
        money = await self._count(agent)
        spent = sum(record.ledger.spent for record in records)
        if money.claimed < spent:
            return None, f"{money.claimed} of {spent} is claimed"
        return money, ""

    async def _count(self, agent: Agent) -> Money:
        return await count(
            self._pool.chain,
            agent._chain,
            agent=agent.payer.keys.account,
            provider=self._provider.wallet.address,
            records=await agent.channels(),
        )

    def _judge(self, notes: Sequence[Note], money: Money, *, booked: int) -> None:
        """The agent's notes, its books and the chain must say the same."""
        report = self.report
        last = {note.number: note for note in notes}
        least, open_price = self._asked_once_more * PRICE, self._perhaps_paid * PRICE
        for number, note in last.items():
            price = _PRICES[self._paths[number]]
            if note.outcome == "paid":
                report.paid += 1
                least += price
            elif note.outcome == "lost":
                report.lost_answers += 1
                least += note.charged
            elif note.outcome in _OPEN:
                report.unknown += 1
                open_price += price
            else:
                report.refused += 1
                if note.outcome.startswith("wrong"):
                    report.wrong.append(f"request {number}: {note.outcome}")
        report.moved = money.paid
        if money.paid < least:
            self._blame("unpaid", least - money.paid, f"{money} pays less than {least}")
        if money.paid > least + open_price:
            more = money.paid - least - open_price
            self._blame("doubled", more, f"{money} pays more than {least}+{open_price}")
        gone = FUNDS - money.left
        there = money.paid + money.escrowed
        if gone != there:
            self._blame(
                "lost", abs(gone - there), f"{gone} are gone, {there} are there"
            )
        if booked != money.paid:
            self._blame(
                "lost", abs(booked - money.paid), f"the agent's books say {booked}"
            )
        answers = [note.at for note in notes if note.outcome == "paid"]
        waits = [
            min((at - struck for at in answers if at > struck), default=0.0)
            for struck in self._struck_at
        ]
        report.recovery_seconds = max(waits, default=0.0)

    def _blame(self, what: str, amount: int, words: str) -> None:
        setattr(self.report, what, getattr(self.report, what) + amount)
        self.report.wrong.append(f"{what}: {words}")


def served(file: Path) -> int:
    """How many answers a provider made."""
    return len(file.read_text().splitlines()) if file.exists() else 0
