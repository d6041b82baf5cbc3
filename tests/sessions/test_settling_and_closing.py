"""Vouchers of sessions become money of their payee, by its own key or by its orders."""

from dataclasses import replace

import pytest

from agentpay.core.payee_channel import HeldVoucher
from agentpay.errors import (
    ChainError,
    GasMissing,
    GasTooExpensive,
    TransactionFailed,
)
from agentpay.evm import session_escrow_abi as escrows
from agentpay.evm.hashing import address_word, selector
from agentpay.evm.multicall3_abi import aggregate_call
from agentpay.facilitator.gas import SessionGas
from agentpay.session_ports import SessionOrder
from agentpay.signers.wallet import Wallet
from agentpay.testing.local_chain import LocalChain
from tests.dear_sender import DearSender
from tests.sessions.world import Table, seated

BY_WHOM = pytest.mark.parametrize(
    "pays_gas", [True, False], ids=["by its key", "by its orders"]
)


async def earned(table: Table) -> int:
    return await table.local.balance(table.payee.address)


@BY_WHOM
async def test_many_sessions_are_settled_at_once(
    agentpay_shared_chain: LocalChain, pays_gas: bool
) -> None:
    async with seated(agentpay_shared_chain, pays_gas=pays_gas) as table:
        desk = table.desk()
        await desk.start()
        configs = [await table.opened(100) for _ in range(5)]
        orders = [await table.order(c, 10 + n) for n, c in enumerate(configs)]
        settled = await desk.settle(orders)
        again = [await table.order(config, 50) for config in configs[:2]]
        more = await desk.settle(again)
        states = [await table.state(config) for config in configs]

    assert [settled[c.channel].amount for c in configs] == [10, 11, 12, 13, 14]
    assert [more[c.channel].amount for c in configs[:2]] == [40, 39]
    assert [state.settled for state in states] == [50, 50, 12, 13, 14]
    transactions = {s.transaction for s in settled.values()}
    assert len(transactions) == (5 if pays_gas else 1)
    assert await earned(table) == 139


@BY_WHOM
async def test_k7_one_session_that_cannot_be_settled_holds_up_no_other(
    agentpay_shared_chain: LocalChain, pays_gas: bool
) -> None:
    async with seated(agentpay_shared_chain, pays_gas=pays_gas) as table:
        desk = table.desk()
        await desk.start()
        configs = [await table.opened(100) for _ in range(4)]
        orders = [await table.order(config, 10) for config in configs]
        forged = HeldVoucher(amount=90, signature=orders[0].voucher.signature)
        orders[1] = SessionOrder(config=configs[1], voucher=forged)
        orders[2] = SessionOrder(config=table.config(), voucher=orders[2].voucher)
        settled = await desk.settle(orders)

    assert set(settled) == {configs[0].channel, configs[3].channel}
    assert await earned(table) == 20


@pytest.mark.parametrize("error", [GasTooExpensive("5 gwei"), GasMissing("too little")])
async def test_sessions_that_cost_too_much_together_are_settled_in_parts(
    agentpay_shared_chain: LocalChain, error: ChainError
) -> None:
    async with seated(agentpay_shared_chain, pays_gas=False) as table:
        dear = DearSender(table.sender, error, bytes_max=0)
        desk = table.desk(senders=[dear])
        await desk.start()
        configs = [await table.opened(100) for _ in range(4)]
        orders = [await table.order(config, 10) for config in configs]
        calls = [await desk._call(order, closes=False) for order in orders]
        with pytest.raises(type(error)):
            await desk.settle(orders)
        dear.bytes_max = len(aggregate_call(calls[:2]).data)
        settled = await desk.settle(orders)

    assert set(settled) == {config.channel for config in configs}
    assert dear.sent == 2
    assert await earned(table) == 40


@BY_WHOM
async def test_an_order_that_was_carried_out_takes_nothing_twice(
    agentpay_shared_chain: LocalChain, pays_gas: bool
) -> None:
    async with seated(agentpay_shared_chain, pays_gas=pays_gas) as table:
        desk, config = table.desk(), await table.opened(100)
        order = await table.order(config, 40)
        await desk.settle([order])
        with pytest.raises(TransactionFailed):
            await desk.settle([order])

    assert await earned(table) == 40


