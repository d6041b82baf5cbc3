"""
What can go wrong in a history, and how it is made to.

A fault counts once it has happened: a process was there to be killed, a request came
that was dropped. What is planned and meets nothing is no fault.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from signal import SIGQUIT

from agentpay.testing.faulty_http import FaultyHttp, HttpFault
from agentpay.testing.faulty_rpc import Fault, FaultyRpc

from .pool import Pool, Provider

_HTTP = tuple(HttpFault)
_RPC = tuple(Fault)
_READS = ("eth_call", "eth_getBlockByNumber", "eth_getLogs")
_WRITES = ("eth_sendRawTransaction", "eth_getTransactionReceipt", "eth_estimateGas")


class Bad(StrEnum):
    """Where faults strike."""

    PROVIDER_KILLED = "provider killed"
    AGENT_KILLED = "agent killed"
    HTTP = "http"
    PROVIDER_RPC = "provider's rpc"
    AGENT_RPC = "agent's rpc"
    DATABASE_KILLED = "database killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A fault, and after how many lines of the agent's notes it strikes."""

    kind: Bad
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """A fault, and when it happened; never, if nothing came that it could befall."""

    what: str
    moments: list[float]
    back: float = 0.0
    """When what was killed was back."""

    @property
    def ended(self) -> float:
        """When the last of it was over."""
        return max(self.back, *self.moments)


def plan(
    dice: random.Random, *, after: int, lines: int, postgres: bool
) -> list[Planned]:
    """One fault or a few within so many lines, in the order in which they strike."""
    kinds = [bad for bad in Bad if postgres or bad is not Bad.DATABASE_KILLED]
    chosen = dice.choices(kinds, k=dice.randint(1, 4))
    return sorted(
        (Planned(kind=kind, after=after + dice.randrange(1, lines)) for kind in chosen),
        key=lambda fault: fault.after,
    )


@dataclass(slots=True, kw_only=True)
class Day:
    """Where the faults of one history strike."""

    dice: random.Random
    pool: Pool
    provider: Provider
    http: FaultyHttp
    paid_in: str
    """The header that a payment is in."""
    agent_rpc: FaultyRpc
    kill_agent: Callable[[], Awaitable[bool]]
    restart_agent: Callable[[], Awaitable[None]]
    strikes: list[Strike] = field(default_factory=list[Strike])

    @property
    def happened(self) -> list[Strike]:
        return [strike for strike in self.strikes if strike.moments]

    def count(self) -> Counter[str]:
        """How often each kind of fault happened."""
        kinds = Counter[str]()
        for strike in self.happened:
            kinds[strike.what] += len(strike.moments)
        return kinds

    async def strike(self, kind: Bad) -> None:
        """Returns when whoever was killed is back."""
        match kind:
            case Bad.PROVIDER_KILLED:
                await self._kill(kind, self.provider.kill, self.provider.start)
            case Bad.AGENT_KILLED:
                await self._kill(kind, self.kill_agent, self.restart_agent)
            case Bad.DATABASE_KILLED:
                async with self.pool.database_busy:
                    await self._kill(kind, self._kill_database, self._start_database)
            case Bad.HTTP:
                fault = self.dice.choice(_HTTP)
                header = self.dice.choice((self.paid_in, ""))
                times = self.dice.randint(1, 5)
                moments = self.http.plan(fault, times=times, header=header)
                self._note(f"{kind}: {_words(fault)}", moments)
            case Bad.PROVIDER_RPC:
                self._break(kind, self.provider.rpc, (*_READS, *_WRITES))
            case Bad.AGENT_RPC:
                self._break(kind, self.agent_rpc, _READS)

    async def _kill(
        self,
        kind: Bad,
        end: Callable[[], Awaitable[bool]],
        begin: Callable[[], Awaitable[None]],
    ) -> None:
        moment = time.time()
        moments = [moment] if await end() else []
        await begin()
        self._note(kind.value, moments, back=time.time())

    def _break(self, kind: Bad, rpc: FaultyRpc, methods: tuple[str, ...]) -> None:
        fault, method = self.dice.choice(_RPC), self.dice.choice(methods)
        moments = rpc.plan(method, fault, times=self.dice.randint(1, 4))
        self._note(f"{kind}: {_words(fault)}", moments)

    def _note(self, what: str, moments: list[float], *, back: float = 0.0) -> None:
        self.strikes.append(Strike(what=what, moments=moments, back=back))

    async def _kill_database(self) -> bool:
        await asyncio.to_thread(self.pool.postgres.halt, how=SIGQUIT)
        return True

    async def _start_database(self) -> None:
        await asyncio.to_thread(self.pool.postgres.start)


def _words(fault: HttpFault | Fault) -> str:
    return fault.name.lower().replace("_", " ")
