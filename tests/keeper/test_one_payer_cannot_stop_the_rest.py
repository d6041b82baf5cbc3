"""What one payer does on chain costs no other payer's money, and no endless work."""

import asyncio
from dataclasses import replace

import pytest

from agentpay import PaymentRejected, Paywall
from agentpay.core.payee_channel import HeldVoucher, PayeeChannel
from agentpay.errors import ChainUnreachable, FacilitatorUnavailable
from agentpay.evm.addresses import BATCH_SETTLEMENT
from agentpay.evm.hashing import address_word, keccak
from agentpay.evm.session_escrow_abi import request_close_call
from agentpay.onchain import read_channel
from agentpay.testing.local_chain import LocalChain
from tests.http import session_world
from tests.http.world import BASE, ROUTES, an_agent, through
from tests.http.world import PRICE as PRICE_OF_ALL
from tests.keeper.test_bad_rows_are_left_alone import others
from tests.keeper.test_batches_fit_the_chain import Dear
from tests.keeper.test_settlement_triggers import PRICE, Clock, a_world
from tests.keeper.test_what_chains_take_back import a_keeper


def test_k7_nothing_is_claimable_above_what_a_withdrawal_left() -> None:
    channel = PayeeChannel(
        tagged=True,
        window=8,
        in_flight_max=4,
        balance=100,
        charged=60,
        highest=80,
        held=(HeldVoucher(amount=80, signature=b"v"),),
    )
    drained = replace(channel, balance=40, claimed=40)

    assert channel.unclaimed == 60
    assert drained.unclaimed == 0


async def test_t2_a_payer_that_cannot_be_refunded_holds_up_nobody(
    agentpay_chain: LocalChain,
) -> None:
    async with a_world(agentpay_chain, claim_at=PRICE) as world:
        await world.buy(1)
        (record,) = await world.agent.channels()
        payer = record.config.payer
        blacklist = keccak(b"blacklist(address)")[:4] + address_word(payer)
        await agentpay_chain._as_admin(blacklist)
        closing = asyncio.create_task(world.agent.close_channel(record.channel))
        for _ in range(600):
            await asyncio.sleep(0.05)
            if await world.earned() == PRICE:
                break
        closing.cancel()

        assert await world.earned() == PRICE


async def test_t2_a_payee_that_cannot_be_paid_claims_no_more_often(
    agentpay_chain: LocalChain,
) -> None:
    clock = Clock()
    async with a_world(
        agentpay_chain, claim_at="$1000", claim_every_seconds=3600, clock=clock
    ) as world:
        await world.buy(1)
        keeper = world.payee._running.keeper
        await keeper.stop()
        pay_to = world.payee.settings.pay_to
        await agentpay_chain._as_admin(
            keccak(b"blacklist(address)")[:4] + address_word(pay_to)
        )
        clock.ahead += 3601
        await keeper.tick()
        await world.buy(1)
        await keeper.tick()
        (record,) = await world.agent.channels()
        state = await read_channel(world.payee._running.chain, record.channel)

        assert state.claimed == PRICE


async def test_t2_a_frozen_escrow_loses_nothing_that_was_earned(
    agentpay_chain: LocalChain,
) -> None:
    """Vouchers and claims need no token that moves; deposits and payouts do."""
    chain, escrow = agentpay_chain, address_word(BATCH_SETTLEMENT)
    async with (
        a_world(chain, claim_at=PRICE) as world,
        others(world, 1) as (newcomer,),
    ):
        await world.buy(1)
        keeper, account = await a_keeper(world), newcomer.payer.keys.account
        before = await chain.balance(account)
        await chain._as_admin(keccak(b"blacklist(address)")[:4] + escrow)
        await keeper.tick()
        await world.buy(1)
        with pytest.raises(PaymentRejected):
            await newcomer.get(world.url)
        while_frozen = await world.earned(), await chain.balance(account)
        spending = await newcomer.spending()
        await chain._as_admin(keccak(b"unBlacklist(address)")[:4] + escrow)
        await keeper.tick()

        assert while_frozen == (0, before)
        assert spending.spent == 0
        assert await world.earned() == 2 * PRICE


async def test_k5_a_channel_that_cannot_be_claimed_hides_no_session_that_leaves(
    agentpay_chain: LocalChain,
) -> None:
    """Who claims channels may be down while sessions can be settled."""
    chain = agentpay_chain
    rich = await chain.funded_wallet(ether=1)
    async with session_world.a_world(chain, ether=1, claim_at="$1000") as world:
        wall = Paywall(world.shop, payee=world.payee, routes=ROUTES)
        config = await world.opened()
        await world.buy(config, PRICE_OF_ALL)
        async with await an_agent(chain, through(wall), wallet=rich) as agent:
            await agent.get(BASE + session_world.OK)
            keeper, settlement = world.payee._running.keeper, world.payee.settlement
            await keeper.stop()
            down = Dear(settlement._facilitator, FacilitatorUnavailable("it is down"))
            settlement._facilitator, down.most = down, 0
            (record,) = await agent.channels()
            await agent.start_withdrawal(record.channel)
        await world.sends(request_close_call(config.channel, config.escrow))
        with pytest.raises(FacilitatorUnavailable):
            await keeper.tick()
        earned = await world.balance()
        down.most = 1
        await keeper.sync()
        chain_says = await read_channel(world.payee._running.chain, record.channel)

    assert earned == PRICE_OF_ALL
    assert chain_says.claimed == PRICE_OF_ALL


async def test_f9_a_nonsense_answer_of_the_endpoint_is_a_chain_error(
    agentpay_chain: LocalChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(agentpay_chain) as world:
        await world.buy(1)
        (record,) = await world.agent.channels()
        chain = world.payee.settlement._chain

        async def nonsense(*_: object, **__: object) -> list[bytes]:
            return [b"", b"", b""]

        with monkeypatch.context() as patched:
            patched.setattr(chain, "read", nonsense)
            with pytest.raises(ChainUnreachable, match="nonsense"):
                await read_channel(chain, record.channel)

        await world.buy(1)
