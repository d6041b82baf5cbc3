"""
Probes on which another SDK's server or client was seen to fail, and what ours does.

One test for each row of that list, by the row's name; the row of README programs that
do not run is `tests/test_examples.py`.
"""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentpay.http.paywall import Paywall
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Order
from agentpay.signers.wallet import Wallet
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.headers import decode_json, encode_json
from agentpay.wire.x402 import (
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    parse_response,
)
from tests.http.test_paywall import (
    test_a_stream_arrives_slice_by_slice,
    test_two_cookies_and_cache_rules_of_the_application_survive,
)
from tests.http.world import (
    BASE,
    PRICE,
    QUICK,
    ROUTES,
    Shop,
    a_shop,
    an_agent,
    called,
    client_of,
    eventually,
    open_payee,
    through,
    until,
)
from tests.keeper.test_settlement_triggers import Clock
from tests.payee.hand import HandPayer, decoded, sold, terms_of
from tests.payee.test_refusals_of_channel_payments import (
    test_k3_a_forged_voucher_learns_and_changes_nothing,
)
from tests.payer.books import at_rest, charged, spent

test_row_f10_a_stream_is_not_buffered = test_a_stream_arrives_slice_by_slice
test_row_f11_two_cookies_arrive = (
    test_two_cookies_and_cache_rules_of_the_application_survive
)
test_row_f15_a_stranger_learns_nothing = (
    test_k3_a_forged_voucher_learns_and_changes_nothing
)
del test_a_stream_arrives_slice_by_slice
del test_two_cookies_and_cache_rules_of_the_application_survive
del test_k3_a_forged_voucher_learns_and_changes_nothing


async def a_hand(chain: LocalChain, payee: Payee) -> HandPayer:
    return HandPayer(await chain.funded_wallet(ether=0), payee.settings)


def paid(header: str) -> dict[str, str]:
    return {"payment-signature": header}


async def test_row_f1_a_handler_that_raises_is_not_paid_and_blocks_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_shop(agentpay_shared_chain) as (_, payee, wall),
        await an_agent(agentpay_shared_chain, through(wall)) as agent,
    ):
        failed = await agent.get(BASE + "/raises")
        served = await agent.get(BASE + "/ok")
        await eventually(lambda: at_rest(agent))

        assert (failed.status_code, served.status_code) == (500, 200)
        assert await charged(payee, agent) == PRICE


async def test_row_f17_a_handler_charges_300_of_1000(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_shop(agentpay_shared_chain) as (_, payee, wall),
        await an_agent(agentpay_shared_chain, through(wall)) as agent,
    ):
        await agent.get(f"{BASE}/metered?used={3 * PRICE // 10}")
        await eventually(lambda: at_rest(agent))

        assert await charged(payee, agent) == 3 * PRICE // 10


