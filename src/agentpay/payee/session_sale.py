"""
One admitted request on a session, from its reservation to its receipt.
"""

from collections.abc import Mapping

from agentpay.core.payee_channel import Fate, Reservation
from agentpay.core.payee_events import Answer, Charged, Delivered, GivenBack, Noted
from agentpay.payee.mpp_offers import UNKNOWN
from agentpay.payee.pricing import Order
from agentpay.payee.sales import Refusal
from agentpay.payee.session_books import SessionBooks, SessionCall
from agentpay.payee.session_stream import SessionStream
from agentpay.records import PayeeRecord
from agentpay.types import Address


class SessionSale:
    """One admitted request; see `Sale`. Its receipt is MPP's."""

    whole = None

    def __init__(
        self, books: SessionBooks, call: SessionCall, reservation: Reservation
    ) -> None:
        self._books = books
        self._call = call
        self._reservation = reservation
        self._outcome: Mapping[str, str] = {}
        self._stream = SessionStream(books, call, reservation)

    @property
    def payer(self) -> Address:
        return self._call.config.payer

    @property
    def id(self) -> str:
        return self._call.key

    @property
    def key(self) -> str:
        return self._call.key

    @property
    def withheld(self) -> str:
        """See `Sale.withheld`: whether it is paid for is in our own books."""
        return ""

    @property
    def maximum(self) -> int:
        return self._reservation.maximum

    @property
    def headers(self) -> Mapping[str, str]:
        """See `Sale.headers`: what became of the voucher of a tagged session."""
        return self._outcome or self._stream.outcome

    @property
    def stream(self) -> SessionStream:
        return self._stream

    async def commit(self, charged: int) -> str | Refusal:
        """See `Sale.commit`. A fixed price was made durable when it was admitted."""
        event = Charged(
            cumulative=self._call.cumulative,
            owner=self._books.store.owner,
            charged=charged,
        )
        record, result = await self._books.update(
            self._call, event, durable=not self._reservation.prepaid
        )
        if record is None or not isinstance(result, Noted):
            return self._books.refuse(
                self._call, UNKNOWN, "this request lost its reservation", status=503
            )
        self._note(record, result)
        units = None if self._call.terms.metered else 1
        return self._books.receipt(record, self._call, units=units)

    async def delivered(self) -> None:
        """See `Sale.delivered`."""
        event = Delivered(
            cumulative=self._call.cumulative, owner=self._books.store.owner
        )
        await self._books.update(
            self._call, event, durable=False, unsaved=self._close_again
        )

    def _close_again(self) -> None:
        """Else it would run, and what it cost be due to nobody, until a restart."""
        self._books.closings.add(self.delivered)

    async def abandon(self, *, charged: int, failed: bool) -> str:
        """
        See `Sale.abandon`. Settle-first keeps the price when a client leaves, and a
        receipt of MPP never stands on a failure.
        """
        if self._call.terms.order is Order.SETTLE_FIRST and not failed:
            charged = self._reservation.charged
        event = GivenBack(
            cumulative=self._call.cumulative,
            owner=self._books.store.owner,
            charged=charged,
        )
        record, result = await self._books.update(self._call, event)
        self._note(record, result)
        return ""

    def _note(self, record: PayeeRecord | None, result: Answer) -> None:
        """What the ledger says was charged, which is what is final."""
        if record is not None and isinstance(result, Noted):
            self._outcome = self._books.outcome(
                record, self._call, Fate.CHARGED, result.charged
            )
