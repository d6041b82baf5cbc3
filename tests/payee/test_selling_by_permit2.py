"""What Permit2 moves: `exact`, `upto`, deposits, and approvals that come along."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentpay import Payee, Route
from agentpay.errors import ConfigurationError
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.allowance_abi import approve_call
from agentpay.payee.pricing import Order
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from agentpay.wire.x402 import parse_payment
from agentpay.wire.x402_transfers import payment_id
from tests.http.world import a_payee
from tests.payee.hand import (
    NOBODY,
    HandPayer,
    code,
    receipt_of,
    refused,
    said,
    serve,
    sold,
    terms_of,
)

BY_PERMIT2 = ("eip3009", "permit2")
UPTO = Route(price=1000, metered=True, schemes=("upto",))
EXACT = Route(price=1000, schemes=("exact",))


async def approve(chain: LocalChain, owner: Address, amount: int = 10**9) -> None:
    call = approve_call(chain.usdc.address, spender=PERMIT2, amount=amount)
    await chain.node.set_balance(owner, 10**18)
    await chain.node.transact(owner, call.data, to=call.to)


async def a_payer(
    chain: LocalChain, payee: Payee, *, dollars: int = 1_000_000, approved: bool = True
) -> HandPayer:
    payer = HandPayer(await chain.funded_wallet(dollars, ether=0), payee.settings)
    if approved:
        await approve(chain, payer.wallet.address)
    return payer


async def test_permit2_pays_exactly(agentpay_shared_chain: LocalChain) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain, transfer_methods=BY_PERMIT2) as payee:
        payer = await a_payer(chain, payee)
        terms = terms_of(payee, EXACT)
        header = await payer.permit2(terms)
        receipt = await serve(await payee.answer(header, terms))
        again = refused(await payee.answer(header, terms))

        assert receipt.success
        assert receipt.amount == "1000"
        assert again.status == 409
        assert await chain.balance(payee.settings.pay_to) == 1000


@pytest.mark.parametrize("used", [0, 1, 300, 1000])
async def test_upto_settles_what_was_used(
    agentpay_shared_chain: LocalChain, used: int
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        payer = await a_payer(chain, payee)
        terms = terms_of(payee, UPTO)
        header = await payer.permit2(terms, scheme="upto")
        receipt = await serve(await payee.answer(header, terms), used)
        again = refused(await payee.answer(header, terms))

        assert receipt.amount == receipt_of(again).amount == str(used)
        assert bool(receipt.transaction) == bool(used)
        assert await chain.balance(payee.settings.pay_to) == used


async def test_f1_upto_settled_before_a_crash_is_charged_what_it_moved(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        payer = await a_payer(chain, payee)
        terms = terms_of(payee, UPTO)
        header = await payer.permit2(terms, scheme="upto")
        sale: Any = sold(await payee.answer(header, terms))
        await payee.settlement._facilitator.settle_transfer(
            sale._purchase.movement.transfer, 300
        )
        sale._sales.release(sale._purchase)
        receipt = await serve(await payee.answer(header, terms), 900)

        assert receipt.amount == "300"
        assert await chain.balance(payee.settings.pay_to) == 300


async def test_p9_upto_payments_in_flight_are_covered_together(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        payer = await a_payer(chain, payee, approved=False)
        await approve(chain, payer.wallet.address, 2500)
        terms = terms_of(payee, UPTO)
        headers = [await payer.permit2(terms, scheme="upto") for _ in range(5)]
        answers = await asyncio.gather(*(payee.answer(h, terms) for h in headers))
        admitted = [a for a in answers if not hasattr(a, "status")]

        assert 1 <= len(admitted) <= 2
        for answer in admitted:
            assert (await serve(answer, 1000)).success


async def test_t8_an_approval_comes_along_and_needs_no_gas(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain, transfer_methods=BY_PERMIT2) as payee:
        payer = await a_payer(chain, payee, approved=False)
        terms = terms_of(payee, EXACT)
        bare = refused(await payee.answer(await payer.permit2(terms), terms))
        approval = await payer.approval(1000)
        header = await payer.permit2(terms, extensions=approval)
        receipt = await serve(await payee.answer(header, terms))

        assert bare.status == 412
        assert "eip2612GasSponsoring" in said(bare).extensions
        assert receipt.success


LACKING = {
    "exact": EXACT,
    "exact, settled first": replace(EXACT, order=Order.SETTLE_FIRST),
    "exact, served first": replace(EXACT, order=Order.SERVE_FIRST),
    "upto": UPTO,
}


@pytest.mark.parametrize("route", LACKING.values(), ids=LACKING)
async def test_a_payment_that_lacks_an_allowance_is_a_412_until_it_is_given(
    agentpay_shared_chain: LocalChain, route: Route
) -> None:
    """x402's `exact` and `upto` on EVM, "Verification Logic", 2."""
    chain, (scheme,) = agentpay_shared_chain, route.schemes
    async with a_payee(chain, transfer_methods=BY_PERMIT2) as payee:
        payer = await a_payer(chain, payee, approved=False)
        await approve(chain, payer.wallet.address, 999)
        terms = terms_of(payee, route)
        header = await payer.permit2(terms, scheme=scheme)
        asked = refused(await payee.answer(None, terms))
        lacking = refused(await payee.answer(header, terms))
        kept = await payee.settlement._store.find_payment(
            payment_id(parse_payment(header), payee.asset)
        )
        await approve(chain, payer.wallet.address, 1000)
        receipt = await serve(await payee.answer(header, terms))

        assert lacking.status == 412
        assert said(lacking).error == "permit2_allowance_required"
        assert said(lacking).accepts == said(asked).accepts
        assert receipt_of(lacking).error_reason == "permit2_allowance_required"
        assert receipt_of(lacking).payer == payer.wallet.address
        assert kept is None
        assert receipt.success
        assert await chain.balance(payee.settings.pay_to) == 1000


