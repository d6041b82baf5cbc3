"""Who asks a facilitator that is not up yet, and what its start comes to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest

from agentpay import Payee, Wallet
from agentpay.errors import ChainUnreachable, FacilitatorUnavailable
from agentpay.evm.networks import LOCAL
from agentpay.facilitator.host import FacilitatorHost
from agentpay.http.facilitator_app import FacilitatorApp
from agentpay.one_attempt import OneAttempt
from agentpay.testing.local_chain import LocalChain
from tests.facilitator.world import a_host


class Attempts:
    """What is tried, and ends when it is told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.given_up = 0
        self.ends = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.begun += 1
        try:
            await self.ends.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self.error is not None:
            raise self.error
        return self.begun


@contextlib.asynccontextmanager
async def an_endpoint_that_hangs_up() -> AsyncIterator[tuple[str, list[int]]]:
    """Takes what it is asked, thinks about it for a while, and says nothing."""
    asked: list[int] = []

    async def hang_up(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read(1)
        asked.append(1)
        await asyncio.sleep(0.1)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_all_requests_to_a_payee_that_is_not_up_wait_for_one_start() -> None:
    async with an_endpoint_that_hangs_up() as (url, asked):
        alone = Payee(Wallet.create(), network=LOCAL, rpc_url=url)
        with pytest.raises(ChainUnreachable):
            await alone.start()
        once = len(asked)
        payee = Payee(Wallet.create(), network=LOCAL, rpc_url=url)
        starts = (payee.start() for _ in range(20))
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        await payee.stop()

    assert {type(outcome) for outcome in outcomes} == {ChainUnreachable}
    assert len(asked) == 2 * once


async def test_p13_all_who_ask_before_it_is_up_wait_for_one_start() -> None:
    async with an_endpoint_that_hangs_up() as (url, asked):
        alone = FacilitatorHost([Wallet.create()], network=LOCAL, rpc_url=url)
        with pytest.raises(ChainUnreachable):
            await alone.start()
        once = len(asked)
        host = FacilitatorHost([Wallet.create()], network=LOCAL, rpc_url=url)
        transport = httpx.ASGITransport(FacilitatorApp(host))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://desk.example"
        ) as client:
            answers = await asyncio.gather(
                *(client.get("/supported") for _ in range(20))
            )
            answers.append(await client.get("/supported"))

    assert {answer.status_code for answer in answers} == {503}
    assert len(asked) == 2 * once


async def test_who_leaves_leaves_the_attempt_to_the_others() -> None:
    attempts = Attempts()
    attempt = OneAttempt(attempts)
    leaves, stays = (asyncio.create_task(attempt.result()) for _ in range(2))
    await asyncio.sleep(0.01)
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    attempts.ends.set()

    assert await stays == 1
    assert leaves.cancelled()


async def test_what_failed_is_said_again_for_a_second_and_then_tried_again() -> None:
    attempts = Attempts()
    attempts.error = ChainUnreachable("it is silent")
    attempts.ends.set()
    attempt = OneAttempt(attempts)
    said = await asyncio.gather(
        *(attempt.result() for _ in range(3)), return_exceptions=True
    )
    with pytest.raises(ChainUnreachable, match="it is silent"):
        await attempt.result()
    at_once = attempts.begun
    attempts.error = None
    await asyncio.sleep(1.1)

    assert said == [said[0]] * 3
    assert at_once == 1
    assert await attempt.result() == 2


@pytest.mark.parametrize("seconds", [0, 0.01], ids=["before it runs", "while it runs"])
async def test_what_is_stopped_is_given_up_and_can_begin_again(seconds: float) -> None:
    attempts = Attempts()
    attempt = OneAttempt(attempts)
    waiting = asyncio.create_task(attempt.result())
    await asyncio.sleep(seconds)
    await attempt.stop()
    with pytest.raises(FacilitatorUnavailable, match="it was stopped"):
        await waiting
    given_up = attempts.given_up == attempts.begun
    attempts.ends.set()

    assert given_up
    assert await attempt.result() == attempts.begun


async def test_a_facilitator_that_is_stopped_while_it_starts_starts_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    host = await a_host(agentpay_shared_chain)
    starting = asyncio.create_task(host.start())
    for _ in range(3):
        await asyncio.sleep(0)  # it has begun to ask
    await host.stop()
    with pytest.raises(FacilitatorUnavailable, match="it was stopped"):
        await starting
    service = await host.start()
    again = await host.start()
    await host.stop()

    assert service is again
