"""One claim that cannot be made costs the others nothing, and no gas each round."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay import Agent, Budget
from agentpay.evm.batch_settlement import VoucherClaim, channel_id
from agentpay.onchain import read_channel, read_claimed
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Terms
from agentpay.payee.quarantine import Quarantine
from agentpay.ports import Settler, Signer
from agentpay.records import PayeeRecord, PayeeStep, Settled
from agentpay.testing.faulty_rpc import FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from tests.http.world import a_payee
from tests.keeper.test_settlement_triggers import PRICE, Clock, World, a_world
from tests.keeper.test_what_chains_take_back import a_keeper
from tests.payee.hand import HandPayer, serve, terms_of

CHANNEL = Hash32.of(bytes(31) + b"\1")
ERROR = ValueError("it reverts")


def spoilt(record: PayeeRecord | None) -> PayeeStep[None]:
    """Its voucher's signature is not one: the contract refuses the claim."""
    assert record is not None
    held = tuple(replace(v, signature=bytes(65)) for v in record.ledger.held)
    ledger = replace(record.ledger, held=held)
    return PayeeStep(record=replace(record, ledger=ledger), answer=None)


@asynccontextmanager
async def others(world: World, count: int) -> AsyncIterator[list[Agent]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                Agent(
                    await world.chain.funded_wallet("$10"),
                    budget=Budget(total="$5", per_request="$0.01"),
                    network=world.chain.network,
                    allow_private_networks=True,
                )
            )
            for _ in range(count)
        ]


async def claimed(world: World, channel: Hash32) -> int:
    return (await read_channel(world.payee._running.chain, channel)).claimed