async def test_what_fails_for_something_else_is_no_412(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain, transfer_methods=BY_PERMIT2) as payee:
        poor = await a_payer(chain, payee, dollars=0)
        terms, config = terms_of(payee, EXACT), poor.config()
        channel = terms_of(payee)
        by_token = await poor.transfer(terms)
        permitted = await a_payer(chain, payee, dollars=0, approved=False)
        along = await permitted.approval(1000)
        unfunded = await poor.voucher(
            config,
            1000,
            channel,
            kind="deposit",
            accepted=poor.offer(channel, method="permit2"),
            deposit=await poor.permit2_deposit(config, 5000),
        )
        answers = [
            await payee.answer(await poor.permit2(terms), terms),
            await payee.answer(by_token, terms),
            await payee.answer(await permitted.permit2(terms, extensions=along), terms),
            await payee.answer(unfunded, channel),
        ]

        assert [refused(answer).status for answer in answers] == [402] * 4


async def test_c11_an_approval_for_another_amount_is_refused(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain, transfer_methods=BY_PERMIT2) as payee:
        payer = await a_payer(chain, payee, approved=False)
        terms = terms_of(payee, EXACT)
        header = await payer.permit2(terms, extensions=await payer.approval(2**256 - 1))

        assert refused(await payee.answer(header, terms)).status == 400


async def test_permit2_funds_a_channel_and_tops_it_up(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain, transfer_methods=BY_PERMIT2) as payee:
        payer = await a_payer(chain, payee)
        terms, config = terms_of(payee), payer.config()
        for cumulative in (1000, 2000):
            header = await payer.voucher(
                config,
                cumulative,
                terms,
                kind="deposit",
                accepted=payer.offer(terms, method="permit2"),
                deposit=await payer.permit2_deposit(config, 5000),
            )
            receipt = await serve(await payee.answer(header, terms))
            assert receipt.success
            assert receipt.amount == "5000"

        claimed = await payee.settlement.claim()
        assert claimed == 1


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "recipient": ({"to": NOBODY}, "invalid_permit2_recipient_mismatch"),
    "token": ({"token": NOBODY}, "permit2_token_mismatch"),
    "amount": ({"amount": 999}, "permit2_amount_mismatch"),
    "early": ({"valid_after": 2**40}, "permit2_not_yet_valid"),
    "late": ({"deadline": 1}, "permit2_deadline_expired"),
    "kind": ({"facilitator": NOBODY}, "unsupported_scheme"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_p2_a_permit_for_something_else_is_refused(
    agentpay_shared_chain: LocalChain, change: str
) -> None:
    changes, expected = CHANGES[change]
    chain = agentpay_shared_chain
    async with a_payee(chain, transfer_methods=BY_PERMIT2) as payee:
        payer = await a_payer(chain, payee)
        terms = terms_of(payee, EXACT)
        header = await payer.permit2(terms, **changes)

        assert code(refused(await payee.answer(header, terms))) == expected


async def test_p2_upto_is_bound_to_its_facilitator(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        payer = await a_payer(chain, payee)
        terms = terms_of(payee, UPTO)
        header = await payer.permit2(terms, scheme="upto", facilitator=NOBODY)

        refusal = refused(await payee.answer(header, terms))
        assert code(refusal) == "upto_facilitator_mismatch"


async def test_p3_a_permit_does_not_pay_an_offer_of_another_method(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain, transfer_methods=BY_PERMIT2) as payee:
        payer = await a_payer(chain, payee)
        terms = terms_of(payee, EXACT)
        other = payer.offer(terms, "exact")
        header = await payer.permit2(terms, accepted=other)
        swapped = await payer.transfer(
            terms, accepted=payer.offer(terms, "exact", method="permit2")
        )

        for wrong in (header, swapped):
            refusal = refused(await payee.answer(wrong, terms))
            assert code(refusal) == "No matching payment requirements"


def test_upto_is_for_metered_routes_that_do_not_settle_first() -> None:
    with pytest.raises(ConfigurationError, match="metered"):
        Route(price=1, schemes=("upto",))
    with pytest.raises(ConfigurationError, match="settle first"):
        Route(price=1, metered=True, schemes=("upto",), order=Order.SETTLE_FIRST)
