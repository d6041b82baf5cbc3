"""
One admitted request on a channel, from its reservation to its receipt.
"""

from collections.abc import Callable, Mapping
from functools import partial

from agentpay.core.payee_channel import Reservation
from agentpay.core.payee_events import (
    Answer,
    Charged,
    Delivered,
    GivenBack,
    Noted,
)
from agentpay.payee.books import ChannelBooks, ChannelRequest
from agentpay.payee.channel_stream import ChannelStream
from agentpay.payee.offers import answer
from agentpay.payee.pricing import Order
from agentpay.payee.sales import Refusal, WholeSale
from agentpay.records import AnswerRecord, PayeeRecord
from agentpay.types import Address
from agentpay.wire import x402_write as write


class ChannelSale:
    """One admitted request; see `Sale`."""

    def __init__(
        self, books: ChannelBooks, call: ChannelRequest, reservation: Reservation
    ) -> None:
        self._books = books
        self._call = call
        self._reservation = reservation

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
    def stream(self) -> ChannelStream:
        return ChannelStream(self._books, self._call, self._reservation)

    @property
    def whole(self) -> WholeSale | None:
        return self._deliver_whole if self._reservation.prepaid else None

    async def _deliver_whole(
        self, answer: Callable[[str], AnswerRecord]
    ) -> AnswerRecord | Refusal:
        """See `WholeSale`. It was charged when admitted: no crash undoes that."""
        again = partial(self._deliver_whole, answer)
        event = Delivered(
            cumulative=self._reservation.cumulative, owner=self._books.store.owner
        )
        kept = await self._books.deliver(
            self._call,
            event,
            answer,
            unsaved=lambda: self._books.closings.add(again),
        )
        return self._lost() if kept is None else kept

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    async def commit(self, charged: int) -> str | Refusal:
        """See `Sale.commit`. A fixed price was made durable when it was admitted."""
        cumulative, owner = self._reservation.cumulative, self._books.store.owner
        event = Charged(cumulative=cumulative, owner=owner, charged=charged)
        if self._reservation.prepaid:
            record, result = await self._books.update(self._call, event, durable=False)
        else:
            record, result = await self._books.update(self._call, event)
        return self._after(record, result)

    async def delivered(self) -> None:
        """See `Sale.delivered`."""
        event = Delivered(
            cumulative=self._reservation.cumulative, owner=self._books.store.owner
        )
        await self._books.update(
            self._call, event, durable=False, unsaved=self._close_again
        )

    def _close_again(self) -> None:
        """Else it would run, and what it cost be due to nobody, until a restart."""
        self._books.closings.add(self.delivered)

    async def abandon(self, *, charged: int, failed: bool) -> str:
        """See `Sale.abandon`. Settle-first keeps the price when a client leaves."""
        if self._call.terms.order is Order.SETTLE_FIRST and not failed:
            charged = self._reservation.charged
        event = GivenBack(
            cumulative=self._reservation.cumulative,
            owner=self._books.store.owner,
            charged=charged,
        )
        record, result = await self._books.update(self._call, event)
        receipt = self._after(record, result)
        return receipt if isinstance(receipt, str) else ""

    def _after(self, record: PayeeRecord | None, result: Answer) -> str | Refusal:
        """A receipt for what the ledger says was charged, which is what is final."""
        if record is None or not isinstance(result, Noted):
            return self._lost()
        return self._books.charged(record, self._call, result.charged)

    def _lost(self) -> Refusal:
        receipt = write.receipt(
            success=False,
            chain=self._books.settings.asset.chain,
            error="reservation_lost",
        )
        return answer(
            503, title="This request lost its reservation", detail="", receipt=receipt
        )
