"""
Closes sessions at their payer's word: for exactly what was charged, and for ever.

Source: draft-evm-session-00, "Cooperative Close"; rule 23. The contract pays the whole
voucher, so a payer that signed more or less is told what is due, and signs anew.
"""

import asyncio

from agentpay.core.payee_events import BUSY, MISMATCH, Answer, Closing, Refused
from agentpay.core.session_rules import CloseAsked
from agentpay.errors import InvariantViolated, TransactionFailed
from agentpay.payee.mpp_offers import UNKNOWN
from agentpay.payee.sales import Refusal
from agentpay.payee.session_books import SessionBooks, SessionCall
from agentpay.payee.session_settlement import SessionSettlement
from agentpay.payee.waiting import LOOK_SECONDS
from agentpay.records import PayeeRecord
from agentpay.types import Hash32
from agentpay.wire.mpp.problem import ProblemKind

_WAIT_SECONDS = 20.0


class SessionClosing:
    """Closes sessions for one payee."""

    def __init__(self, *, books: SessionBooks, settlement: SessionSettlement) -> None:
        self._books = books
        self._settlement = settlement

    async def close(self, call: SessionCall) -> Refusal:
        """
        Close a session whose payer signed what it was charged.

        Raises:
            ChainError: It is not known whether it is closed; the same may come again.
            StoreUnavailable: Nothing was decided.
        """
        record, result = await self._once_idle(call)
        if isinstance(result, Refused):
            return self._refused(record, call, result)
        if not isinstance(result, Closing):
            raise InvariantViolated(f"a close was answered with {result}")
        try:
            done = await self._settlement.close(call.channel)
        except TransactionFailed as error:
            kind = ProblemKind.TRANSACTION_REVERTED
            return self._books.refuse(call, kind, str(error), record=record)
        if done is None:
            return self._busy(record, call)
        closed, transaction = done
        call.transaction = Hash32(transaction) if transaction else None
        # All of it is on the chain by now.
        return self._books.taken(closed, call, proven=True)

    async def _once_idle(self, call: SessionCall) -> tuple[PayeeRecord, Answer]:
        """Wait a while for what runs: whatever it costs is part of what is due."""
        event = CloseAsked(
            cumulative=call.cumulative,
            signature=call.signature,
            owner=self._books.store.owner,
        )
        deadline = asyncio.get_running_loop().time() + _WAIT_SECONDS
        while True:
            record, result = await self._books.update(call, event)
            if record is None:
                raise InvariantViolated(f"session {call.channel} is forgotten")
            busy = isinstance(result, Refused) and result.reason == BUSY
            left = deadline - asyncio.get_running_loop().time()
            if not busy or left <= 0:
                return record, result
            seconds = min(left, LOOK_SECONDS)
            await self._books.changed.wait(call.channel, seconds=seconds)

    def _refused(self, record: PayeeRecord, call: SessionCall, no: Refused) -> Refusal:
        if no.reason == BUSY:
            return self._busy(record, call)
        if no.reason != MISMATCH:
            kind = ProblemKind.CHANNEL_FINALIZED
            detail = "the session is closed, or is being closed, for another amount"
            return self._books.refuse(call, kind, detail, record=record)
        if record.ledger.is_public(call.cumulative):
            kind = ProblemKind.VERIFICATION_FAILED
            detail = "the chain shows this voucher, and another amount was spent"
            return self._books.refuse(call, kind, detail)
        spent = record.ledger.charged
        less = call.cumulative < spent
        kind = (
            ProblemKind.INSUFFICIENT_BALANCE
            if less
            else ProblemKind.VERIFICATION_FAILED
        )
        detail = f"{spent} was spent: sign exactly that to close, not {call.cumulative}"
        return self._books.refuse(call, kind, detail, record=record, required=spent)

    def _busy(self, record: PayeeRecord, call: SessionCall) -> Refusal:
        detail = "requests still run on this session: send the same again"
        return self._books.refuse(call, UNKNOWN, detail, record=record, status=503)
