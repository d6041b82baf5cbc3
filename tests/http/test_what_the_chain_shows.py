"""A voucher that was claimed or settled is on the chain: it proves nobody its payer."""

import asyncio

import httpx
import pytest

from agentpay.core.payee_events import ChainSeen
from agentpay.evm.batch_settlement import channel_id
from agentpay.evm.session_escrow_abi import request_close_call
from agentpay.payee.noting import note
from agentpay.payee.pricing import Route
from agentpay.payee.session_settlement import SessionSettlement
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.mpp.outcome import PAYMENT_VOUCHER
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT
from agentpay.wire.x402 import (
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    parse_payment_required,
    parse_response,
)
from tests.http.session_world import OK, World, a_world
from tests.http.world import BASE, CHANNEL_ONLY, PRICE, a_shop, through, until
from tests.payee.hand import HandPayer, terms_of
from tests.payee.mpp_hand import problem_of
from tests.payee.session_hand import outcome_of, session_receipt_of

PAID = "/channel/reserve-then-settle/ok"
SLOW = "/channel/reserve-then-settle/slow"
METHODS = pytest.mark.parametrize("method", ["GET", "HEAD"])
TAGGED = pytest.mark.parametrize("tagged", [True, False])


def settlement_of(world: World) -> SessionSettlement:
    settlement = world.payee._running.session_settlement
    assert settlement is not None
    return settlement


def says_nothing_of_the_session(answer: httpx.Response) -> bool:
    """No receipt, no books in a problem, no total in an outcome."""
    told = PAYMENT_RECEIPT in answer.headers or b'"spent"' in answer.content
    if PAYMENT_VOUCHER in answer.headers:
        told |= outcome_of(answer).spent is not None
    return not told and b"answer" not in answer.content


# Sessions of MPP.


