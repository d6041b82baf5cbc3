"""A claim shows a voucher to everybody: what that takes from the payer whose it is."""

import time
from functools import partial
from pathlib import Path

import pytest

from agentpay.evm.batch_settlement import channel_id
from agentpay.payee.pricing import Route, Terms
from agentpay.testing.local_chain import LocalChain
from tests.http.world import a_payee
from tests.payee.hand import code, refused, serve, sold, terms_of
from tests.payee.test_refusals_of_channel_payments import Opened, opened


async def after_a_metered(
    shop: Opened, *, charged: int, price: int
) -> tuple[str, Terms]:
    """What comes next at a route of this price, after 2000 was signed and not used."""
    metered = terms_of(shop.payee, Route(price=1000, metered=True))
    dear = await shop.payer.voucher(shop.config, 2000, metered)
    await serve(await shop.answer(dear, metered), charged=charged)
    cheap = terms_of(shop.payee, Route(price=price), resource="GET /cheap")
    total = 1000 + charged + price
    return await shop.payer.voucher(shop.config, total, cheap), cheap


async def test_p1_a_voucher_whose_request_runs_is_not_shown_and_may_come_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee, tagged=False)
        header, cheap = await after_a_metered(shop, charged=100, price=100)
        running = sold(await shop.answer(header, cheap))
        assert await payee.settlement.claim() == 1
        await running.abandon(charged=0, failed=True)

        await serve(await shop.answer(header, cheap))
        assert await shop.charged() == 1200


async def test_p1_a_claim_waits_while_its_only_voucher_may_come_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee, tagged=False)
        await payee.settlement.claim()
        again, cheap = await after_a_metered(shop, charged=500, price=500)
        running = sold(await shop.answer(again, cheap))
        assert await payee.settlement.claim() == 0
        await running.abandon(charged=0, failed=True)

        await serve(await shop.answer(again, cheap))
        assert await payee.settlement.claim() == 1


async def test_p1_after_a_crash_no_stranger_is_served_what_its_payer_asked_for(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    wallet, store = await chain.funded_wallet(0), str(tmp_path / "payee.db")
    async with a_payee(chain, wallet=wallet, store=store) as payee:
        shop = await opened(chain, payee)
        header = await shop.payer.voucher(shop.config, 2000, shop.terms)
        later = await shop.payer.voucher(shop.config, 3000, shop.terms)
        sold(await shop.answer(header))
        await serve(await shop.answer(later))
        assert await payee.settlement.claim() == 1
        channel = channel_id(shop.config, payee.asset.chain)
        record = await payee.settlement.see_chain(channel)
        assert record is not None
        assert [u.cumulative for u in record.ledger.used if u.shown] == [3000]
    async with a_payee(chain, wallet=wallet, store=store) as reborn:
        await serve(await reborn.answer(header, terms_of(reborn)))


@pytest.mark.parametrize("kind", ["voucher", "refund"])
async def test_p12_after_a_crash_nobody_takes_a_resend_by_a_voucher_that_is_shown(
    kind: str, agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    wallet, store = await chain.funded_wallet(0), str(tmp_path / "payee.db")
    async with a_payee(chain, wallet=wallet, store=store) as payee:
        shop = await opened(chain, payee, tagged=False)
        await payee.settlement.claim()
        header = await shop.payer.voucher(shop.config, 2000, shop.terms)
        sold(await shop.answer(header))
    async with a_payee(chain, wallet=wallet, store=store) as reborn:
        terms = terms_of(reborn)
        shop = Opened(payee=reborn, payer=shop.payer, terms=terms, config=shop.config)
        shown = await shop.payer.voucher(shop.config, 1000, terms, kind=kind)

        assert code(refused(await shop.answer(shown))) == "cumulative_amount_mismatch"
        await serve(await shop.answer(header))


async def test_p12_by_a_refund_that_all_can_ask_for_nobody_learns_what_runs(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee, tagged=False)
        await payee.settlement.claim()
        for metered in (False, True):
            terms = terms_of(payee, Route(price=1000, metered=metered))
            shown = await shop.payer.voucher(shop.config, 1000, terms, kind="refund")
            header = await shop.payer.voucher(shop.config, 2000, terms)
            running = sold(await shop.answer(header, terms))

            no = refused(await shop.answer(shown, terms))
            assert code(no) == "cumulative_amount_mismatch"
            await running.abandon(charged=0, failed=True)


@pytest.mark.parametrize("why", ["full", "leaving", ""])
async def test_k5_no_claim_waits_where_its_payer_leaves_or_others_are_refused(
    why: str, agentpay_shared_chain: LocalChain
) -> None:
    """Whatever the ledger knows of a withdrawal by then."""
    limit = "$0.001" if why == "full" else None
    async with a_payee(agentpay_shared_chain, exposure_max=limit) as payee:
        shop = await opened(agentpay_shared_chain, payee, tagged=False)
        await payee.settlement.claim()
        again, cheap = await after_a_metered(shop, charged=500, price=500)
        sold(await shop.answer(again, cheap))
        channel = channel_id(shop.config, payee.asset.chain)

        if why == "leaving":
            await payee.settlement.claim_channels([channel])
        else:
            await payee.settlement.claim()

        record = await payee.settlement.see_chain(channel)
        assert record is not None
        assert record.ledger.claimed == (1500 if why else 1000)


async def test_of_what_is_due_as_much_is_claimed_as_a_request_that_is_over_covers(
    agentpay_shared_chain: LocalChain,
) -> None:
    ahead = [0.0]
    chain = agentpay_shared_chain
    async with a_payee(chain, clock=lambda: time.time() + ahead[0]) as payee:
        shop = await opened(chain, payee)
        channel = channel_id(shop.config, payee.asset.chain)
        store = payee._running.store.payee
        await payee.settlement.claim()
        sign = partial(shop.payer.voucher, shop.config, terms=shop.terms)
        vouchers = [await sign(total) for total in (2000, 3000, 4000, 5000)]
        *running, last = [sold(await shop.answer(voucher)) for voucher in vouchers]
        for sale in running:
            await sale.commit(1000)
            await sale.delivered()
        before = await store.read(channel)
        ahead[0] = 5

        assert await payee.settlement.claim(at_least=2001) == 0
        assert await payee.settlement.claim(at_least=2000) == 1
        record = await store.read(channel)
        assert before is not None
        assert record is not None
        assert (record.ledger.claimed, record.ledger.due) == (3000, 4000)
        assert record.owing_since == before.owing_since  # the rest is as old
        assert await payee.settlement.claim() == 0
        await last.abandon(charged=0, failed=True)
        assert await payee.settlement.claim() == 1
