"""
What can go wrong in a history, and how it is made to.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from signal import SIGQUIT

from agentpay.testing.faulty_http import FaultyHttp, HttpFault
from agentpay.testing.faulty_rpc import Fault, FaultyRpc

from .pool import Pool, Provider

_PAID = "payment-signature"
_HTTP = tuple(HttpFault)
_RPC = tuple(Fault)
_READS = ("eth_call", "eth_getBlockByNumber", "eth_getLogs")
_WRITES = ("eth_sendRawTransaction", "eth_getTransactionReceipt", "eth_estimateGas")


class Bad(StrEnum):
    """The kinds of faults."""

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


def plan(dice: random.Random, *, requests: int, postgres: bool) -> list[Planned]:
    """One fault or a few, in the order in which they strike."""
    kinds = [bad for bad in Bad if postgres or bad is not Bad.DATABASE_KILLED]
    chosen = dice.choices(kinds, k=dice.randint(1, 4))
    return sorted(
        (Planned(kind=kind, after=dice.randrange(2 * requests)) for kind in chosen),
        key=lambda fault: fault.after,
    )


@dataclass(slots=True, kw_only=True)
class Day:
    """Where the faults of one history strike."""

    dice: random.Random
    pool: Pool
    provider: Provider
    http: FaultyHttp
    agent_rpc: FaultyRpc
    kill_agent: Callable[[], Awaitable[None]]
    struck: list[str] = field(default_factory=list[str])

    async def strike(self, kind: Bad) -> None:
        """Returns when whoever was killed is back."""
        match kind:
            case Bad.PROVIDER_KILLED:
                await self.provider.kill()
                await self.provider.start()
            case Bad.AGENT_KILLED:
                await self.kill_agent()
            case Bad.HTTP:
                fault = self.dice.choice(_HTTP)
                header = self.dice.choice((_PAID, ""))
                self.http.plan(fault, times=self.dice.randint(1, 5), header=header)
            case Bad.PROVIDER_RPC:
                self._break(self.provider.rpc, (*_READS, *_WRITES))
            case Bad.AGENT_RPC:
                self._break(self.agent_rpc, _READS)
            case Bad.DATABASE_KILLED:
                await self._kill_database()
        self.struck.append(kind.value)

    def _break(self, rpc: FaultyRpc, methods: tuple[str, ...]) -> None:
        fault, method = self.dice.choice(_RPC), self.dice.choice(methods)
        rpc.plan(method, fault, times=self.dice.randint(1, 4))

    async def _kill_database(self) -> None:
        async with self.pool.database_busy:
            await asyncio.to_thread(self.pool.postgres.halt, how=SIGQUIT)
            await asyncio.to_thread(self.pool.postgres.start)
