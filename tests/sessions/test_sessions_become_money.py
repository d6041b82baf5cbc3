"""Sessions are settled by value and age, closed at their payer's word, and in time."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from agentpay.core.payee_channel import Status
from agentpay.core.payee_events import (
    EXCEEDS_BALANCE,
    MISMATCH,
    Closing,
    Delivered,
    Refused,
)
from agentpay.errors import (
    ChainUnreachable,
    FacilitatorUnavailable,
    InvariantViolated,
    TransactionFailed,
)
from agentpay.evm.batch_settlement import VoucherClaim
from agentpay.evm.hashing import address_word, selector
from agentpay.facilitator.embedded import Facilitator
from agentpay.ports import Signer
from agentpay.records import PayeeRecord, Settled
from agentpay.stores import MemoryPayeeStore
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from tests import young_chain
from tests.sessions.till import a_till, a_till_at
from tests.stores.store_cases import happens, payee_record, voucher

agentpay_chain = young_chain.agentpay_chain


async def test_a_session_is_settled_once_enough_of_it_can_be_had(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain, claim_at=30) as till:
        config = await till.opened(100)
        await till.sells(config, 20, 20)
        await till.keeper.tick()
        before = await till.earned()
        await till.sells(config, 35, 15)
        await till.keeper.tick()
        ledger = await till.ledger(config)
        await till.keeper.tick()

    assert before == 0
    assert ledger.claimed == 35
    assert await till.earned() == 35


@pytest.mark.parametrize("pays_gas", [True, False], ids=["own key", "orders"])
async def test_whatever_is_due_is_settled_when_it_is_old(
    agentpay_shared_chain: LocalChain, pays_gas: bool
) -> None:
    async with a_till(agentpay_shared_chain, pays_gas=pays_gas) as till:
        configs = [await till.opened(100) for _ in range(3)]
        for config in configs:
            await till.sells(config, 7, 7)
        await till.keeper.tick()
        before = await till.earned()
        till.clock.ahead += 3601
        await till.keeper.tick()

    assert before == 0
    assert await till.earned() == 21


async def test_a_routine_settle_takes_no_more_than_is_due(
    agentpay_shared_chain: LocalChain,
) -> None:
    """The contract pays a whole voucher: one that is not used up stays (rule 23)."""
    async with a_till(agentpay_shared_chain) as till:
        config = await till.opened(100)
        await till.sells(config, 20, 20)
        await till.sells(config, 50, 10)
        assert await till.sessions.settle() == 1
        ledger = await till.ledger(config)
        assert await till.sessions.settle() == 0

    assert (ledger.due, ledger.claimed) == (30, 20)
    assert await till.earned() == 20


async def test_a_voucher_is_published_before_it_is_sent(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Whoever reads it on the chain cannot buy with it, whatever became of it."""
    local = agentpay_shared_chain
    async with FaultyRpc(local.rpc_url) as rpc, a_till(local, rpc_url=rpc.url) as till:
        config = await till.opened(100)
        await till.sells(config, 20, 20)
        rpc.plan("eth_estimateGas", Fault.UNAVAILABLE, times=9)
        with pytest.raises(ChainUnreachable):
            await till.sessions.settle()
        again = await till.begins(config, 20, 0)

    assert again == Refused(reason=MISMATCH, burnt=False)


async def test_k7_a_session_that_cannot_be_settled_holds_up_no_other(
    agentpay_chain: LocalChain,
) -> None:
    local = agentpay_chain
    async with a_till(local) as till:
        before = await local.node.snapshot()
        lost = await till.opened(100)
        await till.sells(lost, 90, 90)
        await local.node.revert(before)
        await local.node.mine(3)
        kept = await till.opened(100)
        await till.sells(kept, 10, 10)
        assert await till.sessions.settle() == 1
        ledger = await till.ledger(lost)
        refused = await till.begins(lost, 95, 5)

    assert await till.earned() == 10
    assert ledger.balance == 0
    assert refused == Refused(reason=EXCEEDS_BALANCE, burnt=False)


