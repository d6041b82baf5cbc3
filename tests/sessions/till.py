"""A payee of sessions with its books and its keeper, and a clock that tests move."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from agentpay.core import session_rules
from agentpay.core.payee_channel import HeldVoucher, PayeeChannel
from agentpay.core.payee_events import Answer, Charged, Delivered, VoucherVerified
from agentpay.core.session_rules import CloseAsked, SessionEvent, VoucherRaised
from agentpay.evm.session_escrow import SessionConfig
from agentpay.facilitator.embedded import Facilitator
from agentpay.facilitator.session_desk import EscrowDesk
from agentpay.payee.keeper import Keeper, KeeperPolicy
from agentpay.payee.offers import PayeeSettings
from agentpay.payee.served import ServedPayments
from agentpay.payee.session_settlement import SessionSettlement
from agentpay.payee.settlement import Settlement
from agentpay.ports import PayeeStore, Settler
from agentpay.records import PayeeRecord, PayeeStep
from agentpay.stores import MemoryPayeeStore
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.parallel import ParallelTerms
from tests.keeper.test_settlement_triggers import Clock
from tests.sessions.world import Table, seated

RESOURCE = "GET /data"


@dataclass(kw_only=True)
class Till:
    """What sells on sessions, without HTTP: books, settlement and keeper."""

    table: Table
    desk: EscrowDesk
    store: PayeeStore
    sessions: SessionSettlement
    keeper: Keeper
    clock: Clock = field(default_factory=Clock)

    async def takes(self, config: SessionConfig) -> None:
        """Begin the books of a session, as the chain shows it."""
        ledger = PayeeChannel(
            tagged=config.tagged, window=64, in_flight_max=8, pays_whole=True
        )
        fresh = PayeeRecord(
            channel=config.channel,
            chain=config.escrow.chain,
            config=config,
            ledger=ledger,
        )

        def decide(record: PayeeRecord | None) -> PayeeStep[None]:
            return PayeeStep(record=record or fresh, answer=None)

        await self.store.update(config.channel, decide)
        await self.sessions.see_chain(config.channel)

    async def opened(self, amount: int, *, tagged: bool = False) -> SessionConfig:
        """A session that its payer has opened, and that is in the books."""
        config = await self.table.opened(amount, tagged=tagged)
        await self.takes(config)
        return config

    async def note(self, config: SessionConfig, event: SessionEvent) -> Answer:
        def decide(record: PayeeRecord | None) -> PayeeStep[Answer]:
            assert record is not None
            done = session_rules.apply(record.ledger, event)
            after = replace(record, ledger=done.channel)
            return PayeeStep(record=after, answer=done.answer, touched=done.touched)

        return await self.store.update(config.channel, decide)

    async def begins(
        self, config: SessionConfig, cumulative: int, maximum: int, *, owner: str = ""
    ) -> Answer:
        """A metered request with a voucher of its payer's."""
        voucher = await self.table.voucher(config, cumulative)
        event = VoucherVerified(
            cumulative=cumulative,
            signature=voucher.signature,
            maximum=maximum,
            prepaid=False,
            owner=owner or self.store.owner,
            resource=RESOURCE,
        )
        return await self.note(config, event)

    async def uses(
        self, config: SessionConfig, cumulative: int, charged: int, *, more: bool = True
    ) -> None:
        """A request that runs was charged so much by now."""
        owner = self.store.owner
        event = Charged(cumulative=cumulative, owner=owner, charged=charged, more=more)
        await self.note(config, event)

    async def ends(self, config: SessionConfig, cumulative: int, charged: int) -> None:
        await self.uses(config, cumulative, charged, more=False)
        owner = self.store.owner
        await self.note(config, Delivered(cumulative=cumulative, owner=owner))

    async def sells(self, config: SessionConfig, cumulative: int, price: int) -> None:
        """A request that is over."""
        await self.begins(config, cumulative, price)
        await self.ends(config, cumulative, price)

    async def raises(self, config: SessionConfig, cumulative: int) -> None:
        """A voucher without a request."""
        voucher = await self.table.voucher(config, cumulative)
        event = VoucherRaised(cumulative=cumulative, signature=voucher.signature)
        await self.note(config, event)

    async def asks_to_close(self, config: SessionConfig, cumulative: int) -> Answer:
        voucher: HeldVoucher = await self.table.voucher(config, cumulative)
        event = CloseAsked(
            cumulative=cumulative,
            signature=voucher.signature,
            owner=self.store.owner,
        )
        return await self.note(config, event)

    async def ledger(self, config: SessionConfig) -> PayeeChannel:
        record = await self.store.read(config.channel)
        assert record is not None
        return record.ledger

    async def earned(self) -> int:
        return await self.table.local.balance(self.table.payee.address)


@asynccontextmanager
async def a_till(
    local: LocalChain,
    *,
    claim_at: int = 10**9,
    pays_gas: bool = True,
    store: PayeeStore | None = None,
    rpc_url: str | None = None,
) -> AsyncIterator[Till]:
    """A keeper that runs when a test says so, and claims all hourly."""
    async with seated(local, pays_gas=pays_gas, rpc_url=rpc_url) as table:
        till = a_till_at(table, claim_at=claim_at, store=store)
        await till.desk.start()
        await till.keeper.sync()
        yield till


def a_till_at(
    table: Table,
    *,
    claim_at: int = 10**9,
    store: PayeeStore | None = None,
    facilitator: Settler | None = None,
) -> Till:
    clock, kept = Clock(), store or MemoryPayeeStore()
    desk = table.desk()
    sessions = SessionSettlement(desk=desk, store=kept, clock=clock)
    settings = PayeeSettings(
        asset=table.asset,
        pay_to=table.payee.address,
        authorizer=table.payee.address,
        withdraw_delay=86400,
        parallel=ParallelTerms(window=64, in_flight_max=8),
        min_deposit=0,
    )
    settler = facilitator or Facilitator(chain=table.chain, senders=[table.sender])
    settlement = Settlement(
        settings=settings,
        chain=table.chain,
        facilitator=settler,
        store=kept,
        authorizer=table.payee,
        clock=clock,
    )
    keeper = Keeper(
        settings=settings,
        policy=KeeperPolicy(
            claim_at=claim_at, claim_every_seconds=3600, settle_at=claim_at
        ),
        chain=table.chain,
        store=kept,
        settlement=settlement,
        served=ServedPayments(
            settings=settings,
            chain=table.chain,
            facilitator=settler,
            store=kept,
            clock=clock,
        ),
        sessions=sessions,
        clock=clock,
    )
    return Till(
        table=table,
        desk=desk,
        store=kept,
        sessions=sessions,
        keeper=keeper,
        clock=clock,
    )