@TAGGED
@METHODS
async def test_p14_a_settled_voucher_is_told_nothing_of_its_session(
    agentpay_shared_chain: LocalChain, tagged: bool, method: str
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened(tagged=tagged)
        await world.buy(config, PRICE)
        payload = await world.payer.voucher(config, PRICE)
        known = await world.send(payload, method=method)
        assert await settlement_of(world).settle() == 1
        await world.buy(config, 3 * PRICE)
        by_anyone = await world.send(payload, method=method)
        by_payer = await world.send(
            await world.payer.voucher(config, 3 * PRICE), method="HEAD"
        )

        assert not says_nothing_of_the_session(known)
        assert says_nothing_of_the_session(by_anyone)
        assert session_receipt_of(by_payer).spent == 2 * PRICE
        if tagged:  # its payer may have lost the answer, and needs to know its fate
            outcome = outcome_of(by_anyone)
            assert (outcome.fate, outcome.charged) == ("charged", PRICE)


@TAGGED
async def test_p14_a_settled_voucher_under_an_old_challenge_is_told_nothing(
    agentpay_shared_chain: LocalChain, tagged: bool
) -> None:
    late = 0.0

    def clock() -> float:
        return 1_700_000_000 + asyncio.get_running_loop().time() + late

    async with a_world(agentpay_shared_chain, clock=clock) as world:
        config = await world.opened(tagged=tagged)
        payload = await world.payer.voucher(config, PRICE)
        headers = world.payer.headers(await world.challenge(), payload)
        await world.client.get(OK, headers=headers)
        late = 1000
        again = await world.client.get(OK, headers=headers)
        assert await settlement_of(world).settle() == 1
        by_anyone = await world.client.get(OK, headers=headers)

        assert again.json() == {"answer": 42}
        assert says_nothing_of_the_session(by_anyone)


async def test_p12_a_settled_voucher_of_less_closes_nothing_and_is_told_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        await world.buy(config, PRICE)
        assert await settlement_of(world).settle() == 1
        await world.buy(config, 2 * PRICE)
        refused = await world.send(await world.payer.close(config, PRICE))
        known = await world.send(await world.payer.close(config, PRICE + 1))

        assert refused.status_code == known.status_code == 402
        assert says_nothing_of_the_session(refused)
        assert str(2 * PRICE) not in problem_of(refused).detail
        assert problem_of(known).spent == 2 * PRICE


async def test_p14_a_top_up_that_was_made_is_told_nothing_of_its_session(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        await world.buy(config, PRICE)
        fills = await world.payer.deposit(config, PRICE, opens=False)
        made = await world.send(world.payer.top_up(fills))
        by_anyone = await world.send(world.payer.top_up(fills))

        assert session_receipt_of(made).spent == PRICE
        assert by_anyone.status_code == 200
        assert says_nothing_of_the_session(by_anyone)


async def test_p1_what_is_published_while_it_runs_is_told_no_answer(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain, ether=1) as world:
        config = await world.opened()
        payload = await world.payer.voucher(config, 2 * PRICE)
        running = asyncio.create_task(world.send(payload, path=SLOW))
        await until(lambda: world.shop.begun[SLOW] == 1)
        await world.buy(config, PRICE // 2)  # its ticket covers less than it costs
        await world.sends(request_close_call(config.channel, config.escrow))
        # Leaving is answered by the smallest voucher for what is due: that which runs.
        await settlement_of(world).leave(config.channel)
        still = await world.send(payload, path=SLOW)
        world.shop.gate.set()
        first = await running
        by_anyone = await world.send(payload, path=SLOW)

        assert await world.balance() == 2 * PRICE
        assert first.json() == {"answer": 42}
        assert outcome_of(still).fate == "running"
        assert says_nothing_of_the_session(still)
        assert outcome_of(by_anyone).fate == "charged"
        assert says_nothing_of_the_session(by_anyone)


# Channels of x402.


def channel_state_of(answer: httpx.Response) -> object:
    """What an answer says of its channel, in a receipt or in an offer."""
    receipt = answer.headers.get(PAYMENT_RESPONSE)
    extra = parse_response(receipt).extra if receipt else None
    if extra is not None and extra.channel_state is not None:
        return extra.channel_state
    if PAYMENT_REQUIRED not in answer.headers:
        return None
    offers = parse_payment_required(answer.headers[PAYMENT_REQUIRED]).readable_offers()
    states = [offer.extra.get("channelState") for offer, _ in offers]
    return next((state for state in states if state), None)


async def test_p1_what_is_claimed_while_it_runs_is_told_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        wallet = await agentpay_shared_chain.funded_wallet(ether=0)
        payer = HandPayer(wallet, payee.settings)
        terms = terms_of(payee, Route(price=PRICE, schemes=CHANNEL_ONLY))
        config = payer.config()
        opening = await payer.funding(config, 20 * PRICE, 2 * PRICE, terms)
        claimed = await payer.voucher(config, 2 * PRICE, terms)
        other = await payer.voucher(config, PRICE // 2, terms)
        async with httpx.AsyncClient(transport=through(wall), base_url=BASE) as client:

            async def present(header: str, path: str = SLOW) -> httpx.Response:
                return await client.get(path, headers={"payment-signature": header})

            running = asyncio.create_task(present(opening))
            await until(lambda: shop.begun[SLOW] == 1)
            bought = await present(other, PAID)
            known = await present(claimed)
            assert await payee.settlement.claim() == 1  # as much as the other covers
            channel = channel_id(config, payee.asset.chain)
            record = await payee.settlement.see_chain(channel)
            assert record is not None
            assert record.ledger.claimed == PRICE // 2
            assert await payee.settlement.claim() == 0  # unless its payer leaves
            leaves = ChainSeen(
                balance=20 * PRICE, claimed=PRICE // 2, pending_withdrawal=1
            )
            await note(payee._running.store.payee, channel, leaves)
            assert await payee.settlement.claim() == 1
            still = await present(claimed)
            shop.gate.set()
            first = await running
            by_anyone = await present(claimed)

    assert (first.status_code, bought.status_code) == (200, 200)
    assert channel_state_of(known) is not None
    for answer in (still, by_anyone):
        assert answer.status_code == 409
        assert channel_state_of(answer) is None
        assert b"answer" not in answer.content
    assert parse_response(by_anyone.headers[PAYMENT_RESPONSE]).success


@pytest.mark.parametrize("used_since", [True, False])
async def test_k1_a_claimed_voucher_is_told_no_voucher_that_is_not(
    agentpay_shared_chain: LocalChain, used_since: bool
) -> None:
    """The specification's correction has the payer's latest signature in it."""
    async with a_shop(agentpay_shared_chain) as (_, payee, wall):
        wallet = await agentpay_shared_chain.funded_wallet(ether=0)
        payer = HandPayer(wallet, payee.settings)
        terms = terms_of(payee, Route(price=PRICE, schemes=CHANNEL_ONLY))
        config = payer.config(tagged=False)
        vouchers = [
            await payer.funding(config, 20 * PRICE, PRICE, terms),
            await payer.voucher(config, 2 * PRICE, terms),
        ]
        claimed = await payer.voucher(config, PRICE, terms)
        secret = await payer.voucher(config, PRICE + 7, terms)
        async with httpx.AsyncClient(transport=through(wall), base_url=BASE) as client:

            async def present(header: str) -> httpx.Response:
                return await client.get(PAID, headers={"payment-signature": header})

            assert (await present(vouchers[0])).status_code == 200
            assert await payee.settlement.claim() == 1
            if used_since:
                assert (await present(vouchers[1])).status_code == 200
            by_anyone = await present(claimed)
            by_payer = await present(secret)

    assert by_anyone.status_code == by_payer.status_code == 402
    # Where all that was signed is on the chain, who lost an answer finds its place.
    assert (channel_state_of(by_anyone) is None) == used_since
    assert channel_state_of(by_payer) is not None
