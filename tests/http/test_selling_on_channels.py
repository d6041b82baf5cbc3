"""Channels behind the paywall: orders of settlement, handlers that fail, faults."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentpay import Wallet
from agentpay.chain.rpc import RpcChain
from agentpay.errors import StoreUnavailable
from agentpay.evm.batch_settlement import channel_id
from agentpay.evm.batch_settlement_abi import (
    finalize_withdraw_call,
    initiate_withdraw_call,
)
from agentpay.evm.calls import Call
from agentpay.http.paywall import Paywall
from agentpay.onchain import read_channel
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Order
from agentpay.records import PayeeDecide
from agentpay.stores.memory import MemoryPayeeStore
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from tests.http.world import (
    BASE,
    PRICE,
    ROUTES,
    Shop,
    Wire,
    a_shop,
    an_agent,
    called,
    client_of,
    eventually,
    open_payee,
    serving,
    through,
    until,
)
from tests.payee.hand import HandPayer, decoded, terms_of
from tests.payer.books import at_rest, charged, spent

ORDERS = tuple(Order)


def path_of(order: Order, what: str = "ok") -> str:
    return f"/channel/{order}/{what}"


@pytest.mark.parametrize("order", ORDERS)
async def test_a_channel_pays_under_every_order(
    agentpay_shared_chain: LocalChain, order: Order
) -> None:
    async with (
        a_shop(agentpay_shared_chain) as (_, payee, wall),
        await an_agent(agentpay_shared_chain, through(wall)) as agent,
    ):
        asked = [agent.get(BASE + path_of(order)) for _ in range(20)]
        answers = await asyncio.gather(*asked)

        assert {a.status_code for a in answers} == {200}
        assert await spent(agent) == await charged(payee, agent) == 20 * PRICE


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("what", ["raises", "ok?status=500", "ok?status=404"])
async def test_p10_a_handler_that_fails_is_not_paid(
    agentpay_shared_chain: LocalChain, order: Order, what: str
) -> None:
    async with (
        a_shop(agentpay_shared_chain) as (_, payee, wall),
        await an_agent(agentpay_shared_chain, through(wall)) as agent,
    ):
        await agent.get(BASE + path_of(order))
        answer = await agent.get(BASE + path_of(order, what))
        await eventually(lambda: at_rest(agent))

        assert answer.status_code >= 400
        assert await spent(agent) == await charged(payee, agent) == PRICE


@pytest.mark.parametrize("order", ORDERS)
async def test_p10_a_client_that_leaves_pays_only_where_paid_first(
    agentpay_shared_chain: LocalChain, order: Order
) -> None:
    async with (
        a_shop(agentpay_shared_chain) as (shop, payee, wall),
        await an_agent(agentpay_shared_chain, through(wall)) as agent,
    ):
        path = path_of(order, "slow")
        leaving = asyncio.create_task(agent.get(BASE + path))
        await until(lambda: shop.begun[path] == 1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await eventually(lambda: at_rest(agent))

        price = PRICE if order is Order.SETTLE_FIRST else 0
        assert await spent(agent) == await charged(payee, agent) == price
        assert shop.served[path] == 0


async def test_p10_a_client_that_leaves_a_real_server_is_charged_what_was_done(
    agentpay_shared_chain: LocalChain,
) -> None:
    payee = await open_payee(agentpay_shared_chain)
    shop = Shop()
    async with (
        serving(Paywall(shop, payee=payee, routes=ROUTES)) as base,
        await an_agent(agentpay_shared_chain, allow_private_networks=True) as agent,
    ):
        leaving = asyncio.create_task(agent.get(base + "/slow"))
        await until(lambda: shop.begun["/slow"] == 1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        shop.gate.set()
        await until(lambda: shop.served["/slow"] == 1)
        await eventually(lambda: at_rest(agent))

        assert await spent(agent) == await charged(payee, agent)


async def test_p1_fifty_copies_of_a_voucher_buy_one_answer(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        payer = HandPayer(
            await agentpay_shared_chain.funded_wallet(ether=0), payee.settings
        )
        terms = terms_of(payee)
        header = await payer.funding(payer.config(), 10_000, PRICE, terms)
        headers = {"payment-signature": header}
        async with client_of(wall) as client:
            copies = [client.get("/ok", headers=headers) for _ in range(50)]
            answers = await asyncio.gather(*copies)

    paid = [a for a in answers if a.status_code == 200]
    assert {a.status_code for a in answers} <= {200, 409}
    assert len({a.headers["payment-response"] for a in paid}) == 1
    assert shop.begun["/ok"] == 1


class Unreliable:
    """A store that is out of reach for chosen events, before anything is saved."""

    def __init__(self, store: MemoryPayeeStore) -> None:
        self.fails = False
        self._update = store.update
        store.update = self.update  # type: ignore[method-assign] # a fault, not a mock

    async def update(
        self, channel: Hash32, decide: PayeeDecide[Any], *, durable: bool = True
    ) -> Any:
        if self.fails:
            raise StoreUnavailable("the disk is full")
        return await self._update(channel, decide, durable=durable)


def unreliable(payee: Payee) -> Unreliable:
    store = payee._running.store.payee
    assert isinstance(store, MemoryPayeeStore)
    return Unreliable(store)


@pytest.mark.parametrize("during", ["admission", "commit"])
async def test_p10_a_store_that_fails_is_503_and_never_402(
    agentpay_shared_chain: LocalChain, during: str
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        payer = HandPayer(
            await agentpay_shared_chain.funded_wallet(ether=0), payee.settings
        )
        config, terms = payer.config(), terms_of(payee, resource="GET /slow")
        headers = {
            "payment-signature": await payer.funding(config, 10_000, PRICE, terms)
        }
        async with client_of(wall) as client:
            if during == "admission":
                shop.gate.set()
                await client.get("/slow", headers=headers)
                headers["payment-signature"] = await payer.voucher(config, 2000, terms)
            store = unreliable(payee)
            store.fails = during == "admission"
            asking = asyncio.create_task(client.get("/slow", headers=headers))
            if during == "commit":
                await until(lambda: shop.begun["/slow"] == 1)
                store.fails = True
                shop.gate.set()
            failed = await asking
            store.fails = False
            again = await client.get("/slow", headers=headers)

    assert failed.status_code == 503
    assert failed.headers["retry-after"] == "1"
    assert b"answer" not in failed.content
    assert again.status_code == (200 if during == "admission" else 409)


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.REQUEST_DROPPED])
async def test_a_warm_channel_is_served_without_rpc_until_the_mirror_is_too_old(
    agentpay_shared_chain: LocalChain, fault: Fault
) -> None:
    chain = agentpay_shared_chain
    ahead = 0.0

    def clock() -> float:
        return loop.time() + 1_700_000_000 + ahead

    loop = asyncio.get_running_loop()
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_shop(chain, rpc_url=rpc.url, clock=clock, poll_seconds=0.1) as there,
        client_of(there[2]) as client,
    ):
        shop, payee, _ = there
        payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
        config, terms = payer.config(), terms_of(payee)

        async def ask(header: str) -> httpx.Response:
            return await client.get("/ok", headers={"payment-signature": header})

        first = await ask(await payer.funding(config, 10_000, PRICE, terms))
        for method in ("eth_blockNumber", "eth_call", "eth_getLogs"):
            rpc.plan(method, fault, times=10**6)
        rpc.plan("eth_getBlockByNumber", fault, times=10**6)
        warm = await ask(await payer.voucher(config, 2000, terms))
        ahead = 3600 / 3 + 1
        stale = await ask(await payer.voucher(config, 3000, terms))
        rpc.heal()
        again = await ask(await payer.voucher(config, 3000, terms))

    statuses = [a.status_code for a in (first, warm, stale, again)]
    assert statuses == [200, 200, 503, 200]
    assert shop.begun["/ok"] == 3


async def an_opening(
    chain: LocalChain, payee: Payee, *, tagged: bool = True
) -> tuple[Wallet, dict[str, str]]:
    """Somebody with a dollar, and headers that open a channel with a cent of it."""
    wallet = await chain.funded_wallet("$1", ether=0)
    payer = HandPayer(wallet, payee.settings)
    config, terms = payer.config(tagged=tagged), terms_of(payee)
    header = await payer.funding(config, 10_000, PRICE, terms)
    return wallet, {"payment-signature": header}


async def test_f1_an_unknown_deposit_is_503_and_made_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_shop(chain, rpc_url=rpc.url) as (_, payee, wall),
        client_of(wall) as client,
    ):
        wallet, headers = await an_opening(chain, payee)
        payee._running.sender._mined_within_seconds = 0.3
        rpc.plan("eth_getTransactionReceipt", Fault.UNAVAILABLE, times=10**6)
        unknown = await client.get("/ok", headers=headers)
        rpc.heal()
        await chain.node.mine(2)
        again = await client.get("/ok", headers=headers)

    voucher = decoded(headers["payment-signature"])["payload"]["voucher"]
    named = f"voucher {voucher['channelId']} {voucher['maxClaimableAmount']}"
    assert unknown.status_code == 503
    assert unknown.json()["payment"] == named
    assert again.status_code == 200
    assert await chain.balance(wallet.address) == 990_000


async def test_an_agent_rides_out_a_store_that_fails_for_a_moment(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, payee, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            await agent.get(BASE + "/ok")
            store = unreliable(payee)
            store.fails = True
            asking = asyncio.create_task(agent.get(BASE + "/ok"))
            await asyncio.sleep(0.2)
            store.fails = False
            answer = await asking

            assert answer.status_code == 200
            assert await spent(agent) == await charged(payee, agent) == 2 * PRICE


@pytest.mark.parametrize("tagged", [True, False])
async def test_f2_a_deposit_whose_client_left_is_not_called_failed(
    agentpay_shared_chain: LocalChain, tagged: bool
) -> None:
    chain = agentpay_shared_chain
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_shop(chain, rpc_url=rpc.url) as (_, payee, wall),
        client_of(wall) as client,
    ):
        wallet, headers = await an_opening(chain, payee, tagged=tagged)
        leaving = asyncio.create_task(client.get("/ok", headers=headers))
        await until(lambda: called(rpc, "eth_sendRawTransaction") > 0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        again = await client.get("/ok", headers=headers)

    assert again.status_code == 200
    assert await chain.balance(wallet.address) == 990_000


@pytest.mark.parametrize("tagged", [True, False])
async def test_f2_a_deposit_that_another_has_made_first_is_not_called_failed(
    tagged: bool,
) -> None:
    """Whoever sees it may send it too, and pay more for it to come first."""
    async with (
        LocalChain(no_mining=True) as chain,
        a_shop(chain) as (_, payee, wall),
        client_of(wall) as client,
    ):
        wallet, headers = await an_opening(chain, payee, tagged=tagged)
        another = await chain.funded_wallet(0)
        asking = asyncio.create_task(client.get("/ok", headers=headers))
        sent = await eventually_sent(chain)
        await chain.node.rpc("anvil_impersonateAccount", another.address)
        same = {"to": sent["to"], "data": sent["input"], "gas": hex(500_000)}
        dear = {"from": another.address, "gasPrice": hex(10**12)}
        first = await chain.node.rpc("eth_sendTransaction", same | dear)
        while not asking.done():
            await chain.node.mine()
            await asyncio.sleep(0.05)
        answer = await asking
        left = await chain.balance(wallet.address)
        receipts = [
            await chain.node.rpc("eth_getTransactionReceipt", transaction)
            for transaction in (first, sent["hash"])
        ]

    assert [receipt["status"] for receipt in receipts] == ["0x1", "0x0"]
    assert answer.status_code == 200
    assert left == 990_000


async def eventually_sent(chain: LocalChain) -> dict[str, str]:
    """The one transaction that waits to be mined."""
    while True:
        content = await chain.node.rpc("txpool_content")
        for by_nonce in content["pending"].values():
            return dict(next(iter(by_nonce.values())))
        await asyncio.sleep(0.02)


async def test_p10_a_request_that_is_cancelled_while_it_is_admitted_holds_nothing(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    async with a_shop(chain, store=str(tmp_path / "payee.db")) as (_, payee, wall):
        payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
        config, terms = payer.config(), terms_of(payee)
        channel = channel_id(config, chain.chain_id)
        async with client_of(wall) as client:
            first = await payer.funding(config, 100 * PRICE, PRICE, terms)
            headers = {"payment-signature": first}
            assert (await client.get("/ok", headers=headers)).status_code == 200
            for steps in range(40):
                header = await payer.voucher(config, (steps + 2) * PRICE, terms)
                headers = {"payment-signature": header}
                leaving = asyncio.create_task(client.get("/ok", headers=headers))
                for _ in range(steps):
                    await asyncio.sleep(0)
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)

        async def nothing_runs() -> bool:
            record = await payee._running.store.payee.read(channel)
            return record is not None and not record.ledger.running

        await eventually(nothing_runs)


async def test_receipts_say_since_when_a_payer_withdraws(
    agentpay_chain: LocalChain,
) -> None:
    """In the chain's time, on a voucher and on a top-up; and that it is over."""
    chain = agentpay_chain
    async with (
        a_shop(chain, withdraw_delay=900) as (_, payee, wall),
        client_of(wall) as client,
        RpcChain(chain.rpc_url, chain_id=chain.network.chain) as rpc,
    ):
        payer = HandPayer(await chain.funded_wallet(), payee.settings)
        config, terms = payer.config(), terms_of(payee)
        channel = channel_id(config, chain.network.chain)

        async def said(header: str) -> int:
            await payee.settlement.see_chain(channel)
            answer = await client.get("/ok", headers={"payment-signature": header})
            assert answer.status_code == 200
            receipt = decoded(answer.headers["payment-response"])
            requested: int = receipt["extra"]["channelState"]["withdrawRequestedAt"]
            return requested

        async def sends(call: Call) -> None:
            await chain.node.transact(payer.wallet.address, call.data, to=call.to)

        before = await said(await payer.funding(config, 10_000, PRICE, terms))
        await sends(initiate_withdraw_call(config, 1000))
        started = (await read_channel(rpc, channel)).withdrawal_started
        by_voucher = await said(await payer.voucher(config, 2 * PRICE, terms))
        by_top_up = await said(await payer.funding(config, 10_000, 3 * PRICE, terms))
        await chain.node.increase_time(901)
        await sends(finalize_withdraw_call(config))
        after = await said(await payer.voucher(config, 4 * PRICE, terms))

    assert started > 10**9
    assert (before, by_voucher, by_top_up, after) == (0, started, started, 0)
