"""
The bodies of paid answers: of those that are paid as they flow, and of all others.

Payment events are taken out of a stream of events, so that whoever reads it sees what
its application sent and nothing else.
"""

from collections.abc import AsyncIterator, Callable
from typing import Final

import httpx

from agentpay.errors import (
    AnswerLost,
    MalformedMessage,
    PayeeMisbehaved,
    PaymentOutcomeUnknown,
)
from agentpay.http.bodies import PaidBody
from agentpay.payer.payment import Judgement, Payment
from agentpay.payer.running import RunningRequest
from agentpay.wire.headers import read_object
from agentpay.wire.mpp.sse import (
    EVENT_STREAM,
    NEED_VOUCHER,
    EventReader,
    EventSplitter,
    ServerEvent,
    read_events,
    read_need_voucher,
)

Count = Callable[[ServerEvent], int]
"""How many units of what its payee sells an event is worth."""

COUNT: Final = "agentpay.count"
_RUNNING: Final = "agentpay.running"


def carry(
    response: httpx.Response,
    payment: Payment,
    judged: Judgement,
    run: Callable[[], RunningRequest | None],
) -> None:
    """Have the body of a paid answer say what breaks off, and pay for what flows."""
    running = run() if judged.streams else None
    if running is not None:
        count = response.request.extensions.get(COUNT)
        response.stream = FlowingBody(response, running, count)
        response.extensions[_RUNNING] = running
    elif judged.charged:
        charged = judged.charged
        response.stream = PaidBody(
            response,
            lambda _: AnswerLost(payment.id, charged=charged),
            broke_off=payment.broke_off,
        )
    elif not judged.final:
        response.stream = PaidBody(
            response,
            lambda why: PaymentOutcomeUnknown(payment.id, why),
            broke_off=payment.broke_off,
        )


class FlowingBody(httpx.AsyncByteStream):
    """A body that is paid for as it is read."""

    def __init__(
        self, response: httpx.Response, running: RunningRequest, count: Count | None
    ) -> None:
        self._stream = response.stream
        self._running = running
        self._count = count
        self._ended = False
        headers = response.headers
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        plain = headers.get("Content-Encoding", "identity") == "identity"
        self._has_events = kind == EVENT_STREAM and plain

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if not isinstance(self._stream, httpx.AsyncByteStream):
            raise TypeError("an asynchronous transport answers by asynchronous streams")
        splitter = EventSplitter()
        try:
            async for chunk in self._stream:
                if not self._has_events:
                    yield chunk
                    continue
                for piece in splitter.feed(chunk):
                    if isinstance(piece, ServerEvent):
                        await self._take(piece)
                    else:
                        self._running.came(self._units(piece))
                        yield piece
            if rest := splitter.rest():
                yield rest
        except httpx.TransportError as error:
            await self._end()
            raise PaymentOutcomeUnknown(self._running.id, str(error)) from error
        await self._end()

    def _units(self, piece: bytes) -> int:
        if self._count is None:
            return 1 if b"data" in piece else 0
        return sum(map(self._count, read_events(piece)))

    async def _take(self, event: ServerEvent) -> None:
        running = self._running
        if event.event == NEED_VOUCHER:
            await running.asked(read_need_voucher(event))
            return
        try:
            said = read_object(event.data.encode(), name=event.event)
        except MalformedMessage:
            return  # it is asked what it cost
        await running.over(said)
        charged = running.charged or 0
        if self._count is not None and charged > running.counted:
            raise PayeeMisbehaved(
                f"{running.id}: it cost {charged}, and what came of it is worth"
                f" {running.counted} by our own count"
            )

    async def _end(self) -> None:
        if not self._ended:
            self._ended = True
            await self._running.end()

    async def aclose(self) -> None:
        try:
            if isinstance(self._stream, httpx.AsyncByteStream):
                await self._stream.aclose()
        finally:
            await self._end()


class PaidStream:
    """The events of one answer, and what they cost. Amounts are base units."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        found = response.extensions.get(_RUNNING)
        self._running = found if isinstance(found, RunningRequest) else None

    async def __aiter__(self) -> AsyncIterator[ServerEvent]:
        """
        Raises:
            BudgetExceeded, ChannelUnusable: No more is signed for it.
            PaymentOutcomeUnknown: It broke off; what it cost is being asked.
            PayeeMisbehaved: What it cost is not what came of it.
        """
        reader = EventReader()
        async for chunk in self.response.aiter_bytes():
            for event in reader.feed(chunk):
                yield event

    @property
    def charged(self) -> int | None:
        """What it cost; None until its last event said so, and where none does."""
        return self._running.charged if self._running is not None else None

    @property
    def vouchers(self) -> int:
        """How many vouchers were signed for it while it flowed, with the first one."""
        return self._running.vouchers if self._running is not None else 1

    @property
    def ahead_most(self) -> int:
        """The most that was signed for it at a time, beyond what had come in."""
        return self._running.ahead_most if self._running is not None else 0
