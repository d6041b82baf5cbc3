"""A request whose first copy may be served, and whose second is refused."""

import asyncio
from dataclasses import replace

import httpx
import pytest

from agentpay import Agent
from agentpay.errors import AgentPayError, PaymentOutcomeUnknown
from agentpay.testing.local_chain import LocalChain
from agentpay.types import format_money
from tests.http.world import (
    BASE,
    PRICE,
    Wire,
    a_shop,
    an_agent,
    eventually,
    through,
    until,
)
from tests.payer.books import charged, none_open, spent
from tests.payer.test_lanes import EXACTLESS, ONE_LANE, official
from tests.payer.test_strict_totals import asks, payload_of

POLICY = replace(ONE_LANE, give_up_seconds=3)
EXACT = BASE + "/exact/reserve-then-settle/ok"


class RefusesCopies(Wire):
    """
    Loses the connection of a first copy, and gives the second the answer of who did not
    pay: as a server does whose facilitator cannot verify twice, or that sells anew.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        super().__init__(inner)
        self.refuses = False
        self.first: httpx.Request | None = None
        self.late = False
        """Whether the first copy comes after the second."""
        self.served = set[asyncio.Task[httpx.Response]]()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not self.refuses or not payload_of(request) or asks(request):
            return await super().handle_async_request(request)
        if self.first is None:
            self.first = request
            if not self.late:
                await self.serve()
            raise httpx.ReadError("planned", request=request)
        self.refuses = False
        bare = httpx.Request(request.method, request.url)
        return await self.inner.handle_async_request(bare)

    async def serve(self) -> None:
        """Have the first copy come, and look at it for a while."""
        assert self.first is not None
        task = asyncio.create_task(self.inner.handle_async_request(self.first))
        self.served.add(task)
        await asyncio.wait([task], timeout=1)

    async def lose(self, agent: Agent, url: str) -> None:
        self.refuses, self.first = True, None
        with pytest.raises(AgentPayError):
            await agent.get(url)


@pytest.mark.parametrize("deposits", [True, False])
async def test_c8_a_lane_stays_taken_while_a_request_runs_whose_copy_was_refused(
    agentpay_shared_chain: LocalChain, *, deposits: bool
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        wire = RefusesCopies(through(official(wall)))
        async with await an_agent(agentpay_shared_chain, wire, policy=POLICY) as agent:
            if not deposits:
                assert (await agent.get(EXACTLESS)).status_code == 200
            wire.refuses = True
            with pytest.raises(PaymentOutcomeUnknown):
                await agent.get(BASE + "/slow")
            assert shop.begun["/slow"] == 1
            assert not await none_open(agent)
            shop.gate.set()
            await until(lambda: all(task.done() for task in wire.served))
            await eventually(lambda: none_open(agent))

            assert (await agent.get(EXACTLESS)).status_code == 200
            assert await spent(agent) == await charged(payee, agent)
            assert len(await agent.channels()) == 1


@pytest.mark.parametrize("strict", [True, False])
async def test_c15_a_lost_answer_is_one_lapse_and_no_second_where_a_copy_was_refused(
    agentpay_shared_chain: LocalChain, *, strict: bool
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, payee, wall):
        wire = RefusesCopies(through(official(wall) if strict else wall))
        async with await an_agent(agentpay_shared_chain, wire, policy=POLICY) as agent:
            assert (await agent.get(EXACTLESS)).status_code == 200
            for _ in range(2):
                await wire.lose(agent, EXACTLESS)
                await eventually(lambda: none_open(agent))
            assert (await agent.get(EXACTLESS)).status_code == 200
            assert await spent(agent) == await charged(payee, agent)


async def test_c15_a_lost_transfer_is_one_lapse_and_no_second_where_a_copy_was_refused(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = RefusesCopies(through(wall))
        wire.late = True
        policy = replace(POLICY, prefer=("exact",))
        async with await an_agent(agentpay_shared_chain, wire, policy=policy) as agent:
            for number in range(2):
                await wire.lose(agent, f"{EXACT}?number={number}")
                await wire.serve()
                await agent.payer.resolve()
            assert (await agent.get(EXACT)).status_code == 200
            total = (await agent.spending()).spent

    assert format_money(total, 18) == format_money(3 * PRICE, 6)