async def test_k7_a_poisoned_row_is_found_once_and_then_costs_no_simulation(
    agentpay_chain: LocalChain, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    terms = {"claim_at": "$1000", "clock": clock}
    async with (
        FaultyRpc(agentpay_chain.rpc_url) as rpc,
        a_world(agentpay_chain, rpc_url=rpc.url, **terms) as world,
        others(world, 4) as agents,
    ):
        await world.buy(1)
        await a_keeper(world)
        (bad,) = await world.agent.channels()
        for agent in agents:
            assert (await agent.get(world.url)).status_code == 200
        store = world.payee._running.store.payee
        good = await store.read(bad.channel)
        await store.update(bad.channel, spoilt)
        with caplog.at_level(logging.DEBUG, "agentpay.payee"):
            first = await world.payee.settlement.claim()
            asked = len(rpc.requests)
            second = await world.payee.settlement.claim()
            asked_again = len(rpc.requests) - asked
            clock.ahead += 61
            await world.payee.settlement.claim()  # a try, which fails: twice as long
            clock.ahead += 61
            await store.update(
                bad.channel, lambda _: PayeeStep(record=good, answer=None)
            )
            third = await world.payee.settlement.claim()
            clock.ahead += 61
            fourth = await world.payee.settlement.claim()
        said = [r for r in caplog.records if "cannot be claimed" in r.message]

        assert (first, second, third, fourth) == (4, 0, 0, 1)
        assert asked_again == 0
        assert [r.levelno for r in said] == [logging.WARNING, logging.DEBUG]
        assert await claimed(world, bad.channel) == PRICE


@pytest.mark.parametrize("place", [0, 24, 49])
async def test_k7_a_poisoned_row_among_50_costs_the_49_nothing(
    agentpay_shared_chain: LocalChain, place: int
) -> None:
    """Wherever it stands: it is found by halving, in a few transactions."""
    chain = agentpay_shared_chain
    async with a_payee(chain, claim_at="$1000") as payee:
        settlement, terms = payee.settlement, terms_of(payee)
        await payee._running.keeper.stop()
        payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
        configs = [payer.config() for _ in range(50)]
        headers = [await payer.funding(c, 5000, 1000, terms) for c in configs]
        await asyncio.gather(*(pay(payee, header, terms) for header in headers))
        channels = [channel_id(config, chain.chain_id) for config in configs]
        order = await payee._running.store.payee.claimable(
            sessions=False, at_least=1, limit=50
        )
        bad = order[place].channel
        await payee._running.store.payee.update(bad, spoilt)
        listening = Listening(settlement._facilitator)
        settlement._facilitator = listening
        count = await settlement.claim()
        states = await read_claimed(payee._running.chain, channels)
        found = dict(zip(channels, states, strict=True))

    assert count == 49
    assert found.pop(bad) == 0
    assert set(found.values()) == {1000}
    assert len(listening.heard) <= 13  # each half of a half that has it, and the rest


async def pay(payee: Payee, header: str, terms: Terms) -> None:
    await serve(await payee.answer(header, terms))


async def test_k7_what_is_left_alone_is_tried_at_once_when_its_payer_withdraws(
    agentpay_chain: LocalChain,
) -> None:
    async with a_world(agentpay_chain, claim_at="$1000") as world:
        await world.buy(1)
        keeper = await a_keeper(world)
        (bad,) = await world.agent.channels()
        store = world.payee._running.store.payee
        good = await store.read(bad.channel)
        await store.update(bad.channel, spoilt)
        failed = await world.payee.settlement.claim()
        await store.update(bad.channel, lambda _: PayeeStep(record=good, answer=None))
        left_alone = await world.payee.settlement.claim()
        await world.agent.start_withdrawal(bad.channel)
        await keeper.sync()

        assert (failed, left_alone) == (0, 0)
        assert await claimed(world, bad.channel) == PRICE


class Listening:
    """A facilitator that remembers by when what it was asked to claim has to be."""

    def __init__(self, settler: Settler) -> None:
        self._settler = settler
        self.heard: list[int] = []

    async def claim(
        self, claims: Sequence[VoucherClaim], *, authorizer: Signer, deadline: int = 0
    ) -> Settled:
        self.heard.append(deadline)
        return await self._settler.claim(
            claims, authorizer=authorizer, deadline=deadline
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._settler, name)


async def test_k5_who_withdraws_beside_a_poisoned_row_is_claimed_as_urgently(
    agentpay_chain: LocalChain,
) -> None:
    """What is halved to find that row has the same time left as before."""
    async with (
        a_world(agentpay_chain, claim_at="$1000") as world,
        others(world, 3) as agents,
    ):
        for agent in agents:
            assert (await agent.get(world.url)).status_code == 200
        await a_keeper(world)
        channels = [c.channel for agent in agents for c in await agent.channels()]
        settlement = world.payee.settlement
        listening = Listening(settlement._facilitator)
        settlement._facilitator = listening
        await world.payee._running.store.payee.update(channels[0], spoilt)
        soon = int(time.time()) + 900
        await settlement.claim_channels(channels, deadline=soon)

        assert len(listening.heard) > 1
        assert set(listening.heard) == {soon}
        assert [await claimed(world, c) for c in channels] == [0, PRICE, PRICE]


@given(tries=st.integers(1, 12), longest=st.integers(1, 10_000))
def test_pauses_double_and_never_exceed_the_longest(tries: int, longest: int) -> None:
    now = 0
    quarantine = Quarantine("claimed", longest=longest, clock=lambda: now)
    for n in range(tries):
        quarantine.put(CHANNEL, ERROR)
        pause = min(60 * 2**n, longest)
        now += pause - 1
        assert quarantine.held() == {CHANNEL}
        now += 1
        assert not quarantine.held()


@given(steps=st.lists(st.floats(-1e6, 1e6), max_size=8))
def test_no_step_of_the_clock_holds_a_row_for_longer_than_its_pause(
    steps: list[float],
) -> None:
    now = 1e7
    quarantine = Quarantine("claimed", longest=600, clock=lambda: now)
    for step in steps:
        quarantine.put(CHANNEL, ERROR)
        now += step
        quarantine.held()

    now += 601
    assert not quarantine.held()


def test_what_went_through_begins_with_a_short_pause_again() -> None:
    now = 0.0
    quarantine = Quarantine("claimed", clock=lambda: now)
    for _ in range(5):
        quarantine.put(CHANNEL, ERROR)
    quarantine.release(CHANNEL)
    quarantine.put(CHANNEL, ERROR)
    now = 60.0

    assert not quarantine.held()


def broken(record: PayeeRecord | None) -> PayeeStep[None]:
    """Its books say what no rule allows, so that no step on it is taken."""
    assert record is not None
    ledger = replace(record.ledger, charged=record.ledger.highest + 1)
    return PayeeStep(record=replace(record, ledger=ledger), answer=None)


async def test_k5_books_that_are_broken_keep_no_other_withdrawal_from_being_claimed(
    agentpay_chain: LocalChain, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        a_world(agentpay_chain, claim_at="$1000") as world,
        others(world, 1) as (other,),
    ):
        await world.buy(1)
        keeper = await a_keeper(world)
        assert (await other.get(world.url)).status_code == 200
        (bad,), (good,) = await world.agent.channels(), await other.channels()
        store = world.payee._running.store.payee
        whole = await store.read(bad.channel)
        await store.update(bad.channel, broken)
        await world.agent.start_withdrawal(bad.channel)
        await other.start_withdrawal(good.channel)
        before = keeper.synced_at
        await keeper.sync()
        first = await claimed(world, bad.channel), await claimed(world, good.channel)
        synced_at = keeper.synced_at
        await store.update(bad.channel, lambda _: PayeeStep(record=whole, answer=None))
        await keeper.sync()
        said = [r for r in caplog.records if "cannot be followed" in r.message]

        assert first == (0, PRICE)
        assert synced_at > before
        assert bad.channel in said[0].message
        assert await claimed(world, bad.channel) == PRICE  # it was tried again
