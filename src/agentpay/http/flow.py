"""
One answer that is paid for while it flows: nothing leaves before it is charged.

Content waits while its slice is charged; where what was signed is used up, it waits a
bounded time for more. In a stream of server-sent events, the client is told of both,
between the application's own events.
"""

import asyncio
import logging

from agentpay.core.tab import Tab
from agentpay.errors import ConfigurationError, StoreError
from agentpay.http.asgi import Headers, Message, Receive, Send
from agentpay.http.presence import Presence
from agentpay.payee.pricing import StreamTerms, Terms
from agentpay.payee.sales import Sale, SaleStream
from agentpay.stream_errors import StreamAbandoned, StreamExhausted, StreamLost
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.sse import NEED_VOUCHER, RECEIPT, EventCutter, payment_event

_log = logging.getLogger(__name__)


def open_flow(
    sale: Sale, terms: Terms, *, receive: Receive, send: Send
) -> "Flow | None":
    """How a sale's answer is paid while it flows; None if it is not."""
    stream = sale.stream if terms.streaming is not None else None
    if stream is None or terms.streaming is None or terms.tariff is None:
        return None
    tab = Tab(
        terms.tariff,
        increment=terms.streaming.increment,
        charged=stream.charged,
        floor=stream.charged,
    )
    return Flow(
        tab,
        stream,
        terms=terms.streaming,
        limit=terms.maximum,
        presence=Presence(receive),
        send=send,
    )


class Flow:
    """Charges for one answer while it leaves, and closes its sale at what has left."""

    def __init__(
        self,
        tab: Tab,
        stream: SaleStream,
        *,
        terms: StreamTerms,
        limit: int,
        presence: Presence,
        send: Send,
    ) -> None:
        """`limit` is the most that the answer may cost, whatever is signed for it."""
        self.tab = tab
        self.lost = False
        """Whether its books are gone: what becomes of its money is not known here."""
        self.presence = presence
        self._stream = stream
        self._terms = terms
        self._limit = limit
        self._send = send
        self._charging = asyncio.Lock()
        self._cutter: EventCutter | None = None
        self._started = False
        self._ended = False
        self._finished = False

    # Charging.

    def check(self) -> None:
        """
        Raises:
            StreamAbandoned: The client has left.
        """
        if self.presence.gone:
            raise StreamAbandoned("the client has left")

    async def pay(self, exact: int) -> None:
        """
        Count some more usage that is not charged yet: charge for it first.

        Raises:
            StreamEnded: It is not paid for.
        """
        deadline: float | None = None
        async with self._charging:  # a handler may count in several tasks
            while not self.tab.count(exact):
                need = self.tab.need(exact)
                wish = min(self.tab.wish(exact), self._limit)
                if need > self._limit:
                    raise StreamExhausted(needed=need, covered=self._limit)
                self.tab.charge(await self._draw(wish))
                if self.tab.charged < need:
                    deadline = deadline or self._now() + self._terms.wait_seconds
                    await self._wait(need, wish, deadline)

    async def _draw(self, charged: int) -> int:
        try:
            return await self._stream.draw(charged)
        except (StreamLost, StoreError) as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> StreamLost:
        """Nothing more leaves: its books are gone, or cannot be read or written."""
        self._ended = self.lost = True
        return StreamLost(f"nothing more can be charged: {error}")

    async def _wait(self, need: int, wish: int, deadline: float) -> None:
        """Content stops here until enough is signed, or for good."""
        exhausted = StreamExhausted(needed=need, covered=self.tab.charged)
        try:
            asked = await self._stream.ask(need, wish)
        except StoreError as error:
            raise self._lost(error) from error
        seconds = deadline - self._now()
        if asked is None or not self._started or seconds <= 0:
            raise exhausted
        if asked:
            await self._tell(NEED_VOUCHER, asked)
        waiting = asyncio.create_task(self._stream.wait(need, seconds))
        leaving = asyncio.create_task(self.presence.left())
        try:
            await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
            self.check()
            if not await waiting:
                raise exhausted
        except StoreError as error:
            raise self._lost(error) from error
        finally:
            waiting.cancel()
            leaving.cancel()

    async def _tell(self, name: str, data: JsonObject) -> None:
        if self._cutter is not None and self._cutter.between:
            event = payment_event(name, data)
            await self._send(_body(event))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    # Sending.

    async def begin(self) -> str:
        """The receipt for the head of the answer."""
        try:
            return await self._stream.begin()
        except StreamLost as error:
            raise self._lost(error) from error

    def start(self, headers: Headers) -> Headers:
        """The head of the answer leaves: its headers, as a stream has them."""
        self._started = True
        self.presence.watch()
        kind = _header(headers, b"content-type").partition(b";")[0].strip().lower()
        if kind == b"text/event-stream" and not _header(headers, b"content-encoding"):
            self._cutter = EventCutter()
            # There will be more in it than the application knows of.
            return [(n, v) for n, v in headers if n.lower() != b"content-length"]
        return headers

    async def send(self, message: Message) -> None:
        """
        Pass on what was counted before.

        Raises:
            ConfigurationError: Nothing was ever counted: its usage is not known.
        """
        gone = self._ended or self.presence.gone
        if gone or message["type"] != "http.response.body":
            return
        body = bytes(message.get("body", b""))
        if body:
            if not self.tab.counted:
                raise ConfigurationError(
                    "content of a metered stream leaves before anything was counted:"
                    " await paid.meter.charge(...) first, with 0 for what is free"
                )
            if self._cutter is not None:
                body = self._cutter.feed(body)
            if body:
                await self._send(_body(body))
            self._note_left(in_part=bool(body))
        if not message.get("more_body"):
            await self._flush()
            self.tab.leave()
            await self.end()

    def _note_left(self, *, in_part: bool) -> None:
        """A piece was taken. A part of it may wait for the end of its event."""
        if self._cutter is None or not self._cutter.holds:
            self.tab.leave()
        elif in_part:
            self.tab.leave_in_part()
        else:
            self.tab.hold_back()

    async def end(self) -> None:
        """End the answer in good order: closed, and with a receipt if one is read."""
        self._ended = True
        await self._flush()
        receipt = None
        try:
            receipt = await self._stream.finish(self.tab.left, self.tab.units)
            self._finished = True
        except StoreError as error:
            _log.warning("a stream cannot be closed yet: %s", error)
        told = receipt if self._cutter is not None else None
        event = b"" if told is None else payment_event(RECEIPT, told)
        await self._send({**_body(event), "more_body": False})

    async def _flush(self) -> None:
        rest = self._cutter.rest() if self._cutter is not None else b""
        if rest:
            await self._send(_body(rest))
            self.tab.let_go()

    async def close(self) -> None:
        """Close the sale at what has left, if `end` has not."""
        self._ended = True
        if not self._finished:
            await self._stream.finish(self.tab.left, self.tab.units)
            self._finished = True


def _body(content: bytes) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": True}


def _header(headers: Headers, name: bytes) -> bytes:
    return next((value for field, value in headers if field.lower() == name), b"")
