"""What is answered before it is settled is settled before what was signed expires."""

import asyncio
import time
from pathlib import Path

import pytest

from agentpay import Paywall
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Order, Route
from agentpay.payee.sales import Refusal, Sale, SaleStream
from agentpay.payee.transfer_sale import SETTLE_SECONDS
from agentpay.records import PaymentRecord, PaymentStatus
from agentpay.stream_errors import StreamExhausted, StreamLost
from agentpay.testing.local_chain import LocalChain
from tests.http.test_selling_streams import PER_TOKEN, Listener, Model, route
from tests.http.world import a_payee, eventually
from tests.payee.hand import HandPayer, code, refused, sold, terms_of
from tests.payee.test_selling_by_permit2 import a_payer
from tests.payee.test_transfers_that_move_nothing import NONCE, cancel

SHORT = 20
"""Good for so long, it can be settled now, and not later."""
SOON = SETTLE_SECONDS + 2
EXACT = Route(price=1000, schemes=("exact",), order=Order.SERVE_FIRST)
STREAM = route(schemes=("upto",), order=Order.SERVE_FIRST)


async def earned(chain: LocalChain, payee: Payee) -> int:
    return await chain.balance(payee.settings.pay_to)


async def signed(
    chain: LocalChain, payee: Payee, *, seconds: int
) -> tuple[HandPayer, str]:
    """A payer, and what it signed for so long."""
    payer = HandPayer(await chain.funded_wallet(1000, ether=0), payee.settings)
    until = int(time.time()) + seconds
    terms = terms_of(payee, EXACT)
    return payer, await payer.transfer(terms, valid_before=until, nonce=NONCE)


async def an_exact(chain: LocalChain, payee: Payee, *, seconds: int) -> Sale:
    _, header = await signed(chain, payee, seconds=seconds)
    return sold(await payee.answer(header, terms_of(payee, EXACT)))


async def an_upto(
    chain: LocalChain, payee: Payee, *, seconds: int
) -> tuple[Sale, SaleStream]:
    payer, terms = await a_payer(chain, payee), terms_of(payee, STREAM)
    until = int(time.time()) + seconds
    header = await payer.permit2(terms, scheme="upto", deadline=until)
    sale = sold(await payee.answer(header, terms))
    assert sale.stream is not None
    return sale, sale.stream


async def record_of(payee: Payee, sale: Sale) -> PaymentRecord:
    found = await payee._running.store.payee.find_payment(sale.id)
    assert found is not None
    return found


async def test_p10_what_expires_soon_is_settled_before_it_is_answered(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        sale = await an_exact(chain, payee, seconds=SHORT)
        assert isinstance(await sale.commit(1000), str)
        paid = await earned(chain, payee)
        await sale.delivered()

        assert paid == await earned(chain, payee) == 1000
        assert (await record_of(payee, sale)).status is PaymentStatus.DELIVERED


async def test_p10_nothing_leaves_that_expires_soon_and_cannot_be_settled(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        payer, header = await signed(chain, payee, seconds=SHORT)
        sale = sold(await payee.answer(header, terms_of(payee, EXACT)))
        await cancel(chain, payer, NONCE)
        refusal = await sale.commit(1000)

        assert isinstance(refusal, Refusal)
        assert refusal.status == 402
        store = payee._running.store.payee
        assert await store.find_payment(sale.id) is None  # nothing was sent


async def test_p10_an_answer_that_leaves_slowly_is_settled_while_it_leaves(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        sale = await an_exact(chain, payee, seconds=SOON)
        assert isinstance(await sale.commit(1000), str)
        at_first = await earned(chain, payee)

        async def paid() -> bool:
            return await earned(chain, payee) == 1000

        await eventually(paid)
        await sale.delivered()
        await sale.delivered()

        assert at_first == 0
        assert await earned(chain, payee) == 1000
        assert (await record_of(payee, sale)).status is PaymentStatus.DELIVERED


async def test_p10_a_stream_ends_where_it_was_settled(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        sale, stream = await an_upto(chain, payee, seconds=SOON)
        await stream.begin()
        assert await stream.draw(200) == 200

        async def paid() -> bool:
            return await earned(chain, payee) == 200

        await eventually(paid)
        assert await stream.draw(400) == 200
        await stream.finish(180, None)
        await sale.delivered()

        assert await earned(chain, payee) == 200
        assert (await record_of(payee, sale)).status is PaymentStatus.DELIVERED


async def test_p10_no_stream_begins_that_could_not_be_settled(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    ahead = [0.0]
    async with a_payee(chain, clock=lambda: time.time() + ahead[0]) as payee:
        sale, stream = await an_upto(chain, payee, seconds=SETTLE_SECONDS + 30)
        ahead[0] = 31  # its handler took so long before it began
        drawn = await stream.draw(200)
        with pytest.raises(StreamExhausted):
            await stream.begin()
        await sale.abandon(charged=0, failed=True)

        assert drawn == 0
        assert await earned(chain, payee) == 0
        assert (await record_of(payee, sale)).status is PaymentStatus.FAILED


async def test_p10_a_stream_is_refused_that_could_not_be_settled(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        payer, terms = await a_payer(chain, payee), terms_of(payee, STREAM)
        until = int(time.time()) + SHORT
        header = await payer.permit2(terms, scheme="upto", deadline=until)
        refusal = refused(await payee.answer(header, terms))

        assert code(refusal) == "permit2_deadline_expired"


async def test_p10_who_lost_a_stream_settles_none_of_it_before_it_expires(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        sale, stream = await an_upto(chain, payee, seconds=SOON)
        await stream.begin()
        await stream.draw(200)
        store = payee._running.store.payee
        assert await store.take_payment(sale.id, owner="another")
        with pytest.raises(StreamLost):
            await stream.draw(400)
        await asyncio.sleep(SOON - SETTLE_SECONDS + 0.5)
        await sale.delivered()

        assert await earned(chain, payee) == 0


async def test_p10_a_streamed_answer_is_paid_for_however_long_it_takes(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:

        async def slowly(number: int) -> None:
            await asyncio.sleep(0.4 if number else 0)

        model = Model(tokens=60, before=slowly)
        wall = Paywall(model, payee=payee, routes={"/stream": STREAM})
        payer, until = await a_payer(chain, payee), int(time.time()) + SOON
        header = await payer.permit2(
            terms_of(payee, STREAM), scheme="upto", deadline=until
        )
        listener = Listener(header)
        await listener.listen(wall)
        tokens = len([p for p in listener.pieces if p.startswith(b"data: token")])

        assert isinstance(model.ended, StreamExhausted)
        assert listener.whole
        assert 0 < tokens < 60
        assert await earned(chain, payee) == tokens * PER_TOKEN


async def test_p10_what_was_perhaps_sent_as_it_expires_is_not_void(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain, store = agentpay_shared_chain, f"{tmp_path}/payee.db"
    async with a_payee(chain, store=store) as payee:
        _, header = await signed(chain, payee, seconds=SHORT)
        terms = terms_of(payee, EXACT)
        sold(await payee.answer(header, terms))
        await payee.stop()  # whoever was at it may have sent it
        await payee.start()
        again = sold(await payee.answer(header, terms))
        await again.abandon(charged=0, failed=True)

        assert (await record_of(payee, again)).status is PaymentStatus.STARTED