async def test_a_session_is_closed_for_what_its_payer_signed_for_that(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        config = await till.opened(100)
        await till.sells(config, 50, 30)
        assert await till.asks_to_close(config, 30) == Closing(ready=True)
        done = await till.sessions.close(config.channel)
        again = await till.sessions.close(config.channel)
        state = await till.table.state(config)

    assert done is not None
    assert done == again
    assert done[0].ledger.status is Status.CLOSED
    assert (state.settled, state.finalized) == (30, True)
    assert await till.earned() == 30


async def test_a_close_that_nobody_waited_for_is_done_by_the_keeper(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        config, unused = await till.opened(100), await till.opened(50)
        await till.sells(config, 30, 30)
        await till.asks_to_close(config, 30)
        await till.asks_to_close(unused, 0)
        await till.keeper.tick()
        states = [await till.table.state(c) for c in (config, unused)]
        ledgers = [await till.ledger(c) for c in (config, unused)]

    assert [state.finalized for state in states] == [True, True]
    assert [state.settled for state in states] == [30, 0]
    assert {ledger.status for ledger in ledgers} == {Status.CLOSED}


async def test_nobody_closes_a_session_that_nobody_asked_to_close(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        config = await till.opened(100)
        await till.sells(config, 30, 30)
        assert await till.sessions.close(config.channel) is None
        await till.begins(config, 60, 30)
        await till.sessions.leave(config.channel)
        state = await till.table.state(config)

    assert not state.finalized
    assert state.settled == 0


async def test_t2_a_frozen_payer_does_not_keep_what_is_due(
    agentpay_chain: LocalChain,
) -> None:
    async with a_till(agentpay_chain) as till:
        config = await till.opened(100)
        await till.sells(config, 50, 30)
        await till.asks_to_close(config, 30)
        payer = address_word(till.table.payer.address)
        await agentpay_chain._as_admin(selector("blacklist(address)") + payer)
        with pytest.raises(TransactionFailed):
            await till.sessions.close(config.channel)
        paid = await till.earned()
        await till.keeper.tick()
        await agentpay_chain._as_admin(selector("unBlacklist(address)") + payer)
        await till.keeper.tick()
        state = await till.table.state(config)

    assert paid == 30
    assert (state.settled, state.finalized) == (30, True)


class Broken(MemoryPayeeStore):
    """A store that has one record too many."""

    async def left_behind(self, *, limit: int) -> list[PayeeRecord]:
        raise InvariantViolated("a record that no rule allows")


async def test_k7_a_record_that_is_broken_keeps_no_other_from_being_settled(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain, claim_at=1, store=Broken()) as till:
        config = await till.opened(100)
        await till.sells(config, 30, 30)
        await till.keeper.tick()

        assert (await till.table.state(config)).settled == 30


class Down(Facilitator):
    """A facilitator that cannot be reached."""

    async def claim(
        self, claims: Sequence[VoucherClaim], *, authorizer: Signer, deadline: int = 0
    ) -> Settled:
        raise FacilitatorUnavailable("it is down")


async def test_t2_a_facilitator_that_is_down_holds_up_no_session(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        config = await till.opened(100)
        await till.sells(config, 30, 30)
        channel = payee_record()
        owed = happens(voucher(9, maximum=9), channel)
        await till.store.update(channel.channel, owed)
        over = Delivered(cumulative=9, owner="us")
        await till.store.update(channel.channel, happens(over))
        table = till.table
        down = Down(chain=table.chain, senders=[table.sender])
        keeper = a_till_at(table, claim_at=1, store=till.store, facilitator=down).keeper
        await keeper.sync()
        await till.asks_to_close(config, 30)
        with pytest.raises(FacilitatorUnavailable):
            await keeper.tick()
        state = await table.state(config)

    assert state.finalized


async def test_a_top_up_is_seen_without_being_told(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        config = await till.opened(100)
        await till.table.tops_up(config, 50)
        await till.keeper.sync()
        ledger = await till.ledger(config)

    assert ledger.spendable == 150


async def test_the_sessions_of_others_are_left_alone(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        stranger = await till.table.opened(100)
        await till.table.leaves(stranger)
        await till.keeper.tick()

        assert await till.sessions.see_chain(stranger.channel) is None
        assert await till.store.read(stranger.channel) is None


async def test_freshness_is_measured_by_the_grace_period(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        await till.keeper.sync()
        assert till.keeper.fresh()
        till.clock.ahead += 301

        assert not till.keeper.fresh()


@pytest.mark.parametrize("topics", [0, 1])
async def test_f9_an_event_without_a_channel_is_nonsense(
    agentpay_shared_chain: LocalChain, monkeypatch: pytest.MonkeyPatch, topics: int
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        config = await till.opened(100)
        await till.table.tops_up(config, 1)
        chain = till.table.chain
        real = chain.logs

        async def cut(**asked: object) -> object:
            logs = await real(**asked)  # type: ignore[arg-type]
            return [replace(log, topics=log.topics[:topics]) for log in logs]

        with monkeypatch.context() as patched:
            patched.setattr(chain, "logs", cut)
            with pytest.raises(ChainUnreachable, match="nonsense"):
                await till.keeper.sync()


async def test_f9_an_endpoint_cannot_have_a_session_claimed_as_a_channel(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_till(agentpay_shared_chain) as till:
        config = await till.opened(100)
        await till.sells(config, 30, 30)
        settlement = till.keeper._settlement
        assert await settlement.see_chain(config.channel) is None
        await settlement.claim_channels([config.channel])
        assert await settlement.refund(config.channel) is None
        assert await settlement.claim() == 0
        ledger = await till.ledger(config)

    assert (ledger.balance, ledger.claimed) == (100, 0)
    assert await till.earned() == 0
