"""
What was made while nobody knew whether it was paid for is told, once that is known.

It is withheld, since it may not be paid for; and kept, since it may be: its payer sends
the same payment again, and gets it without anything running twice.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentpay.evm.session_escrow import charge_nonce
from agentpay.payee.answers import AnswerPolicy
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.x402 import PAYMENT_RESPONSE, parse_response
from tests.http.test_answers_told_again import HEADER, NAME, NAMES, Visit, same
from tests.http.world import EXACT_ONLY, PRICE, clear, cloud, until
from tests.payee.hand import HandPayer, terms_of
from tests.payee.mpp_hand import MPP, ChargePayer, challenge_of


class Clouded:
    """A visit whose chain does not say what became of a transfer, until it is clear."""

    def __init__(self, visit: Visit, rpc: FaultyRpc) -> None:
        self.visit = visit
        self._rpc = rpc

    def cloud(self) -> None:
        cloud(self._rpc, self.visit.payee)

    def hold_back(self) -> None:
        """A transfer that is sent reaches no node yet, and may be mined later."""
        self.visit.payee._running.sender._mined_within_seconds = 0.3
        self._rpc.plan("eth_sendRawTransaction", Fault.UNAVAILABLE, times=500)

    async def clear(self) -> None:
        self.visit.payee._running.sender._mined_within_seconds = 60
        await clear(self._rpc, self.visit.chain)

    async def ask(self, path: str = "/data", **request: Any) -> httpx.Response:
        method = "POST" if "content" in request else "GET"
        return await self.visit.client.request(method, path, **request)

    async def payment(self, path: str, name: str | None) -> dict[str, str]:
        if path == "/data":
            return await self.visit.payment(name=name)
        return {HEADER: await self.visit.transfer(path)}


@asynccontextmanager
async def clouded(chain: LocalChain, **options: Any) -> AsyncGenerator[Clouded]:
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        Visit(chain, "exact", rpc_url=rpc.url, **options) as visit,
    ):
        await visit.payee.start()
        yield Clouded(visit, rpc)


async def received(visit: Visit) -> int:
    return await visit.chain.balance(visit.payee.settings.pay_to)


@NAMES
async def test_f1_what_was_withheld_is_told_once_it_is_paid_and_runs_nothing(
    agentpay_shared_chain: LocalChain, name: str | None
) -> None:
    async with clouded(agentpay_shared_chain) as world:
        headers = await world.visit.payment(name=name)
        world.cloud()
        unknown = await world.ask(headers=headers)
        await world.clear()
        told = await world.ask(headers=headers)
        third = await world.ask(headers=headers)

        assert (unknown.status_code, told.status_code) == (503, 201)
        assert told.content == b"1 " * 800
        assert told.headers.get_list("set-cookie") == ["a=1", "b=2"]
        assert parse_response(told.headers[PAYMENT_RESPONSE]).transaction
        assert world.visit.oracle.asked == 1
        assert third.status_code == (201 if name else 409)
        assert same(told, third) == (name is not None)
        assert await received(world.visit) == PRICE


@NAMES
async def test_f1_while_it_is_unknown_nobody_is_told_what_was_withheld(
    agentpay_shared_chain: LocalChain, name: str | None
) -> None:
    async with clouded(agentpay_shared_chain) as world:
        headers = await world.visit.payment(name=name)
        world.cloud()
        answers = [await world.ask(headers=headers) for _ in range(3)]

        assert {answer.status_code for answer in answers} == {503}
        assert all(b"1 1" not in answer.content for answer in answers)
        assert world.visit.oracle.asked == 1


@pytest.mark.parametrize("sent", [b"the same", b"other"])
async def test_p2_what_was_withheld_is_told_to_the_same_body_only(
    agentpay_shared_chain: LocalChain, sent: bytes
) -> None:
    async with clouded(agentpay_shared_chain) as world:
        headers = await world.visit.payment(name=NAME)
        world.cloud()
        unknown = await world.ask(headers=headers, content=b"the same")
        await world.clear()
        told = await world.ask(headers=headers, content=sent)
        again = await world.ask(headers=headers, content=sent)
        other = await world.ask(headers=headers, content=b"a third")

        assert (unknown.status_code, told.status_code) == (503, 201)
        assert world.visit.oracle.asked == (1 if sent == b"the same" else 2)
        assert same(told, again)
        assert other.status_code == 409
        assert await received(world.visit) == PRICE


async def test_p1_while_it_is_unknown_its_name_is_given_to_no_other_payment(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with clouded(agentpay_shared_chain) as world:
        headers = await world.visit.payment(name=NAME)
        rival = await world.visit.payment(name=NAME)
        world.cloud()
        unknown = await world.ask(headers=headers)
        await world.clear()
        other = await world.ask(headers=rival)
        told = await world.ask(headers=headers)

        statuses = [a.status_code for a in (unknown, other, told)]
        assert statuses == [503, 409, 201]
        assert await received(world.visit) == PRICE


async def test_p1_what_was_withheld_outlives_its_process(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    store = str(tmp_path / "payee.db")
    async with clouded(agentpay_shared_chain, store=store) as world:
        headers = await world.visit.payment()
        world.cloud()
        unknown = await world.ask(headers=headers)
        await world.clear()
        await world.visit.payee.stop()
        told = await world.ask(headers=headers)
        third = await world.ask(headers=headers)

        statuses = [a.status_code for a in (unknown, told, third)]
        assert statuses == [503, 201, 409]
        assert world.visit.oracle.asked == 1
        assert await received(world.visit) == PRICE


@pytest.mark.parametrize("path", ["/long", "/heavy"])
async def test_p13_what_is_too_large_to_keep_is_made_again_and_charged_once(
    agentpay_shared_chain: LocalChain, path: str
) -> None:
    async with clouded(agentpay_shared_chain) as world:
        headers = await world.payment(path, None)
        world.cloud()
        unknown = await world.ask(path, headers=headers)
        await world.clear()
        made = await world.ask(path, headers=headers)

        assert (unknown.status_code, made.status_code) == (503, 201)
        assert world.visit.oracle.asked == 2
        assert await received(world.visit) == PRICE


async def test_what_was_withheld_is_made_again_where_nothing_is_kept(
    agentpay_shared_chain: LocalChain,
) -> None:
    nothing = AnswerPolicy(bytes_each=0)
    async with clouded(agentpay_shared_chain, answers=nothing) as world:
        headers = await world.visit.payment()
        world.cloud()
        unknown = await world.ask(headers=headers)
        await world.clear()
        made = await world.ask(headers=headers)

        assert (unknown.status_code, made.status_code) == (503, 201)
        assert world.visit.oracle.asked == 2


@NAMES
async def test_p1_until_it_is_kept_who_asks_again_is_told_to_wait(
    agentpay_shared_chain: LocalChain, name: str | None
) -> None:
    """The application is at its second part still when its payer asks again."""
    async with clouded(agentpay_shared_chain) as world:
        oracle = world.visit.oracle
        oracle.parts.clear()
        headers = await world.visit.payment(name=name)
        world.cloud()
        running = asyncio.create_task(world.ask(headers=headers))
        await until(lambda: oracle.started == 1)
        await world.clear()
        async with asyncio.timeout(10):
            early = await world.ask(headers=headers)
        oracle.parts.set()
        unknown = await running
        told = await world.ask(headers=headers)

        assert (unknown.status_code, told.status_code) == (503, 201)
        assert early.status_code in {409, 503}
        assert oracle.asked == 1
        assert await received(world.visit) == PRICE


@NAMES
async def test_p2_what_was_withheld_is_told_to_nobody_who_read_it_on_the_chain(
    agentpay_shared_chain: LocalChain, name: str | None
) -> None:
    """A name is on no chain. Without one, its cookies say who a payer is."""
    async with clouded(agentpay_shared_chain) as world:
        headers = await world.visit.payment(name=name)
        world.cloud()
        unknown = await world.ask(headers={**headers, "cookie": "session=mine"})
        await world.clear()
        other = await world.ask(headers=headers)

        assert (unknown.status_code, other.status_code) == (503, 201)
        assert other.content == (b"1 " if name else b"2 ") * 800
        assert await received(world.visit) == PRICE


async def test_p3_what_was_withheld_of_a_charge_is_told_to_its_challenge_alone(
    agentpay_shared_chain: LocalChain,
) -> None:
    """The chain shows its transfer, of which anybody can make a payment of x402."""
    async with clouded(agentpay_shared_chain, mpp=MPP) as world:
        payee = world.visit.payee
        wallet = await agentpay_shared_chain.funded_wallet(ether=0)
        challenge = challenge_of(await world.ask())
        paid = await ChargePayer(wallet, payee.asset).pays(challenge)
        shown = await HandPayer(wallet, payee.settings).transfer(
            terms_of(payee, schemes=EXACT_ONLY),
            nonce=charge_nonce(challenge.id, challenge.realm),
        )
        world.cloud()
        unknown = await world.ask(headers=paid)
        early = await world.ask(headers={HEADER: shown})
        await world.clear()
        late = await world.ask(headers={HEADER: shown})
        told = await world.ask(headers=paid)

        statuses = [a.status_code for a in (unknown, early, late, told)]
        assert statuses == [503, 409, 409, 201]
        assert told.content == b"1 " * 800
        assert await received(world.visit) == PRICE


async def test_p13_what_is_too_large_to_keep_holds_up_nobody_while_it_goes_on(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with clouded(agentpay_shared_chain) as world:
        oracle = world.visit.oracle
        oracle.ends.clear()
        headers = await world.payment("/long", None)
        world.cloud()
        running = asyncio.create_task(world.ask("/long", headers=headers))
        await until(lambda: oracle.sent == 100)
        await world.clear()
        async with asyncio.timeout(10):
            again = asyncio.create_task(world.ask("/long", headers=headers))
            await until(lambda: oracle.asked == 2)
        oracle.ends.set()
        unknown, made = await running, await again

        assert (unknown.status_code, made.status_code) == (503, 201)
        assert await received(world.visit) == PRICE


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("left", [False, True])
async def test_f1_what_may_be_mined_still_is_not_given_up_with_its_answer(
    agentpay_shared_chain: LocalChain, tmp_path: Path, restarted: bool, left: bool
) -> None:
    """It was sent, it comes again before it is mined, and nothing is answered then."""
    store = str(tmp_path / "payee.db")
    async with clouded(agentpay_shared_chain, store=store) as world:
        oracle = world.visit.oracle
        headers = await world.payment("/fails", None)
        world.hold_back()
        oracle.fails_at = 0 if left else 2
        unknown = await world.ask("/fails?a=1", headers=headers)
        if restarted:
            await world.visit.payee.stop()
        if left:
            oracle.gate.clear()
            leaving = asyncio.create_task(world.ask("/fails", headers=headers))
            await until(lambda: oracle.asked == 2)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            oracle.gate.set()
        else:
            failed = await world.ask("/fails", headers=headers)
            assert failed.status_code == 500
        await world.clear()
        served = await world.ask("/fails", headers=headers)

        assert (unknown.status_code, served.status_code) == (503, 201)
        assert await received(world.visit) == PRICE


async def test_p1_a_name_stays_with_what_may_be_mined_when_its_answer_fails(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with clouded(agentpay_shared_chain) as world:
        oracle = world.visit.oracle
        headers = await world.visit.payment(name=NAME)
        rival = await world.visit.payment(name=NAME)
        world.hold_back()
        unknown = await world.ask(headers=headers, content=b"one")
        oracle.gate.clear()
        leaving = asyncio.create_task(world.ask(headers=headers, content=b"other"))
        await until(lambda: oracle.asked == 2)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        oracle.gate.set()
        await world.clear()
        other = await world.ask(headers=rival, content=b"other")
        served = await world.ask(headers=headers, content=b"other")

        statuses = [a.status_code for a in (unknown, other, served)]
        assert statuses == [503, 409, 201]
        assert await received(world.visit) == PRICE
