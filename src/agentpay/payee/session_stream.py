"""
A stream on a session of MPP: charged in slices, and more is signed while it flows.

Source: draft-evm-session-00, "Insufficient Balance During Streaming" and "Receipt
Generation". A request of a tagged session grows by vouchers that name it; that of
another draws on all that is signed, since nothing else runs (rules 21 and 22).
"""

import asyncio
from collections.abc import Mapping

from agentpay.core.payee_channel import Fate, PayeeChannel, Reservation, Status
from agentpay.core.payee_events import Charged, GivenBack, Noted
from agentpay.core.session_rules import Extended, drawable
from agentpay.payee.session_books import SessionBooks, SessionCall
from agentpay.payee.waiting import LOOK_SECONDS
from agentpay.stream_errors import StreamLost
from agentpay.wire import parallel
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.evm_write import need_voucher
from agentpay.wire.mpp.receipt import format_receipt


class SessionStream:
    """One stream of a session; see `SaleStream`."""

    def __init__(
        self, books: SessionBooks, call: SessionCall, reservation: Reservation
    ) -> None:
        self._books = books
        self._call = call
        self._reservation = reservation
        self._maximum = reservation.maximum
        self.outcome: Mapping[str, str] = {}
        """What the answer's headers say of its voucher."""

    @property
    def charged(self) -> int:
        """See `SaleStream.charged`."""
        return self._reservation.charged

    async def begin(self) -> str:
        """
        See `SaleStream.begin`.

        Raises:
            StreamLost: The session is forgotten.
        """
        record = await self._books.look(self._call)
        if record is None:
            raise StreamLost(f"session {self._call.channel} is forgotten")
        self.outcome = self._books.outcome(record, self._call, Fate.RUNNING)
        return format_receipt(self._books.receipt_of(record, self._call, units=0))

    async def draw(self, charged: int) -> int:
        """See `SaleStream.draw`."""
        if charged > self._maximum and not self._call.config.tagged:
            extended = Extended(
                exposure_max=self._books.settings.exposure_max,
                cumulative=self._call.cumulative,
                owner=self._books.store.owner,
                maximum=charged,
            )
            await self._books.update(self._call, extended, durable=False)
        event = Charged(
            cumulative=self._call.cumulative,
            owner=self._books.store.owner,
            charged=charged,
            more=True,
        )
        record, said = await self._books.update(self._call, event)
        if record is None or not isinstance(said, Noted):
            raise StreamLost(f"{self._call.key} lost its reservation")
        running = record.ledger.reservation(self._call.cumulative)
        if running is not None:
            self._maximum = running.maximum
        return said.charged

    async def ask(self, need: int, wish: int) -> JsonObject | None:
        """See `SaleStream.ask`: the draft's `payment-need-voucher`."""
        record = await self._books.look(self._call)
        if record is None or record.ledger.status is not Status.OPEN:
            return None
        ledger = record.ledger
        if self._may_go_on(ledger, need, exposure_max=None):
            return {}  # enough is signed: at most, some of it has to be claimed first
        required = self._required(ledger, wish)
        if required > ledger.spendable:
            required = self._required(ledger, need)
        return need_voucher(
            self._call.channel,
            required=required,
            accepted=ledger.highest,
            deposit=ledger.balance,
        )

    def _required(self, ledger: PayeeChannel, charged: int) -> int:
        """The least voucher with which so much may be charged for this request."""
        more = charged - self._maximum_in(ledger)
        return ledger.charged + ledger.reserved + max(0, more)

    def _maximum_in(self, ledger: PayeeChannel) -> int:
        running = ledger.reservation(self._call.cumulative)
        return running.maximum if running is not None else 0

    async def wait(self, charged: int, seconds: float) -> bool:
        """See `SaleStream.wait`."""
        loop = asyncio.get_running_loop()
        deadline, most = loop.time() + seconds, self._books.settings.exposure_max
        while True:
            record = await self._books.look(self._call)
            if record is None or self._may_go_on(
                record.ledger, charged, exposure_max=most
            ):
                return True  # if it is lost, charging says so
            left = deadline - loop.time()
            if left <= 0 or record.ledger.status is not Status.OPEN:
                return False
            await self._books.changed.wait(
                self._call.channel, seconds=min(left, LOOK_SECONDS)
            )

    def _may_go_on(
        self, ledger: PayeeChannel, charged: int, *, exposure_max: int | None
    ) -> bool:
        running = ledger.reservation(self._call.cumulative)
        if running is None or running.owner != self._books.store.owner:
            return True
        if ledger.tagged:
            return ledger.covered(running) >= charged
        return self._required(ledger, charged) <= drawable(ledger, exposure_max)

    async def finish(self, charged: int, units: int | None) -> JsonObject | None:
        """See `SaleStream.finish`: the draft's `payment-receipt`."""
        event = GivenBack(
            cumulative=self._call.cumulative,
            owner=self._books.store.owner,
            charged=charged,
        )
        record, said = await self._books.update(self._call, event)
        if record is None or not isinstance(said, Noted):
            return None
        receipt = self._books.receipt_of(record, self._call, units=units)
        if not record.ledger.tagged:
            return receipt
        outcome = parallel.outcome_info(
            self._call.cumulative, Fate.CHARGED, said.charged
        )
        return {**receipt, parallel.KEY: outcome}
