"""
A stream on a channel of x402: charged in slices, closed at what has left.

Its voucher's maximum bounds it: a payer of x402 can add nothing to a running request.
"""

from agentpay.core.payee_channel import Fate, Reservation
from agentpay.core.payee_events import Charged, GivenBack, Noted
from agentpay.payee.books import ChannelBooks, ChannelRequest
from agentpay.stream_errors import StreamLost
from agentpay.wire.headers import JsonObject, encode_json


class ChannelStream:
    """A stream on a channel of x402, within what its voucher reserved."""

    def __init__(
        self, books: ChannelBooks, call: ChannelRequest, reservation: Reservation
    ) -> None:
        self._books = books
        self._call = call
        self._reservation = reservation

    @property
    def charged(self) -> int:
        """See `SaleStream.charged`."""
        return self._reservation.charged

    async def begin(self) -> str:
        """
        See `SaleStream.begin`.

        It says that the voucher is running. Where receipts cannot say so, it says what
        is reserved: the next one is lower, and shows what was charged.
        """
        record = await self._books.store.read(self._call.channel)
        reserved = self._reservation.maximum
        receipt = self._books.receipt(
            record, self._call, fate=Fate.RUNNING, charged=self._begun(reserved)
        )
        return encode_json(receipt)

    def _begun(self, reserved: int) -> int:
        return 0 if self._call.config.tagged else reserved

    async def draw(self, charged: int) -> int:
        """See `SaleStream.draw`."""
        event = Charged(
            cumulative=self._reservation.cumulative,
            owner=self._books.store.owner,
            charged=charged,
            more=True,
        )
        _, said = await self._books.update(self._call, event)
        if not isinstance(said, Noted):
            raise StreamLost(f"{self._call.key} lost its reservation")
        return said.charged

    async def ask(self, need: int, wish: int) -> JsonObject | None:
        """See `SaleStream.ask`."""
        del need, wish
        return None

    async def wait(self, charged: int, seconds: float) -> bool:
        """See `SaleStream.wait`."""
        del charged, seconds
        return False

    async def finish(self, charged: int, units: int | None) -> JsonObject | None:
        """See `SaleStream.finish`. Only receipts of parallel channels are read late."""
        del units
        event = GivenBack(
            cumulative=self._reservation.cumulative,
            owner=self._books.store.owner,
            charged=charged,
        )
        record, said = await self._books.update(self._call, event)
        if not isinstance(said, Noted) or not self._call.config.tagged:
            return None
        return self._books.receipt(record, self._call, charged=said.charged)
