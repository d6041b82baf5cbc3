"""Whatever an agent sends through, the same leaves it and the same comes back."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import httpx
import pytest

from agentpay import Agent, AnswerLost, PaymentOutcomeUnknown, Policy
from agentpay.errors import OfferUntrusted
from agentpay.http.aiohttp import ThroughAiohttp
from agentpay.http.httpx2 import ThroughHttpx2
from agentpay.http.paywall import Paywall, Receive, Scope, Send
from agentpay.http.pools import NEVER_SENT, PooledTransport
from agentpay.testing.faulty_http import FaultyHttp, HttpFault
from agentpay.testing.listener import Listener
from agentpay.testing.local_chain import LocalChain

from .world import (
    BASE,
    PRICE,
    QUICK,
    ROUTES,
    Heard,
    Shop,
    Wire,
    a_payee,
    a_shop,
    an_agent,
    serving,
    through,
)

Made = Callable[[], httpx.AsyncBaseTransport]

WIRES: dict[str, Made] = {
    "httpx": PooledTransport,
    "httpx2": ThroughHttpx2,
    "aiohttp": ThroughAiohttp,
}
every_wire = pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)


class Listening:
    """A server that notes what it is sent, and answers what it is told."""

    def __init__(self) -> None:
        self.url = ""
        self.answer: bytes | None = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        """None closes the connection instead."""
        self.heard: list[bytes] = []
        self.left = asyncio.Event()
        self.late = 0.0
        self.cut = False
        self.reads = asyncio.Event()
        """Whether it reads bodies; headers it always does."""
        self.reads.set()

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            self.left.set()
            raise
        _, _, said = head.lower().partition(b"content-length: ")
        size = int(said.partition(b"\r\n")[0] or 0)
        await self.reads.wait()
        self.heard.append(head + await reader.readexactly(size))
        await asyncio.sleep(self.late)
        writer.write(self.answer or b"")
        return self.answer is not None and not self.cut


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[Listening]:
    made = Listening()
    listener = Listener(made.serve)
    made.url = await listener.start()
    yield made
    await listener.stop()


@contextlib.asynccontextmanager
async def a_client(wire: Made) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=wire(), timeout=2) as client:
        yield client


# What leaves


@every_wire
@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/a%2Fb/%C3%A9/%e9//c;d=1/../.",
        "/a?q=a+b%20c&e=[1]&empty=&%2b=%2B#part",
        "/\u00e4/\u20ac?x=\u00fc'\"",
    ],
)
async def test_a_request_leaves_as_httpx_writes_it(wire: Made, target: str) -> None:
    heads: list[list[bytes]] = []
    for each in (wire, httpx.AsyncHTTPTransport):
        async with listening() as server, a_client(each) as client:
            headers = [("X-Twice", "1"), ("X-Twice", "2"), ("Accept", "a/b")]
            for content in (b"", b"body"):
                request = client.build_request(
                    "POST",
                    server.url + target,
                    content=content,
                    headers=[*headers, ("Host", "shop.example")],
                )
                assert (await client.send(request)).text == "ok"
            await client.get(server.url + target, headers={"Host": "shop.example"})
        lines = [heard.split(b"\r\n") for heard in server.heard]
        heads.append([b"\n".join([ls[0], *sorted(ls[1:])]).lower() for ls in lines])

    ours, theirs = heads
    assert ours == theirs


@every_wire
async def test_no_cookie_is_kept_by_the_wire(wire: Made) -> None:
    async with listening() as server:
        server.answer = (
            b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\n\r\n"
        )
        async with contextlib.AsyncExitStack() as stack:
            inner = wire()
            stack.push_async_callback(inner.aclose)
            for _ in range(2):  # whoever shares a wire shares no cookies
                request = httpx.Request("GET", server.url)
                response = await inner.handle_async_request(request)
                await response.aread()

        assert not any(b"cookie" in heard.lower() for heard in server.heard)


@every_wire
async def test_a_large_body_arrives_whole(wire: Made) -> None:
    sent = bytes(range(256)) * 20_000
    async with listening() as server, a_client(wire) as client:
        await client.post(server.url, content=sent)

    assert server.heard[0].endswith(sent)


@every_wire
async def test_each_of_the_fields_of_one_name_is_sent(wire: Made) -> None:
    async with listening() as server, a_client(wire) as client:
        fields = [("x-a", "1"), ("X-A", "2"), ("x-a", "3"), ("X-a", "4")]
        await client.get(server.url, headers=fields)

    lines = server.heard[0].lower().split(b"\r\n")
    assert [line for line in lines if line.startswith(b"x-a:")] == [
        b"x-a: 1",
        b"x-a: 2",
        b"x-a: 3",
        b"x-a: 4",
    ]


@every_wire
async def test_a_body_is_sent_without_being_asked_for(wire: Made) -> None:
    async with listening() as server, a_client(wire) as client:
        headers = {"Expect": "100-continue"}
        got = await client.post(server.url, content=b"body", headers=headers)

    assert got.text == "ok"
    assert server.heard[0].endswith(b"body")


@every_wire
async def test_what_is_sent_after_a_close_opens_another_connection(wire: Made) -> None:
    async with listening() as server, contextlib.AsyncExitStack() as stack:
        inner = wire()
        stack.push_async_callback(inner.aclose)
        for _ in range(2):
            answer = await inner.handle_async_request(httpx.Request("GET", server.url))
            assert await answer.aread() == b"ok"
            await inner.aclose()


# What comes back


@every_wire
async def test_an_answer_may_have_many_fields(wire: Made) -> None:
    fields = b"".join(b"X-%d: a\r\n" % number for number in range(400))
    async with listening() as server, a_client(wire) as client:
        server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + fields + b"\r\n"
        got = await client.get(server.url)

    assert len(got.headers) == 401


@every_wire
async def test_an_answer_comes_back_as_it_was_sent(wire: Made) -> None:
    packed = gzip.compress(b"words" * 1000)
    head = b"HTTP/1.1 418 Short\r\nContent-Encoding: gzip\r\nSet-Cookie: a=1\r\n"
    long = b"X-Long: " + b"l" * 60_000 + b"\r\nSet-Cookie: b=2\r\n"
    async with listening() as server, a_client(wire) as client:
        size = b"Content-Length: %d\r\n\r\n" % len(packed)
        server.answer = head + long + size + packed
        got = await client.get(server.url)
        async with client.stream("GET", server.url) as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])

    assert (got.status_code, got.reason_phrase) == (418, "Short")
    assert got.headers.get_list("Set-Cookie") == ["a=1", "b=2"]
    assert len(got.headers["X-Long"]) == 60_000
    assert got.text == "words" * 1000
    assert raw == packed


@every_wire
async def test_parts_of_an_answer_come_as_they_are_sent(wire: Made) -> None:
    goes_on = asyncio.Event()

    async def slowly(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await goes_on.wait()
        await send({"type": "http.response.body", "body": b"two"})

    async with (
        a_client(wire) as client,
        serving(slowly) as url,
        client.stream("GET", url) as answer,
    ):
        parts = answer.aiter_raw()
        assert await anext(parts) == b"one"
        goes_on.set()
        assert await anext(parts) == b"two"


# What fails


@every_wire
async def test_nobody_listens(wire: Made) -> None:
    async with listening() as server:
        url = server.url
    async with a_client(wire) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(url)
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.get("ftp://shop.example")


@every_wire
@pytest.mark.parametrize("kept", [0, 1])
async def test_a_request_that_was_not_answered_is_sent_once(
    wire: Made, kept: int
) -> None:
    async with listening() as server, a_client(wire) as client:
        for _ in range(kept):
            await client.get(server.url)
        server.answer = None
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await client.get(server.url)

    assert len(server.heard) == kept + 1


@every_wire
@pytest.mark.parametrize(
    "words",
    [
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nshort",
    ],
)
async def test_half_an_answer_is_none(wire: Made, words: bytes) -> None:
    async with listening() as server, a_client(wire) as client:
        server.answer, server.cut = words, True
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(server.url)


@every_wire
async def test_who_answers_late_is_waited_for_as_long_as_was_said(wire: Made) -> None:
    async with listening() as server, a_client(wire) as client:
        server.late = 1.5
        with pytest.raises(httpx.ReadTimeout):
            await client.get(server.url, timeout=0.1)


_LARGE = bytes(40_000_000)
"""More than any kernel keeps for who does not read."""


@every_wire
async def test_an_upload_takes_longer_than_an_answer_may(wire: Made) -> None:
    async with listening() as server, a_client(wire) as client:
        server.reads.clear()
        asyncio.get_running_loop().call_later(1.0, server.reads.set)
        seconds = httpx.Timeout(10, read=0.5)
        got = await client.post(server.url, content=_LARGE, timeout=seconds)

    assert got.text == "ok"


@every_wire
async def test_an_upload_to_who_does_not_read_has_an_end(wire: Made) -> None:
    async with listening() as server, a_client(wire) as client:
        server.reads.clear()
        seconds = httpx.Timeout(10, write=0.3)
        async with asyncio.timeout(5):
            with pytest.raises(httpx.WriteTimeout):
                await client.post(server.url, content=_LARGE, timeout=seconds)


@every_wire
async def test_who_leaves_takes_the_connection_along(wire: Made) -> None:
    async with listening() as server, a_client(wire) as client:
        server.late = 0.1
        asking = asyncio.create_task(client.get(server.url))
        while not server.heard:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        async with asyncio.timeout(2):
            await server.left.wait()
        server.late = 0
        assert (await client.get(server.url)).text == "ok"


@every_wire
async def test_a_header_that_cannot_be_written_is_not_sent(wire: Made) -> None:
    async with listening() as server, a_client(wire) as client:
        with pytest.raises(httpx.LocalProtocolError):
            await client.get(server.url, headers={"X-Bad": "a\r\nX-More: b"})

    assert not server.heard


async def test_what_aiohttp_cannot_write_was_never_sent() -> None:
    async with listening() as server, a_client(ThroughAiohttp) as client:
        with pytest.raises(NEVER_SENT, match="not UTF-8"):
            await client.get(server.url, headers=[(b"X-Bad", b"\xe9")])
        with pytest.raises(NEVER_SENT):
            await client.request("GE T", server.url)

    assert not server.heard


# Paying


@contextlib.asynccontextmanager
async def paying(
    chain: LocalChain, wire: Made, *, policy: Policy = QUICK
) -> AsyncIterator[tuple[Shop, FaultyHttp, Agent]]:
    """A shop behind a proxy that fails as planned, and an agent that buys there."""
    async with (
        a_shop(chain) as (shop, _, wall),
        serving(wall) as url,
        FaultyHttp(url) as faulty,
        await an_agent(
            chain, wire(), allow_private_networks=True, policy=policy
        ) as agent,
    ):
        yield shop, faulty, agent


@every_wire
async def test_many_at_once_are_paid_once_each_and_in_one_round_trip(
    agentpay_shared_chain: LocalChain, wire: Made
) -> None:
    async with paying(agentpay_shared_chain, wire) as (shop, faulty, agent):
        await agent.get(faulty.url + "/ok")
        before = agent.round_trips
        got = await asyncio.gather(*(agent.get(faulty.url + "/ok") for _ in range(40)))
        spending = await agent.spending()

        assert {answer.status_code for answer in got} == {200}
        assert agent.round_trips - before == 40
        assert (shop.served["/ok"], spending.spent) == (41, 41 * PRICE * 10**12)


@every_wire
@pytest.mark.parametrize(
    "fault",
    [HttpFault.REQUEST_DROPPED, HttpFault.ANSWER_DROPPED, HttpFault.REQUEST_REPEATED],
)
async def test_what_is_lost_is_sent_again_and_paid_once(
    agentpay_shared_chain: LocalChain, wire: Made, fault: HttpFault
) -> None:
    async with paying(agentpay_shared_chain, wire) as (shop, faulty, agent):
        await agent.get(faulty.url + "/ok")
        faulty.plan(fault, header="payment-signature")
        assert (await agent.get(faulty.url + "/ok")).status_code == 200
        spending = await agent.spending()

    assert (shop.served["/ok"], spending.spent) == (2, 2 * PRICE * 10**12)


@every_wire
async def test_an_answer_that_breaks_off_was_paid_for(
    agentpay_shared_chain: LocalChain, wire: Made
) -> None:
    async with paying(agentpay_shared_chain, wire) as (_, faulty, agent):
        await agent.get(faulty.url + "/ok")
        faulty.plan(HttpFault.ANSWER_CUT, header="payment-signature")
        with pytest.raises(AnswerLost):
            await agent.get(faulty.url + "/ok")


@every_wire
async def test_only_what_paid_nothing_fails_as_httpx_says(
    agentpay_shared_chain: LocalChain, wire: Made
) -> None:
    hasty = Policy(deposit="$0.1", give_up_seconds=0.6)
    paid = "payment-signature"
    async with paying(agentpay_shared_chain, wire, policy=hasty) as (_, faulty, agent):
        for _ in range(3):
            faulty.plan(HttpFault.ANSWER_DROPPED)
            with pytest.raises(httpx.TransportError):
                await agent.get(faulty.url + "/ok")
        assert (await agent.spending()).spent == 0
        await agent.get(faulty.url + "/ok")

        faulty.plan(HttpFault.ANSWER_DROPPED, times=2, header=paid)
        assert (await agent.get(faulty.url + "/ok")).status_code == 200
        faulty.plan(HttpFault.ANSWER_DROPPED, times=1000)
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.get(faulty.url + "/ok")


@every_wire
async def test_half_a_word_of_a_gateway_says_nothing_of_a_payment(
    agentpay_shared_chain: LocalChain, wire: Made
) -> None:
    async with (
        paying(agentpay_shared_chain, wire) as (_, faulty, agent),
        listening() as gateway,
    ):
        await agent.get(faulty.url + "/ok")
        gateway.answer, gateway.cut = (
            b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 9\r\n\r\nshort",
            True,
        )
        shop, faulty.server_url = faulty.server_url, gateway.url
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.get(faulty.url + "/ok")
        faulty.server_url = shop

    assert len(gateway.heard) == 1


async def test_what_cannot_be_written_is_tried_once_and_held_against_nobody(
    agentpay_shared_chain: LocalChain,
) -> None:
    strict = replace(QUICK, quarantine_after=1)
    async with paying(agentpay_shared_chain, ThroughAiohttp, policy=strict) as (
        shop,
        faulty,
        agent,
    ):
        await agent.get(faulty.url + "/ok")
        before = agent.round_trips
        with pytest.raises(PaymentOutcomeUnknown, match="not UTF-8"):
            await agent.get(faulty.url + "/ok", headers=[(b"X-Bad", b"\xe9")])
        assert agent.round_trips - before == 1
        await agent.get(faulty.url + "/ok")

    assert shop.served["/ok"] == 2


class Inside(httpx.AsyncBaseTransport):
    """Leads whatever name to a server on this machine."""

    def __init__(self, inner: httpx.AsyncBaseTransport, port: int) -> None:
        self._inner = inner
        self.port = port

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(host="127.0.0.1", port=self.port)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


@every_wire
async def test_c7_no_wire_takes_a_payment_into_our_own_network(
    agentpay_shared_chain: LocalChain, wire: Made
) -> None:
    hasty = Policy(deposit="$0.1", give_up_seconds=0.4)
    async with a_payee(agentpay_shared_chain) as payee:
        wall = Paywall(Shop(), payee=payee, routes=ROUTES)
        heard = Heard(wall)
        async with serving(heard) as base:
            inside = Inside(wire(), int(base.rpartition(":")[2]))
            road = Wire(inside)
            async with await an_agent(
                agentpay_shared_chain, road, policy=hasty
            ) as agent:
                with pytest.raises(OfferUntrusted, match="private network"):
                    await agent.get(BASE + "/ok")
            road.inner = through(wall)
            async with await an_agent(
                agentpay_shared_chain, road, policy=hasty
            ) as agent:
                await agent.get(BASE + "/ok")  # its price is known
                road.inner = inside = Inside(wire(), inside.port)
                with pytest.raises(PaymentOutcomeUnknown, match="private network"):
                    await agent.get(BASE + "/ok")

    assert heard.credentials == 0
