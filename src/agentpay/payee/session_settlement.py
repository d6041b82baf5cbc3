"""
What a payee does with its sessions on their chain: look at them, and close them.
"""

from collections.abc import Callable
from dataclasses import replace

from agentpay.core import session_rules
from agentpay.core.payee_channel import HeldVoucher
from agentpay.core.payee_events import ChainSeen
from agentpay.core.session_rules import Finalized, SessionEvent
from agentpay.ports import PayeeStore
from agentpay.records import PayeeRecord, PayeeStep, session_config
from agentpay.session_ports import SessionDesk, SessionOrder
from agentpay.types import Hash32


class SessionSettlement:
    """Looks after the sessions of one payee, one step at a time."""

    def __init__(
        self, *, desk: SessionDesk, store: PayeeStore, clock: Callable[[], float]
    ) -> None:
        self.desk = desk
        self._store = store
        self._clock = clock

    async def _note(self, channel: Hash32, event: SessionEvent) -> PayeeRecord | None:
        def decide(record: PayeeRecord | None) -> PayeeStep[PayeeRecord | None]:
            if record is None:
                return PayeeStep(record=None, answer=None)
            transition = session_rules.apply(record.ledger, event)
            after = replace(record, ledger=transition.channel)
            return PayeeStep(record=after, answer=after, touched=transition.touched)

        return await self._store.update(channel, decide)

    async def see_chain(self, channel: Hash32) -> PayeeRecord | None:
        """Read a session from the chain into the ledger; None if it is not ours."""
        record = await self._store.read(channel)
        if record is None:
            return None
        state = await self.desk.read(session_config(record))
        seen = ChainSeen(
            balance=state.deposit,
            claimed=state.settled,
            pending_withdrawal=state.deposit if state.close_requested_at else 0,
        )
        record = await self._note(channel, seen)
        if state.finalized:
            record = await self._note(channel, Finalized())
        return record

    async def close(self, channel: Hash32) -> tuple[PayeeRecord, str] | None:
        """
        Close a session whose payer asked for it; None while requests still run.

        Raises:
            ChainError: Nothing moved, or it is not known yet; asking again is safe.
        """
        record = await self._store.read(channel)
        if record is None or record.ledger.running:
            return None
        ledger = record.ledger
        voucher = next(
            (v for v in ledger.held if v.amount == ledger.closing_voucher),
            HeldVoucher(amount=ledger.claimed, signature=b""),
        )
        order = SessionOrder(config=session_config(record), voucher=voucher)
        closed = await self.desk.close(order)
        record = await self.see_chain(channel) or record
        return record, closed.transaction
