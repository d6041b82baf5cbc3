"""Bodies are kept to be sent again, up to a bound."""

from collections.abc import AsyncIterator
from io import BytesIO
from typing import cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay import Policy
from agentpay.errors import BodyTooLarge
from agentpay.http.bodies import copied
from agentpay.testing.local_chain import LocalChain
from tests.http.world import BASE, Wire, a_shop, an_agent, through

pytestmark = pytest.mark.usefixtures("way")

SMALL = Policy(deposit="$0.1", low_water="$0.01", give_up_seconds=3, body_bytes_max=100)


async def parts(count: int, read: list[int]) -> AsyncIterator[bytes]:
    for _ in range(count):
        read.append(10)
        yield b"0123456789"


async def test_a_streamed_body_is_sent_whole_each_time(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire, policy=SMALL) as agent:
            wire.lose_requests = 1
            answer = await agent.post(BASE + "/ok", content=parts(10, []))

    assert answer.status_code == 200
    assert [len(request.content) for request in wire.sent] == [100, 100, 100]
    assert all(r.headers["content-length"] == "100" for r in wire.sent[1:])


async def test_a_stream_above_the_bound_is_read_no_further_and_not_sent(
    agentpay_shared_chain: LocalChain,
) -> None:
    read: list[int] = []
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire, policy=SMALL) as agent:
            with pytest.raises(BodyTooLarge, match=r"shop\.example/ok.*100 bytes"):
                await agent.post(BASE + "/ok", content=parts(10**6, read))

    assert sum(read) == 110
    assert not wire.sent


@pytest.mark.parametrize("size", [100, 101])
@pytest.mark.parametrize("form", ["bytes", "file"])
async def test_a_body_of_known_size_is_judged_before_it_is_read(
    agentpay_shared_chain: LocalChain, form: str, size: int
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire, policy=SMALL) as agent:
            if form == "bytes":
                request = agent.build_request("POST", BASE + "/ok", content=b"x" * size)
            else:
                files = {"f": ("f", BytesIO(b"x" * 1000), "text/plain")}
                request = agent.build_request("POST", BASE + "/ok", files=files)
                size = 1000
            if size <= SMALL.body_bytes_max:
                assert (await agent.send(request)).status_code == 200
                return
            with pytest.raises(BodyTooLarge):
                await agent.send(request)

    assert not wire.sent


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["A", "a", "Pay", "pay", "PAY", "Secret", "Length"]),
            st.text(st.characters(codec="latin-1", categories=["L"]), max_size=5),
        ),
        max_size=6,
    ),
    st.sampled_from([None, b"", b"body"]),
)
def test_a_copy_says_what_is_added_instead_and_nothing_that_is_dropped(
    fields: list[tuple[str, str]], content: bytes | None
) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in fields]
    request = httpx.Request("POST", BASE, headers=raw, content=content)
    copy = copied(request, {"PAY": "x"}, dropped=frozenset({"secret"}))
    others = [f for f in request.headers.raw if f[0].lower() not in (b"pay", b"secret")]

    assert [f for f in copy.headers.raw if f[0].lower() != b"pay"] == others
    assert copy.headers.get_list("pay") == ["x"]
    assert (copy.method, copy.url) == (request.method, request.url)
    assert copy.content == (content or b"")
    assert b"".join(cast("httpx.ByteStream", copy.stream)) == copy.content


async def test_a_redirect_takes_the_body_along(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        inner = through(wall)

        async def move(request: httpx.Request) -> httpx.Response:
            if request.url.path == "/old":
                return httpx.Response(307, headers={"location": BASE + "/ok"})
            assert request.content == b"0123456789" * 3
            return await inner.handle_async_request(request)

        async with await an_agent(
            agentpay_shared_chain, httpx.MockTransport(move), follow_redirects=True
        ) as agent:
            answer = await agent.post(BASE + "/old", content=parts(3, []))

    assert answer.status_code == 200
