"""Vouchers become money by value, by age, and when a withdrawal starts; and on time."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from agentpay import Agent, Budget, Payee, Paywall
from agentpay.core.payee_channel import Fate, Reservation
from agentpay.payee.pricing import Route
from agentpay.ports import PayeeStore
from agentpay.records import PayeeRecord, PayeeStep
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from tests.http.world import a_payee
from tests.payee.hand import HandPayer, serve, sold, terms_of
from tests.programs import serving

PRICE = 10_000


@dataclass(kw_only=True)
class Clock:
    """A clock that tests move."""

    ahead: float = 0.0
    started: float = field(default_factory=time.time)

    def __call__(self) -> float:
        return self.started + self.ahead


@dataclass(kw_only=True)
class World:
    payee: Payee
    agent: Agent
    url: str
    chain: LocalChain

    async def earned(self) -> int:
        return await self.chain.balance(self.payee.settings.pay_to)

    async def buy(self, count: int) -> None:
        for _ in range(count):
            assert (await self.agent.get(self.url)).status_code == 200


@asynccontextmanager
async def a_world(chain: LocalChain, **settings: Any) -> AsyncIterator[World]:
    payee = Payee(
        await chain.funded_wallet("$0"),
        network=chain.network,
        poll_seconds=0.05,
        **settings,
    )
    app = FastAPI()

    @app.get("/data")
    async def data() -> dict[str, int]:
        return {"data": 1}

    app.add_middleware(Paywall, payee=payee, routes={"GET /data": PRICE})
    agent = Agent(
        await chain.funded_wallet("$10"),
        budget=Budget(total="$5", per_request="$0.01"),
        network=chain.network,
        allow_private_networks=True,
    )
    async with serving(app) as url, agent:
        yield World(payee=payee, agent=agent, url=f"{url}/data", chain=chain)


async def _eventually(world: World, amount: int) -> None:
    for _ in range(600):
        if await world.earned() == amount:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"the payee has {await world.earned()}, not {amount}")


async def test_a_channel_is_claimed_and_settled_once_enough_is_due(
    agentpay_chain: LocalChain,
) -> None:
    async with a_world(agentpay_chain, claim_at=3 * PRICE) as world:
        await world.buy(2)
        await asyncio.sleep(0.5)
        assert await world.earned() == 0
        await world.buy(1)

        await _eventually(world, 3 * PRICE)


async def test_what_is_due_is_claimed_when_it_is_old_however_little(
    agentpay_chain: LocalChain,
) -> None:
    clock = Clock()
    async with a_world(
        agentpay_chain, claim_at="$1000", claim_every_seconds=3600, clock=clock
    ) as world:
        await world.buy(1)
        await asyncio.sleep(0.3)
        assert await world.earned() == 0
        clock.ahead += 3601

        await _eventually(world, PRICE)


async def test_no_restart_puts_off_a_claim_by_age(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    """A provider that is deployed anew more often than it claims gets its money."""
    chain, clock = agentpay_shared_chain, Clock()
    wallet, buyer = await chain.funded_wallet(0), await chain.funded_wallet(ether=0)
    store = f"sqlite:///{tmp_path}/payee.db"
    terms = {"store": store, "claim_at": "$1000", "withdraw_delay": 86400}
    earned: list[int] = []
    for _ in range(4):
        async with a_payee(chain, wallet=wallet, clock=clock, **terms) as payee:
            keeper = payee._running.keeper
            await keeper.stop()
            if not earned:
                payer, offer = HandPayer(buyer, payee.settings), terms_of(payee)
                header = await payer.funding(payer.config(), 5000, 1000, offer)
                await serve(await payee.answer(header, offer))
            await keeper.tick()
        earned.append(await chain.balance(wallet.address))
        clock.ahead += 1500

    assert earned == [0, 0, 0, 1000]


async def test_a_claim_by_age_that_waits_for_a_request_is_not_put_off(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain, clock = agentpay_shared_chain, Clock()
    terms = {"claim_at": "$1000", "withdraw_delay": 86400}
    async with a_payee(chain, clock=clock, **terms) as payee:
        keeper = payee._running.keeper
        await keeper.stop()
        await keeper.tick()
        payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
        config, metered = payer.config(tagged=False), Route(price=1000, metered=True)
        offer, cheap = terms_of(payee, metered), terms_of(payee, Route(price=500))
        header = await payer.funding(config, 5000, 1000, offer)
        await serve(await payee.answer(header, offer), charged=500)
        running = sold(
            await payee.answer(await payer.voucher(config, 1000, cheap), cheap)
        )
        clock.ahead += 3601
        await keeper.tick()
        waits = await chain.balance(payee.settings.pay_to)
        await running.abandon(charged=0, failed=True)
        await keeper.tick()

        assert waits == 0
        assert await chain.balance(payee.settings.pay_to) == 500


async def test_a_clock_that_is_set_back_delays_no_claim_by_age(
    agentpay_chain: LocalChain,
) -> None:
    clock = Clock()
    async with a_world(
        agentpay_chain, claim_at="$1000", claim_every_seconds=3600, clock=clock
    ) as world:
        await world.buy(1)
        clock.ahead -= 24 * 3600

        await _eventually(world, PRICE)
        await world.buy(1)
        assert await world.earned() == PRICE
        clock.ahead += 3601
        await _eventually(world, 2 * PRICE)


async def test_k5_a_started_withdrawal_is_answered_at_once(
    agentpay_chain: LocalChain,
) -> None:
    async with a_world(agentpay_chain, claim_at="$1000") as world:
        await world.buy(2)
        (record,) = await world.agent.channels()
        await world.agent.start_withdrawal(record.channel)
        for _ in range(600):
            await asyncio.sleep(0.05)
            settled = await world.payee.settlement.settle()
            if settled:
                break

        assert await world.earned() == 2 * PRICE


async def test_requests_in_flight_are_not_claimed_before_they_are_over(
    agentpay_chain: LocalChain,
) -> None:
    async with a_world(agentpay_chain, claim_at="$1000") as world:
        await world.buy(1)
        assert await world.payee.settlement.claim() == 1
        assert await world.payee.settlement.claim() == 0
        await world.buy(1)

        assert await world.payee.settlement.claim() == 1
        assert await world.payee.settlement.settle() == 2 * PRICE


async def test_what_a_dead_process_charged_is_claimed_though_nobody_comes_back(
    agentpay_chain: LocalChain,
) -> None:
    clock = Clock()
    async with a_world(
        agentpay_chain, claim_at="$1000", claim_every_seconds=60, clock=clock
    ) as world:
        await world.buy(1)
        (record,) = await world.agent.channels()
        store = world.payee._running.store.payee
        await world.buy(1)
        await _answered(store, record.channel)
        await store.update(record.channel, _died_at_the_last)
        await asyncio.sleep(0.5)
        assert await world.earned() == 0  # its own resend may come
        clock.ahead += 61

        await _eventually(world, 2 * PRICE)


async def _answered(store: PayeeStore, channel: Hash32) -> None:
    """Wait until it is written that all answers have left."""
    async with asyncio.timeout(15):
        while (record := await store.read(channel)) is None or record.ledger.running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def _died_at_the_last(record: PayeeRecord | None) -> PayeeStep[None]:
    """As if the process had died between the last answer and the end of its row."""
    assert record is not None
    ledger = record.ledger
    last = ledger.used[-1]
    left = Reservation(
        cumulative=last.cumulative,
        maximum=PRICE,
        charged=PRICE,
        prepaid=True,
        owner="dead",
        resource="GET /data",
    )
    used = (*ledger.used[:-1], replace(last, fate=Fate.RUNNING, charged=0))
    after = replace(ledger, running=(left,), used=used)
    return PayeeStep(
        record=replace(record, ledger=after), answer=None, touched=(last.cumulative,)
    )
