"""An answer that flows: it stops for money, says so, goes on, and ends in order."""

import asyncio
from dataclasses import dataclass, field

import pytest

from agentpay.core.meter import TOKEN, Rate, Rounding, Tariff
from agentpay.core.tab import Tab
from agentpay.errors import StoreUnavailable
from agentpay.http.asgi import Message
from agentpay.http.flow import Flow
from agentpay.http.presence import Presence
from agentpay.payee.pricing import StreamTerms
from agentpay.stream_errors import (
    StreamAbandoned,
    StreamEnded,
    StreamExhausted,
    StreamLost,
)
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.sse import NEED_VOUCHER, RECEIPT, EventReader
from tests.http.world import until

PER_TOKEN = 20
TARIFF = Tariff(rates=(Rate(unit=TOKEN, price=PER_TOKEN),), rounding=Rounding.UP)
EVENTS = [(b"content-type", b"text/event-stream")]


@dataclass
class Purse:
    """A sale's money, which a test fills."""

    covered: int
    charged: int = 0
    finished: list[int] = field(default_factory=list)
    steps: int = 0
    filled: asyncio.Event = field(default_factory=asyncio.Event)
    breaks_at: str = ""
    """Where the books cannot be read or written."""

    def look(self, what: str) -> None:
        if what == self.breaks_at:
            raise StoreUnavailable("the disk is gone")

    async def begin(self) -> str:
        return "running"

    async def draw(self, charged: int) -> int:
        self.look("draw")
        self.steps += 1
        self.charged = max(self.charged, min(charged, self.covered))
        return self.charged

    async def ask(self, need: int, wish: int) -> JsonObject | None:
        assert need <= wish
        self.look("ask")
        return {"required": str(wish)}

    async def wait(self, charged: int, seconds: float) -> bool:
        self.look("wait")
        try:
            async with asyncio.timeout(seconds):
                while self.covered < charged:
                    self.filled.clear()
                    await self.filled.wait()
        except TimeoutError:
            return False
        return True

    async def finish(self, charged: int, units: int | None) -> JsonObject | None:
        assert units == charged // PER_TOKEN
        self.finished.append(charged)
        return {"charged": str(charged)}

    def fill(self, covered: int) -> None:
        self.covered = covered
        self.filled.set()


@dataclass
class Line:
    """What reaches the client, and when it leaves."""

    out: list[Message] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, message: Message) -> None:
        self.out.append(message)

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    @property
    def events(self) -> list[tuple[str, str]]:
        body = b"".join(message["body"] for message in self.out)
        return [(event.event, event.data) for event in EventReader().feed(body)]


def a_flow(
    purse: Purse, line: Line, *, limit: int = 10_000, wait_seconds: float = 5.0
) -> Flow:
    return Flow(
        Tab(TARIFF, increment=100),
        purse,
        terms=StreamTerms(increment=100, wait_seconds=wait_seconds),
        limit=limit,
        presence=Presence(line.receive),
        send=line.send,
    )


async def make(flow: Flow, tokens: int) -> None:
    for n in range(tokens):
        exact = flow.tab.price({"tokens": 1})
        flow.check()
        if not flow.tab.count(exact):
            await flow.pay(exact)
        body = b"data: %d\n\n" % n
        await flow.send({"type": "http.response.body", "body": body, "more_body": True})


class PaidMeanwhile(Purse):
    """A voucher comes between two looks."""

    async def ask(self, need: int, wish: int) -> JsonObject | None:
        self.fill(wish)
        return {}


async def test_nobody_is_asked_for_what_came_meanwhile() -> None:
    purse, line = PaidMeanwhile(covered=100), Line()
    flow = a_flow(purse, line)
    flow.start(EVENTS)
    await make(flow, 10)

    assert NEED_VOUCHER not in [name for name, _ in line.events]
    assert purse.charged == 10 * PER_TOKEN


async def test_content_stops_until_more_is_signed_and_the_client_is_told() -> None:
    purse, line = Purse(covered=200), Line()
    flow = a_flow(purse, line)
    flow.start(EVENTS)
    making = asyncio.create_task(make(flow, 30))
    await until(lambda: len(line.events) == 11)

    assert line.events[-1] == (NEED_VOUCHER, '{"required":"300"}')
    assert not making.done()
    purse.fill(250)
    await until(lambda: len(line.events) == 14)
    assert line.events[-1][0] == NEED_VOUCHER
    purse.fill(1000)
    await making
    await flow.end()
    told = [name for name, _ in line.events if name != "message"]
    assert told == [NEED_VOUCHER, NEED_VOUCHER, RECEIPT]
    assert len(line.events) == 30 + 3
    assert purse.finished == [30 * PER_TOKEN]


