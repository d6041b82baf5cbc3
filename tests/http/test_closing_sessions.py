"""Sessions are closed for exactly what was spent, by their payers, and for good."""

import asyncio

import pytest

from agentpay.evm.session_escrow_abi import request_close_call
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT
from tests.http.session_world import DEPOSIT, OK, a_world
from tests.http.world import PRICE, until
from tests.payee.mpp_hand import kind_of, problem_of
from tests.payee.session_hand import session_of, session_receipt_of

SLOW = "/channel/reserve-then-settle/slow"


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize("signed", [0, PRICE - 1, PRICE + 1, 3 * PRICE])
async def test_k2_a_close_for_another_amount_is_told_what_is_due(
    agentpay_shared_chain: LocalChain, tagged: bool, signed: int
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened(tagged=tagged)
        await world.buy(config, 3 * PRICE)
        refused = await world.send(await world.payer.close(config, signed))
        due = problem_of(refused).spent
        closed = await world.send(await world.payer.close(config, due or 0))

        assert refused.status_code == 402
        assert session_of(refused)
        assert due == PRICE
        assert closed.status_code == 200
        assert await world.balance() == PRICE
        assert await world.chain.balance(config.payer) == 10**8 - PRICE


async def test_k6_nothing_is_sold_on_a_session_that_is_closed(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        await world.buy(config, PRICE)
        payload = await world.payer.close(config, PRICE)
        headers = world.payer.headers(await world.challenge(), payload)
        closed = [await world.client.get(OK, headers=headers) for _ in range(2)]
        fills = await world.payer.deposit(config, PRICE, opens=False)
        opens = await world.payer.deposit(config, DEPOSIT)
        late = [
            await world.buy(config, 2 * PRICE),
            await world.send(await world.payer.voucher(config, 3 * PRICE, fills)),
            await world.send(world.payer.top_up(fills)),
            await world.send(await world.payer.open(config, opens, 4 * PRICE)),
            await world.send(await world.payer.close(config, 2 * PRICE)),
            await world.send(
                await world.payer.voucher(config, 5 * PRICE), method="HEAD"
            ),
        ]

        assert [a.status_code for a in closed] == [200, 200]
        assert session_receipt_of(closed[0]).tx_hash is not None
        assert session_receipt_of(closed[1]).spent == PRICE
        assert [a.status_code for a in late] == [410] * 6
        assert {kind_of(a) for a in late[:5]} == {"session/channel-finalized"}
        assert world.shop.begun.total() == 1
        assert await world.chain.balance(config.payer) == 10**8 - PRICE


async def test_a_session_with_nothing_spent_gives_everything_back(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        closed = await world.send(await world.payer.close(config, 0))

        assert session_receipt_of(closed).spent == 0
        assert await world.chain.balance(config.payer) == 10**8


async def test_a_close_waits_for_what_runs(agentpay_shared_chain: LocalChain) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        slow = asyncio.create_task(world.buy(config, PRICE, path=SLOW))
        await until(lambda: world.shop.begun.total() > 0)
        closing = asyncio.create_task(
            world.send(await world.payer.close(config, PRICE))
        )
        await asyncio.sleep(0.1)
        assert not closing.done()
        world.shop.gate.set()
        served, closed = await slow, await closing

        assert served.json() == {"answer": 42}
        assert session_receipt_of(closed).spent == PRICE
        assert await world.balance() == PRICE


@pytest.mark.parametrize("fails", [False, True])
async def test_who_waits_for_what_runs_is_woken_by_its_end(
    agentpay_shared_chain: LocalChain, fails: bool
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        path = SLOW + "?status=500" if fails else SLOW
        slow = asyncio.create_task(world.buy(config, PRICE, path=path))
        await until(lambda: world.shop.begun.total() > 0)
        sessions = world.payee._running.sessions
        assert sessions is not None
        changed = sessions._books.changed
        waiting = asyncio.create_task(changed.wait(config.channel, seconds=60))
        await asyncio.sleep(0)
        world.shop.gate.set()
        await slow
        async with asyncio.timeout(20):
            await waiting


async def test_p12_only_its_payer_closes_a_session(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        stranger = await world.chain.funded_wallet(0)
        unsigned = await world.payer.close(config, 0)
        unsigned["signature"] = "0x" + "00" * 65
        refused = [
            await world.send(await world.payer.close(config, 0, signer=stranger)),
            await world.send(unsigned),
        ]

        assert [a.status_code for a in refused] == [402, 402]
        assert [kind_of(a) for a in refused] == [
            "session/signer-mismatch",
            "session/invalid-signature",
        ]
        assert (await world.buy(config, PRICE)).status_code == 200


async def test_k5_nothing_is_sold_while_its_payer_has_the_contract_close_it(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain, ether=1) as world:
        config = await world.opened()
        await world.buy(config, PRICE)
        await world.sends(request_close_call(config.channel, config.escrow))
        await world.payee._running.keeper.sync()
        refused = await world.buy(config, 2 * PRICE)
        closed = await world.send(await world.payer.close(config, PRICE))

        assert (refused.status_code, kind_of(refused)) == (
            402,
            "session/amount-exceeds-deposit",
        )
        assert "close" in problem_of(refused).detail
        assert problem_of(refused).deposit == 0
        assert PAYMENT_RECEIPT not in refused.headers
        assert closed.status_code == 200
        assert world.shop.begun.total() == 1
        assert await world.balance() == PRICE
