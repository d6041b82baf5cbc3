"""The budget is reserved before anything is signed, however many ask at once."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentpay import Agent, Budget, Policy, Wallet
from agentpay.errors import BudgetExceeded, NoAcceptableOffer
from agentpay.http.paywall import Paywall
from agentpay.payee.pricing import Order, Route
from agentpay.testing.local_chain import LocalChain
from agentpay.types import ChainId
from tests.http.world import BASE, PRICE, QUICK, Wire, a_shop, an_agent, through

CENT = 10**16
EXACT = BASE + f"/exact/{Order.RESERVE}/ok"


class SpyWallet(Wallet):
    """Notes what its agent's books said when a signature was asked for."""

    __slots__ = ("agent", "seen")
    agent: Agent
    seen: list[tuple[int, int]]

    async def sign_digest(self, digest: bytes, *, chain: ChainId) -> bytes:
        ledger = self.agent.payer.ledger
        budget = await ledger.store.budget(ledger.account)
        records = await ledger.store.channels(ledger.account)
        exposure = max((r.ledger.highest for r in records), default=0)
        self.seen.append((budget.exposure, exposure))
        return await super().sign_digest(digest, chain=chain)


async def a_spy(chain: LocalChain) -> SpyWallet:
    wallet = SpyWallet.create()
    wallet.seen = []
    await chain.fund(wallet.address, "$100")
    return wallet


async def seen_in_two_requests(
    chain: LocalChain, store: str, url: str
) -> list[tuple[int, int]]:
    async with a_shop(chain) as (_, _, wall):
        spy = await a_spy(chain)
        agent = await an_agent(chain, through(wall), wallet=spy, store=store)
        spy.agent = agent
        async with agent:
            await agent.get(url)
            await agent.get(url)
    return spy.seen


@pytest.mark.parametrize("durable", [False, True])
async def test_c9_the_budget_is_reserved_before_a_transfer_is_signed(
    agentpay_shared_chain: LocalChain, tmp_path: Path, durable: bool
) -> None:
    store = str(tmp_path / "agent.db") if durable else "memory:"
    seen = await seen_in_two_requests(agentpay_shared_chain, store, EXACT)

    assert [exposure for exposure, _ in seen] == [CENT // 10, CENT // 5]


@pytest.mark.parametrize("durable", [False, True])
async def test_c9_deposit_and_voucher_are_recorded_before_they_are_signed(
    agentpay_shared_chain: LocalChain, tmp_path: Path, durable: bool
) -> None:
    store = str(tmp_path / "agent.db") if durable else "memory:"
    seen = await seen_in_two_requests(agentpay_shared_chain, store, BASE + "/ok")

    ten = 10 * CENT
    assert seen == [(ten, PRICE), (ten, PRICE), (ten, 2 * PRICE)]


@pytest.mark.parametrize("path", [EXACT, BASE + "/ok"])
@pytest.mark.parametrize("durable", [False, True])
async def test_c9_of_two_hundred_at_once_the_budget_pays_twenty(
    agentpay_shared_chain: LocalChain, tmp_path: Path, path: str, durable: bool
) -> None:
    store = str(tmp_path / "agent.db") if durable else "memory:"
    budget = Budget(total=20 * PRICE, per_request=PRICE)
    policy = Policy(give_up_seconds=30)  # a slow machine is not what is tested
    async with a_shop(agentpay_shared_chain) as (shop, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(
            agentpay_shared_chain, wire, budget=budget, policy=policy, store=store
        ) as agent:
            asked = [agent.get(path) for _ in range(200)]
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            spending = await agent.spending()

    counts = Counter(type(outcome).__name__ for outcome in outcomes)
    assert counts == {"BudgetExceeded": 180, "Response": 20}
    assert len(set(wire.credentials)) == 20
    assert sum(shop.begun.values()) == 20
    assert str(spending) == "$0.02 spent, $0 deposited, $0 held"


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        ({"total": PRICE - 1, "per_request": PRICE}, "total"),
        ({"total": "$1", "per_request": PRICE - 1}, "per-request"),
        (
            {"total": "$1", "per_request": PRICE, "per_host": PRICE - 1},
            "per-host (shop.example)",
        ),
    ],
)
@pytest.mark.parametrize("path", [EXACT, BASE + "/ok"])
async def test_c1_every_limit_refuses_before_anything_is_signed(
    agentpay_shared_chain: LocalChain, limits: dict[str, Any], limit: str, path: str
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, _, wall):
        spy = await a_spy(agentpay_shared_chain)
        agent = await an_agent(
            agentpay_shared_chain, through(wall), wallet=spy, budget=Budget(**limits)
        )
        spy.agent = agent
        async with agent:
            with pytest.raises(BudgetExceeded) as refused:
                await agent.get(path)
            spending = await agent.spending()

    assert refused.value.limit == limit
    assert not spy.seen
    assert not shop.begun
    assert str(spending) == "$0 spent, $0 deposited, $0 held"


