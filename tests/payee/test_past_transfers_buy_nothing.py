"""A transfer that moved before a payee knew of it paid for something else."""

import time

import pytest

from agentpay import Payee, Route
from agentpay.errors import TransactionFailed
from agentpay.payee.earlier import moved_earlier
from agentpay.payee.movements import TransferMovement, read_signed
from agentpay.payee.pricing import Order
from agentpay.records import Settled
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.x402 import ExactPayload, Permit2Payload, parse_payment
from tests.http.world import a_payee
from tests.payee.hand import HandPayer, code, refused, serve, sold, terms_of
from tests.payee.test_selling_by_permit2 import BY_PERMIT2, a_payer

LATER = 60.0
RESERVED = Route(price=1000, metered=True, schemes=("exact", "upto"))
SERVED = Route(
    price=1000, metered=True, schemes=("exact", "upto"), order=Order.SERVE_FIRST
)
UPFRONT = Route(price=1000, schemes=("exact",), order=Order.SETTLE_FIRST)


async def pays(payer: HandPayer, payee: Payee, route: Route, kind: str) -> str:
    terms = terms_of(payee, route)
    if kind == "eip3009":
        return await payer.transfer(terms)
    return await payer.permit2(terms, scheme="upto" if kind == "upto" else "exact")


@pytest.mark.parametrize(
    ("route", "kind"),
    [
        (RESERVED, "eip3009"),
        (RESERVED, "permit2"),
        (RESERVED, "upto"),
        (SERVED, "eip3009"),
        (SERVED, "upto"),
        (UPFRONT, "eip3009"),
        (UPFRONT, "permit2"),
    ],
)
async def test_p1_a_transfer_buys_nothing_of_a_payee_that_lost_its_books(
    agentpay_shared_chain: LocalChain, route: Route, kind: str
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet(0)
    async with a_payee(chain, wallet=wallet, transfer_methods=BY_PERMIT2) as payee:
        payer = await a_payer(chain, payee)
        header = await pays(payer, payee, route, kind)
        await serve(await payee.answer(header, terms_of(payee, route)))
    async with a_payee(
        chain,
        wallet=wallet,
        transfer_methods=BY_PERMIT2,
        clock=lambda: time.time() + LATER,
    ) as payee:
        terms = terms_of(payee, route, resource="GET /another")
        first = refused(await payee.answer(header, terms))
        second = refused(await payee.answer(header, terms))
        fresh = await pays(payer, payee, route, kind)

        assert code(first) == code(second) == "invalid_transaction_state"
        assert (await serve(await payee.answer(fresh, terms))).success
        assert await chain.balance(wallet.address) == 2000


@pytest.mark.parametrize("route", [RESERVED, UPFRONT])
async def test_f3_a_transfer_that_moved_once_it_was_known_is_honoured_for_as_long(
    agentpay_shared_chain: LocalChain, route: Route
) -> None:
    chain, ahead = agentpay_shared_chain, [0.0]
    async with a_payee(chain, clock=lambda: time.time() + ahead[0]) as payee:
        payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
        terms = terms_of(payee, route)
        header = await payer.transfer(terms)
        sale = sold(await payee.answer(header, terms))
        assert isinstance(await sale.commit(1000), str)
        await sale.abandon(charged=0, failed=True)  # settled, and not answered
        ahead[0] = 10 * LATER
        again = await payee.answer(header, terms)

        assert (await serve(again)).success
        assert await chain.balance(payee.settings.pay_to) == 1000


async def test_f3_only_what_moved_since_counts(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
        terms = terms_of(payee, RESERVED)
        payment = parse_payment(await payer.transfer(terms))
        assert isinstance(payment.payload, ExactPayload | Permit2Payload)
        signed = read_signed(payment.payload, {}, payee.settings)
        movement = TransferMovement(
            transfer=signed,
            chain=payee._running.chain,
            facilitator=payee._running.settlement._facilitator,
        )

        async def earlier(since: int, *, simulate: bool) -> Settled | None:
            return await moved_earlier(
                payee._running.chain, movement, since=since, simulate=simulate
            )

        now = int(time.time())
        for simulate in (True, False):
            assert await earlier(now, simulate=simulate) is None
        moved = await movement.send(1000)
        for simulate in (True, False):
            assert await earlier(now, simulate=simulate) == moved
            with pytest.raises(TransactionFailed, match="for something else"):
                await earlier(now + 60, simulate=simulate)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("eip3009", "invalid_exact_evm_payload_authorization_valid_before"),
        ("permit2", "permit2_deadline_too_far"),
        ("upto", "permit2_deadline_too_far"),
    ],
)
async def test_c10_a_transfer_that_is_valid_for_ever_buys_nothing(
    agentpay_shared_chain: LocalChain, kind: str, wrong: str
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain, transfer_methods=BY_PERMIT2) as payee:
        payer, terms = await a_payer(chain, payee), terms_of(payee, RESERVED)
        now = int(time.time())

        async def lasting(until: int) -> str:
            if kind == "eip3009":
                return await payer.transfer(terms, valid_before=until)
            scheme = "upto" if kind == "upto" else "exact"
            return await payer.permit2(terms, scheme=scheme, deadline=until)

        for until in (now + 2 * 3600, 2**40, 2**256 - 1):
            refusal = refused(await payee.answer(await lasting(until), terms))
            assert code(refusal) == wrong
        for until in (now + 300, now + 3600):  # as offered, and as some sign always
            sale = await payee.answer(await lasting(until), terms)
            assert (await serve(sale)).success
