"""A token that pauses and a chain that turns back cost nobody what was earned."""

import asyncio
import contextlib

import pytest

from agentpay import PaymentRejected
from agentpay.errors import ChainUnreachable, UnsuitableEscrow
from agentpay.evm.hashing import address_word, selector
from agentpay.facilitator.session_desk import EscrowDesk
from agentpay.payee.keeper import Keeper
from agentpay.testing.local_chain import LocalChain
from tests import young_chain
from tests.http.world import eventually
from tests.keeper.test_settlement_triggers import PRICE, Clock, World, a_world

agentpay_chain = young_chain.agentpay_chain


async def synced(keeper: Keeper) -> None:
    """Follow a chain that was just turned back: Anvil may need a moment for that."""
    for _ in range(20):
        with contextlib.suppress(ChainUnreachable):
            await keeper.sync()
            return
        await asyncio.sleep(0.1)
    await keeper.sync()


async def begun(desk: EscrowDesk) -> None:
    """Likewise: for a moment there is no contract either."""
    for _ in range(20):
        with contextlib.suppress(UnsuitableEscrow):
            await desk.start()
            return
        await asyncio.sleep(0.1)
    await desk.start()


async def a_keeper(world: World) -> Keeper:
    """The payee's keeper, which from now on runs when a test says so."""
    keeper = world.payee._running.keeper
    await keeper.stop()
    return keeper


async def test_t3_a_payout_that_a_pause_stopped_is_tried_again(
    agentpay_chain: LocalChain,
) -> None:
    chain, clock = agentpay_chain, Clock()
    terms = {"claim_at": "$1000", "claim_every_seconds": 60, "clock": clock}
    async with a_world(chain, **terms) as world:
        await world.buy(1)
        keeper = await a_keeper(world)
        await chain._as_admin(selector("pause()"))
        clock.ahead = 61
        await keeper.tick()
        await world.buy(1)  # vouchers need no token that moves
        paid_in_the_pause = await world.earned()
        await chain._as_admin(selector("unpause()"))
        await keeper.tick()
        paid_at_once = await world.earned()
        clock.ahead = 122
        await keeper.tick()

        assert (paid_in_the_pause, paid_at_once) == (0, PRICE)
        assert await world.earned() == 2 * PRICE


async def test_t2_a_frozen_payee_keeps_no_payers_money(
    agentpay_chain: LocalChain,
) -> None:
    chain = agentpay_chain
    async with a_world(chain, claim_at=PRICE) as world:
        await world.buy(1)
        keeper = await a_keeper(world)
        (channel,) = await world.agent.channels()
        payer, payee = channel.config.payer, world.payee.settings.pay_to
        await chain._as_admin(selector("pause()"))
        leaving = asyncio.create_task(world.agent.close_channel(channel.channel))
        await until_closing(world)
        leaving.cancel()
        await chain._as_admin(selector("unpause()"))
        await chain._as_admin(selector("blacklist(address)") + address_word(payee))
        before = await chain.balance(payer)
        await keeper.tick()

        left = channel.ledger.balance - PRICE
        assert await chain.balance(payer) == before + left
        assert await world.earned() == 0


async def until_closing(world: World) -> None:
    """The payee has recorded that a payer wants its money back."""
    store = world.payee._running.store.payee

    async def asked() -> bool:
        return bool(await store.closing(sessions=False, limit=1))

    await eventually(asked)


async def test_f9_a_deposit_that_a_reorg_took_away_sells_nothing_more(
    agentpay_chain: LocalChain,
) -> None:
    chain = agentpay_chain
    async with a_world(chain, claim_at=PRICE) as world:
        await world.agent.get(f"{world.url}/")  # opens the payee, costs nothing
        before = await chain.node.snapshot()
        keeper = await a_keeper(world)
        await world.buy(1)
        await chain.node.revert(before)
        await chain.node.mine(3)
        await keeper.tick()
        (channel,) = await world.agent.channels()
        seen = await world.payee._running.store.payee.read(channel.channel)
        async with asyncio.timeout(10):
            with pytest.raises(PaymentRejected):
                await world.buy(1)

        assert seen is not None
        assert seen.ledger.balance == 0
        assert await world.earned() == 0
