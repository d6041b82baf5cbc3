"""Every reason to refuse a channel payment; a stranger learns and changes nothing."""

import time
from dataclasses import dataclass, replace
from typing import Any

import pytest

from agentpay import Wallet
from agentpay.core.payee_events import ChainSeen
from agentpay.evm.batch_settlement import channel_id
from agentpay.evm.signature import ORDER
from agentpay.payee.noting import note
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Route, Terms
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Hash32
from agentpay.wire.headers import encode_json
from tests.http.world import a_payee
from tests.payee.hand import (
    NOBODY,
    HandPayer,
    code,
    decoded,
    fate_of,
    receipt_of,
    refused,
    said,
    serve,
    sold,
    terms_of,
)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A payee, and a payer with a channel of $0.01 of which $0.001 is spent."""

    payee: Payee
    payer: HandPayer
    terms: Terms
    config: Any

    async def answer(self, header: str, terms: Terms | None = None) -> Any:
        return await self.payee.answer(header, terms or self.terms)

    async def charged(self) -> int:
        channel = channel_id(self.config, self.payee.asset.chain)
        record = await self.payee._running.store.payee.read(channel)
        assert record is not None
        return record.ledger.charged + record.ledger.reserved


async def opened(chain: LocalChain, payee: Payee, *, tagged: bool = True) -> Opened:
    payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
    terms = terms_of(payee)
    config = payer.config(tagged=tagged)
    header = await payer.funding(config, 10_000, 1000, terms)
    await serve(await payee.answer(header, terms))
    return Opened(payee=payee, payer=payer, terms=terms, config=config)


async def test_no_payment_is_answered_with_offers(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain, min_deposit="$0.005") as payee:
        required = said(refused(await payee.answer(None, terms_of(payee))))

    channel, exact = [offer for offer, _ in required.readable_offers()]
    assert channel.extra["withdrawDelay"] == 3600
    assert channel.extra["minDeposit"] == "5000"
    assert (
        Address(str(channel.extra["receiverAuthorizer"])) == payee.settings.authorizer
    )
    assert exact.extra == {"name": payee.asset.name, "version": payee.asset.version}
    assert "parallel-vouchers" in required.extensions


@pytest.mark.parametrize("header", ["x", "bnVsbA==", "e30="])
async def test_c17_what_cannot_be_read_is_400(
    agentpay_shared_chain: LocalChain, header: str
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        refusal = refused(await payee.answer(header, terms_of(payee)))

    assert refusal.status == 400


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"token": NOBODY}, "token_mismatch"),
        ({"receiver": NOBODY}, "receiver_mismatch"),
        ({"receiver_authorizer": NOBODY}, "receiver_authorizer_mismatch"),
        ({"withdraw_delay": 7200}, "withdraw_delay_mismatch"),
    ],
)
async def test_c12_a_channel_on_other_terms_is_refused(
    agentpay_shared_chain: LocalChain, changes: dict[str, Any], why: str
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee)
        config = replace(shop.config, **changes)
        header = await shop.payer.voucher(config, 2000, shop.terms)

        assert code(refused(await shop.answer(header))) == why
        assert await shop.charged() == 1000


async def test_k1_a_channel_id_that_is_not_its_terms_is_refused(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee)
        header = await shop.payer.voucher(
            shop.config, 2000, shop.terms, channel=Hash32.of(b"x" * 32)
        )

        assert code(refused(await shop.answer(header))) == "channel_id_mismatch"


async def forged(shop: Opened, how: str) -> str:
    """A voucher that the payer did not sign, though it looks good."""
    if how == "by somebody else":
        return await shop.payer.voucher(
            shop.config, 2000, shop.terms, signer=Wallet.create()
        )
    header = await shop.payer.voucher(shop.config, 2000, shop.terms)
    message = decoded(header)
    voucher = message["payload"]["voucher"]
    raw = bytes.fromhex(voucher["signature"][2:])
    s, v = int.from_bytes(raw[32:64], "big"), raw[64]
    wrong = {
        "high s": raw[:32] + (ORDER - s).to_bytes(32, "big") + bytes([55 - v]),
        "short": raw[:64],
        "long": raw + b"\0",
        "empty": b"",
        "zeros": bytes(65),
        "recovery id": raw[:64] + b"\x1d",
        "of another amount": raw,
    }
    voucher["signature"] = "0x" + wrong[how].hex()
    if how == "of another amount":
        voucher["maxClaimableAmount"] = "3000"
    return encode_json(message)


FORGERIES = (
    "by somebody else",
    "high s",
    "short",
    "long",
    "empty",
    "zeros",
    "recovery id",
    "of another amount",
)


@pytest.mark.parametrize("how", FORGERIES)
@pytest.mark.parametrize("tagged", [True, False])
async def test_k3_a_forged_voucher_learns_and_changes_nothing(
    agentpay_shared_chain: LocalChain, how: str, tagged: bool
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee, tagged=tagged)
        refusal = refused(await shop.answer(await forged(shop, how)))
        stranger = await opened(agentpay_shared_chain, payee, tagged=tagged)
        salt = Hash32(stranger.config.salt[:-4] + "0000")
        unknown = replace(stranger.config, salt=salt)
        elsewhere = refused(
            await shop.answer(
                await stranger.payer.voucher(
                    unknown, 2000, shop.terms, signer=Wallet.create()
                )
            )
        )

        assert code(refusal) == "voucher_signature"
        assert refusal == elsewhere  # nor whether there is such a channel
        assert await shop.charged() == 1000


@pytest.mark.parametrize("kind", ["voucher", "deposit", "refund"])
@pytest.mark.parametrize("query", [True, False])
async def test_p12_k4_nothing_is_done_or_told_without_the_payers_signature(
    agentpay_shared_chain: LocalChain, kind: str, query: bool
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee)
        deposit = await shop.payer.deposit(shop.config, 5000)
        header = await shop.payer.voucher(
            shop.config,
            1000,
            shop.terms,
            kind=kind,
            signer=Wallet.create(),
            query=query,
            deposit=deposit if kind == "deposit" else None,
        )
        refusal = refused(await shop.answer(header))

        assert code(refusal) == "voucher_signature"
        assert "channelState" not in str(said(refusal).accepts)
        assert "payment-response" not in refusal.headers
        assert (
            await shop.payee.settlement.see_chain(
                channel_id(shop.config, payee.asset.chain)
            )
        ).ledger.balance == 10_000  # type: ignore[union-attr] # it is open


async def test_p1_a_voucher_buys_one_answer(agentpay_shared_chain: LocalChain) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee)
        header = await shop.payer.voucher(shop.config, 2000, shop.terms)
        sale = sold(await shop.answer(header))
        running = refused(await shop.answer(header))
        await sale.commit(1000)
        await sale.delivered()
        again = refused(await shop.answer(header))

        assert (running.status, fate_of(running)) == (409, ("running", 1000))
        assert (again.status, fate_of(again)) == (409, ("charged", 1000))
        assert await shop.charged() == 2000


@pytest.mark.parametrize(
    ("cumulative", "why"),
    [
        (10_001, "cumulative_exceeds_balance"),
        (1999, "charge_exceeds_signed_cumulative"),
        (999, "charge_exceeds_signed_cumulative"),
    ],
)
async def test_k2_a_voucher_that_does_not_cover_is_void_for_good(
    agentpay_shared_chain: LocalChain, cumulative: int, why: str
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee)
        header = await shop.payer.voucher(shop.config, cumulative, shop.terms)
        refusal = refused(await shop.answer(header))
        again = refused(await shop.answer(header, terms_of(payee, Route(price=1))))

        assert code(refusal) == why
        assert fate_of(refusal) == fate_of(again) == ("void", 0)
        assert await shop.charged() == 1000


@pytest.mark.parametrize("tagged", [True, False])
async def test_a_deposit_that_was_not_seen_yet_is_looked_for_before_a_refusal(
    agentpay_shared_chain: LocalChain, tagged: bool
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee, tagged=tagged)
        channel = channel_id(shop.config, payee.asset.chain)
        less = ChainSeen(balance=1500, claimed=0, pending_withdrawal=0)
        await note(payee._running.store.payee, channel, less)
        header = await shop.payer.voucher(shop.config, 2000, shop.terms)
        await serve(await shop.answer(header))

        above = await shop.payer.voucher(shop.config, 11_000, shop.terms)
        refusal = refused(await shop.answer(above))

        wanted = (
            "cumulative_exceeds_balance" if tagged else "cumulative_amount_mismatch"
        )
        assert code(refusal) == wanted
        assert await shop.charged() == 2000


async def test_p2_a_voucher_for_other_terms_is_burnt(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee)
        cheap = terms_of(payee, Route(price=1))
        header = await shop.payer.voucher(
            shop.config, 2000, shop.terms, accepted=shop.payer.offer(cheap)
        )
        refusal = refused(await shop.answer(header))
        again = refused(await shop.answer(header, cheap))

        assert code(refusal) == "No matching payment requirements"
        assert fate_of(refusal) == fate_of(again) == ("void", 0)
        assert await shop.charged() == 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": 1000},
        {"amount": "0"},
        {"payTo": str(NOBODY)},
        {"asset": str(NOBODY)},
        {"network": "eip155:1"},
        {"scheme": "exact"},
        {"extra": {}},
        {"extra": None},
        {"maxTimeoutSeconds": True},
    ],
)
async def test_p2_terms_that_differ_in_anything_are_not_ours(
    agentpay_shared_chain: LocalChain, changes: dict[str, Any]
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee)
        accepted = {**shop.payer.offer(shop.terms), **changes}
        header = await shop.payer.voucher(
            shop.config, 2000, shop.terms, accepted=accepted
        )
        refusal = refused(await shop.answer(header))

        assert code(refusal) == "No matching payment requirements"


async def test_a_channel_that_is_not_funded_is_not_found(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        payer = HandPayer(await agentpay_shared_chain.funded_wallet(), payee.settings)
        terms = terms_of(payee)
        for tagged in (True, False):
            config = payer.config(tagged=tagged)
            header = await payer.voucher(config, 1000, terms)
            refusal = refused(await payee.answer(header, terms))

            assert code(refusal) == "channel_not_found"


async def test_k13_a_parallel_channel_that_the_payee_forgot_is_refused(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee)
        strict = await opened(agentpay_shared_chain, payee, tagged=False)
        await payee.settlement.claim()
        await payee.stop()  # in memory: it forgets
        await payee.start()
        header = await shop.payer.voucher(shop.config, 2000, shop.terms)
        topping = await shop.payer.funding(shop.config, 5000, 2000, shop.terms)
        lane = await strict.payer.voucher(strict.config, 2000, strict.terms)

        assert code(refused(await payee.answer(header, shop.terms))) == (
            "channel_not_found"
        )
        assert code(refused(await payee.answer(topping, shop.terms))) == (
            "channel_not_found"
        )
        await serve(await payee.answer(lane, strict.terms))


# Deposits


async def test_c14_a_deposit_below_the_minimum_is_refused(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain, min_deposit=5000) as payee:
        payer = HandPayer(await agentpay_shared_chain.funded_wallet(), payee.settings)
        terms = terms_of(payee)
        header = await payer.funding(payer.config(), 4999, 1000, terms)

        assert code(refused(await payee.answer(header, terms))) == (
            "deposit_below_min_deposit"
        )


async def test_p11_an_expired_deposit_is_refused(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        payer = HandPayer(await agentpay_shared_chain.funded_wallet(), payee.settings)
        terms, config = terms_of(payee), payer.config()
        late = await payer.deposit(config, 5000, valid_before=int(time.time()) - 1)
        header = await payer.voucher(config, 1000, terms, kind="deposit", deposit=late)

        assert code(refused(await payee.answer(header, terms))) == (
            "payload_authorization_valid_before"
        )


async def test_k9_a_deposit_that_somebody_else_signed_is_refused(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        payer = HandPayer(await agentpay_shared_chain.funded_wallet(), payee.settings)
        terms, config = terms_of(payee), payer.config()
        stranger = Wallet.create()
        header = await payer.funding(config, 5000, 1000, terms, depositor=stranger)

        assert code(refused(await payee.answer(header, terms))) == (
            "receive_authorization_signature"
        )


async def test_k9_a_deposit_for_another_channel_is_refused(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        payer = HandPayer(await agentpay_shared_chain.funded_wallet(), payee.settings)
        terms, config = terms_of(payee), payer.config()
        other = await payer.deposit(payer.config(), 5000)
        header = await payer.voucher(config, 1000, terms, kind="deposit", deposit=other)

        assert code(refused(await payee.answer(header, terms))) == (
            "receive_authorization_signature"
        )


@pytest.mark.parametrize("tagged", [True, False])
async def test_a_channel_whose_deposit_would_fail_is_not_recorded(
    agentpay_shared_chain: LocalChain, tagged: bool
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        poor = HandPayer(await chain.funded_wallet(0), payee.settings)
        terms, config = terms_of(payee), poor.config(tagged=tagged)
        header = await poor.funding(config, 5000, 1000, terms)
        refusal = refused(await payee.answer(header, terms))
        store = payee._running.store.payee
        kept = await store.read(channel_id(config, payee.asset.chain))
        await chain.fund(poor.wallet.address)
        receipt = await serve(await payee.answer(header, terms))

        assert code(refusal) == "insufficient_balance"
        assert receipt_of(refusal).success is False
        assert kept is None
        assert receipt.success


async def test_a_top_up_that_would_fail_burns_its_voucher(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        payer = HandPayer(await chain.funded_wallet(5000), payee.settings)
        terms, config = terms_of(payee), payer.config()
        await serve(
            await payee.answer(await payer.funding(config, 5000, 1000, terms), terms)
        )
        header = await payer.funding(config, 5000, 2000, terms)
        refusal = refused(await payee.answer(header, terms))
        await chain.fund(payer.wallet.address)
        again = refused(await payee.answer(header, terms))

        assert code(refusal) == "insufficient_balance"
        assert fate_of(refusal) == ("void", 0)
        assert fate_of(again) == ("void", 0)


async def test_f2_a_deposit_that_comes_many_times_is_made_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        payer = HandPayer(await agentpay_shared_chain.funded_wallet(), payee.settings)
        terms, config = terms_of(payee), payer.config()
        header = await payer.funding(config, 5000, 1000, terms)
        receipt = await serve(await payee.answer(header, terms))
        again = refused(await payee.answer(header, terms))
        seen = await payee.settlement.see_chain(channel_id(config, payee.asset.chain))

        assert receipt.amount == "5000"
        assert receipt.transaction
        assert again.status == 409
        assert seen is not None
        assert seen.ledger.balance == 5000


async def test_a_question_about_a_channel_we_never_heard_of_makes_its_deposit(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        payer = HandPayer(await agentpay_shared_chain.funded_wallet(), payee.settings)
        terms, config = terms_of(payee), payer.config()
        deposit = await payer.deposit(config, 5000)
        header = await payer.voucher(
            config, 1000, terms, kind="deposit", deposit=deposit, query=True
        )
        told = refused(await payee.answer(header, terms))
        late = await payer.voucher(config, 1000, terms, kind="deposit", deposit=deposit)
        again = refused(await payee.answer(late, terms))

        assert fate_of(told) == fate_of(again) == ("void", 0)


# Charging


async def test_a_receipt_says_what_was_charged(
    agentpay_shared_chain: LocalChain,
) -> None:
    metered = Route(price=1000, metered=True)
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee)
        terms = terms_of(payee, metered)
        header = await shop.payer.voucher(shop.config, 2000, terms)
        receipt = await serve(await payee.answer(header, terms), charged=300)

        assert receipt.success
        assert receipt.extra is not None
        assert receipt.extra.charged_amount == 300
        assert receipt.extra.channel_state is not None
        assert receipt.extra.channel_state.charged_cumulative_amount == 1300


@pytest.mark.parametrize("failed", [True, False])
async def test_p10_an_abandoned_request_costs_nothing(
    agentpay_shared_chain: LocalChain, failed: bool
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee)
        header = await shop.payer.voucher(shop.config, 2000, shop.terms)
        await sold(await shop.answer(header)).abandon(charged=0, failed=failed)
        again = refused(await shop.answer(header))

        assert fate_of(again) == ("charged", 0)
        assert await shop.charged() == 1000


@pytest.mark.parametrize("scheme", ["exact", "batch-settlement"])
async def test_p3_a_route_is_not_paid_by_a_scheme_that_it_does_not_offer(
    agentpay_shared_chain: LocalChain, scheme: str
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee)
        only = terms_of(payee, Route(price=1000, schemes=(scheme,)))
        accepted = shop.payer.offer(only, scheme)
        header = await (
            shop.payer.voucher(shop.config, 2000, only, accepted=accepted)
            if scheme == "exact"
            else shop.payer.transfer(only, accepted=accepted)
        )
        refusal = refused(await shop.answer(header, only))

        assert code(refusal) == "No matching payment requirements"