async def test_row_f22_a_replay_is_told_its_answer_and_garbage_is_malformed(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_shop(chain) as (shop, payee, wall), client_of(wall) as client:
        hand = await a_hand(chain, payee)
        header = await hand.funding(hand.config(), 50 * PRICE, PRICE, terms_of(payee))
        first = await client.get("/ok", headers=paid(header))
        again = await client.get("/ok", headers=paid(header))
        garbage = await client.get("/ok", headers=paid("=garbage="))
        message: Any = decode_json(header, name="a payment")
        message["payload"]["voucher"]["maxClaimableAmount"] = "1e3"
        malformed = await client.get("/ok", headers=paid(encode_json(message)))
        old = await client.get("/ok", headers={"x-payment": header})

    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content
    assert shop.begun["/ok"] == 1
    assert (garbage.status_code, malformed.status_code) == (400, 400)
    assert old.status_code == 402


async def test_row_f3_a_client_that_left_can_buy_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_shop(agentpay_shared_chain) as (shop, payee, wall),
        await an_agent(agentpay_shared_chain, through(wall)) as agent,
    ):
        leaving = asyncio.create_task(agent.get(BASE + "/slow"))
        await until(lambda: shop.begun["/slow"] == 1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        again = await agent.get(BASE + "/ok")
        await eventually(lambda: at_rest(agent))

        assert again.status_code == 200
        assert await spent(agent) == await charged(payee, agent)


async def test_row_restart_a_client_that_forgot_everything_can_buy_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet(ether=0)
    async with a_shop(chain) as (_, _, wall):
        statuses: list[int] = []
        for _ in range(2):
            async with await an_agent(chain, through(wall), wallet=wallet) as agent:
                statuses.append((await agent.get(BASE + "/ok")).status_code)

    assert statuses == [200, 200]


@pytest.mark.parametrize("tagged", [True, False])
async def test_row_f5_a_crash_in_the_handler_keeps_no_channel_busy(
    agentpay_shared_chain: LocalChain, tmp_path: Path, tagged: bool
) -> None:
    chain = agentpay_shared_chain
    payee = await open_payee(chain, store=str(tmp_path / "payee.db"))
    await payee.start()
    hand, terms = await a_hand(chain, payee), terms_of(payee)
    header = await hand.funding(
        hand.config(tagged=tagged), 50 * PRICE, PRICE, replace(terms, maximum=PRICE)
    )
    sold(await payee.answer(header, replace(terms, maximum=PRICE)))
    await payee.stop()  # with the request still running
    await payee.start()
    async with asyncio.timeout(15):
        sold(await payee.answer(header, replace(terms, maximum=PRICE)))
    await payee.stop()


async def test_row_f6a_a_warm_channel_needs_no_chain(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_shop(chain, rpc_url=rpc.url) as (_, payee, wall),
        await an_agent(chain, through(wall)) as agent,
    ):
        await agent.get(BASE + "/ok")
        rpc.outage = Fault.REQUEST_DROPPED
        answers = [await agent.get(BASE + "/ok") for _ in range(5)]
        rpc.heal()

        assert {answer.status_code for answer in answers} == {200}
        assert await charged(payee, agent) == 6 * PRICE


@pytest.mark.parametrize("kind", ["deposit", "exact"])
async def test_row_f6b_c_without_the_chain_it_is_503_and_tells_no_internals(
    agentpay_shared_chain: LocalChain, kind: str
) -> None:
    chain = agentpay_shared_chain
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_shop(chain, rpc_url=rpc.url) as (shop, payee, wall),
        client_of(wall) as client,
    ):
        hand = await a_hand(chain, payee)
        if kind == "exact":
            path = f"/exact/{Order.RESERVE}/ok"
            header = await hand.transfer(terms_of(payee, schemes=("exact",)))
        else:
            path, terms = "/ok", terms_of(payee)
            header = await hand.funding(hand.config(), 50 * PRICE, PRICE, terms)
        rpc.outage = Fault.REQUEST_DROPPED
        unknown = await client.get(path, headers=paid(header))
        rpc.heal()
        again = await client.get(path, headers=paid(header))

    receipt = parse_response(unknown.headers[PAYMENT_RESPONSE])
    assert (unknown.status_code, again.status_code) == (503, 200)
    assert not receipt.success
    assert PAYMENT_REQUIRED.lower() not in unknown.headers
    assert "127.0.0.1" not in unknown.text
    assert sum(shop.served.values()) == 1


async def test_row_f6e_a_chain_that_dies_before_the_deposit_leaves_nothing_reserved(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_shop(chain, rpc_url=rpc.url) as (shop, payee, wall),
        client_of(wall) as client,
    ):
        hand = await a_hand(chain, payee)
        config, terms = hand.config(tagged=False), terms_of(payee)
        header = await hand.funding(config, 50 * PRICE, PRICE, terms)
        rpc.plan("eth_estimateGas", Fault.REQUEST_DROPPED, times=2)
        unknown = await client.get("/ok", headers=paid(header))
        nothing = shop.begun["/ok"]
        async with asyncio.timeout(15):
            again = await client.get("/ok", headers=paid(header))

    assert (unknown.status_code, nothing) == (503, 0)
    assert again.status_code == 200


