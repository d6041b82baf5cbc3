"""What a payee's store remembers of sessions, and what is done where it forgot."""

import asyncio
from pathlib import Path

from agentpay.testing.local_chain import LocalChain
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT
from tests.http.session_world import DEPOSIT, OK, a_world
from tests.http.world import PRICE
from tests.payee.mpp_hand import kind_of
from tests.payee.session_hand import outcome_of, session_receipt_of


async def test_p1_a_session_goes_on_where_it_was(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    store = str(tmp_path / "payee.db")
    async with a_world(agentpay_shared_chain, store=store) as before:
        config = await before.opened()
        payload = await before.payer.voucher(config, PRICE)
        headers = before.payer.headers(await before.challenge(), payload)
        bought = await before.client.get(OK, headers=headers)
    async with a_world(
        agentpay_shared_chain, store=store, wallet=before.wallet
    ) as after:
        payer = after.of(before.payer.wallet)
        again = await after.client.get(OK, headers=headers)
        voucher = await payer.voucher(config, 2 * PRICE)
        more = await after.send(voucher)
        closed = await after.send(await payer.close(config, 2 * PRICE))

        assert again.headers[PAYMENT_RECEIPT] == bought.headers[PAYMENT_RECEIPT]
        assert more.json() == {"answer": 42}
        assert session_receipt_of(closed).spent == 2 * PRICE
        assert after.shop.begun.total() == 1
        assert await after.balance() == 2 * PRICE


async def test_k13_a_session_that_was_forgotten_is_not_sold_on_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as before:
        config = before.payer.config()
        deposit = await before.payer.deposit(config, DEPOSIT)
        opens = await before.payer.open(config, deposit, PRICE)
        bought = await before.send(opens)
    async with a_world(agentpay_shared_chain, wallet=before.wallet) as after:
        payer = after.of(before.payer.wallet)
        opened = await after.send(opens)
        drawn = await after.send(await payer.voucher(config, 2 * PRICE))

        assert bought.status_code == 200
        assert (opened.status_code, kind_of(opened)) == (
            410,
            "session/channel-not-found",
        )
        assert drawn.status_code == 410
        assert after.shop.begun.total() == 0


async def test_an_untagged_session_that_was_forgotten_begins_at_what_was_settled(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as before:
        config = before.payer.config(tagged=False)
        deposit = await before.payer.deposit(config, DEPOSIT)
        opens = await before.payer.open(config, deposit, PRICE)
        await before.send(opens)
    async with a_world(agentpay_shared_chain, wallet=before.wallet) as after:
        payer = after.of(before.payer.wallet)
        known = await after.send(await payer.open(config, deposit, 0))
        more = await after.send(await payer.voucher(config, 2 * PRICE))

        assert (known.status_code, session_receipt_of(known).spent) == (200, 0)
        assert session_receipt_of(more).spent == PRICE


async def test_a_session_that_pays_somebody_else_is_not_ours(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    store = str(tmp_path / "payee.db")
    async with a_world(agentpay_shared_chain, store=store) as before:
        config = await before.opened()
    async with a_world(agentpay_shared_chain, store=store) as other:
        payer = other.of(before.payer.wallet)
        refused = await other.send(await payer.voucher(config, PRICE))

        assert (refused.status_code, kind_of(refused)) == (
            410,
            "session/channel-not-found",
        )


async def test_p10_a_request_whose_client_left_is_given_back(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        slow = "/channel/reserve-then-settle/slow"
        leaving = asyncio.create_task(world.buy(config, PRICE, path=slow))
        while not world.shop.begun:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        asked = await world.send(
            await world.payer.voucher(config, PRICE), method="HEAD"
        )

        assert (outcome_of(asked).fate, outcome_of(asked).charged) == ("charged", 0)
        assert await world.spent(config) == (0, PRICE)
