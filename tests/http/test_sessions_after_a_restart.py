"""What a payee's store remembers of sessions, and what is done where it forgot."""

import asyncio
from pathlib import Path

import pytest

from agentpay import Route
from agentpay.errors import StoreInUse
from agentpay.http.paywall import App, Message, Receive, Scope, Send
from agentpay.stores import open_store
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT
from tests.http.session_world import DEPOSIT, OK, a_world
from tests.http.world import PRICE, answer, eventually, until
from tests.payee.mpp_hand import kind_of
from tests.payee.session_hand import outcome_of, session_receipt_of
from tests.payee.test_durable_before_it_is_told import Crash


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


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_books_of_one_payee_are_no_other_payees(
    agentpay_shared_chain: LocalChain,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kind: str,
) -> None:
    """What it sold there, nobody would claim: who leads has other keys."""
    store = str(tmp_path / "payee.db")
    if kind == "postgres":
        store = str(request.getfixturevalue("postgres_url"))
    async with a_world(agentpay_shared_chain, store=store) as before:
        config = await before.opened()
        await before.buy(config, PRICE)
    with pytest.raises(StoreInUse, match="books of another payee"):
        async with a_world(agentpay_shared_chain, store=store):
            pass
    async with a_world(
        agentpay_shared_chain, store=store, wallet=before.wallet
    ) as again:
        payer = again.of(before.payer.wallet)
        more = await again.send(await payer.voucher(config, 2 * PRICE))

    assert more.status_code == 200


async def test_a_session_that_pays_somebody_else_is_not_ours(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    store = str(tmp_path / "payee.db")
    async with a_world(agentpay_shared_chain, store=store) as before:
        config = await before.opened()
    async with await open_store(store) as books:
        await books.payee.write_cursor("payee", 0)  # whose they are is not known
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
        await until(lambda: world.shop.begun.total() > 0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        asked = await world.send(
            await world.payer.voucher(config, PRICE), method="HEAD"
        )

        assert (outcome_of(asked).fate, outcome_of(asked).charged) == ("charged", 0)
        assert await world.spent(config) == (0, PRICE)


@pytest.mark.parametrize("metered", [False, True])
@pytest.mark.parametrize("when", ["the handler runs", "the receipt leaves"])
async def test_p1_a_crash_forgets_no_voucher_and_no_charge_that_was_told(
    agentpay_shared_chain: LocalChain, tmp_path: Path, metered: bool, when: str
) -> None:
    database = tmp_path / "payee.db"
    crash = Crash(database)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        if when == "the handler runs":
            crash.happens()
        if metered:
            scope["agentpay"].charge(PRICE - 1)
        await answer(send, 200, b"42")

    def before_it_leaves(app: App) -> App:
        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            async def leaving(message: Message) -> None:
                starts = message["type"] == "http.response.start"
                if starts and when == "the receipt leaves" and paying:
                    crash.happens()
                await send(message)

            await app(scope, receive, leaving)

        return wrapped

    paying = False
    async with a_world(
        agentpay_shared_chain,
        store=str(database),
        app=application,
        routes={OK: Route(price=PRICE, metered=metered)},
        around=before_it_leaves,
    ) as world:
        config = await world.opened()
        paying = True
        voucher = await world.payer.voucher(config, 2 * PRICE)
        headers = world.payer.headers(await world.challenge(), voucher)
        assert (await world.client.get(OK, headers=headers)).status_code == 200

    ledger = (await crash.left(config.channel)).ledger
    told = when == "the receipt leaves"
    charged = PRICE - 1 if metered else PRICE
    assert ledger.find_used(2 * PRICE) is not None
    assert ledger.charged == (charged if told or not metered else 0)
    assert ledger.held[-1].amount == 2 * PRICE


async def test_p1_a_dead_processs_request_runs_again_and_costs_once(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    database = tmp_path / "payee.db"
    crash = Crash(database)

    async def dying(scope: Scope, receive: Receive, send: Send) -> None:
        crash.happens()
        await answer(send, 200, b"lost")

    async with a_world(agentpay_shared_chain, store=str(database), app=dying) as before:
        config = await before.opened()
        payloads = [await before.payer.voucher(config, n * PRICE) for n in (1, 2)]
        await before.send(payloads[0])
    copy = str(database.with_name("after-the-crash.db"))
    async with a_world(
        agentpay_shared_chain, store=copy, wallet=before.wallet
    ) as after:
        again = await after.send(payloads[0])
        asked = await after.send(payloads[1], method="HEAD")

        assert again.json() == {"answer": 42}
        assert outcome_of(again).charged == PRICE
        assert session_receipt_of(asked).spent == PRICE
        assert await after.spent(config) == (PRICE, 2 * PRICE)


async def test_what_is_due_is_taken_where_no_sessions_are_sold_any_more(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    store = str(tmp_path / "payee.db")
    async with a_world(agentpay_shared_chain, store=store) as before:
        config = await before.opened()
        await before.buy(config, PRICE)
    async with a_world(
        agentpay_shared_chain,
        store=store,
        wallet=before.wallet,
        mpp=None,
        claim_at=1,
        poll_seconds=0.1,
    ) as after:

        async def paid() -> bool:
            return await after.balance() == PRICE

        assert "www-authenticate" not in (await after.client.get(OK)).headers
        await eventually(paid)
