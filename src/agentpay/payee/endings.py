"""
Ends channels and sessions whose payers want their money back.

What is sent for them waits to be mined, and nobody looks at the chain meanwhile. So a
round begins only as much as it has time for, and whoever it does not reach comes first
in the next one.
"""

from collections.abc import Callable

from agentpay.core.payee_channel import Status
from agentpay.errors import GasLimitReached, TransactionFailed
from agentpay.payee.quarantine import Quarantine
from agentpay.payee.session_settlement import SessionSettlement
from agentpay.payee.settlement import Settlement
from agentpay.payee.turns import Turns
from agentpay.ports import PayeeStore
from agentpay.records import PayeeRecord

_AT_ONCE = 50


class Endings:
    """The refunds of one payee's channels, and the ends of its sessions."""

    def __init__(
        self,
        *,
        store: PayeeStore,
        settlement: Settlement,
        sessions: SessionSettlement | None,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._settlement = settlement
        self._sessions = sessions
        self._refunds, self._ends = Turns(), Turns()
        self._unrefundable = Quarantine("refunded", clock=clock)
        grace = sessions.desk.grace_seconds if sessions is not None else 0
        self._unclosable = Quarantine("closed", longest=grace / 6, clock=clock)

    async def refund(self, *, in_time: Callable[[], bool]) -> None:
        """
        Give back what is left of channels, one after the other while it is `in_time`.

        One that cannot be, as where the token froze its payer, holds up nobody.
        """
        held = self._unrefundable
        for record in await self._next(self._refunds, held, sessions=False):
            channel = record.channel
            self._refunds.had(channel)
            try:
                await self._settlement.refund(channel)
            except (TransactionFailed, GasLimitReached) as error:
                held.put(channel, error)
            else:
                held.release(channel)
            if not in_time():
                return

    async def due_sessions(self) -> list[PayeeRecord]:
        """Sessions whose turn it is; all of them can be ended at once."""
        due = await self._next(self._ends, self._unclosable, sessions=True)
        for record in due:
            self._ends.had(record.channel)
        return due

    async def end_session(self, record: PayeeRecord) -> None:
        """As its payer asked us, or asked the contract."""
        if self._sessions is None:
            return
        try:
            if record.ledger.status is Status.CLOSING:
                await self._sessions.close(record.channel)
            else:
                await self._sessions.leave(record.channel)
        except TransactionFailed as error:
            self._unclosable.put(record.channel, error)
        else:
            self._unclosable.release(record.channel)

    async def _next(
        self, turns: Turns, held: Quarantine, *, sessions: bool
    ) -> list[PayeeRecord]:
        """Who waits for longer than the others and has not failed of late."""
        limit = _AT_ONCE + len(turns)
        records = await self._store.closing(sessions=sessions, limit=limit)
        wanting = {record.channel: record for record in records}
        paused = held.held()
        line = [each for each in turns.line_up(wanting) if each not in paused]
        return [wanting[each] for each in line[:_AT_ONCE]]
