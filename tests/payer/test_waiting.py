"""Many requests wait for one question: not one after another, nor for each other."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentpay import Policy
from agentpay.errors import ChainUnreachable, PaymentOutcomeUnknown
from agentpay.payer.attempts import Attempts
from agentpay.testing.faulty_rpc import FaultyRpc
from agentpay.testing.local_chain import LocalChain
from tests.http.world import BASE, Wire, a_shop, an_agent, patient, through, until

OTHER = "http://other.example"
PATIENT = Policy(deposit="$0.1", low_water="$0.01", give_up_seconds=3)


async def test_who_waits_shares_the_outcome() -> None:
    attempts: Attempts[str, int] = Attempts()
    gate, made = asyncio.Event(), 0

    async def attempt() -> int:
        nonlocal made
        made += 1
        await gate.wait()
        return made

    waiting = [asyncio.create_task(attempts.share("a", attempt)) for _ in range(9)]
    other = asyncio.create_task(attempts.share("b", attempt))
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    gate.set()

    assert set(await asyncio.gather(*waiting[1:])) == {2}
    assert await other == 2
    assert await attempts.share("a", attempt) == 3


async def test_a_failure_is_everybodys_and_the_next_one_tries_anew() -> None:
    attempts: Attempts[str, int] = Attempts()
    made = 0

    async def attempt() -> int:
        nonlocal made
        made += 1
        await asyncio.sleep(0)
        if made == 1:
            raise ChainUnreachable("planned")
        return made

    outcomes = await asyncio.gather(
        *(attempts.share("a", attempt) for _ in range(5)), return_exceptions=True
    )

    assert {type(outcome) for outcome in outcomes} == {ChainUnreachable}
    assert await attempts.share("a", attempt) == 2


async def test_an_attempt_that_nobody_waits_for_ends_quietly() -> None:
    attempts: Attempts[str, int] = Attempts()

    async def attempt() -> int:
        await asyncio.sleep(0.01)
        raise ChainUnreachable("planned")

    waiting = asyncio.create_task(attempts.share("a", attempt))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0.02)
    hanging = asyncio.create_task(attempts.share("a", asyncio.Event().wait))
    await asyncio.sleep(0)
    await attempts.aclose()

    with pytest.raises(asyncio.CancelledError):
        await hanging


class Deaf(httpx.AsyncBaseTransport):
    """Never answers paid requests to one host while it is deaf to it."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.deaf_to = ""
        self.unheard = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "payment-signature" in request.headers and request.url.host == self.deaf_to:
            self.unheard += 1
            await asyncio.sleep(0.1)
            raise httpx.ReadTimeout("planned", request=request)
        return await self.inner.handle_async_request(request)


async def test_a_silent_payee_delays_nobody_elses_channel_after_a_restart(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    options: dict[str, Any] = {
        "wallet": await chain.funded_wallet(ether=0),
        "store": str(tmp_path / "agent.db"),
        "policy": PATIENT,
    }
    async with a_shop(chain) as (_, _, wall):
        wire = Deaf(through(wall))
        async with await an_agent(chain, wire, **options) as agent:
            await agent.get(BASE + "/ok")
            await agent.get(OTHER + "/ok")
        wire.deaf_to = "shop.example"
        async with await an_agent(chain, wire, **options) as agent:
            loop = asyncio.get_running_loop()
            begun = loop.time()
            silent = [asyncio.create_task(agent.get(BASE + "/ok")) for _ in range(6)]
            await until(lambda: wire.unheard > 0)
            assert (await agent.get(OTHER + "/ok")).status_code == 200
            assert not any(task.done() for task in silent)
            outcomes = await asyncio.gather(*silent, return_exceptions=True)

            assert {type(outcome) for outcome in outcomes} == {PaymentOutcomeUnknown}
            assert loop.time() - begun < 2 * PATIENT.give_up_seconds
            wire.deaf_to = ""
            assert (await agent.get(BASE + "/ok")).status_code == 200


async def test_who_waits_for_a_failed_price_look_up_fails_with_it_at_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        inner, lost = through(wall), 0

        async def slow(request: httpx.Request) -> httpx.Response:
            nonlocal lost
            if request.url.path == "/dear":
                lost += 1
                await asyncio.sleep(0.3)
                raise httpx.ConnectTimeout("planned", request=request)
            return await inner.handle_async_request(request)

        transport = httpx.MockTransport(slow)
        async with await an_agent(agentpay_shared_chain, transport) as agent:
            await agent.get(BASE + "/ok")  # this origin charges
            loop = asyncio.get_running_loop()
            begun = loop.time()
            outcomes = await asyncio.gather(
                *(agent.get(BASE + "/dear") for _ in range(20)), return_exceptions=True
            )

    assert {type(outcome) for outcome in outcomes} == {httpx.ConnectTimeout}
    assert lost == 20
    assert loop.time() - begun < 5  # one after another, it were six


async def test_one_reading_of_the_token_is_everybodys(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with FaultyRpc(chain.rpc_url) as rpc, a_shop(chain) as (_, _, wall):
        agent = await an_agent(chain, through(wall), rpc_url=rpc.url)
        async with agent:
            answers = await asyncio.gather(*(agent.get(BASE + "/ok") for _ in range(8)))
            asked = [c["method"] for calls in rpc.requests for c in calls]

    assert {answer.status_code for answer in answers} == {200}
    assert asked.count("eth_chainId") == 1


async def test_a_payee_that_never_answers_a_question_is_not_waited_for_for_ever(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    options: dict[str, Any] = {
        "wallet": await chain.funded_wallet(ether=0),
        "store": str(tmp_path / "agent.db"),
        "policy": Policy(deposit="$0.1", low_water="$0.01", give_up_seconds=0.5),
    }
    async with a_shop(chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(chain, wire, **patient(options)) as agent:
            assert (await agent.get(BASE + "/ok")).status_code == 200
        wire.hang = asyncio.Event()
        async with await an_agent(chain, wire, **options) as agent:
            async with asyncio.timeout(15):
                with pytest.raises(PaymentOutcomeUnknown):
                    await agent.get(BASE + "/ok")
