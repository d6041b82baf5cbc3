"""Deposits of strict channels: made only for a voucher that will be admitted."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentpay.core.payee_channel import HeldVoucher
from agentpay.evm.batch_settlement import channel_id
from agentpay.onchain import read_channel
from agentpay.payee.funding import ChannelFunding
from agentpay.payee.pricing import Route, Terms
from agentpay.payee.sales import Refusal
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.x402 import DepositPayload, parse_payment
from agentpay.wire.x402_deposits import read_deposit
from tests.http.world import a_payee
from tests.payee.hand import (
    HandPayer,
    code,
    receipt_of,
    refused,
    said,
    serve,
    sold,
    terms_of,
)
from tests.payee.test_refusals_of_channel_payments import Opened, opened

DEPOSIT = 5000


async def on_chain(shop: Opened) -> int:
    channel = channel_id(shop.config, shop.payee.asset.chain)
    return (await read_channel(shop.payee._running.chain, channel)).balance


async def refused_deposit(shop: Opened, cumulative: int, **options: Any) -> str:
    """Why a deposit is refused with its voucher; and that it was not made."""
    before = await on_chain(shop)
    header = await shop.payer.funding(
        shop.config, DEPOSIT, cumulative, shop.terms, **options
    )
    refusal = refused(await shop.answer(header))

    assert refusal.status == 402
    assert "payment-response" not in refusal.headers
    assert await on_chain(shop) == before
    return code(refusal)


async def claimed(shop: Opened) -> tuple[Terms, str]:
    """A dear route, and a payment of 6,000 for it that a claim has shown, of 1,100."""
    dear = terms_of(shop.payee, Route(price=5000, metered=True))
    shown = await shop.payer.voucher(shop.config, 6000, dear)
    await serve(await shop.answer(shown, dear), charged=100)
    await shop.payee.settlement.claim()
    return dear, shown


async def test_c14_of_deposits_that_come_at_once_for_one_channel_one_is_made(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
        terms, config = terms_of(payee), payer.config(tagged=False)
        shop = Opened(payee=payee, payer=payer, terms=terms, config=config)
        headers = [await payer.funding(config, 10_000, 1000, terms) for _ in range(6)]

        async def buy(header: str) -> str:
            outcome = await payee.answer(header, terms)
            if isinstance(outcome, Refusal):
                return code(outcome)
            await asyncio.sleep(0.1)
            await serve(outcome)
            return "sold"

        outcomes = await asyncio.gather(*map(buy, headers))
        balance = await on_chain(shop)

    assert sorted(outcomes) == [*["cumulative_amount_mismatch"] * 5, "sold"]
    assert balance == 10_000


async def test_c14_a_deposit_is_not_made_while_its_channel_is_busy(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee, tagged=False)
        first = await shop.payer.voucher(shop.config, 2000, shop.terms)
        running = sold(await shop.answer(first))

        assert await refused_deposit(shop, 3000) == "channel_busy"
        await serve(running)
        header = await shop.payer.funding(shop.config, DEPOSIT, 3000, shop.terms)
        assert (await serve(await shop.answer(header))).success
        assert await on_chain(shop) == 10_000 + DEPOSIT


@pytest.mark.parametrize("cumulative", [777, 1000, 2001, 9000])
async def test_c14_a_deposit_is_not_made_for_a_voucher_of_another_total(
    agentpay_shared_chain: LocalChain, cumulative: int
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee, tagged=False)

        assert await refused_deposit(shop, cumulative) == "cumulative_amount_mismatch"


async def test_c14_a_deposit_is_not_made_for_more_than_may_be_owed(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain, exposure_max="$0.0015") as payee:
        shop = await opened(agentpay_shared_chain, payee, tagged=False)

        assert await refused_deposit(shop, 2000) == "too_much_unclaimed"


async def test_c14_a_first_deposit_is_not_made_for_a_voucher_of_another_total(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Also where nothing is recorded of the channel yet."""
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
        terms, config = terms_of(payee), payer.config(tagged=False)
        shop = Opened(payee=payee, payer=payer, terms=terms, config=config)

        assert await refused_deposit(shop, 1500) == "cumulative_amount_mismatch"
        kept = await payee._running.store.payee.read(
            channel_id(config, payee.asset.chain)
        )
    assert kept is None


async def test_after_a_claim_cheaper_requests_go_on_below_the_voucher_it_showed(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee, tagged=False)
        dear, _ = await claimed(shop)
        again = await shop.payer.voucher(shop.config, 2100, shop.terms)
        assert (await serve(await shop.answer(again))).success

        cheaper = replace(dear, maximum=3900)
        header = await shop.payer.voucher(shop.config, 6000, cheaper)
        assert code(refused(await shop.answer(header, cheaper))) == (
            "cumulative_amount_mismatch"
        )


async def test_a_refusal_after_a_deposit_that_was_made_names_its_transaction(
    agentpay_shared_chain: LocalChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another request of the channel comes while the deposit is on its way."""
    foreseen, taken = asyncio.Event(), asyncio.Event()
    make = ChannelFunding.fund

    async def fund(self: Any, *arguments: Any) -> Refusal | None:
        foreseen.set()
        await taken.wait()
        return await make(self, *arguments)

    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee, tagged=False)
        along = await shop.payer.funding(shop.config, DEPOSIT, 2000, shop.terms)
        alone = await shop.payer.voucher(shop.config, 2000, shop.terms)
        monkeypatch.setattr(ChannelFunding, "fund", fund)
        funding = asyncio.create_task(shop.answer(along))
        await foreseen.wait()
        running = sold(await shop.answer(alone))
        taken.set()
        refusal = refused(await funding)
        await serve(running)

        assert code(refusal) == "channel_busy"
        assert receipt_of(refusal).success is False
        assert receipt_of(refusal).transaction
        assert await on_chain(shop) == 10_000 + DEPOSIT


async def test_k1_below_a_shown_voucher_its_bringer_is_told_no_total(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Anybody can take it from the claim."""
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee, tagged=False)
        dear, shown = await claimed(shop)
        for cumulative in (2100, 3100):
            header = await shop.payer.voucher(shop.config, cumulative, shop.terms)
            await serve(await shop.answer(header))
            required = said(refused(await shop.answer(shown, dear)))

            told = [offer.extra for offer, _ in required.readable_offers()]
            assert not [extra for extra in told if "channelState" in extra]


async def test_a_deposit_by_another_way_is_looked_for_before_its_voucher_is_refused(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        shop = await opened(chain, payee, tagged=False)
        header = await shop.payer.funding(shop.config, 20_000, 16_000, shop.terms)
        payload = parse_payment(header).payload
        assert isinstance(payload, DepositPayload)
        deposit = read_deposit(payload, shop.config, payee.asset)
        voucher = HeldVoucher(amount=16_000, signature=b"")
        await payee._running.facilitator.deposit(deposit, voucher)
        dear = terms_of(payee, Route(price=15_000))
        along = await shop.payer.funding(shop.config, 1000, 16_000, dear)

        assert (await serve(await shop.answer(along, dear))).success
        assert await on_chain(shop) == 31_000