@pytest.mark.parametrize("breaks_at", ["draw", "ask", "wait"])
async def test_a_stream_whose_books_are_out_of_reach_is_lost_and_cut_off(
    breaks_at: str,
) -> None:
    purse, line = Purse(covered=200), Line()
    flow = a_flow(purse, line)
    flow.start(EVENTS)
    await make(flow, 10)
    purse.breaks_at = breaks_at
    with pytest.raises(StreamLost) as lost:
        await make(flow, 1)
    told = len(line.out)
    await flow.send({"type": "http.response.body", "body": b"more", "more_body": False})

    assert isinstance(lost.value.__cause__, StoreUnavailable)
    assert len(line.out) == told
    assert all(message.get("more_body") for message in line.out)


async def test_p10_a_client_that_signs_no_more_got_what_it_paid_for() -> None:
    purse, line = Purse(covered=4000 * PER_TOKEN), Line()
    flow = a_flow(purse, line, limit=10**9, wait_seconds=0.02)
    flow.start(EVENTS)
    with pytest.raises(StreamExhausted) as exhausted:
        await make(flow, 10_000)
    await flow.end()

    delivered = sum(name == "message" for name, _ in line.events)
    assert delivered == 4000
    assert purse.finished == [4000 * PER_TOKEN]
    assert exhausted.value.needed == 4001 * PER_TOKEN


@pytest.mark.parametrize("cut", [1, 3, 8])
async def test_p10_pieces_that_end_inside_events_are_not_free(cut: int) -> None:
    purse, line = Purse(covered=10_000), Line()
    flow = a_flow(purse, line)
    flow.start(EVENTS)
    text = b"".join(b"data: %02d\n\n" % n for n in range(20))
    size = len(text) // 20
    pieces = [text[at : at + size] for at in range(cut, len(text) - size, size)]
    for piece in [text[:cut], *pieces]:
        await flow.pay(PER_TOKEN)
        await flow.send(
            {"type": "http.response.body", "body": piece, "more_body": True}
        )
    await flow.close()

    assert len(line.events) == 19
    assert purse.finished == [19 * PER_TOKEN]


async def test_p10_what_is_held_back_until_a_stream_is_cut_short_is_not_free() -> None:
    purse, line = Purse(covered=3 * PER_TOKEN), Line()
    flow = a_flow(purse, line, wait_seconds=0)
    flow.start(EVENTS)
    for piece in (b"data: one", b" and two"):
        await flow.pay(PER_TOKEN)
        await flow.send(
            {"type": "http.response.body", "body": piece, "more_body": True}
        )
    await flow.pay(PER_TOKEN)
    with pytest.raises(StreamExhausted):
        await flow.pay(PER_TOKEN)
    await flow.end()

    assert line.events[0] == ("message", "one and two")
    assert purse.finished == [2 * PER_TOKEN]


async def test_a_client_that_leaves_while_a_stream_waits_ends_it() -> None:
    purse, line = Purse(covered=200), Line()
    flow = a_flow(purse, line)
    flow.start(EVENTS)
    making = asyncio.create_task(make(flow, 30))
    await until(lambda: len(line.events) == 11)
    line.left.set()

    with pytest.raises(StreamAbandoned):
        await making
    await flow.close()
    await flow.close()
    assert purse.finished == [200]


async def test_an_answer_costs_its_limit_at_most_whatever_is_signed() -> None:
    purse, line = Purse(covered=10**9), Line()
    flow = a_flow(purse, line, limit=210, wait_seconds=0.05)
    flow.start(EVENTS)
    with pytest.raises(StreamExhausted):
        await make(flow, 30)

    assert purse.charged <= 210
    assert flow.tab.left == 200
    assert {name for name, _ in line.events} == {"message"}


async def test_nothing_is_asked_for_before_the_answer_has_started() -> None:
    purse, line = Purse(covered=0), Line()
    flow = a_flow(purse, line)

    with pytest.raises(StreamEnded):
        await make(flow, 1)
    assert line.out == []


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-type", b"application/json")],
        [*EVENTS, (b"content-encoding", b"gzip")],
    ],
)
async def test_what_is_not_plain_events_gets_none_of_ours(
    headers: list[tuple[bytes, bytes]],
) -> None:
    purse, line = Purse(covered=1000), Line()
    flow = a_flow(purse, line)

    assert flow.start(headers) == headers
    await make(flow, 3)
    await flow.end()
    assert b"".join(m["body"] for m in line.out) == b"".join(
        b"data: %d\n\n" % n for n in range(3)
    )


async def test_tasks_that_count_at_once_are_all_paid_for() -> None:
    purse, line = Purse(covered=10**9), Line()
    flow = a_flow(purse, line)
    flow.start(EVENTS)
    await asyncio.gather(*(make(flow, 50) for _ in range(8)))
    await flow.end()

    assert purse.finished == [400 * PER_TOKEN]
    assert purse.steps <= 400 * PER_TOKEN // 100
