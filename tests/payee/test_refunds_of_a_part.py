"""A payer of the specification's kind gets a part of its channel back, and goes on."""

import asyncio
from typing import Any

import pytest

from agentpay.core.payee_events import PartBegun, RefundAsked
from agentpay.evm.batch_settlement import channel_id
from agentpay.evm.batch_settlement_abi import ChannelOnChain
from agentpay.onchain import read_channel
from agentpay.payee.noting import note
from agentpay.records import PayeeRecord
from agentpay.testing.faulty_rpc import FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from agentpay.wire.headers import encode_json
from tests.http.world import a_payee, clear, cloud, open_payee
from tests.keeper.test_settlement_triggers import Clock
from tests.payee.hand import code, decoded, fate_of, receipt_of, refused, serve
from tests.payee.test_refusals_of_channel_payments import Opened, opened

DEPOSIT, PRICE = 10_000, 1000
HOUR = 10**15
"""Enough for a few transactions at 2 gwei."""


async def lane(chain: LocalChain, payee: Any) -> Opened:
    return await opened(chain, payee, tagged=False)


async def asking_for(shop: Opened, amount: int, *, charged: int = PRICE) -> str:
    """The header of a refund of so much."""
    header = await shop.payer.voucher(shop.config, charged, shop.terms, kind="refund")
    message = decoded(header)
    message["payload"]["amount"] = str(amount)
    return encode_json(message)


async def ask(shop: Opened, amount: int, *, charged: int = PRICE) -> Any:
    header = await asking_for(shop, amount, charged=charged)
    return refused(await shop.answer(header))


async def buy(shop: Opened, cumulative: int) -> None:
    header = await shop.payer.voucher(shop.config, cumulative, shop.terms)
    await serve(await shop.answer(header))


def id_of(shop: Opened) -> Hash32:
    return channel_id(shop.config, shop.payee.asset.chain)


async def on_chain(shop: Opened) -> ChannelOnChain:
    return await read_channel(shop.payee._running.chain, id_of(shop))


async def record_of(shop: Opened) -> PayeeRecord:
    record = await shop.payee._running.store.payee.read(id_of(shop))
    assert record is not None
    return record


