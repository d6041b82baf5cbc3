"""MPP's `evm/session` behind the paywall: one deposit, many requests, one close."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentpay.evm.addresses import PERMIT2
from agentpay.evm.allowance_abi import approve_call
from agentpay.evm.session_escrow_abi import top_up_call
from agentpay.http.paywall import Receive, Scope, Send
from agentpay.payee.pricing import Order
from agentpay.signers.wallet import Wallet
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.mpp.outcome import PAYMENT_VOUCHER
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT
from agentpay.wire.x402 import PAYMENT_RESPONSE
from tests.http.session_world import DEPOSIT, OK, a_world
from tests.http.world import PRICE, answer, until
from tests.payee.mpp_hand import kind_of, problem_of
from tests.payee.session_hand import (
    outcome_of,
    session_of,
    session_receipt_of,
    wanted_of,
)


async def test_a_402_offers_a_session(agentpay_shared_chain: LocalChain) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge = await world.challenge()
        wanted = wanted_of(challenge)
        details = challenge.decode_request()["methodDetails"]

        assert challenge.digest is None
        assert (wanted.amount, wanted.unit_type) == (PRICE, "request")
        assert wanted.suggested_deposit == 100 * PRICE
        assert wanted.recipient == world.payee.settings.pay_to
        assert wanted.method_details.fee_payer
        assert wanted.method_details.min_voucher_delta == 0
        assert wanted.method_details.credential_types == ("authorization", "hash")
        assert isinstance(details, dict)
        assert details["parallel-vouchers"] == {
            "version": 1,
            "window": 1024,
            "maxInFlight": 128,
        }


async def test_a_session_is_opened_drawn_on_and_closed(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = world.payer.config()
        deposit = await world.payer.deposit(config, DEPOSIT)
        opened = await world.send(await world.payer.open(config, deposit))
        bought = await world.buy(config, 3 * PRICE)
        below = await world.buy(config, PRICE)
        closed = await world.send(await world.payer.close(config, 2 * PRICE))
        receipt = session_receipt_of(closed)

        assert (opened.status_code, opened.content) == (200, b"")
        assert session_receipt_of(opened).spent == 0
        assert session_receipt_of(opened).units == 0
        assert bought.json() == below.json() == {"answer": 42}
        assert session_receipt_of(bought).accepted_cumulative == 3 * PRICE
        assert [session_receipt_of(a).spent for a in (bought, below)] == [
            PRICE,
            2 * PRICE,
        ]
        assert outcome_of(below).fate == "charged"
        assert (closed.status_code, closed.content) == (200, b"")
        assert receipt.tx_hash is not None
        assert receipt.reference == config.channel
        assert await world.balance() == 2 * PRICE
        for answer in (opened, bought, below, closed):
            assert "private" in answer.headers["cache-control"]
            assert PAYMENT_RESPONSE not in answer.headers


@pytest.mark.parametrize("tagged", [True, False])
async def test_an_open_that_covers_a_request_buys_it(
    agentpay_shared_chain: LocalChain, tagged: bool
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = world.payer.config(tagged=tagged)
        deposit = await world.payer.deposit(config, DEPOSIT)
        payload = await world.payer.open(config, deposit, PRICE)
        headers = world.payer.headers(await world.challenge(), payload)
        bought = await world.client.get(OK, headers=headers)
        again = await world.client.get(OK, headers=headers)
        receipt = session_receipt_of(bought)

        assert bought.json() == {"answer": 42}
        assert (receipt.spent, receipt.units) == (PRICE, 1)
        assert receipt.tx_hash is not None
        assert again.content == bought.content
        assert again.headers[PAYMENT_RECEIPT] == bought.headers[PAYMENT_RECEIPT]
        assert world.shop.begun.total() == 1


async def test_a_voucher_may_bring_the_deposit_that_opens_its_session(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = world.payer.config()
        opens = await world.payer.deposit(config, 2 * PRICE)
        bought = await world.send(await world.payer.voucher(config, PRICE, opens))
        fills = await world.payer.deposit(config, 3 * PRICE, opens=False)
        more = await world.send(await world.payer.voucher(config, 5 * PRICE, fills))

        assert bought.json() == more.json() == {"answer": 42}
        assert session_receipt_of(more).tx_hash is not None
        assert session_receipt_of(more).accepted_cumulative == 5 * PRICE
        assert await world.spent(config) == (2 * PRICE, 5 * PRICE)


async def test_a_top_up_comes_alone_and_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        above = await world.buy(config, DEPOSIT + PRICE)
        deposit = await world.payer.deposit(config, PRICE, opens=False)
        headers = world.payer.headers(
            await world.challenge(), world.payer.top_up(deposit)
        )
        topped = [await world.client.get(OK, headers=headers) for _ in range(2)]
        bought = await world.buy(config, DEPOSIT + PRICE - 1)

        assert (above.status_code, kind_of(above)) == (
            402,
            "session/amount-exceeds-deposit",
        )
        assert problem_of(above).deposit == DEPOSIT
        assert [a.status_code for a in topped] == [200, 200]
        assert session_receipt_of(topped[0]).units == 0
        assert bought.json() == {"answer": 42}
        assert await world.chain.balance(config.payer) == 10**8 - DEPOSIT - PRICE


async def test_permit2_opens_and_fills_up_where_it_is_offered(
    agentpay_shared_chain: LocalChain,
) -> None:
    methods = ("permit2", "eip3009")
    async with a_world(
        agentpay_shared_chain, transfer_methods=methods, ether=1
    ) as world:
        token = world.payee.asset.address
        await world.sends(approve_call(token, spender=PERMIT2, amount=10**9))
        wanted = wanted_of(await world.challenge())
        config = world.payer.config()
        opens = await world.payer.permit(config, 2 * PRICE)
        bought = await world.send(await world.payer.open(config, opens, PRICE))
        fills = await world.payer.permit(config, PRICE, opens=False)
        topped = await world.send(world.payer.top_up(fills))
        more = await world.buy(config, 3 * PRICE)

        assert wanted.method_details.credential_types == (
            "permit2",
            "authorization",
            "hash",
        )
        assert bought.json() == more.json() == {"answer": 42}
        assert session_receipt_of(topped).spent == PRICE


async def test_a_payer_with_gas_opens_and_fills_up_itself(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain, ether=1) as world:
        config = world.payer.config()
        opened = await world.opens_itself(config, 2 * PRICE)
        bought = await world.send(await world.payer.opened(config, opened, PRICE))
        again = await world.send(await world.payer.opened(config, opened, PRICE))
        token, escrow = world.payee.asset.address, config.escrow
        filled = await world.sends(
            approve_call(token, spender=escrow.contract, amount=PRICE),
            top_up_call(config.channel, PRICE, escrow),
        )
        told = await world.send(world.payer.filled(config, filled, PRICE))
        more = await world.buy(config, 3 * PRICE)

        assert bought.json() == more.json() == {"answer": 42}
        assert session_receipt_of(bought).tx_hash == opened
        assert again.content == bought.content
        assert (told.status_code, told.content) == (200, b"")
        assert world.shop.begun.total() == 2


async def test_p14_a_hash_proves_nobody_and_is_told_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain, ether=1) as world:
        config = await world.opened()
        await world.buy(config, PRICE)
        token, escrow = world.payee.asset.address, config.escrow
        filled = await world.sends(
            approve_call(token, spender=escrow.contract, amount=PRICE),
            top_up_call(config.channel, PRICE, escrow),
        )
        told = await world.send(world.payer.filled(config, filled, PRICE))
        lied = await world.send(world.payer.filled(config, filled, 2 * PRICE))
        bought = await world.buy(config, DEPOSIT + PRICE)

        assert (told.status_code, told.content) == (200, b"")
        assert PAYMENT_RECEIPT not in told.headers
        assert PAYMENT_VOUCHER not in told.headers
        assert (lied.status_code, kind_of(lied)) == (402, "verification-failed")
        assert problem_of(lied).spent is None
        assert bought.json() == {"answer": 42}


@pytest.mark.parametrize("tagged", [True, False])
async def test_p1_a_voucher_that_the_chain_shows_is_told_no_answer(
    agentpay_shared_chain: LocalChain, tagged: bool
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened(tagged=tagged)
        bought = await world.buy(config, PRICE)
        again = await world.buy(config, PRICE)
        settlement = world.payee._running.session_settlement
        assert settlement is not None
        assert await settlement.settle() == 1
        by_anyone = await world.buy(config, PRICE)

        assert bought.json() == {"answer": 42}
        assert again.content == bought.content
        assert b"answer" not in by_anyone.content
        assert world.shop.begun.total() == 1


async def test_one_challenge_is_for_many_vouchers_queries_and_bodies(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        challenge = session_of(await world.client.post(OK))
        answers = []
        for n in range(1, 4):
            payload = await world.payer.voucher(config, n * PRICE)
            headers = world.payer.headers(challenge, payload)
            answers.append(
                await world.client.post(
                    f"{OK}?n={n}", headers=headers, content=b"x" * n
                )
            )

        assert [a.status_code for a in answers] == [200] * 3
        assert {session_receipt_of(a).challenge_id for a in answers} == {challenge.id}
        assert world.shop.begun.total() == 3


async def test_bodies_stream_past_a_session_unread(
    agentpay_shared_chain: LocalChain,
) -> None:
    sent: list[bytes] = []
    begun: list[int] = []

    async def parts() -> AsyncIterator[bytes]:
        for part in (b"one", b"two", b"three"):
            sent.append(part)
            yield part

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append(len(sent))
        while (await receive()).get("more_body"):
            continue
        await answer(send, 200, b"ok")

    async with a_world(agentpay_shared_chain, app=app) as world:
        config = await world.opened()
        payload = await world.payer.voucher(config, PRICE)
        headers = world.payer.headers(session_of(await world.client.post(OK)), payload)
        bought = await world.client.post(OK, headers=headers, content=parts())

        assert bought.status_code == 200
        assert begun == [0]
        assert len(sent) == 3


async def test_a_metered_request_is_charged_what_it_used(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        first = await world.buy(config, PRICE, path="/metered?used=300")
        second = await world.buy(config, 2 * PRICE, path="/metered?used=1")
        receipt = session_receipt_of(second)

        assert outcome_of(first).charged == 300
        assert (receipt.spent, receipt.units) == (301, None)
        closed = await world.send(await world.payer.close(config, 301), path="/metered")
        assert closed.status_code == 200
        assert await world.balance() == 301


async def test_head_brings_a_voucher_and_buys_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        voucher = await world.payer.voucher(config, 5 * PRICE)
        raised = await world.send(voucher, method="HEAD")
        tried = await world.send(voucher)
        below = await world.buy(config, PRICE)

        assert (raised.status_code, raised.content) == (200, b"")
        assert session_receipt_of(raised).accepted_cumulative == 5 * PRICE
        assert session_receipt_of(raised).spent == 0
        assert (outcome_of(raised).fate, outcome_of(raised).charged) == ("charged", 0)
        assert (tried.status_code, outcome_of(tried).charged) == (409, 0)
        assert below.json() == {"answer": 42}
        assert world.shop.begun.total() == 1


async def test_head_brings_vouchers_to_a_path_that_is_posted_to(
    agentpay_shared_chain: LocalChain,
) -> None:
    routes = {"POST /ask": PRICE, "PUT /ask": 2 * PRICE, "/other": PRICE}
    async with a_world(agentpay_shared_chain, routes=routes) as world:
        posts, puts = [
            session_of(await world.client.request(method, "/ask"))
            for method in ("POST", "PUT")
        ]
        config = world.payer.config()
        deposit = await world.payer.deposit(config, DEPOSIT)
        opened = await world.client.head(
            "/ask",
            headers=world.payer.headers(
                posts, await world.payer.open(config, deposit, PRICE)
            ),
        )
        raises = world.payer.headers(puts, await world.payer.voucher(config, 2 * PRICE))
        raised = await world.client.head("/ask", headers=raises)
        free = await world.client.head("/ask")
        own = await world.client.head("/ask", headers={"authorization": "Bearer abc"})

        assert (opened.status_code, raised.status_code) == (200, 200)
        assert session_receipt_of(raised).accepted_cumulative == 2 * PRICE
        assert session_receipt_of(raised).spent == 0
        assert (free.status_code, own.status_code) == (200, 200)
        assert PAYMENT_RECEIPT not in free.headers
        assert world.shop.begun == {"/ask": 2}


async def test_p1_fifty_copies_of_a_voucher_buy_one_answer(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        payload = await world.payer.voucher(config, PRICE)
        headers = world.payer.headers(await world.challenge(), payload)
        copies = [world.client.get(OK, headers=headers) for _ in range(50)]
        answers = await asyncio.gather(*copies)
        late = await world.client.get(OK, headers=headers)

        assert {a.status_code for a in answers} <= {200, 409}
        assert {kind_of(a) for a in answers if a.status_code == 409} <= {
            "credential-replayed"
        }
        assert late.content == b'{"answer":42}'
        assert world.shop.begun.total() == 1
        assert await world.spent(config) == (PRICE, PRICE)


async def test_thirty_two_requests_at_once_on_one_session_all_succeed(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = world.payer.config()
        deposit = await world.payer.deposit(config, 64 * PRICE)
        await world.send(await world.payer.open(config, deposit))
        challenge = await world.challenge()
        orders = [
            world.payer.headers(challenge, await world.payer.voucher(config, n * PRICE))
            for n in range(32, 64)
        ]
        answers = await asyncio.gather(
            *(world.client.get(OK, headers=headers) for headers in orders)
        )
        closed = await world.send(await world.payer.close(config, 32 * PRICE))

        assert {a.status_code for a in answers} == {200}
        assert {session_receipt_of(a).spent for a in answers} <= {
            n * PRICE for n in range(1, 33)
        }
        assert max(session_receipt_of(a).spent for a in answers) == 32 * PRICE
        assert session_receipt_of(closed).spent == 32 * PRICE
        assert await world.balance() == 32 * PRICE


async def test_an_error_of_the_application_costs_nothing_and_says_so(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        failed = await world.buy(config, PRICE, path=OK + "?status=404")

        assert failed.status_code == 404
        assert PAYMENT_RECEIPT not in failed.headers
        assert (outcome_of(failed).fate, outcome_of(failed).charged) == ("charged", 0)
        assert await world.spent(config) == (0, PRICE)


async def test_a_voucher_key_signs_where_a_session_names_one(
    agentpay_shared_chain: LocalChain,
) -> None:
    key = Wallet.create()
    async with a_world(agentpay_shared_chain) as world:
        config = world.payer.config(authorized_signer=key.address)
        deposit = await world.payer.deposit(config, DEPOSIT)
        payload = await world.payer.open(config, deposit, PRICE, signer=key)
        bought = await world.send(payload)
        wallet = await world.send(await world.payer.voucher(config, 2 * PRICE))

        assert bought.json() == {"answer": 42}
        assert kind_of(wallet) == "session/signer-mismatch"


# A session that is not tagged: the draft's own, one request at a time.


async def test_an_untagged_session_rises(agentpay_shared_chain: LocalChain) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened(tagged=False)
        first = await world.buy(config, 2 * PRICE)
        lower = await world.buy(config, PRICE, path="/ok")
        second = await world.buy(config, 2 * PRICE, path="/ok")
        spent = await world.buy(config, 2 * PRICE, path="/dear")

        assert first.json() == second.json() == {"answer": 42}
        assert PAYMENT_VOUCHER not in first.headers
        assert (lower.status_code, lower.content) == (200, b"")
        assert session_receipt_of(lower).units == 0
        assert session_receipt_of(second).spent == 2 * PRICE
        assert kind_of(spent) == "session/insufficient-balance"
        assert problem_of(spent).required_cumulative == 2 * PRICE + 50_000
        assert problem_of(spent).spent == 2 * PRICE


async def test_a_named_request_is_charged_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened(tagged=False)
        challenge = await world.challenge()
        voucher = world.payer.headers(
            challenge, await world.payer.voucher(config, 5 * PRICE)
        )
        other = world.payer.headers(
            challenge, await world.payer.voucher(config, 6 * PRICE)
        )
        named = {"idempotency-key": "one"}
        first = await world.client.get(OK, headers={**voucher, **named})
        again = await world.client.get(OK, headers={**voucher, **named})
        changed = await world.client.get(OK, headers={**other, **named})
        next_one = await world.client.get(
            OK, headers={**voucher, "idempotency-key": '"two"'}
        )
        wrong = await world.client.get(
            OK, headers={**voucher, "idempotency-key": "x" * 300}
        )

        assert first.json() == {"answer": 42}
        assert again.headers[PAYMENT_RECEIPT] == first.headers[PAYMENT_RECEIPT]
        assert (changed.status_code, kind_of(changed)) == (409, "credential-replayed")
        assert PAYMENT_RESPONSE not in changed.headers
        assert session_receipt_of(next_one).spent == 2 * PRICE
        assert (wrong.status_code, kind_of(wrong)) == (400, "malformed-credential")
        assert world.shop.begun.total() == 2


async def test_a_named_request_whose_answer_is_not_kept_is_not_charged_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, b"x" * 100_000)

    async with a_world(agentpay_shared_chain, app=app) as world:
        config = await world.opened(tagged=False)
        payload = await world.payer.voucher(config, 5 * PRICE)
        headers = world.payer.headers(await world.challenge(), payload)
        named = {**headers, "idempotency-key": "one"}
        first = await world.client.get(OK, headers=named)
        again = await world.client.get(OK, headers=named)

        assert (first.status_code, again.status_code) == (200, 409)
        assert await world.spent(config) == (PRICE, 5 * PRICE)


async def test_an_untagged_session_serves_one_after_the_other(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened(tagged=False)
        slow = asyncio.create_task(
            world.buy(config, PRICE, path="/channel/reserve-then-settle/slow")
        )
        await until(lambda: world.shop.begun.total() > 0)
        busy = await world.buy(config, 2 * PRICE)
        world.shop.gate.set()
        served = await slow
        after = await world.buy(config, 2 * PRICE)

        assert (busy.status_code, kind_of(busy)) == (503, "internal-payment-error")
        assert busy.headers["retry-after"] == "1"
        assert served.json() == after.json() == {"answer": 42}


# Orders: when the money moves.


@pytest.mark.parametrize("order", list(Order))
async def test_every_order_sells_on_a_session(
    agentpay_shared_chain: LocalChain, order: Order
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        bought = await world.buy(config, PRICE, path=f"/channel/{order}/ok")
        failed = await world.buy(config, 2 * PRICE, path=f"/channel/{order}/raises")
        asked = await world.send(
            await world.payer.voucher(config, 2 * PRICE), method="HEAD"
        )

        assert session_receipt_of(bought).spent == PRICE
        assert failed.status_code == 500
        assert (outcome_of(asked).fate, outcome_of(asked).charged) == ("charged", 0)
        assert await world.spent(config) == (PRICE, 2 * PRICE)


@pytest.mark.parametrize(
    ("order", "kept"), [(Order.SETTLE_FIRST, PRICE), (Order.RESERVE, 0)]
)
async def test_p10_who_leaves_has_paid_where_it_was_settled_first(
    agentpay_shared_chain: LocalChain, order: Order, kept: int
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        leaving = asyncio.create_task(
            world.buy(config, PRICE, path=f"/channel/{order}/slow")
        )
        await until(lambda: world.shop.begun.total() > 0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)

        assert await world.spent(config) == (kept, PRICE)
