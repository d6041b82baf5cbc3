"""A chain may take back what was paid: large transfers are waited for."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest

from agentpay import Finality
from agentpay.payee.pricing import Order, Route
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.x402 import PAYMENT_RESPONSE, parse_response
from tests import young_chain
from tests.http.test_answers_told_again import HEADER, Visit
from tests.http.world import EXACT_ONLY, PRICE, eventually, until
from tests.payee.hand import HandPayer, terms_of

agentpay_chain = young_chain.agentpay_chain

DEPTH = 400
WAITED_FOR = Finality(confirmations=DEPTH, above=PRICE - 1)
AT_ONCE = Finality(confirmations=DEPTH, above=PRICE)
BEFORE = [Order.RESERVE, Order.SETTLE_FIRST]


class Buyer:
    """Asks for one thing with one payment, as often as it likes."""

    def __init__(self, visit: Visit, headers: dict[str, str]) -> None:
        self.visit = visit
        self._headers = headers

    async def ask(self) -> httpx.Response:
        return await self.visit.client.get("/data", headers=self._headers)

    async def block(self) -> int:
        return int(await self.visit.chain.node.rpc("eth_blockNumber"), 16)

    async def is_paid(self) -> bool:
        paid = await self.visit.chain.balance(self.visit.payee.settings.pay_to)
        return paid == PRICE

    async def booked(self) -> None:
        """Wait until the money has moved, and its payee knows it."""
        await eventually(self.is_paid)
        in_flight = self.visit.payee._running.sender._in_flight
        await until(lambda: not in_flight._flights)


@asynccontextmanager
async def a_buyer(
    chain: LocalChain, order: Order, finality: Finality
) -> AsyncGenerator[Buyer]:
    async with Visit(chain, "exact", order=order, finality=finality) as visit:
        payer = HandPayer(await chain.funded_wallet(ether=0), visit.payee.settings)
        route = Route(price=PRICE, schemes=EXACT_ONLY, order=order)
        terms = terms_of(visit.payee, route, resource="GET /data")
        yield Buyer(visit, {HEADER: await payer.transfer(terms)})


@pytest.mark.parametrize("order", BEFORE)
async def test_f9_a_large_transfer_buys_once_it_is_deep(
    agentpay_chain: LocalChain, order: Order
) -> None:
    async with a_buyer(agentpay_chain, order, WAITED_FOR) as buyer:
        asking = asyncio.create_task(buyer.ask())
        await buyer.booked()
        early, _ = await asyncio.wait([asking], timeout=1.5)
        await agentpay_chain.node.mine(DEPTH)
        answer = await asking

        assert not early
        assert answer.status_code == 201
        assert parse_response(answer.headers[PAYMENT_RESPONSE]).success


@pytest.mark.parametrize("order", BEFORE)
async def test_f9_a_large_transfer_that_a_chain_takes_back_has_bought_nothing_yet(
    agentpay_chain: LocalChain, order: Order
) -> None:
    chain = agentpay_chain
    async with a_buyer(chain, order, WAITED_FOR) as buyer:
        before = await buyer.block()
        asking = asyncio.create_task(buyer.ask())
        await buyer.booked()
        await chain.node.reorg(after=before)
        unknown = await asking  # Anvil needs a moment to turn back
        still = await buyer.is_paid()
        again = asyncio.create_task(buyer.ask())
        await buyer.booked()
        await chain.node.mine(DEPTH)
        answer = await again

        assert (still, unknown.status_code, answer.status_code) == (False, 503, 201)
        assert buyer.visit.oracle.asked == 1
        assert await buyer.is_paid()


async def test_f9_what_was_settled_before_and_is_not_deep_buys_nothing_yet(
    agentpay_chain: LocalChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentpay.payee.finality._DEEP_WITHIN_SECONDS", 0.2)
    async with a_buyer(agentpay_chain, Order.RESERVE, WAITED_FOR) as buyer:
        answers = [await buyer.ask() for _ in range(2)]
        await agentpay_chain.node.mine(DEPTH)
        answers.append(await buyer.ask())
        answers.append(await buyer.ask())

        assert [a.status_code for a in answers] == [503, 503, 201, 409]
        assert buyer.visit.oracle.asked == 1


@pytest.mark.parametrize(
    ("order", "finality"),
    [(Order.RESERVE, AT_ONCE), (Order.SERVE_FIRST, WAITED_FOR)],
)
async def test_what_is_small_or_served_first_waits_for_no_block(
    agentpay_chain: LocalChain, order: Order, finality: Finality
) -> None:
    async with a_buyer(agentpay_chain, order, finality) as buyer:
        async with asyncio.timeout(10):
            answer = await buyer.ask()

        assert answer.status_code == 201
