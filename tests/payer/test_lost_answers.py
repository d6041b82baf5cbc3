"""C8: one request is paid once, whatever is lost, cancelled, restarted or restored."""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentpay import Wallet
from agentpay.errors import (
    AgentPayError,
    AnswerLost,
    PayeeMisbehaved,
    PaymentOutcomeUnknown,
)
from agentpay.http.paywall import App, Receive, Scope, Send
from agentpay.payee.answers import AnswerPolicy
from agentpay.payee.pricing import Order
from agentpay.testing.local_chain import LocalChain
from agentpay.types import ChainId
from tests.http.world import (
    QUICK,
    Wire,
    a_shop,
    an_agent,
    eventually,
    patient,
    through,
    until,
)
from tests.payee.hand import decoded

from .books import at_rest, charged, none_open, spent
from .sessions import BASE, PRICE, Kind, a_market, in_the_world

pytestmark = pytest.mark.usefixtures("way")

EXACT = BASE + f"/exact/{Order.RESERVE}/ok"
HASTY = replace(QUICK, give_up_seconds=0.5)


@pytest.fixture
def kind() -> Kind:
    """Of tests that sessions have to pass as well: see `test_sessions_in_doubt`."""
    return Kind(mpp=None, policy=QUICK)


@pytest.mark.parametrize(
    ("lost", "kept"),
    [("lose_requests", 0), ("lose_answers", 0), ("lose_answers", 65_536)],
)
async def test_c8_what_is_lost_is_sent_again_with_the_same_voucher(
    agentpay_shared_chain: LocalChain, kind: Kind, lost: str, kept: int
) -> None:
    chain, answers = agentpay_shared_chain, AnswerPolicy(bytes_each=kept)
    async with (
        a_market(chain, mpp=kind.mpp, answers=answers) as (shop, payee, wire),
        await an_agent(chain, wire, policy=kind.policy) as agent,
    ):
        await agent.get(BASE + "/ok")
        setattr(wire, lost, 2)
        before = len(wire.credentials)
        if lost == "lose_answers" and not kept:  # answered, and gone for good
            with pytest.raises(AnswerLost) as gone:
                await agent.get(BASE + "/ok")
            assert gone.value.charged == PRICE
        else:
            assert (await agent.get(BASE + "/ok")).status_code == 200
        used = set(wire.credentials[before:])

        assert len(used) == 1
        assert shop.begun["/ok"] == 2
        assert await spent(agent) == await charged(payee, agent) == 2 * PRICE


async def test_c8_a_lost_opening_is_sent_again_and_deposits_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet("$10", ether=0)
    async with a_shop(chain) as (_, _, wall):
        wire = Wire(through(wall))
        wire.lose_requests = 3
        async with await an_agent(chain, wire, wallet=wallet) as agent:
            answer = await agent.get(BASE + "/ok")
            spending = await agent.spending()

    assert answer.status_code == 200
    assert len(set(wire.credentials)) == 1
    assert str(spending) == "$0.001 spent, $0.099 deposited, $0 held"
    assert await chain.balance(wallet.address) == 9_900_000


@pytest.mark.parametrize("first", [True, False])
async def test_c8_a_request_that_never_arrives_is_unknown_and_then_found_void(
    agentpay_shared_chain: LocalChain, first: bool
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire, policy=HASTY) as agent:
            if not first:
                await agent.get(BASE + "/ok")
            done = await spent(agent)
            wire.lose_requests = 10**6
            with pytest.raises(PaymentOutcomeUnknown):
                await agent.get(BASE + "/ok")
            (record,) = await agent.channels()
            assert record.ledger.outstanding == PRICE  # it stays reserved
            wire.lose_requests = 0
            await eventually(lambda: none_open(agent))
            answer = await agent.get(BASE + "/ok")

            assert answer.status_code == 200
            assert await spent(agent) == await charged(payee, agent) == done + PRICE
            assert shop.begun["/ok"] == (1 if first else 2)
            assert len(await agent.channels()) == 1


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("lost", ["lose_requests", "lose_answers"])
async def test_c8_a_restarted_agent_finds_out_by_asking(
    agentpay_shared_chain: LocalChain,
    kind: Kind,
    tmp_path: Path,
    first: bool,
    lost: str,
) -> None:
    chain = agentpay_shared_chain
    options: dict[str, Any] = {
        "wallet": await chain.funded_wallet(ether=0),
        "store": str(tmp_path / "agent.db"),
        "policy": kind.hasty,
    }
    async with a_market(chain, mpp=kind.mpp) as (shop, payee, wire):
        async with await an_agent(chain, wire, **options) as agent:
            if not first:
                await agent.get(BASE + "/ok")
            setattr(wire, lost, 10**6)
            with pytest.raises((PaymentOutcomeUnknown, AnswerLost)):
                await agent.get(BASE + "/ok")
        setattr(wire, lost, 0)
        async with await an_agent(chain, wire, **patient(options)) as agent:
            answer = await agent.get(BASE + "/ok")

            assert answer.status_code == 200
            assert await at_rest(agent)
            assert await spent(agent) == await charged(payee, agent)
            assert await spent(agent) == shop.served["/ok"] * PRICE
            assert len(await agent.channels()) == 1