async def test_c9_the_budget_survives_a_restart(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    store, budget = str(tmp_path / "agent.db"), Budget(total=PRICE, per_request=PRICE)
    wallet = await chain.funded_wallet(ether=0)
    async with a_shop(chain) as (_, _, wall):
        for works in (True, False):
            agent = await an_agent(
                chain, through(wall), wallet=wallet, budget=budget, store=store
            )
            async with agent:
                if works:
                    await agent.get(EXACT)
                    continue
                with pytest.raises(BudgetExceeded):
                    await agent.get(EXACT)


async def test_a_price_above_the_headroom_is_paid_by_transfer_or_refused(
    agentpay_shared_chain: LocalChain,
) -> None:
    policy = Policy(deposit="$0.1", headroom="$0.01")
    async with a_shop(agentpay_shared_chain) as (shop, payee, _):
        routes = {
            "/both": Route(price="$0.02"),
            "/channel": Route(price="$0.02", schemes=("batch-settlement",)),
        }
        wall = Paywall(shop, payee=payee, routes=routes)
        async with await an_agent(
            agentpay_shared_chain, through(wall), policy=policy
        ) as agent:
            await agent.get(BASE + "/both")
            with pytest.raises(NoAcceptableOffer, match="signs ahead"):
                await agent.get(BASE + "/channel")
            channels = await agent.channels()
            spending = await agent.spending()

    assert not channels
    assert str(spending) == "$0.02 spent, $0 deposited, $0 held"


async def test_c1_a_ramp_of_prices_ends_at_the_limit_for_one_request(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, _):
        routes = {f"/{n}": PRICE + PRICE * n // 10 for n in range(20)}
        wall = Paywall(shop, payee=payee, routes=routes)
        budget = Budget(total="$1", per_request=PRICE * 3 // 2)
        async with await an_agent(
            agentpay_shared_chain, through(wall), budget=budget, policy=QUICK
        ) as agent:
            for n in range(6):
                await agent.get(BASE + f"/{n}")
            with pytest.raises(BudgetExceeded):
                await agent.get(BASE + "/6")

    assert sum(shop.begun.values()) == 6


async def test_money_whose_signature_expired_may_be_spent_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    budget = Budget(total=PRICE, per_request=PRICE)
    ahead = 0.0

    def clock() -> float:
        return now + ahead

    async with a_shop(chain) as (shop, _, wall):
        wire = Wire(through(wall))
        wire.lose_requests = 10_000
        head = await chain.node.rpc("eth_getBlockByNumber", "latest", False)
        now = float(int(head["timestamp"], 16)) - 10_000
        policy = Policy(give_up_seconds=0.3)
        async with await an_agent(
            chain, wire, budget=budget, policy=policy, clock=clock
        ) as agent:
            with pytest.raises(Exception, match="is unknown"):
                await agent.get(EXACT)
            with pytest.raises(BudgetExceeded):
                await agent.get(EXACT + "?other=1")
            ahead = 10_000.0
            wire.lose_requests = 0
            answer = await agent.get(EXACT + "?other=1")

    assert answer.status_code == 200
    assert sum(shop.begun.values()) == 1
