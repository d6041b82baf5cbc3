"""A channel as an official client uses it: one request at a time, at exactly S + m."""

import asyncio
from dataclasses import replace
from typing import Any

from agentpay.evm.batch_settlement import channel_id
from agentpay.payee.pricing import Route
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.x402 import parse_response
from tests.http.world import a_payee
from tests.payee.hand import (
    code,
    receipt_of,
    refused,
    said,
    serve,
    sold,
    terms_of,
)
from tests.payee.test_refusals_of_channel_payments import Opened, opened


async def lane(chain: LocalChain, payee: Any) -> Opened:
    return await opened(chain, payee, tagged=False)


async def state_in(refusal: Any) -> dict[str, Any]:
    """The channel's `extra` in a 402."""
    _, offer = said(refusal).readable_offers()[0]
    extra = offer["extra"]
    assert isinstance(extra, dict)
    return extra


async def test_each_voucher_adds_the_price_to_what_was_charged(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await lane(agentpay_shared_chain, payee)
        for cumulative in (2000, 3000, 4000):
            header = await shop.payer.voucher(shop.config, cumulative, shop.terms)
            receipt = await serve(await shop.answer(header))

            assert receipt.extra is not None
            assert receipt.extra.charged_amount == 1000
            assert receipt.extensions == {}


async def test_a_wrong_amount_is_corrected_with_the_payers_own_voucher(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await lane(agentpay_shared_chain, payee)
        for wrong in (1000, 1999, 2001, 9000, 10**9):
            header = await shop.payer.voucher(shop.config, wrong, shop.terms)
            refusal = refused(await shop.answer(header))
            extra = await state_in(refusal)

            assert code(refusal) == "cumulative_amount_mismatch"
            assert extra["channelState"]["chargedCumulativeAmount"] == "1000"
            assert extra["voucherState"]["signedMaxClaimable"] == "1000"
        right = await shop.payer.voucher(shop.config, 2000, shop.terms)
        await serve(await shop.answer(right))


async def test_after_a_lower_charge_the_next_voucher_is_lower(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await lane(agentpay_shared_chain, payee)
        metered = terms_of(payee, Route(price=1000, metered=True))
        first = await shop.payer.voucher(shop.config, 2000, metered)
        await serve(await shop.answer(first, metered), charged=0)
        again = await shop.payer.voucher(shop.config, 2000, metered)
        await serve(await shop.answer(again, metered), charged=300)
        last = await shop.payer.voucher(
            shop.config, 1300 + 1, terms_of(payee, Route(price=1))
        )
        await serve(await shop.answer(last, terms_of(payee, Route(price=1))))

        assert await shop.charged() == 1301


async def test_p1_a_published_voucher_buys_nothing_on_a_cheaper_route(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await lane(agentpay_shared_chain, payee)
        metered = terms_of(payee, Route(price=1000, metered=True))
        first = await shop.payer.voucher(shop.config, 2000, metered)
        await serve(await shop.answer(first, metered), charged=500)
        await payee.settlement.claim()  # everyone can read the voucher for 2000 now
        cheap = terms_of(payee, Route(price=500))
        published = await shop.payer.voucher(shop.config, 2000, cheap)
        refusal = refused(await shop.answer(published, cheap))

        assert code(refusal) == "cumulative_amount_mismatch"


async def test_p1_of_a_forgotten_channel_what_was_claimed_counts_as_shown(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet(0)
    async with a_payee(chain, wallet=wallet) as payee:
        shop = await lane(chain, payee)
        await payee.settlement.claim()
    async with a_payee(chain, wallet=wallet) as reborn:
        shop = replace(shop, payee=reborn)
        wrong = await shop.payer.voucher(shop.config, 1500, shop.terms)
        assert "channelState" in await state_in(refused(await shop.answer(wrong)))
        early = await shop.payer.voucher(shop.config, 1000, shop.terms)
        assert "channelState" in await state_in(refused(await shop.answer(early)))
        right = await shop.payer.voucher(shop.config, 2000, shop.terms)
        await serve(await shop.answer(right))

        shown = refused(await shop.answer(early))
        assert code(shown) == "cumulative_amount_mismatch"
        assert "channelState" not in await state_in(shown)


async def test_a_second_request_waits_and_then_hears_that_the_channel_is_busy(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await lane(agentpay_shared_chain, payee)
        header = await shop.payer.voucher(shop.config, 2000, shop.terms)
        sale = sold(await shop.answer(header))
        other = await shop.payer.voucher(shop.config, 3000, shop.terms)
        busy = refused(await shop.answer(other))
        waiting = asyncio.create_task(shop.answer(other))
        await asyncio.sleep(0.05)
        await sale.commit(1000)
        await sale.delivered()
        await serve(await waiting)

        assert code(busy) == "channel_busy"
        assert await shop.charged() == 3000


async def test_p9_many_at_once_never_spend_more_than_was_signed(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await lane(agentpay_shared_chain, payee)
        headers = [
            await shop.payer.voucher(shop.config, 1000 + 1000 * n, shop.terms)
            for n in range(1, 6)
        ]
        outcomes = await asyncio.gather(*(shop.answer(h) for h in headers))
        running = [o for o in outcomes if not hasattr(o, "status")]

        assert len(running) == 1
        assert await shop.charged() == 2000


async def test_a_refund_by_what_was_charged_empties_the_channel_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await lane(agentpay_shared_chain, payee)
        wrong = await shop.payer.voucher(shop.config, 2000, shop.terms, kind="refund")
        assert code(refused(await shop.answer(wrong))) == "cumulative_amount_mismatch"
        header = await shop.payer.voucher(shop.config, 1000, shop.terms, kind="refund")
        done = refused(await shop.answer(header))
        again = refused(await shop.answer(header))
        balance = await agentpay_shared_chain.balance(shop.payer.wallet.address)

        assert (done.status, again.status) == (200, 200)
        assert receipt_of(done).amount == "9000"
        assert receipt_of(again).amount == "0"
        assert balance == 100_000_000 - 1000


async def test_a_refund_that_waits_for_the_chain_tells_nothing_of_our_endpoint(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_payee(chain, rpc_url=rpc.url + "/secret") as payee,
    ):
        shop = await lane(chain, payee)
        header = await shop.payer.voucher(shop.config, 1000, shop.terms, kind="refund")
        rpc.plan("eth_call", Fault.UNAVAILABLE, times=50)
        waits = refused(await shop.answer(header))
        rpc.heal()

        assert waits.status == 503
        assert b"chain_unreachable; send the same request again" in waits.body
        assert b"secret" not in waits.body
        assert refused(await shop.answer(header)).status == 200


async def test_a_refunded_channel_can_be_funded_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await lane(agentpay_shared_chain, payee)
        header = await shop.payer.voucher(shop.config, 1000, shop.terms, kind="refund")
        refused(await shop.answer(header))
        again = await shop.payer.funding(shop.config, 5000, 2000, shop.terms)
        receipt = await serve(await shop.answer(again))

        assert receipt.extra is not None
        assert receipt.extra.channel_state is not None
        assert receipt.extra.channel_state.balance == 1000 + 5000


async def test_a_parallel_channel_is_refunded_by_a_fresh_voucher_and_then_closed(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee)
        used = await shop.payer.voucher(shop.config, 1000, shop.terms, kind="refund")
        first = refused(await shop.answer(used))
        fresh = await shop.payer.voucher(shop.config, 1001, shop.terms, kind="refund")
        done = refused(await shop.answer(fresh))
        late = await shop.payer.voucher(shop.config, 2000, shop.terms)
        closed = refused(await shop.answer(late))
        record = await payee.settlement.see_chain(
            channel_id(shop.config, payee.asset.chain)
        )

        assert first.status == 409
        assert done.status == 200
        assert parse_response(done.headers["payment-response"]).amount == "9000"
        assert code(closed) == "channel_closing"
        assert record is not None
        assert record.ledger.status == "closed"