async def test_c8_a_deposit_that_nobody_had_is_free_again_when_it_expired(
    agentpay_shared_chain: LocalChain, kind: Kind, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    head = await chain.node.rpc("eth_getBlockByNumber", "latest", False)
    then = float(int(head["timestamp"], 16)) - 10_000
    options: dict[str, Any] = {
        "wallet": await chain.funded_wallet(ether=0),
        "store": str(tmp_path / "agent.db"),
        "policy": kind.hasty,
    }
    async with a_market(chain, mpp=kind.mpp) as (_, _, wire):
        wire.lose_requests = 10**6
        async with await an_agent(chain, wire, clock=lambda: then, **options) as agent:
            with pytest.raises(PaymentOutcomeUnknown):
                await agent.get(BASE + "/ok")
            held = await in_the_world(agent)
        wire.lose_requests = 0
        async with await an_agent(chain, wire, **patient(options)) as agent:
            answer = await agent.get(BASE + "/ok")
            after = await in_the_world(agent)

    assert held == (0, 0, 100 * PRICE)
    assert answer.status_code == 200
    assert after == (PRICE, 99 * PRICE, 0)


class SlowWallet(Wallet):
    """Signs when it is let."""

    __slots__ = ("asked", "gate")
    gate: asyncio.Event
    asked: int

    async def sign_digest(self, digest: bytes, *, chain: ChainId) -> bytes:
        self.asked += 1
        await self.gate.wait()
        return await super().sign_digest(digest, chain=chain)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("path", ["/ok", f"/exact/{Order.RESERVE}/ok"])
async def test_c8_a_caller_that_leaves_before_anything_was_sent_pays_nothing(
    agentpay_shared_chain: LocalChain, tmp_path: Path, path: str, durable: bool
) -> None:
    wallet = SlowWallet.create()
    wallet.gate, wallet.asked = asyncio.Event(), 0
    await agentpay_shared_chain.fund(wallet.address)
    store = str(tmp_path / "agent.db") if durable else "memory:"
    async with a_shop(agentpay_shared_chain) as (shop, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(
            agentpay_shared_chain, wire, wallet=wallet, store=store
        ) as agent:
            asking = asyncio.create_task(agent.get(BASE + path))
            await until(lambda: wallet.asked == 1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

            assert await at_rest(agent)
            assert str(await agent.spending()) == "$0 spent, $0 deposited, $0 held"
            wallet.gate.set()
            assert (await agent.get(BASE + path)).status_code == 200
            assert shop.begun[path] == 1


class StalledWallet(Wallet):
    """Cannot sign: its key is elsewhere and does not answer."""

    __slots__ = ("works",)
    works: bool

    async def sign_digest(self, digest: bytes, *, chain: ChainId) -> bytes:
        if not self.works:
            raise ConnectionError("the key is out of reach")
        return await super().sign_digest(digest, chain=chain)


@pytest.mark.parametrize("path", ["/ok", f"/exact/{Order.RESERVE}/ok"])
async def test_a_signer_that_fails_costs_nothing(
    agentpay_shared_chain: LocalChain, path: str
) -> None:
    wallet = StalledWallet.create()
    wallet.works = False
    await agentpay_shared_chain.fund(wallet.address)
    async with (
        a_shop(agentpay_shared_chain) as (_, _, wall),
        await an_agent(agentpay_shared_chain, through(wall), wallet=wallet) as agent,
    ):
        with pytest.raises(ConnectionError):
            await agent.get(BASE + path)
        nothing = str(await agent.spending())
        wallet.works = True
        answer = await agent.get(BASE + path)

    assert nothing == "$0 spent, $0 deposited, $0 held"
    assert answer.status_code == 200


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("durable", [False, True])
async def test_c8_a_caller_may_leave_at_any_step(
    agentpay_shared_chain: LocalChain,
    kind: Kind,
    tmp_path: Path,
    opened: bool,
    durable: bool,
) -> None:
    """Let it run `steps` turns of the event loop, cancel it there, and look."""
    chain = agentpay_shared_chain
    async with a_market(chain, mpp=kind.mpp) as (_, payee, wire):
        for steps in range(0, 60, 3 if opened else 6):
            store = str(tmp_path / f"{steps}.db") if durable else "memory:"
            async with await an_agent(
                chain, wire, store=store, policy=kind.policy
            ) as agent:
                done = 0
                if opened:
                    await agent.get(BASE + "/ok")
                    done = PRICE
                asking = asyncio.create_task(agent.get(BASE + "/ok"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                asking.cancel()
                (outcome,) = await asyncio.gather(asking, return_exceptions=True)
                await eventually(lambda: none_open(agent))
                assert (await agent.get(BASE + "/ok")).status_code == 200
                await eventually(lambda: at_rest(agent))

                assert await spent(agent) == await charged(payee, agent)
                least = done + PRICE + PRICE * (not isinstance(outcome, BaseException))
                assert least <= await spent(agent) <= done + 2 * PRICE
                assert (await agent.spending()).held == 0


async def test_a_channel_whose_opening_was_cancelled_is_the_next_ones(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    """It is recorded a few dozen turns after the request, before anything is signed."""
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(wall))
        for steps in range(30, 50):
            store = str(tmp_path / f"{steps}.db")
            async with await an_agent(
                agentpay_shared_chain, wire, store=store
            ) as agent:
                asking = asyncio.create_task(agent.get(BASE + "/ok"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                begun = [record.channel for record in await agent.channels()]
                assert (await agent.get(BASE + "/ok")).status_code == 200
                (used,) = await agent.channels()

                assert begun in ([], [used.channel])


async def test_c8_a_caller_that_leaves_while_it_is_sent_is_asked_about(
    agentpay_shared_chain: LocalChain,
    kind: Kind,
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_market(chain, mpp=kind.mpp) as (shop, payee, wire),
        await an_agent(chain, wire, policy=kind.policy) as agent,
    ):
        await agent.get(BASE + "/ok")
        leaving = [asyncio.create_task(agent.get(BASE + "/slow")) for _ in range(9)]
        await until(lambda: shop.begun["/slow"] == 9)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await eventually(lambda: at_rest(agent))

        assert await spent(agent) == await charged(payee, agent) == PRICE


async def test_a_restored_database_signs_nothing_again(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet(ether=0)
    file, backup = tmp_path / "agent.db", tmp_path / "backup.db"
    options: dict[str, Any] = {"wallet": wallet, "store": str(file)}
    async with a_shop(chain) as (shop, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(chain, wire, **options) as agent:
            await agent.get(BASE + "/ok")
        shutil.copy(file, backup)
        async with await an_agent(chain, wire, **options) as agent:
            await asyncio.gather(*(agent.get(BASE + "/ok") for _ in range(5)))
        shutil.copy(backup, file)
        sent = len(wire.credentials)
        async with await an_agent(chain, wire, **options) as agent:
            with pytest.raises(PayeeMisbehaved):
                await agent.get(BASE + "/ok")
            records = await agent.channels()

        (question,) = map(decoded, wire.credentials[sent:])
        assert question["extensions"]["parallel-vouchers"]["info"]["query"] is True
        assert [record.ledger.status for record in records] == ["stopped"]
        assert shop.begun["/ok"] == 6


async def test_two_agents_on_one_file_spend_one_budget(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    options: dict[str, Any] = {
        "wallet": await chain.funded_wallet(ether=0),
        "store": str(tmp_path / "agent.db"),
    }
    async with (
        a_shop(chain) as (_, _, wall),
        await an_agent(chain, through(wall), **options) as agent,
        await an_agent(chain, through(wall), **options) as second,
    ):
        answers = [await each.get(BASE + "/ok") for each in (agent, second)]
        # The last one first: how its request ended is saved by then.
        spending = [str(await each.spending()) for each in (second, agent)]

        assert [a.status_code for a in answers] == [200, 200]
        assert spending[0] == spending[1]


def answering_once(app: App) -> App:
    """Answers the first paid request of all with a proxy's 502, after serving it."""
    done = False

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal done
        paid = any(name == b"payment-signature" for name, _ in scope["headers"])
        if done or not paid:
            await app(scope, receive, send)
            return
        done = True

        async def swallow(message: Any) -> None:
            del message

        await app(scope, receive, swallow)
        await send({"type": "http.response.start", "status": 502, "headers": []})
        await send({"type": "http.response.body", "body": b"bad gateway"})

    return proxy


async def test_c15_an_answer_without_a_receipt_is_delivered_and_asked_about(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, payee, wall):
        wire = Wire(through(answering_once(wall)))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            answer = await agent.get(BASE + "/ok")
            await eventually(lambda: none_open(agent))
            again = await agent.get(BASE + "/ok")
            await eventually(lambda: at_rest(agent))

            assert (answer.status_code, again.status_code) == (502, 200)
            assert await spent(agent) == await charged(payee, agent) == PRICE


async def test_a_payee_that_lost_its_books_is_paid_on_a_new_channel(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_shop(chain) as (_, payee, wall),
        await an_agent(chain, through(wall), policy=QUICK) as agent,
    ):
        await agent.get(BASE + "/ok")
        await payee.stop()  # in memory: it forgets
        await payee.start()
        with pytest.raises(AgentPayError):
            await agent.get(BASE + "/ok")

        async def serves() -> bool:
            """Once it was asked about, the old channel is used no more."""
            try:
                return (await agent.get(BASE + "/ok")).status_code == 200
            except AgentPayError:
                return False

        await eventually(serves)
        channels = await agent.channels()

    assert len(channels) == 2
