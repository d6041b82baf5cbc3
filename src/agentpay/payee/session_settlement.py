"""
Turns what vouchers of sessions allow into tokens: settles, and closes for good.

The contract pays a whole voucher. So what is taken in the ordinary way is the most that
is due already, and more only of a payer that leaves without us (rule 23). Each step is
recorded before it is sent, and what it did is read back from the chain.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar
from weakref import WeakValueDictionary

from agentpay.core import session_rules
from agentpay.core.payee_channel import HeldVoucher, PayeeChannel, Status
from agentpay.core.payee_events import ChainSeen, OwnersDied, VoucherPublished
from agentpay.core.session_rules import Finalized
from agentpay.errors import TransactionFailed
from agentpay.evm.session_escrow import SessionConfig
from agentpay.evm.session_escrow_abi import SessionOnChain
from agentpay.payee.finality import Credits
from agentpay.payee.noting import note, noted
from agentpay.payee.quarantine import LONGEST_SECONDS, Quarantine
from agentpay.payee.watched import Watched
from agentpay.ports import PayeeStore
from agentpay.records import PayeeRecord, PayeeStep, Settled, Taken, session_config
from agentpay.session_ports import SessionDesk, SessionOrder
from agentpay.types import Hash32

_AT_ONCE = 100
"""Sessions of one round; each is written twice for it."""

T = TypeVar("T")

Choose = Callable[[PayeeChannel], HeldVoucher | None]


class SessionSettlement:
    """Settles and closes the sessions of one payee."""

    def __init__(
        self,
        *,
        desk: SessionDesk,
        store: PayeeStore,
        credited: Credits | None = None,
        watched: Watched | None = None,
        clock: Callable[[], float],
    ) -> None:
        """With `credited`, a deposit that is not final is not spent in full."""
        self.desk = desk
        self._credits = credited
        self._watched = watched or Watched()
        self._store = store
        self._clock = clock
        self._settling = asyncio.Lock()
        longest = min(LONGEST_SECONDS, desk.grace_seconds / 6)
        self._unsettled = Quarantine("settled", longest=longest, clock=clock)
        # A lock lives as long as somebody holds it, so that nobody can fill this.
        self._ending: WeakValueDictionary[Hash32, asyncio.Lock] = WeakValueDictionary()
        self._taken_at: dict[Hash32, float] = {}

    async def look(self, config: SessionConfig) -> SessionOnChain:
        """What the chain says of a session, with as much of it as may be spent yet."""
        state = await self.desk.read(config)
        if self._credits is None or state.finalized:
            return state

        async def deposit_at(block: int) -> int:
            return (await self.desk.read(config, block=block)).deposit

        credited = await self._credits.of(state.deposit, deposit_at)
        return replace(state, deposit=credited)

    async def see_chain(
        self, channel: Hash32, *, taken: Taken | None = None
    ) -> PayeeRecord | None:
        """
        Read a session from the chain into its books; None if it is not ours.

        `taken` is what the chain was asked for just before.
        """
        while (known := await self._store.read(channel)) is not None:
            if not isinstance(known.config, SessionConfig):
                return None
            after = await self._see(known, known.config, taken)
            if after is not None:
                return after
        return None

    async def _see(
        self, known: PayeeRecord, config: SessionConfig, taken: Taken | None
    ) -> PayeeRecord | None:
        """None if others, of any process, saw something new meanwhile: look again."""
        state = await self.look(config)
        now = int(self._clock())
        if state.finalized:
            self._taken_at.pop(known.channel, None)

        def decide(record: PayeeRecord | None) -> PayeeStep[PayeeRecord | None]:
            # An older look saved last would hide that a payer leaves.
            if record is None or record.seen != known.seen:
                return PayeeStep(record=record, answer=None)
            ledger = _seen(record.ledger, state)
            after = record.seen_on_chain(ledger, at=now, taken=taken)
            return PayeeStep(record=after, answer=after)

        return await self._store.update(known.channel, decide)

    async def settle(self, *, at_least: int = 1) -> int:
        """
        Settle sessions of which so much can be had that is due; returns how many were.

        One that could not be settled of late is left out, until its pause is over.

        Raises:
            ChainError: Some could not be; those before them were.
        """
        async with self._settling:
            settled, skip = 0, self._unsettled.held()
            while records := await self._next(at_least, skip):
                skip.update(record.channel for record in records)
                settled += await self._take(records, PayeeChannel.settle_voucher)
            return settled

    async def leave(self, channel: Hash32) -> None:
        """
        Take what is due of a session whose payer asked the contract to close it.

        At once, and again as soon as what still ran is over. While something runs that
        goes on being charged, a few times within the grace period.

        Raises:
            ChainError: It could not be, or it is not known yet; asking again is safe.
        """
        async with self._ending.setdefault(channel, asyncio.Lock()):
            await note(self._store, channel, OwnersDied(owner=self._store.owner))
            record = await self.see_chain(channel)
            if record is None or not record.ledger.is_ending:
                self._taken_at.pop(channel, None)
                return
            now, pause = self._clock(), self.desk.grace_seconds / 5
            taken = self._taken_at.get(channel)
            if record.ledger.running and taken is not None and now < taken + pause:
                return
            self._taken_at[channel] = now
            state = await self.desk.read(session_config(record))
            deadline = state.close_requested_at + self.desk.grace_seconds
            await self._take([record], PayeeChannel.last_voucher, deadline=deadline)

    async def close(self, channel: Hash32) -> tuple[PayeeRecord, str] | None:
        """
        Close a session whose payer asked us to, for what it signed for that.

        Returns the session and the transaction ("" if that was long ago); None while
        requests still run, or if nobody asked.

        Raises:
            TransactionFailed: It cannot be closed now; what is due was settled.
            ChainError: Nothing moved, or it is not known yet; asking again is safe.
        """
        async with self._ending.setdefault(channel, asyncio.Lock()):
            await note(self._store, channel, OwnersDied(owner=self._store.owner))
            record = await self.see_chain(channel)
            if record is None or not isinstance(record.config, SessionConfig):
                return None
            if record.ledger.running or record.ledger.status is Status.OPEN:
                return None
            voucher = await self._publish(channel, _final)
            if voucher is None:
                return None
            order = SessionOrder(config=record.config, voucher=voucher)
            try:
                with self._watched.step("close_session", 1):
                    closed = await self.desk.close(order)
            except TransactionFailed:
                # A payer that the token has frozen is paid nothing, and we are.
                await self._take([record], PayeeChannel.last_voucher)
                raise
            return await self.see_chain(channel) or record, closed.transaction

    async def _next(self, at_least: int, skip: set[Hash32]) -> list[PayeeRecord]:
        records = await self._store.claimable(
            sessions=True, at_least=max(1, at_least), limit=_AT_ONCE + len(skip)
        )
        return [r for r in records if r.channel not in skip][:_AT_ONCE]

    async def _take(
        self, records: Sequence[PayeeRecord], choose: Choose, *, deadline: int = 0
    ) -> int:
        """Settle these sessions with a voucher each, where there is one to choose."""
        asked_at = int(self._clock())
        vouchers = await asyncio.gather(
            *(self._publish(record.channel, choose) for record in records)
        )
        orders = [
            SessionOrder(config=session_config(record), voucher=voucher)
            for record, voucher in zip(records, vouchers, strict=True)
            if voucher is not None
        ]
        if not orders:
            return 0
        failed: TransactionFailed | None = None
        try:
            with self._watched.step("settle_sessions", len(orders)):
                settled = await self.desk.settle(orders, deadline=deadline)
        except TransactionFailed as error:
            settled, failed = dict[Hash32, Settled](), error
        taken = {
            order.config.channel: Taken(amount=order.voucher.amount, asked_at=asked_at)
            for order in orders
        }
        for channel in taken:
            if channel in settled:
                self._unsettled.release(channel)
            else:
                what = f"session {channel}"
                reason = "the chain does not show it"
                why = failed or TransactionFailed(what, reason=reason)
                if failed is None:
                    self._watched.failed("settle_sessions", why)
                self._unsettled.put(channel, why)
        # Whatever became of them, also if the chain took a deposit back.
        looks = (self.see_chain(channel, taken=t) for channel, t in taken.items())
        await asyncio.gather(*looks)
        return len(settled)

    async def _publish(self, channel: Hash32, choose: Choose) -> HeldVoucher | None:
        """Choose a voucher, and record that the chain is going to show it."""

        def decide(record: PayeeRecord | None) -> PayeeStep[HeldVoucher | None]:
            voucher = choose(record.ledger) if record is not None else None
            if record is None or voucher is None:
                return PayeeStep(record=record, answer=None)
            published = VoucherPublished(amount=voucher.amount)
            return noted(record, published, answer=voucher)

        return await self._store.update(channel, decide)


def _seen(ledger: PayeeChannel, state: SessionOnChain) -> PayeeChannel:
    """A session's books after a look at the chain; once it is over, it stays so."""
    seen = ChainSeen(
        balance=state.settled if state.finalized else state.deposit,
        claimed=state.settled,
        pending_withdrawal=state.deposit if state.close_requested_at else 0,
    )
    after = session_rules.apply(ledger, seen).channel
    if state.finalized:
        after = session_rules.apply(after, Finalized()).channel
    return after


def _final(ledger: PayeeChannel) -> HeldVoucher:
    """What its payer signed to close it; without a signature, what was settled."""
    signed = ledger.claim_voucher() if ledger.due > ledger.claimed else None
    return signed or HeldVoucher(amount=ledger.claimed, signature=b"")
