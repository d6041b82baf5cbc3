"""What was served before it was paid for is settled until that is known."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentpay.errors import StoreUnavailable, TransactionFailed
from agentpay.evm.transfer import Transfer
from agentpay.http.paywall import Paywall
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Order
from agentpay.ports import Settler
from agentpay.records import PaymentRecord, PaymentStatus, Settled
from agentpay.stores.memory import MemoryPayeeStore
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.bazaar import Listing
from agentpay.wire.x402 import PAYMENT_RESPONSE, parse_payment, parse_response
from agentpay.wire.x402_transfers import payment_id
from tests.http.world import BASE, PRICE, ROUTES, Shop, eventually, open_payee, through
from tests.payee.hand import EXACT_FIRST, HandPayer, terms_of

PATH = f"/exact/{Order.SERVE_FIRST}/ok"


class Customer:
    """Somebody with one payment, and the shop where it is made."""

    def __init__(self, payee: Payee, header: str) -> None:
        self.payee = payee
        self.shop = Shop()
        self.header = header
        self.id = payment_id(parse_payment(header), payee.asset)

    async def buy(self, path: str = PATH) -> httpx.Response:
        wall = Paywall(self.shop, payee=self.payee, routes=ROUTES)
        async with httpx.AsyncClient(transport=through(wall), base_url=BASE) as client:
            return await client.get(path, headers={"payment-signature": self.header})

    async def record(self) -> PaymentRecord | None:
        return await self.payee._running.store.payee.find_payment(self.id)

    async def tick(self) -> None:
        keeper = self.payee._running.keeper
        await keeper.stop()
        await keeper.tick()


async def a_customer(
    chain: LocalChain, payee: Payee, order: Order = Order.SERVE_FIRST, dollars: int = 0
) -> tuple[Customer, HandPayer]:
    wallet = await chain.funded_wallet(dollars or PRICE, ether=0)
    payer = HandPayer(wallet, payee.settings)
    terms = terms_of(payee, schemes=("exact",), order=order)
    return Customer(payee, await payer.transfer(terms)), payer


async def test_p10_what_was_served_while_the_chain_was_away_is_settled_later(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with FaultyRpc(chain.rpc_url) as rpc:
        payee = await open_payee(chain, rpc_url=rpc.url)
        await payee.start()
        customer, _ = await a_customer(chain, payee)
        rpc.plan("eth_estimateGas", Fault.UNAVAILABLE, times=1000)
        served = await customer.buy()
        before = await customer.record()
        await customer.tick()
        meanwhile = await customer.record()
        rpc.heal()
        await customer.tick()
        after = await customer.record()
        await customer.tick()
        await payee.stop()

    assert served.status_code == 200
    assert before is not None
    assert meanwhile is not None
    assert after is not None
    assert before.status is meanwhile.status is PaymentStatus.SERVED
    assert after.status is PaymentStatus.DELIVERED
    assert await chain.balance(payee.settings.pay_to) == PRICE


async def test_p10_what_was_served_before_a_crash_is_settled_after_it(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    async with FaultyRpc(chain.rpc_url) as rpc:
        options: dict[str, Any] = {"rpc_url": rpc.url, "store": str(tmp_path / "p.db")}
        payee = await open_payee(chain, **options)
        await payee.start()
        customer, _ = await a_customer(chain, payee)
        rpc.plan("eth_estimateGas", Fault.UNAVAILABLE, times=1000)
        await customer.buy()
        await payee.stop()
        rpc.heal()
        await payee.start()
        await customer.tick()
        after = await customer.record()
        await payee.stop()

    assert after is not None
    assert after.status is PaymentStatus.DELIVERED
    assert await chain.balance(payee.settings.pay_to) == PRICE


class Together:
    """A facilitator that settles so many transfers at once, or none of them."""

    def __init__(self, settler: Settler, count: int) -> None:
        self._settler = settler
        self._all_here = asyncio.Barrier(count)

    async def settle_transfer(
        self, transfer: Transfer, amount: int, *, listing: Listing | None = None
    ) -> Settled:
        await self._all_here.wait()
        return await self._settler.settle_transfer(transfer, amount, listing=listing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._settler, name)


async def test_k5_what_was_served_is_settled_at_once_and_holds_up_no_look_at_the_chain(
    agentpay_shared_chain: LocalChain,
) -> None:
    """One after the other, slow ones would have a withdrawal missed."""
    chain = agentpay_shared_chain
    async with FaultyRpc(chain.rpc_url) as rpc:
        payee = await open_payee(chain, rpc_url=rpc.url)
        await payee.start()
        customers = [(await a_customer(chain, payee))[0] for _ in range(3)]
        rpc.plan("eth_estimateGas", Fault.UNAVAILABLE, times=1000)
        for customer in customers:
            await customer.buy()
        rpc.heal()
        keeper = payee._running.keeper
        await keeper.stop()
        keeper._served._facilitator = Together(keeper._served._facilitator, 3)
        async with asyncio.timeout(20):
            await keeper.tick()
        records = [await customer.record() for customer in customers]
        await payee.stop()

    assert {r.status for r in records if r} == {PaymentStatus.DELIVERED}
    assert await chain.balance(payee.settings.pay_to) == 3 * PRICE


async def test_what_can_never_be_paid_is_given_up_once_it_has_expired(
    agentpay_chain: LocalChain,
) -> None:
    chain = agentpay_chain
    async with FaultyRpc(chain.rpc_url) as rpc:
        payee = await open_payee(chain, rpc_url=rpc.url)
        await payee.start()
        customer, payer = await a_customer(chain, payee)
        rpc.plan("eth_estimateGas", Fault.UNAVAILABLE, times=1000)
        await customer.buy()
        rpc.heal()
        elsewhere = Customer(payee, await payer.transfer(terms_of(payee, EXACT_FIRST)))
        await elsewhere.buy(f"/exact/{Order.SETTLE_FIRST}/ok")
        await customer.tick()
        early = await customer.record()
        await chain.node.increase_time(3600)
        await customer.tick()
        late = await customer.record()
        await payee.stop()

    assert early is not None
    assert late is not None
    assert (early.status, late.status) == (PaymentStatus.SERVED, PaymentStatus.FAILED)


@pytest.mark.parametrize("order", [Order.RESERVE, Order.SETTLE_FIRST])
async def test_p13_a_payment_that_was_refused_leaves_nothing_in_the_books(
    agentpay_shared_chain: LocalChain, order: Order
) -> None:
    chain = agentpay_shared_chain
    payee = await open_payee(chain)
    await payee.start()
    customer, _ = await a_customer(chain, payee, order, dollars=PRICE - 1)
    refused = await customer.buy(f"/exact/{order}/ok")
    nothing = await customer.record()
    await payee.stop()

    assert refused.status_code == 402
    assert nothing is None


class Jammed(MemoryPayeeStore):
    """A store that cannot book some things, for a while."""

    jammed = True

    def __init__(self, *statuses: PaymentStatus) -> None:
        super().__init__()
        self._statuses = statuses

    async def finish_payment(
        self, payment_id: str, *, status: PaymentStatus, **said: Any
    ) -> bool:
        if self.jammed and status in self._statuses:
            raise StoreUnavailable("nothing was saved: the disk is full")
        return await super().finish_payment(payment_id, status=status, **said)


@pytest.mark.parametrize("order", [Order.RESERVE, Order.SETTLE_FIRST])
async def test_f1_what_was_settled_and_not_booked_is_unknown_and_then_found(
    agentpay_shared_chain: LocalChain, order: Order
) -> None:
    chain = agentpay_shared_chain
    payee = await open_payee(chain)
    await payee.start()
    works, store = payee._running, Jammed(PaymentStatus.SETTLED)
    works.transfers._store = store
    customer, _ = await a_customer(chain, payee, order)
    path = f"/exact/{order}/ok"
    unknown = await customer.buy(path)
    moved = await chain.balance(payee.settings.pay_to)
    store.jammed = False
    again = await customer.buy(path)
    await payee.stop()

    receipt = parse_response(unknown.headers[PAYMENT_RESPONSE])
    assert unknown.status_code == 503
    assert receipt.error_reason == "settlement_pending"
    assert receipt.transaction.startswith("0x")
    assert again.status_code == 200
    assert moved == await chain.balance(payee.settings.pay_to) == PRICE


async def test_p1_what_has_left_buys_nothing_more_before_it_is_booked(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payee = await open_payee(chain)
    await payee.start()
    store = Jammed(PaymentStatus.SERVED, PaymentStatus.DELIVERED)
    payee._running.transfers._store = store
    customer, _ = await a_customer(chain, payee)
    served = await customer.buy()
    await customer.buy()
    store.jammed = False

    async def booked() -> bool:
        known = await store.find_payment(customer.id)
        return known is not None and known.status is PaymentStatus.DELIVERED

    await eventually(booked)
    await payee.stop()

    assert served.status_code == 200
    assert customer.shop.begun[PATH] == 1
    assert await chain.balance(payee.settings.pay_to) == PRICE


class Gated:
    """A facilitator that settles once it may."""

    def __init__(self, settler: Settler) -> None:
        self._settler = settler
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()

    async def settle_transfer(
        self, transfer: Transfer, amount: int, *, listing: Listing | None = None
    ) -> Settled:
        self.begun.set()
        await self.gate.wait()
        return await self._settler.settle_transfer(transfer, amount, listing=listing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._settler, name)


async def test_p10_who_is_cancelled_while_it_is_paid_is_paid(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payee = await open_payee(chain)
    await payee.start()
    transfers = payee._running.transfers
    gated = Gated(transfers._facilitator)
    transfers._facilitator = gated
    customer, _ = await a_customer(chain, payee)
    asked = asyncio.create_task(customer.buy())
    await gated.begun.wait()
    asked.cancel()
    await asyncio.sleep(0.05)  # it is cut short before it may be settled
    gated.gate.set()
    await asyncio.gather(asked, return_exceptions=True)

    async def paid() -> bool:
        known = await customer.record()
        return known is not None and known.status is PaymentStatus.DELIVERED

    await eventually(paid)
    await payee.stop()
    assert await chain.balance(payee.settings.pay_to) == PRICE


async def test_p10_what_was_sent_once_and_cannot_be_looked_up_counts_as_served(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with FaultyRpc(chain.rpc_url) as rpc:
        payee = await open_payee(chain, rpc_url=rpc.url)
        await payee.start()
        customer, _ = await a_customer(chain, payee)
        transfers = payee._running.transfers
        transfers._facilitator = Refusing(transfers._facilitator, rpc)
        transfers._perhaps.add(customer.id)
        served = await customer.buy()
        known = await customer.record()
        rpc.heal()
        await customer.tick()
        after = await customer.record()
        await payee.stop()

    assert served.status_code == 200
    assert known is not None
    assert after is not None
    assert known.status is PaymentStatus.SERVED
    assert after.status is PaymentStatus.DELIVERED


class Refusing:
    """A facilitator that refuses what it settles, as the chain goes away."""

    def __init__(self, settler: Settler, rpc: FaultyRpc) -> None:
        self._settler = settler
        self._rpc = rpc

    async def settle_transfer(
        self, transfer: Transfer, amount: int, *, listing: Listing | None = None
    ) -> Settled:
        del amount, listing
        self._rpc.plan("eth_getBlockByNumber", Fault.UNAVAILABLE, times=1000)
        raise TransactionFailed(transfer.id, reason="it was used")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._settler, name)


async def test_what_cost_nothing_is_over_and_sent_to_no_chain(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payee = await open_payee(chain)
    await payee.start()
    store = payee._running.store.payee
    nothing = PaymentRecord(
        id="1:transfer:1",
        payer=payee.settings.pay_to,
        amount=PRICE,
        resource="GET /s",
        owner=store.owner,
        started_at=1,
        good_until=0,
        request="what nobody reads",
        status=PaymentStatus.SERVED,
    )
    await store.begin_payment(nothing)
    await payee._running.keeper.stop()
    await payee._running.keeper.tick()
    found = await store.find_payment(nothing.id)
    await payee.stop()

    assert found is not None
    assert found.status is PaymentStatus.DELIVERED
    assert (found.charged, found.transaction) == (0, "")