async def test_row_boot_without_the_chain_routes_are_503_until_it_is_there(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with FaultyRpc(chain.rpc_url) as rpc:
        payee = await open_payee(chain, rpc_url=rpc.url)
        rpc.outage = Fault.UNAVAILABLE
        async with client_of(Paywall(Shop(), payee=payee, routes=ROUTES)) as client:
            down = await client.get("/ok")
            rpc.heal()

            async def is_up() -> bool:
                return (await client.get("/ok")).status_code == 402

            await eventually(is_up, seconds=5)
        await payee.stop()

    assert down.status_code == 503


async def test_row_f9_a_slow_handler_is_paid_and_delivered_beside_others(
    agentpay_shared_chain: LocalChain,
) -> None:
    clock = Clock()
    patient = replace(QUICK, give_up_seconds=30)
    async with (
        a_shop(agentpay_shared_chain, clock=clock) as (shop, payee, wall),
        await an_agent(agentpay_shared_chain, through(wall), policy=patient) as agent,
    ):
        await agent.get(BASE + "/ok")
        slow = asyncio.create_task(agent.get(BASE + "/slow"))
        await until(lambda: shop.begun["/slow"] == 1)
        clock.ahead = 2 * payee.settings.max_timeout_seconds
        await payee._running.keeper.tick()
        quick = await agent.get(BASE + "/ok")
        shop.gate.set()
        late = await slow
        await eventually(lambda: at_rest(agent))

        assert (quick.status_code, late.status_code) == (200, 200)
        assert await charged(payee, agent) == 3 * PRICE


async def test_row_f14_forged_vouchers_leave_nothing_behind(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_shop(chain) as (shop, payee, wall), client_of(wall) as client:
        hand, terms = await a_hand(chain, payee), terms_of(payee)
        config = hand.config()
        header = await hand.funding(config, 50 * PRICE, PRICE, terms)
        await client.get("/ok", headers=paid(header))
        store: Any = payee._running.store.payee
        before = (len(store._records), len(store._answers), len(store._payments))
        for number in range(200):
            forged = await hand.voucher(
                config, (number + 2) * PRICE, terms, signer=Wallet.create()
            )
            refused = await client.get("/ok", headers=paid(forged))
            assert refused.status_code == 402
        after = (len(store._records), len(store._answers), len(store._payments))

    assert after == before
    assert shop.begun["/ok"] == 1


async def test_row_f20_a_payer_that_left_is_not_served_and_poisons_no_batch(
    agentpay_chain: LocalChain,
) -> None:
    chain = agentpay_chain
    async with (
        a_shop(chain, withdraw_delay=900) as (_, payee, wall),
        await an_agent(chain, through(wall)) as honest,
        await an_agent(
            chain, through(wall), wallet=await chain.funded_wallet(ether=1)
        ) as leaver,
    ):
        await honest.get(BASE + "/ok")
        await leaver.get(BASE + "/ok")
        keeper = payee._running.keeper
        await keeper.stop()  # it sleeps through all of the delay
        (record,) = await leaver.channels()
        await leaver.start_withdrawal(record.channel)
        await chain.node.increase_time(901)
        await leaver.finish_withdrawal(record.channel)
        claimed = await payee.settlement.claim()
        await payee.settlement.settle()
        await keeper.sync()
        seen = await payee._running.store.payee.read(record.channel)

    assert claimed == 1
    assert await chain.balance(payee.settings.pay_to) == PRICE
    assert seen is not None
    assert seen.ledger.balance == 0


async def test_row_f18_one_error_at_sending_wedges_nothing_and_pays_nothing_twice(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    path = f"/exact/{Order.RESERVE}/ok"
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_shop(chain, rpc_url=rpc.url) as (_, payee, wall),
        client_of(wall) as client,
    ):
        terms = terms_of(payee, schemes=("exact",))
        first = await (await a_hand(chain, payee)).transfer(terms)
        second = await (await a_hand(chain, payee)).transfer(terms)
        rpc.plan("eth_sendRawTransaction", Fault.REQUEST_REFUSED)
        refused = await client.get(path, headers=paid(first))
        async with asyncio.timeout(10):
            served = await client.get(path, headers=paid(second))
        await chain.node.mine(3)
        moved = await chain.balance(payee.settings.pay_to)
        # What was refused was not sent, and is not stuck: it may be tried again.
        again = await client.get(path, headers=paid(first))

    assert (refused.status_code, served.status_code) == (402, 200)
    assert moved == PRICE
    assert again.status_code == 200
    assert await chain.balance(payee.settings.pay_to) == 2 * PRICE


async def test_row_copies_one_payment_sent_8_times_is_one_run_and_one_transaction(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    path = f"/exact/{Order.RESERVE}/ok"
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_shop(chain, rpc_url=rpc.url) as (shop, payee, wall),
        client_of(wall) as client,
    ):
        hand = await a_hand(chain, payee)
        header = await hand.transfer(terms_of(payee, schemes=("exact",)))
        copies = (client.get(path, headers=paid(header)) for _ in range(8))
        answers = await asyncio.gather(*copies)
        sent = called(rpc, "eth_sendRawTransaction")

    assert shop.begun[path] == sent == 1
    assert {a.status_code for a in answers} <= {200, 409}
    assert 200 in {a.status_code for a in answers}
    assert await chain.balance(payee.settings.pay_to) == PRICE


async def test_row_pipelined_8_vouchers_at_once_on_one_channel_are_all_served(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_shop(chain) as (shop, payee, wall), client_of(wall) as client:
        hand, terms = await a_hand(chain, payee), terms_of(payee)
        config = hand.config()
        opening = await hand.funding(config, 50 * PRICE, PRICE, terms)
        await client.get("/ok", headers=paid(opening))
        headers = [
            await hand.voucher(config, number * PRICE, terms) for number in range(2, 10)
        ]
        answers = await asyncio.gather(
            *(client.get("/ok", headers=paid(header)) for header in headers)
        )
        ahead = await hand.voucher(config, 13 * PRICE, terms)  # by three more
        larger = await client.get("/ok", headers=paid(ahead))

    assert [answer.status_code for answer in answers] == [200] * 8
    assert larger.status_code == 200
    assert shop.served["/ok"] == 10


async def test_row_pool_corrected_payments_leak_no_connections(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Every answer that is not the caller's is closed: each 402 and what corrects."""

    class Counting(httpx.AsyncBaseTransport):
        def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
            self.inner = inner
            self.open = 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await self.inner.handle_async_request(request)
            self.open += 1
            stream, counting = response.stream, self

            class Closing(httpx.AsyncByteStream):
                async def __aiter__(self) -> Any:
                    async for part in stream:  # type: ignore[union-attr]
                        yield part

                async def aclose(self) -> None:
                    counting.open -= 1
                    await stream.aclose()  # type: ignore[union-attr]

            response.stream = Closing()
            return response

    chain = agentpay_shared_chain
    async with a_shop(chain) as (_, _, wall):
        counting = Counting(through(wall))
        for _ in range(5):
            async with await an_agent(chain, counting) as agent:
                await agent.get(BASE + "/ok")
                await agent.get(BASE + "/dear")

    assert counting.open == 0


async def test_row_stale_a_corrective_402_says_what_is_true_of_the_channel(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_shop(chain) as (_, payee, wall), client_of(wall) as client:
        hand, terms = await a_hand(chain, payee), terms_of(payee)
        config = hand.config(tagged=False)
        opening = await hand.funding(config, 50 * PRICE, PRICE, terms)
        await client.get("/ok", headers=paid(opening))
        wrong = await hand.voucher(config, 5 * PRICE, terms)
        corrected = await client.get("/ok", headers=paid(wrong))

    said = decoded(corrected.headers[PAYMENT_REQUIRED])
    [offer] = [o for o in said["accepts"] if o["scheme"] == "batch-settlement"]
    assert corrected.status_code == 402
    assert offer["extra"]["channelState"]["chargedCumulativeAmount"] == str(PRICE)


async def test_row_per_request_a_paywall_costs_no_calls_while_nobody_pays(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_shop(chain, rpc_url=rpc.url) as (_, payee, wall),
        client_of(wall) as client,
    ):
        await payee._running.keeper.stop()
        before = len(rpc.requests)
        statuses = {(await client.get("/ok")).status_code for _ in range(50)}
        after = len(rpc.requests)

    assert statuses == {402}
    assert after == before


async def test_row_settle_its_amount_is_told(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_shop(chain) as (_, payee, wall),
        await an_agent(chain, through(wall)) as agent,
    ):
        for _ in range(3):
            await agent.get(BASE + "/ok")
        await payee._running.keeper.stop()
        await payee.settlement.claim()

        assert await payee.settlement.settle() == 3 * PRICE
