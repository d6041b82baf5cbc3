"""A store that takes nothing for a while: what was sold is closed once it does."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentpay.errors import StoreClosed, StoreUnavailable
from agentpay.payee.answers import KEEP_ANSWERS, Answers
from agentpay.payee.closings import Closings
from agentpay.payee.pricing import Order
from agentpay.payee.sales import Refusal
from agentpay.payee.transfer_sale import TransferSale
from agentpay.payee.transfer_sales import TransferSales
from agentpay.records import AnswerRecord, PaymentStatus
from agentpay.stores.memory import MemoryPayeeStore
from agentpay.types import ChainId

from .test_payments_that_two_answer import PRICE, SETTINGS, Purse, Two

PAID_FIRST = [Order.SETTLE_FIRST, Order.RESERVE]


class FullStore(MemoryPayeeStore):
    """Can be read, and not be written while it is full."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.finished = asyncio.Event()
        """Whether it was ever said what became of a payment."""

    async def finish_payment(self, payment_id: str, **changes: Any) -> bool:
        self._write()
        self.finished.set()
        return await super().finish_payment(payment_id, **changes)

    async def keep_answer(self, answer: AnswerRecord, *, durable: bool) -> None:
        self._write()
        await super().keep_answer(answer, durable=durable)

    def _write(self) -> None:
        if self.full:
            raise StoreUnavailable("nothing was saved: the disk is full")


class Stall:
    """Sells for one payment, from a store that may be full."""

    def __init__(self, order: Order) -> None:
        self.store = FullStore()
        self.purse = Purse()
        self.terms = replace(Two._terms_of("exact"), order=order)
        nobody: object = None
        self.sales = TransferSales(
            settings=SETTINGS,
            chain=nobody,  # type: ignore[arg-type]
            facilitator=nobody,  # type: ignore[arg-type]
            store=self.store,
            clock=lambda: 1.0,
        )

    async def sell(self) -> TransferSale | Refusal:
        return await self.sales.sell(self.purse, "exact", self.terms)

    async def status(self) -> PaymentStatus:
        record = await self.store.find_payment(self.purse.id)
        assert record is not None
        return record.status


def _sold(outcome: object) -> TransferSale:
    assert isinstance(outcome, TransferSale)
    return outcome


@pytest.mark.parametrize("order", PAID_FIRST)
async def test_p1_what_left_is_not_sold_again_before_that_is_written(
    order: Order,
) -> None:
    stall = Stall(order)
    sale = _sold(await stall.sell())
    assert isinstance(await sale.commit(PRICE), str)
    stall.store.full = True
    with pytest.raises(StoreUnavailable):
        await sale.delivered()
    meanwhile = await stall.sell()
    stall.store.full = False
    returned = await stall.sell()
    await sale.delivered()
    after = await stall.sell()

    assert [type(x) for x in (meanwhile, returned, after)] == [Refusal] * 3
    assert await stall.status() is PaymentStatus.DELIVERED
    assert stall.purse.moved == [PRICE]


async def test_p10_what_is_given_up_is_not_sold_again_before_that_is_written() -> None:
    """Else it would be void while its own resend runs, or has been answered."""
    stall = Stall(Order.RESERVE)
    sale = _sold(await stall.sell())
    stall.store.full = True
    with pytest.raises(StoreUnavailable):
        await sale.abandon(charged=0, failed=True)
    assert isinstance(await stall.sell(), Refusal)
    stall.store.full = False
    await sale.abandon(charged=0, failed=True)

    assert await stall.status() is PaymentStatus.FAILED
    assert stall.purse.moved == []


async def test_p10_what_cannot_be_named_is_given_back_later() -> None:
    stall = Stall(Order.RESERVE)
    answers = Answers(
        policy=KEEP_ANSWERS, chain=ChainId(1), store=stall.store, clock=lambda: 1.0
    )

    async def sell() -> TransferSale:
        sale = _sold(await stall.sell())
        stall.store.full = True
        return sale

    with pytest.raises(StoreUnavailable):
        await answers.once("a name of it", b"hash", stall.terms, sell)
    assert await stall.status() is PaymentStatus.STARTED
    stall.store.full = False
    await asyncio.wait_for(stall.store.finished.wait(), 10)

    assert await stall.status() is PaymentStatus.FAILED


async def test_what_cannot_be_closed_now_is_closed_later() -> None:
    closed, tried = asyncio.Event(), 0

    async def close() -> None:
        nonlocal tried
        tried += 1
        if tried == 1:
            raise StoreUnavailable("nothing was saved: the disk is full")
        closed.set()

    closings = Closings()
    await closings.close(close)
    assert not closed.is_set()
    await asyncio.wait_for(closed.wait(), 10)

    assert tried == 2


async def test_nothing_is_closed_in_a_store_that_is_closed_itself() -> None:
    over = asyncio.Event()

    async def close() -> None:
        if closings._tasks:
            (task,) = closings._tasks
            task.add_done_callback(lambda _: over.set())
        raise StoreClosed("the store is closed")

    closings = Closings()
    await closings.close(close)
    await asyncio.wait_for(over.wait(), 10)

    assert not closings._tasks
