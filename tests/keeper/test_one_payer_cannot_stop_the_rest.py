"""What one payer does on chain costs no other payer's money, and no endless work."""

import asyncio
from dataclasses import replace

import pytest

from agentpay.core.payee_channel import HeldVoucher, PayeeChannel
from agentpay.errors import ChainUnreachable
from agentpay.evm.hashing import address_word, keccak
from agentpay.onchain import read_channel
from agentpay.testing.local_chain import LocalChain
from tests.keeper.test_settlement_triggers import PRICE, Clock, a_world


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