async def test_a_part_comes_back_and_the_channel_goes_on(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        shop = await lane(chain, payee)
        done = await ask(shop, 3000)
        receipt, state = receipt_of(done), await on_chain(shop)
        await buy(shop, 2000)
        second = await ask(shop, 1000, charged=2000)
        last = refused(
            await shop.answer(
                await shop.payer.voucher(shop.config, 2000, shop.terms, kind="refund")
            )
        )

        assert (done.status, receipt.amount) == (200, "3000")
        assert receipt.extra is not None
        assert receipt.extra.channel_state is not None
        assert receipt.extra.channel_state.balance == DEPOSIT - 3000
        assert receipt.extra.channel_state.refund_nonce == 1
        assert (state.balance, state.claimed) == (DEPOSIT - 3000, PRICE)
        assert receipt_of(second).amount == "1000"
        assert receipt_of(last).amount == "4000"
        assert await chain.balance(shop.payer.wallet.address) == 100_000_000 - 2000


async def test_k12_the_same_request_again_is_told_the_first_result_and_moves_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await lane(agentpay_shared_chain, payee)
        done = await ask(shop, 3000)
        again = await ask(shop, 3000)
        await buy(shop, 2000)
        late = await ask(shop, 3000)

        assert again.status == late.status == 200
        first = receipt_of(done)
        for told in (receipt_of(again), receipt_of(late)):
            assert (told.transaction, told.amount) == (first.transaction, "3000")
        assert receipt_of(late).extra is None
        assert (await on_chain(shop)).refund_nonce == 1


async def test_the_same_request_twice_at_once_gets_one_refund(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await lane(agentpay_shared_chain, payee)
        both = await asyncio.gather(ask(shop, 3000), ask(shop, 3000))

        told = {(a.status, receipt_of(a).transaction) for a in both}
        assert len(told) == 1
        assert [receipt_of(a).amount for a in both] == ["3000", "3000"]
        assert (await on_chain(shop)).balance == DEPOSIT - 3000


async def test_p12_a_part_that_may_not_be_asked_for_moves_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await lane(agentpay_shared_chain, payee)
        nothing = await ask(shop, 0)
        assert (nothing.status, code(nothing)) == (402, "refund_amount_invalid")
        stale = await ask(shop, 2000, charged=999)
        assert code(stale) == "cumulative_amount_mismatch"
        assert (await on_chain(shop)).refund_nonce == 0
        assert (await ask(shop, 2000)).status == 200
        second = await ask(shop, 2500)
        assert code(second) == "refund_amount_invalid"
        await buy(shop, 2000)


@pytest.mark.parametrize("amount", [9000, 9001, 2**128 - 1])
async def test_a_refund_of_no_less_than_is_left_gives_all_of_it(
    agentpay_shared_chain: LocalChain, amount: int
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await lane(agentpay_shared_chain, payee)
        done = await ask(shop, amount)
        again = await ask(shop, amount)

        assert done.status == again.status == 200
        assert receipt_of(done).amount == receipt_of(again).amount == "9000"
        assert (await on_chain(shop)).balance == PRICE


async def test_a_part_of_a_parallel_channel_is_refused_and_its_voucher_is_burnt(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await opened(agentpay_shared_chain, payee)
        part = await ask(shop, 3000, charged=1001)
        await buy(shop, 2002)

        assert (part.status, code(part)) == (402, "refund_amount_invalid")
        assert fate_of(part) == ("void", 0)
        assert (await on_chain(shop)).refund_nonce == 0


@pytest.mark.parametrize("sent", [False, True])
async def test_p1_a_crash_while_a_part_is_given_back_gives_it_once(
    agentpay_shared_chain: LocalChain, tmp_path: Any, sent: bool
) -> None:
    """It dies before its transaction is sent, or before it notes what came of it."""
    payee = await open_payee(agentpay_shared_chain, store=str(tmp_path / "payee.db"))
    await payee.start()
    shop = await lane(agentpay_shared_chain, payee)
    await begin_and_die(shop, 3000, sent=sent)
    await payee.stop()
    await payee.start()
    done = await ask(shop, 3000)
    await buy(shop, 2000)
    state = await on_chain(shop)
    await payee.stop()

    assert (done.status, receipt_of(done).amount) == (200, "3000")
    assert receipt_of(done).transaction.startswith("0x")
    assert (state.balance, state.refund_nonce) == (DEPOSIT - 3000, 1)


async def begin_and_die(shop: Opened, part: int, *, sent: bool) -> None:
    """The steps of a refund, as far as the process lives."""
    running, channel = shop.payee._running, id_of(shop)
    message = decoded(await asking_for(shop, part))
    signature = bytes.fromhex(message["payload"]["voucher"]["signature"][2:])
    store, owner = running.store.payee, "a process that died"
    asked = RefundAsked(cumulative=PRICE, signature=signature, owner=owner, part=part)
    await note(store, channel, asked)
    await note(store, channel, PartBegun(cumulative=PRICE, nonce=0))
    if sent:
        await running.settlement._send_refund(await record_of(shop), part, 0)


async def test_f1_an_unknown_part_is_503_and_asked_again_is_told_what_came(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        a_payee(chain, rpc_url=rpc.url) as payee,
    ):
        shop = await lane(chain, payee)
        cloud(rpc, payee)
        unknown = await ask(shop, 3000)
        await clear(rpc, chain)
        again = await ask(shop, 3000)

        assert unknown.status == 503
        assert receipt_of(unknown).error_reason == "settlement_pending"
        assert (again.status, receipt_of(again).amount) == (200, "3000")
        assert (await on_chain(shop)).balance == DEPOSIT - 3000


async def test_the_keeper_gives_a_part_back_though_nobody_asks_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_shared_chain) as payee:
        shop = await lane(agentpay_shared_chain, payee)
        await begin_and_die(shop, 3000, sent=False)
        await payee._running.keeper.tick()
        record = await record_of(shop)

        assert record.ledger.status == "open"
        assert record.ledger.balance == DEPOSIT - 3000


async def test_p13_an_hour_of_parts_costs_no_more_gas_than_is_allowed(
    agentpay_chain: LocalChain,
) -> None:
    clock = Clock()
    async with a_payee(agentpay_chain, deposit_wei_per_hour=HOUR, clock=clock) as payee:
        shop = await lane(agentpay_chain, payee)
        total, given = PRICE, 0
        while given < 8:
            answer = await ask(shop, 1, charged=total)
            if answer.status != 200:
                break
            given, total = given + 1, total + PRICE
            await buy(shop, total)
        await payee._running.keeper.tick()  # it holds up no round
        clock.ahead = 3601
        later = await ask(shop, 1, charged=total)

        assert 0 < given < 8
        assert answer.status == 503
        assert receipt_of(answer).error_reason == "settlement_pending"
        assert (later.status, receipt_of(later).amount) == (200, "1")
