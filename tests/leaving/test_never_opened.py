"""What was to be opened and never was can be closed, once it cannot be opened."""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from urllib.parse import urlsplit

import pytest

from agentpay import Policy
from agentpay.core.payer_channel import PayerStatus
from agentpay.errors import ChannelUnusable, PaymentOutcomeUnknown
from agentpay.testing.faulty_http import FaultyHttp, HttpFault

from .world import World, a_session_world, a_world


@pytest.mark.parametrize(
    ("open_world", "prefer", "header"),
    [
        (a_world, "batch-settlement", "payment-signature"),
        (a_session_world, "session", "authorization"),
    ],
    ids=["channel", "session"],
)
async def test_what_was_never_opened_is_closed_once_it_cannot_be(
    open_world: Callable[[], AbstractAsyncContextManager[World]],
    prefer: str,
    header: str,
) -> None:
    quick, ahead = Policy(prefer=(prefer,), give_up_seconds=1), 0.0
    async with open_world() as world:
        shop = urlsplit(world.url)
        async with (
            FaultyHttp(f"{shop.scheme}://{shop.netloc}") as faulty,
            world.agent(policy=quick, clock=lambda: time.time() + ahead) as agent,
        ):
            faulty.plan(HttpFault.REQUEST_DROPPED, times=1000, header=header)
            with pytest.raises(PaymentOutcomeUnknown):
                await agent.get(faulty.url + shop.path)
            (record,) = await agent.channels()
            with pytest.raises(ChannelUnusable):
                await agent.close_channel(record.channel)
            (still,) = await agent.channels()
            ahead = 24 * 3600.0
            await world.chain.node.increase_time(24 * 3600)
            closed = await agent.close_channel(record.channel)
            (left,) = await agent.channels()
            spending = await agent.spending()

    assert still.ledger.status is not PayerStatus.CLOSED
    assert (closed.spent, closed.returned, closed.transaction) == (0, 0, "")
    assert left.ledger.status is PayerStatus.CLOSED
    assert (spending.spent, spending.held, spending.deposited) == (0, 0, 0)
