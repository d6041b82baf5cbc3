"""`exact` behind the paywall: one signature, one transfer, one answer."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentpay import PaymentOutcomeUnknown
from agentpay.errors import PaymentRejected
from agentpay.http.paywall import Paywall
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Order
from agentpay.payee.transfer_sale import TransferSale
from agentpay.records import PaymentStatus
from agentpay.stores.memory import MemoryPayeeStore
from agentpay.testing.faulty_rpc import FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.x402 import (
    PAYMENT_RESPONSE,
    ExactPayload,
    parse_payment,
    parse_response,
)
from agentpay.wire.x402_transfers import read_transfer
from tests.http.world import (
    BASE,
    PRICE,
    ROUTES,
    Shop,
    Wire,
    a_shop,
    an_agent,
    called,
    clear,
    client_of,
    cloud,
    open_payee,
    through,
    until,
)
from tests.payee.hand import EXACT_FIRST, NOBODY, HandPayer, terms_of

ORDERS = tuple(Order)


def path_of(order: Order, what: str = "ok") -> str:
    return f"/exact/{order}/{what}"


async def a_payment(chain: LocalChain, payee: Payee, order: Order) -> dict[str, str]:
    """The headers of a good payment from somebody new."""
    payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
    terms = terms_of(payee, schemes=("exact",), order=order)
    return {"payment-signature": await payer.transfer(terms)}


def served(answers: list[httpx.Response]) -> list[httpx.Response]:
    return [answer for answer in answers if answer.status_code == 200]


@pytest.mark.parametrize("order", ORDERS)
async def test_p1_fifty_copies_of_a_transfer_buy_one_answer(
    agentpay_shared_chain: LocalChain, order: Order
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        headers = await a_payment(agentpay_shared_chain, payee, order)
        async with client_of(wall) as client:
            copies = [client.get(path_of(order), headers=headers) for _ in range(50)]
            answers = await asyncio.gather(*copies)
            late = await client.get(path_of(order), headers=headers)

        assert len(served(answers)) == 1
        assert {a.status_code for a in answers} == {200, 409}
        # It has no name, and the chain shows it: its receipt is told and no more.
        assert late.status_code == 409
        assert parse_response(late.headers[PAYMENT_RESPONSE]).success
        assert shop.begun[path_of(order)] == 1
        balance = await agentpay_shared_chain.balance(payee.settings.pay_to)
        assert balance == PRICE


async def test_p1_a_transfer_buys_one_answer_while_its_payees_terms_change(
    agentpay_shared_chain: LocalChain,
) -> None:
    """As where another facilitator is up again, to which `upto` is bound from then."""
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        headers = await a_payment(agentpay_shared_chain, payee, Order.RESERVE)
        path = path_of(Order.RESERVE, "slow")
        async with client_of(wall) as client:
            running = asyncio.create_task(client.get(path, headers=headers))
            await until(lambda: shop.begun[path] == 1)
            payee.settings = replace(payee.settings, facilitator=NOBODY)
            copy = asyncio.create_task(client.get(path, headers=headers))
            await asyncio.wait([copy], timeout=2)
            shop.gate.set()
            first, second = await running, await copy

        assert payee.settings.facilitator != NOBODY
        assert (first.status_code, second.status_code) == (200, 409)
        assert shop.begun[path] == 1


async def test_p1_a_transfer_buys_nothing_more_after_a_restart(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    payee = await open_payee(chain, store=str(tmp_path / "payee.db"))
    shop = Shop()
    wall = Paywall(shop, payee=payee, routes=ROUTES)
    path = path_of(Order.SETTLE_FIRST)
    headers = await a_payment(chain, payee, Order.SETTLE_FIRST)
    async with client_of(wall) as client:
        first = await client.get(path, headers=headers)
        await payee.stop()
        again = await client.get(path, headers=headers)
        await payee.stop()

    assert (first.status_code, again.status_code) == (200, 409)
    assert shop.begun[path] == 1


async def test_a_transfer_that_was_taken_is_not_refused_for_its_age(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        headers = await a_payment(agentpay_shared_chain, payee, Order.SETTLE_FIRST)
        fresh = await a_payment(agentpay_shared_chain, payee, Order.SETTLE_FIRST)
        async with client_of(wall) as client:
            path = path_of(Order.SETTLE_FIRST)
            assert (await client.get(path, headers=headers)).status_code == 200
            payee._running.transfers._clock = lambda: time.time() + 10_000
            payee.answers._clock = lambda: time.time() + 10_000
            again = await client.get(path, headers=headers)
            late = await client.get(path, headers=fresh)

        assert (again.status_code, late.status_code) == (409, 402)
        assert sum(shop.begun.values()) == 1


async def test_p2_a_transfer_for_one_route_buys_nothing_at_another(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        headers = await a_payment(agentpay_shared_chain, payee, Order.SETTLE_FIRST)
        async with client_of(wall) as client:
            await client.get(path_of(Order.SETTLE_FIRST), headers=headers)
            same_price = await client.get(path_of(Order.RESERVE), headers=headers)
            dear = await client.get("/dear", headers=headers)

        assert (same_price.status_code, dear.status_code) == (409, 402)
        assert sum(shop.begun.values()) == 1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("what", ["raises", "ok?status=500", "ok?status=404"])
async def test_p10_a_handler_that_fails_is_paid_only_where_paid_first(
    agentpay_shared_chain: LocalChain, order: Order, what: str
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        headers = await a_payment(agentpay_shared_chain, payee, order)
        async with client_of(wall) as client:
            failed = await client.get(path_of(order, what), headers=headers)
            paid = await agentpay_shared_chain.balance(payee.settings.pay_to)
            path = path_of(order, what.partition("?")[0])
            again = await client.get(path, headers=headers)

        assert failed.status_code >= 400
        assert paid == (PRICE if order is Order.SETTLE_FIRST else 0)
        if (
            order is Order.SETTLE_FIRST
        ):  # the answer is owed, and the same payment gets it
            assert again.status_code == (500 if what == "raises" else 200)
            assert shop.begun[path] == 2
        else:
            assert again.status_code == 402


@pytest.mark.parametrize("order", ORDERS)
async def test_p10_a_client_that_leaves_is_served_later_or_pays_nothing(
    agentpay_shared_chain: LocalChain, order: Order
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        headers = await a_payment(agentpay_shared_chain, payee, order)
        path = path_of(order, "slow")
        async with client_of(wall) as client:
            leaving = asyncio.create_task(client.get(path, headers=headers))
            await until(lambda: shop.begun[path] == 1)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            shop.gate.set()
            again = await client.get(path, headers=headers)
        paid = await agentpay_shared_chain.balance(payee.settings.pay_to)

        assert (again.status_code, paid) == (
            (200, PRICE) if order is Order.SETTLE_FIRST else (402, 0)
        )


async def test_p10_a_client_that_leaves_during_settlement_is_served_later(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain, path = agentpay_shared_chain, path_of(Order.RESERVE)
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_shop(chain, rpc_url=rpc.url) as (_, payee, wall),
        client_of(wall) as client,
    ):
        headers = await a_payment(chain, payee, Order.RESERVE)
        leaving = asyncio.create_task(client.get(path, headers=headers))
        await until(lambda: called(rpc, "eth_sendRawTransaction") > 0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await chain.node.mine()
        again = await client.get(path, headers=headers)

    assert again.status_code == 200
    assert await chain.balance(payee.settings.pay_to) == PRICE


class SlowStore:
    """A store whose words on what became of a payment wait until they may be said."""

    def __init__(self, store: MemoryPayeeStore) -> None:
        self.said = asyncio.Event()
        self.gate = asyncio.Event()
        self._finish = store.finish_payment
        store.finish_payment = self.finish  # type: ignore[method-assign]

    async def finish(self, payment_id: str, **said: Any) -> bool:
        self.said.set()
        await self.gate.wait()
        return await self._finish(payment_id, **said)


async def test_p10_a_client_that_leaves_while_its_settlement_is_booked_is_served_later(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain, path = agentpay_shared_chain, path_of(Order.RESERVE)
    async with a_shop(chain) as (_, payee, wall), client_of(wall) as client:
        store = payee._running.store.payee
        assert isinstance(store, MemoryPayeeStore)
        slow, headers = SlowStore(store), await a_payment(chain, payee, Order.RESERVE)
        leaving = asyncio.create_task(client.get(path, headers=headers))
        await slow.said.wait()
        leaving.cancel()
        slow.gate.set()
        await asyncio.gather(leaving, return_exceptions=True)
        again = await client.get(path, headers=headers)

    assert again.status_code == 200
    assert await chain.balance(payee.settings.pay_to) == PRICE


@pytest.mark.parametrize("order", [Order.RESERVE, Order.SETTLE_FIRST])
async def test_f1_an_unknown_settlement_is_503_and_its_resend_is_served_once(
    agentpay_shared_chain: LocalChain, order: Order
) -> None:
    chain, path = agentpay_shared_chain, path_of(order)
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_shop(chain, rpc_url=rpc.url) as (shop, payee, wall),
        client_of(wall) as client,
    ):
        headers = await a_payment(chain, payee, order)
        cloud(rpc, payee)
        unknown = await client.get(path, headers=headers)
        await clear(rpc, chain)
        again = await client.get(path, headers=headers)
        third = await client.get(path, headers=headers)

    assert unknown.status_code == 503
    receipt = parse_response(unknown.headers[PAYMENT_RESPONSE])
    assert receipt.error_reason == "settlement_pending"
    assert "payment 31337:" in unknown.json()["detail"]
    assert (again.status_code, third.status_code) == (200, 409)
    assert parse_response(third.headers[PAYMENT_RESPONSE]).success
    assert shop.begun[path] <= 2
    assert await chain.balance(payee.settings.pay_to) == PRICE


async def test_p1_what_was_served_first_is_served_once_while_it_is_unknown(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain, path = agentpay_shared_chain, path_of(Order.SERVE_FIRST)
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_shop(chain, rpc_url=rpc.url) as (shop, payee, wall),
        client_of(wall) as client,
    ):
        headers = await a_payment(chain, payee, Order.SERVE_FIRST)
        cloud(rpc, payee)
        first = await client.get(path, headers=headers)
        await clear(rpc, chain)
        again = await client.get(path, headers=headers)

    assert (first.status_code, again.status_code) == (200, 409)
    assert shop.begun[path] == 1
    assert await chain.balance(payee.settings.pay_to) == PRICE


@pytest.mark.parametrize("status", [PaymentStatus.STARTED, PaymentStatus.SETTLED])
@pytest.mark.parametrize("order", [Order.RESERVE, Order.SETTLE_FIRST])
async def test_f1_what_was_settled_before_a_crash_is_served_after_it(
    agentpay_shared_chain: LocalChain,
    tmp_path: Path,
    status: PaymentStatus,
    order: Order,
) -> None:
    chain = agentpay_shared_chain
    payee = await open_payee(chain, store=str(tmp_path / "payee.db"))
    headers = await a_payment(chain, payee, order)
    terms = terms_of(
        payee, schemes=("exact",), order=order, resource=f"GET {path_of(order)}"
    )
    await payee.start()
    sale = await payee.answer(headers["payment-signature"], terms)
    assert isinstance(sale, TransferSale)
    if order is Order.RESERVE:
        await sale.commit(PRICE)
    if status is PaymentStatus.STARTED:  # the crash came before it was written down
        store = payee._running.store.payee
        await store.finish_payment(
            sale._purchase.record.id,
            owner=store.owner,
            status=status,
            transaction="",
            charged=7,
        )
    await payee.stop()
    shop = Shop()
    async with client_of(Paywall(shop, payee=payee, routes=ROUTES)) as client:
        again = await client.get(path_of(order), headers=headers)
    await payee.stop()

    assert again.status_code == 200
    assert await chain.balance(payee.settings.pay_to) == PRICE


async def test_f3_a_transfer_that_somebody_else_sent_first_is_paid(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_shop(agentpay_shared_chain) as (_, payee, wall),
        a_shop(agentpay_shared_chain) as (_, stranger, _),
    ):
        headers = await a_payment(agentpay_shared_chain, payee, Order.RESERVE)
        facilitator = stranger._running.settlement._facilitator
        payload = parse_payment(headers["payment-signature"]).payload
        assert isinstance(payload, ExactPayload)
        transfer = read_transfer(payload, payee.asset)
        await facilitator.settle_transfer(transfer, transfer.maximum)
        async with client_of(wall) as client:
            served = await client.get(path_of(Order.RESERVE), headers=headers)

        assert served.status_code == 200


async def test_p13_what_a_payer_cannot_cover_leaves_nothing_in_the_books(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_shop(chain) as (shop, payee, wall):
        wallet = await chain.funded_wallet(PRICE, ether=0)
        payer = HandPayer(wallet, payee.settings)
        terms = terms_of(payee, schemes=("exact",))
        slow = path_of(Order.RESERVE, "slow")
        sent = [{"payment-signature": await payer.transfer(terms)} for _ in range(5)]
        async with client_of(wall) as client:
            asked = [
                asyncio.create_task(client.get(slow, headers=headers))
                for headers in sent
            ]
            await until(lambda: sum(task.done() for task in asked) == 4)
            shop.gate.set()
            answers = await asyncio.gather(*asked)

        refused = [
            h for h, a in zip(sent, answers, strict=True) if a.status_code == 402
        ]
        store = payee._running.store.payee
        assert len(refused) == 4
        for headers in refused:
            payload = parse_payment(headers["payment-signature"]).payload
            assert isinstance(payload, ExactPayload)
            transfer = read_transfer(payload, payee.asset)
            assert await store.find_payment(transfer.id) is None


async def test_p4_a_payer_that_spends_its_money_elsewhere_is_not_served(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_shop(chain) as (shop, payee, wall):
        wallet = await chain.funded_wallet(PRICE, ether=0)
        payer = HandPayer(wallet, payee.settings)
        terms = terms_of(payee, schemes=("exact",))
        slow = path_of(Order.RESERVE, "slow")
        async with client_of(wall) as client:
            headers = {"payment-signature": await payer.transfer(terms)}
            waiting = asyncio.create_task(client.get(slow, headers=headers))
            await until(lambda: shop.begun[slow] == 1)
            first = terms_of(payee, EXACT_FIRST)
            elsewhere = {"payment-signature": await payer.transfer(first)}
            path = path_of(Order.SETTLE_FIRST)
            assert (await client.get(path, headers=elsewhere)).status_code == 200
            shop.gate.set()
            answer = await waiting

        assert answer.status_code == 402
        assert b"answer" not in answer.content


async def test_p9_transfers_in_flight_are_covered_together(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_shop(chain) as (shop, payee, wall):
        payer = HandPayer(await chain.funded_wallet(PRICE, ether=0), payee.settings)
        terms = terms_of(payee, schemes=("exact",))
        slow = path_of(Order.RESERVE, "slow")
        first, second = [
            {"payment-signature": await payer.transfer(terms)} for _ in range(2)
        ]
        async with client_of(wall) as client:
            waiting = asyncio.create_task(client.get(slow, headers=first))
            await until(lambda: shop.begun[slow] == 1)
            other = path_of(Order.RESERVE)
            refused = await client.get(other, headers=second)
            shop.gate.set()
            answer = await waiting
            await chain.fund(payer.wallet.address, PRICE)
            later = await client.get(other, headers=second)

        assert (refused.status_code, answer.status_code) == (402, 200)
        assert shop.begun[other] == 1
        assert later.status_code == 200


async def test_a_payee_without_gas_says_503_and_takes_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_shop(chain) as (_, payee, wall):
        headers = await a_payment(chain, payee, Order.SETTLE_FIRST)
        payer = payee._plan.wallet.address
        path = path_of(Order.SETTLE_FIRST)
        async with client_of(wall) as client:
            await chain.node.set_balance(payer, 0)
            poor = await client.get(path, headers=headers)
            await chain.node.set_balance(payer, 10**18)
            again = await client.get(path, headers=headers)

        assert (poor.status_code, again.status_code) == (503, 200)
        assert await chain.balance(payee.settings.pay_to) == PRICE


async def test_an_agent_pays_by_transfer_and_books_it(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_shop(chain) as (_, payee, wall):
        async with await an_agent(chain, through(wall)) as agent:
            answer = await agent.get(BASE + path_of(Order.RESERVE))
            spending = await agent.spending()

        assert answer.json() == {"answer": 42}
        assert str(spending) == "$0.001 spent, $0 deposited, $0 held"
        assert await chain.balance(payee.settings.pay_to) == PRICE


async def test_c8_a_lost_answer_to_a_transfer_is_paid_and_served_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_shop(chain) as (_, payee, wall):
        wire = Wire(through(wall))
        wire.lose_requests = 2
        async with await an_agent(chain, wire) as agent:
            answer = await agent.get(BASE + path_of(Order.RESERVE))

        assert answer.status_code == 200
        assert len(set(wire.credentials)) == 1
        assert await chain.balance(payee.settings.pay_to) == PRICE


async def test_c8_a_transfer_without_an_answer_stays_held_until_the_chain_tells(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet(ether=0)
    store = str(tmp_path / "agent.db")
    async with a_shop(chain) as (_, payee, wall):
        wire = Wire(through(wall))
        wire.lose_answers = 1000
        async with await an_agent(chain, wire, wallet=wallet, store=store) as agent:
            with pytest.raises(PaymentOutcomeUnknown):
                await agent.get(BASE + path_of(Order.SETTLE_FIRST))
            held = await agent.spending()
        async with await an_agent(chain, wire, wallet=wallet, store=store) as agent:
            await agent.payer.resolve()
            after = await agent.spending()

        assert str(held) == "$0 spent, $0 deposited, $0.001 held"
        assert str(after) == "$0.001 spent, $0 deposited, $0 held"
        assert await chain.balance(payee.settings.pay_to) == PRICE


async def test_a_refused_transfer_stays_held_while_its_signature_is_good(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_shop(chain) as (_, _, wall):
        poor = await chain.funded_wallet(0)
        async with await an_agent(chain, through(wall), wallet=poor) as agent:
            with pytest.raises(PaymentRejected):
                await agent.get(BASE + path_of(Order.RESERVE))
            spending = await agent.spending()

        assert str(spending) == "$0 spent, $0 deposited, $0.001 held"
