"""A payee, its server, and a payer who leaves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI

from agentpay import Agent, Budget, MppTerms, Payee, Paywall, Policy, Route, Wallet
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Money
from tests.programs import serving

DELAY = 900
GRACE = 15 * 60
PRICE = 1000
DEPOSIT = 1_000_000
TERMS = MppTerms(
    realm="127.0.0.1", secrets=(b"a secret for tests, of 32 bytes or more",)
)


@dataclass(kw_only=True)
class World:
    chain: LocalChain
    payee: Payee
    wallet: Wallet
    url: str
    policy: Policy

    def agent(self, store: str = "memory:", **options: Any) -> Agent:
        return Agent(
            self.wallet,
            budget=Budget(total="$5", per_request="$0.01"),
            network=self.chain.network,
            store=store,
            allow_private_networks=True,
            **{"policy": self.policy, **options},
        )

    async def until_paid(self, amount: int) -> None:
        payee = self.payee.settings.pay_to
        for _ in range(200):
            await self.payee.settlement.settle()
            if await self.chain.balance(payee) == amount:
                return
            await asyncio.sleep(0.1)
        pytest.fail(f"the payee has {await self.chain.balance(payee)}, not {amount}")


@asynccontextmanager
async def a_world(
    *,
    ether: int = 1,
    on: LocalChain | None = None,
    route: Money | Route = PRICE,
    policy: Policy | None = None,
    mpp: MppTerms | None = None,
) -> AsyncIterator[World]:
    """A chain of its own, since these tests move its clock."""
    async with AsyncExitStack() as opened:
        own = LocalChain()
        chain = await opened.enter_async_context(own) if on is None else on
        payee = Payee(
            await chain.funded_wallet("$0"),
            network=chain.network,
            withdraw_delay=DELAY,
            poll_seconds=0.1,
            mpp=mpp,
        )
        app = FastAPI()

        @app.get("/data")
        async def data() -> dict[str, int]:
            return {"data": 1}

        app.add_middleware(Paywall, payee=payee, routes={"GET /data": route})
        wallet = await chain.funded_wallet("$10", ether=ether)
        async with serving(app) as url:
            yield World(
                chain=chain,
                payee=payee,
                wallet=wallet,
                url=f"{url}/data",
                policy=policy or Policy(),
            )


def a_session_world(
    *, on: LocalChain | None = None
) -> AbstractAsyncContextManager[World]:
    """The same where it sells on sessions of MPP."""
    route = Route(price=PRICE, schemes=("batch-settlement",))
    policy = Policy(prefer=("session",))
    return a_world(on=on, route=route, policy=policy, mpp=TERMS)
