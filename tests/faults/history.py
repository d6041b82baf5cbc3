"""
One history: an agent's errand, the faults that strike it, and the count at the end.
"""

import asyncio
import random
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field, replace

import httpx

from agentpay import Agent, AgentPayError, Wallet
from agentpay.core.payer_channel import PayerStatus
from agentpay.errors import StoreUnavailable
from agentpay.testing.faulty_http import FaultyHttp
from agentpay.testing.faulty_rpc import FaultyRpc

from .charges import PAID_IN, Charge, charges
from .days import Day, Planned, plan
from .money import Money, count
from .pool import Pool, Provider, kill, run_module
from .provider import PRICE, USED
from .served import read_served
from .shopper import (
    PREFER,
    Errand,
    Note,
    Shopper,
    make_agent,
    read_notes,
    request_name,
)
from .verdict import Blame, Facts, given_away, judge, made_again, recovery
from .verdict import count as count_ways

FUNDS = 2_000_000
PATIENCE_SECONDS = 300.0
"""
A history is stuck after so long without an answer or a fault, or without coming to
rest: faults of many meet at a provider, which starts again for each, and a slow machine
is not stuck.
"""
_PATHS = ("/exact", "/fixed", "/metered")
_PRICES = {"/exact": PRICE, "/fixed": PRICE, "/metered": USED}
_MORE = 10
"""So many requests more, so long as no fault has happened."""


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
    withheld: int = 0
    """Answers that were made again, as the first was not given out."""
    made_again: int = 0
    """Answers that were made again by a provider that came back."""
    given_away: int = 0
    """Answers that were made, and neither charged for nor had: the provider died."""
    faults: dict[str, int] = field(default_factory=dict[str, int])
    """How often each kind happened."""
    missed: int = 0
    """Faults that were planned and met nothing."""
    recovery_seconds: float = 0.0
    """The worst: from a fault's end to an answer that was asked for after it struck."""
    no_recovery: int = 0
    """Faults after which there was no such answer."""
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
        self._asked_once_more = False
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
                day = self._day(errand, http, rpc)
                await self._run(errand, day)
            http.heal()
            rpc.heal()
            while not await self._came_to_rest(self._longer(errand), day):
                pass
        self.report.seconds = time.monotonic() - began
        return self.report

    def _day(self, errand: Errand, http: FaultyHttp, rpc: FaultyRpc) -> Day:
        return Day(
            dice=self._dice,
            pool=self._pool,
            provider=self._provider,
            http=http,
            paid_in=PAID_IN[self._protocol],
            agent_rpc=rpc,
            kill_agent=self._kill_agent,
            restart_agent=lambda: self._start(errand),
        )

    # The errand.

    async def _run(self, errand: Errand, day: Day) -> None:
        """Until all is bought, and a fault has happened."""
        planned = self._plan(after=0, requests=len(self._paths))
        seen, since = (0, 0), time.monotonic()
        await self._start(errand)
        try:
            while time.monotonic() < since + PATIENCE_SECONDS:
                await self._strike_what_is_due(planned, day)
                if (now := (self._answered(), len(day.strikes))) != seen:
                    seen, since = now, time.monotonic()
                if self._ended != 0:
                    if self._ended is not None:
                        await self._start(errand)
                    await asyncio.sleep(0.02)
                elif not planned and day.happened:
                    return
                else:
                    planned = self._go_on(planned)
                    await self._start(errand)
            words = f"no answer in {PATIENCE_SECONDS:.0f} s, after {seen[0]}"
            self._blame(Blame(what="stuck", amount=1, words=words))
        finally:
            await self._kill_agent()

    @property
    def _ended(self) -> int | None:
        return None if self._process is None else self._process.returncode

    def _plan(self, *, after: int, requests: int) -> list[Planned]:
        """Each request is two lines of the notes."""
        return plan(
            self._dice, after=after, lines=2 * requests, postgres=self._postgres
        )

    def _go_on(self, planned: list[Planned]) -> list[Planned]:
        """More requests, for what is still to strike, or for other faults."""
        done = len(self._read_notes())
        self._paths += tuple(self._dice.choices(_PATHS, (1, 2, 2), k=_MORE))
        late = [replace(fault, after=done + 2) for fault in planned]
        return late or self._plan(after=done, requests=_MORE)

    async def _strike_what_is_due(self, planned: list[Planned], day: Day) -> None:
        done = len(self._read_notes())
        while planned and planned[0].after <= done:
            await day.strike(planned.pop(0).kind)

    def _longer(self, errand: Errand) -> Errand:
        """The errand with all that is to be bought by now."""
        return replace(errand, paths=self._paths)

    async def _start(self, errand: Errand) -> None:
        self._process = await run_module(
            "tests.faults.shopper",
            asdict(self._longer(errand)),
            log=self._notes.with_suffix(".log"),
        )

    async def _kill_agent(self) -> bool:
        return self._process is not None and await kill(self._process)

    def _read_notes(self) -> list[Note]:
        return read_notes(str(self._notes))

    def _answered(self) -> int:
        return sum(note.outcome == "paid" for note in self._read_notes())

    # The count.

    async def _came_to_rest(self, errand: Errand, day: Day) -> bool:
        """False while its database is away, which other histories kill as well."""
        try:
            await self._come_to_rest(errand, day)
        except StoreUnavailable:
            await asyncio.sleep(0.5)
            return False
        return True

    async def _come_to_rest(self, errand: Errand, day: Day) -> None:
        async with make_agent(errand) as agent:
            deadline = time.monotonic() + PATIENCE_SECONDS
            charged: list[Charge] = []
            while True:
                try:
                    settled, why = await self._settled(agent, errand)
                    charged = await self._charged(agent, day)
                except (AgentPayError, httpx.HTTPError) as error:
                    settled, why = None, str(error)
                if settled is not None:
                    break
                if time.monotonic() > deadline:
                    words = f"no rest: {why}"
                    self._blame(Blame(what="stuck", amount=1, words=words))
                    settled = await self._count(agent)
                    break
                await asyncio.sleep(0.5)
            spending = await agent.spending()
        self._judge(day, settled, charged, booked=spending.spent // 10**12)

    async def _ask_once_more(self, agent: Agent, errand: Errand) -> bool:
        """
        Whether one more request on the channel has been answered: then nothing is under
        way on it, and the last fault is over.
        """
        if not self._asked_once_more:
            self._paths += ("/fixed",)
            await Shopper(self._longer(errand), agent).run()
            self._asked_once_more = self._read_notes()[-1].outcome == "paid"
        return self._asked_once_more

    async def _settled(self, agent: Agent, errand: Errand) -> tuple[Money | None, str]:
        """What all came to; before it does, what is missing."""
        await agent.payer.resolve()
        if not await self._ask_once_more(agent, errand):
            return None, f"the last request was {self._read_notes()[-1].outcome}"
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

    async def _charged(self, agent: Agent, day: Day) -> list[Charge]:
        return await charges(
            day.http.requests,
            chain=self._pool.chain,
            agent=agent.payer.keys.account,
            provider=self._provider.wallet.address,
            base=self._provider.base,
        )

    def _judge(
        self, day: Day, money: Money, charged: list[Charge], *, booked: int
    ) -> None:
        report, facts = self.report, self._facts(day, money, charged, booked=booked)
        for blame in judge(facts):
            self._blame(blame)
        for way, requests in count_ways(facts).items():
            setattr(report, way, requests)
        report.requests, report.moved = len(self._paths), money.paid
        report.withheld, report.made_again = made_again(facts)
        report.given_away = given_away(facts)
        report.faults = dict(day.count())
        report.missed = len(day.strikes) - len(day.happened)
        report.recovery_seconds, report.no_recovery = recovery(facts)

    def _facts(
        self, day: Day, money: Money, charged: list[Charge], *, booked: int
    ) -> Facts:
        names = [
            request_name(str(self.report.seed), n) for n in range(len(self._paths))
        ]
        notes: dict[str, list[Note]] = {name: [] for name in names}
        for note in self._read_notes():
            notes[names[note.number]].append(note)
        made = read_served(self._provider.place.served)
        return Facts(
            prices=dict(zip(names, map(_PRICES.__getitem__, self._paths), strict=True)),
            notes=notes,
            charges=charged,
            served=[served for served in made if served.request in notes],
            money=money,
            funds=FUNDS,
            booked=booked,
            strikes=day.strikes,
        )

    def _blame(self, blame: Blame) -> None:
        if blame.what != "wrong":
            more = getattr(self.report, blame.what) + blame.amount
            setattr(self.report, blame.what, more)
        self.report.wrong.append(f"{blame.what}: {blame.words}")