@BY_WHOM
async def test_a_close_pays_what_is_due_and_gives_the_rest_back(
    agentpay_shared_chain: LocalChain, pays_gas: bool
) -> None:
    async with seated(agentpay_shared_chain, pays_gas=pays_gas) as table:
        desk, config = table.desk(), await table.opened(100)
        before = await table.local.balance(table.payer.address)
        await desk.settle([await table.order(config, 40)])
        closed = await desk.close(await table.order(config, 60))
        again = await desk.close(await table.order(config, 60))
        state = await table.state(config)
        back = await table.local.balance(table.payer.address) - before

    assert (closed.settled, closed.refunded) == (60, 40)
    assert again == closed
    assert state.finalized
    assert back == 40
    assert await earned(table) == 60


@BY_WHOM
@pytest.mark.parametrize("settled", [0, 30])
async def test_a_session_of_which_nothing_more_is_due_is_closed_without_a_voucher(
    agentpay_shared_chain: LocalChain, pays_gas: bool, settled: int
) -> None:
    async with seated(agentpay_shared_chain, pays_gas=pays_gas) as table:
        desk, config = table.desk(), await table.opened(100)
        if settled:
            await desk.settle([await table.order(config, settled)])
        nothing = HeldVoucher(amount=settled, signature=b"")
        closed = await desk.close(SessionOrder(config=config, voucher=nothing))

    assert (closed.settled, closed.refunded) == (settled, 100 - settled)


async def test_what_the_payer_withdrew_is_known_to_be_over(
    agentpay_chain: LocalChain,
) -> None:
    async with seated(agentpay_chain) as table:
        config = await table.opened(100)
        await table.desk().settle([await table.order(config, 30)])
        await table.leaves(config)
        await table.local.node.increase_time(901)
        call = escrows.withdraw_call(config.channel, config.escrow)
        receipt = await table.send(table.payer, call)
        closed = await table.desk().close(await table.order(config, 60))

    assert (closed.settled, closed.refunded) == (30, 70)
    assert closed.transaction == receipt.transaction


async def test_t2_a_close_that_a_frozen_payer_stops_says_so(
    agentpay_chain: LocalChain,
) -> None:
    async with seated(agentpay_chain) as table:
        desk, config = table.desk(), await table.opened(100)
        freeze = selector("blacklist(address)") + address_word(table.payer.address)
        await table.local._as_admin(freeze)
        order = await table.order(config, 60)
        with pytest.raises(TransactionFailed):
            await desk.close(order)
        await desk.settle([order])

    assert await earned(table) == 60


async def test_f6_no_call_uses_more_gas_than_it_may(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with seated(agentpay_shared_chain) as table:
        desk = table.desk(
            gas=SessionGas(opening=30_000, top_up=30_000, settle=30_000, close=30_000)
        )
        config = await table.opened(100)
        opening = await table.signed(table.config(), 100)
        order = await table.order(config, 10)
        for attempt in (
            desk.verify(opening),
            desk.deposit(opening),
            desk.settle([order]),
            desk.close(order),
        ):
            with pytest.raises(ChainError, match="gas"):
                await attempt


async def test_f5_what_left_no_event_of_it_did_not_happen(
    agentpay_chain: LocalChain,
) -> None:
    """A contract that answers to everything, and does nothing."""
    async with seated(agentpay_chain) as table:
        there = replace(table.escrow, contract=Wallet.create().address)
        await table.local.node.set_code(there.contract, b"\0")
        config = replace(table.config(), escrow=there)
        desk, order = table.desk(escrow=there), await table.order(config, 10)
        for opens in (True, False):
            deposit = await table.signed(config, 100, opens=opens)
            with pytest.raises(TransactionFailed, match="no event"):
                await desk.deposit(deposit)
        with pytest.raises(TransactionFailed, match="no event"):
            await desk.close(order)

        assert await desk.settle([order]) == {}
