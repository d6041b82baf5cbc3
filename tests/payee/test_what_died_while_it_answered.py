"""
A provider that is served first and paid after dies in between: what is due is settled.

What was surely not served is never charged.
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Order, Route, Terms
from agentpay.payee.sales import Sale
from agentpay.records import PaymentRecord, PaymentStatus
from agentpay.stream_errors import StreamLost
from agentpay.testing.local_chain import LocalChain
from tests.http.world import PRICE, open_payee
from tests.keeper.test_settlement_triggers import Clock
from tests.payee.hand import HandPayer, refused, serve, sold, terms_of
from tests.payee.test_selling_by_permit2 import a_payer

LATER = 61
EXACT = Route(price=PRICE, schemes=("exact",), order=Order.SERVE_FIRST)
UPTO = Route(price=PRICE, metered=True, schemes=("upto",), order=Order.SERVE_FIRST)


class World:
    """A payee over a file, one payment to it, and what became of that."""

    def __init__(self, chain: LocalChain, payee: Payee, clock: Clock) -> None:
        self.chain = chain
        self.payee = payee
        self.clock = clock
        self.terms: Terms
        self.header = ""
        self.key = ""

    async def sell(self) -> Sale:
        sale = sold(await self.payee.answer(self.header, self.terms))
        self.key = sale._purchase.record.id  # type: ignore[attr-defined]
        return sale

    async def die(self) -> None:
        """Whoever was at work does no more."""
        await self.payee.stop()
        await self.payee.start()

    async def tick(self, *, ahead: float = 0) -> None:
        self.clock.ahead += ahead
        keeper = self.payee._running.keeper
        await keeper.stop()
        await keeper.tick()

    async def record(self) -> PaymentRecord:
        found = await self.payee._running.store.payee.find_payment(self.key)
        assert found is not None
        return found

    async def earned(self) -> int:
        return await self.chain.balance(self.payee.settings.pay_to)


@contextlib.asynccontextmanager
async def a_world(
    chain: LocalChain, directory: Path, route: Route = EXACT
) -> AsyncIterator[World]:
    clock = Clock()
    payee = await open_payee(chain, store=str(directory / "payee.db"), clock=clock)
    await payee.start()
    world = World(chain, payee, clock)
    world.terms = terms_of(payee, route)
    if route is EXACT:
        payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
        world.header = await payer.transfer(world.terms)
    else:
        payer = await a_payer(chain, payee)
        world.header = await payer.permit2(world.terms, scheme="upto")
    try:
        yield world
    finally:
        await payee.stop()


async def test_p10_what_died_while_it_answered_is_settled_by_the_keeper(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    async with a_world(agentpay_shared_chain, tmp_path) as world:
        await (await world.sell()).commit(PRICE)
        await world.die()
        await world.tick()
        early = await world.record()  # its own resend may still come
        await world.tick(ahead=LATER)
        late = await world.record()

        assert early.status is PaymentStatus.ANSWERING
        assert late.status is PaymentStatus.DELIVERED
        assert (late.charged, await world.earned()) == (PRICE, PRICE)


async def test_what_died_before_it_answered_is_never_charged(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    async with a_world(agentpay_shared_chain, tmp_path) as world:
        await world.sell()
        await world.die()
        await world.tick(ahead=10 * LATER)

        assert (await world.record()).status is PaymentStatus.STARTED
        assert await world.earned() == 0


async def test_p10_its_own_resend_is_answered_and_paid_once(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    async with a_world(agentpay_shared_chain, tmp_path) as world:
        await (await world.sell()).commit(PRICE)
        await world.die()
        await serve(await world.sell())
        await world.tick(ahead=LATER)
        again = refused(await world.payee.answer(world.header, world.terms))

        assert again.status == 409
        assert await world.earned() == PRICE


async def test_p1_what_is_answered_and_due_is_not_sold_again_by_who_answered_it(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    """Though nobody is at it any more: it may have left."""
    async with a_world(agentpay_shared_chain, tmp_path) as world:
        sale = await world.sell()
        await sale.commit(PRICE)
        world.payee._running.transfers.release(sale._purchase)  # type: ignore[attr-defined]
        again = refused(await world.payee.answer(world.header, world.terms))

        assert again.status == 409


async def test_p10_a_resend_that_fails_leaves_due_what_may_have_been_answered(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    async with a_world(agentpay_shared_chain, tmp_path) as world:
        await (await world.sell()).commit(PRICE)
        await world.die()
        said = await (await world.sell()).abandon(charged=0, failed=True)
        await world.tick()

        assert said
        assert (await world.record()).status is PaymentStatus.DELIVERED
        assert await world.earned() == PRICE


async def test_what_fails_and_was_never_answered_is_never_charged(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    async with a_world(agentpay_shared_chain, tmp_path) as world:
        await world.sell()
        await world.die()
        await (await world.sell()).abandon(charged=0, failed=True)
        await world.tick(ahead=LATER)

        assert (await world.record()).status is PaymentStatus.FAILED
        assert await world.earned() == 0


@pytest.mark.parametrize(("used", "again", "paid"), [(300, 100, 300), (0, 700, 700)])
async def test_p10_a_metered_answer_costs_no_less_after_a_crash(
    agentpay_shared_chain: LocalChain,
    tmp_path: Path,
    used: int,
    again: int,
    paid: int,
) -> None:
    async with a_world(agentpay_shared_chain, tmp_path, UPTO) as world:
        await (await world.sell()).commit(used)
        await world.die()
        await serve(await world.sell(), again)

        assert (await world.record()).charged == paid
        assert await world.earned() == paid


@pytest.mark.parametrize("drawn", [[], [200], [200, 500]])
async def test_p10_of_a_stream_that_died_what_was_drawn_is_settled(
    agentpay_shared_chain: LocalChain, tmp_path: Path, drawn: list[int]
) -> None:
    async with a_world(agentpay_shared_chain, tmp_path, UPTO) as world:
        stream = (await world.sell()).stream
        assert stream is not None
        await stream.begin()
        for charged in drawn:
            assert await stream.draw(charged) == charged
        await world.die()
        await world.tick(ahead=LATER)

        assert await world.earned() == max(drawn, default=0)


async def test_a_stream_that_was_taken_over_draws_no_more(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    async with a_world(agentpay_shared_chain, tmp_path, UPTO) as world:
        stream = (await world.sell()).stream
        assert stream is not None
        await stream.draw(200)
        store = world.payee._running.store.payee
        assert await store.take_payment(world.key, owner="another")

        with pytest.raises(StreamLost):
            await stream.draw(400)
        assert (await world.record()).charged == 200
