"""The faulty server: each fault is what it says, and whoever is behind it is real."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from agentpay.http.paywall import Receive, Scope, Send
from agentpay.testing.faulty_http import FaultyHttp, HttpFault
from tests.http.world import answer
from tests.programs import serving


class Counting:
    """Says how often it was asked, and what."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for moment in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{moment}.complete"})
            return
        body = (await receive())["body"]
        self.asked[scope["path"]] += 1
        await answer(send, 200, b"%d %s" % (self.asked.total(), body))


@asynccontextmanager
async def behind_faults() -> AsyncIterator[
    tuple[Counting, FaultyHttp, Callable[[], Awaitable[httpx.Response]]]
]:
    app = Counting()
    async with (
        serving(app) as url,
        FaultyHttp(url) as faulty,
        httpx.AsyncClient() as client,
    ):
        yield app, faulty, lambda: client.post(faulty.url + "/a", content=b"words")


async def test_without_a_fault_everything_passes() -> None:
    async with behind_faults() as (app, _, ask):
        assert [(await ask()).content for _ in range(2)] == [b"1 words", b"2 words"]
        assert app.asked == {"/a": 2}


@pytest.mark.parametrize(
    ("fault", "asked"),
    [
        (HttpFault.REQUEST_DROPPED, 0),
        (HttpFault.ANSWER_DROPPED, 1),
        (HttpFault.ANSWER_CUT, 1),
    ],
)
async def test_a_lost_answer_is_a_transport_error(fault: HttpFault, asked: int) -> None:
    async with behind_faults() as (app, faulty, ask):
        faulty.plan(fault)
        with pytest.raises(httpx.TransportError):
            await ask()
        assert app.asked.total() == asked
        assert (await ask()).status_code == 200
        assert faulty.planned == 0


@pytest.mark.parametrize(
    ("fault", "asked"),
    [(HttpFault.REQUEST_UNAVAILABLE, 0), (HttpFault.ANSWER_UNAVAILABLE, 1)],
)
async def test_a_gateway_answers_for_the_server(fault: HttpFault, asked: int) -> None:
    async with behind_faults() as (app, faulty, ask):
        faulty.plan(fault)
        assert (await ask()).status_code == 502
        assert app.asked.total() == asked


async def test_a_repeated_request_arrives_twice() -> None:
    async with behind_faults() as (app, faulty, ask):
        faulty.plan(HttpFault.REQUEST_REPEATED)
        assert (await ask()).content == b"2 words"
        assert app.asked.total() == 2


async def test_a_planned_fault_says_when_it_happened_and_only_then() -> None:
    async with behind_faults() as (_, faulty, ask):
        dropped = faulty.plan(HttpFault.ANSWER_CUT, times=2)
        waiting = faulty.plan(HttpFault.REQUEST_DROPPED, header="payment-signature")
        before = time.time()
        with pytest.raises(httpx.TransportError):
            await ask()
        assert [before <= moment <= time.time() for moment in dropped] == [True]
        assert (waiting, faulty.planned) == ([], 2)
        assert [head.split(b"\r\n")[0] for head in faulty.requests] == [
            b"POST /a HTTP/1.1"
        ]


async def test_a_fault_may_wait_for_a_header() -> None:
    async with behind_faults() as (app, faulty, ask):
        faulty.plan(HttpFault.REQUEST_DROPPED, header="payment-signature")
        assert (await ask()).status_code == 200
        assert faulty.planned == 1
        faulty.heal()
        assert faulty.planned == 0
        assert app.asked.total() == 1
