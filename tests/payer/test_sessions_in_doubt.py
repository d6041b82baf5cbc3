"""C8 for sessions: paid once, whatever is lost, cancelled, restarted or restored."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentpay.core.payer_channel import PayerStatus
from agentpay.errors import (
    PayeeMisbehaved,
    PaymentOutcomeUnknown,
    PaymentRejected,
)
from agentpay.testing.local_chain import LocalChain
from tests.http.world import an_agent, eventually, until
from tests.payee.mpp_hand import MPP
from tests.payer.test_lost_answers import (  # noqa: F401 - pytest runs them here
    SlowWallet,
    test_c8_a_caller_may_leave_at_any_step,
    test_c8_a_caller_that_leaves_while_it_is_sent_is_asked_about,
    test_c8_a_deposit_that_nobody_had_is_free_again_when_it_expired,
    test_c8_a_restarted_agent_finds_out_by_asking,
    test_c8_what_is_lost_is_sent_again_with_the_same_voucher,
)

from .books import at_rest, charged, spent
from .sessions import (
    BASE,
    BY_SESSION,
    HASTY,
    PRICE,
    Kind,
    a_market,
    in_the_world,
    on_chain,
    payload_of,
    the_session,
    vouchers,
)


@pytest.fixture
def kind() -> Kind:
    """What the tests that are imported from those of channels are about here."""
    return Kind(mpp=MPP, policy=BY_SESSION)


@pytest.mark.parametrize("lost", ["lose_requests", "lose_answers"])
async def test_c8_a_lost_opening_is_sent_again_and_deposits_once(
    agentpay_shared_chain: LocalChain, lost: str
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet("$10", ether=0)
    async with (
        a_market(chain) as (_, payee, wire),
        await an_agent(chain, wire, policy=BY_SESSION, wallet=wallet) as agent,
    ):
        setattr(wire, lost, 2)
        answer = await agent.get(BASE + "/ok")

        assert answer.status_code == 200
        assert len(set(wire.credentials)) == 1
        assert await in_the_world(agent) == (PRICE, 99 * PRICE, 0)
        assert await chain.balance(wallet.address) == 9_900_000
        assert await charged(payee, agent) == PRICE


@pytest.mark.parametrize("first", [True, False])
async def test_c8_a_request_that_never_arrives_is_unknown_and_then_found_void(
    agentpay_shared_chain: LocalChain, first: bool
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_market(chain) as (shop, payee, wire),
        await an_agent(chain, wire, policy=HASTY) as agent,
    ):
        if not first:
            await agent.get(BASE + "/ok")
        done = await spent(agent)
        wire.lose_requests = 10**6
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.get(BASE + "/ok")
        assert (await the_session(agent)).ledger.outstanding == PRICE
        wire.lose_requests = 0
        await eventually(lambda: at_rest(agent))
        answer = await agent.get(BASE + "/ok")

        assert answer.status_code == 200
        assert await spent(agent) == await charged(payee, agent) == done + PRICE
        assert shop.begun["/ok"] == (1 if first else 2)
        assert len(await agent.channels()) == 1
        assert any(r.method == "HEAD" for r in wire.sent)


async def test_c8_a_caller_that_leaves_before_anything_was_sent_pays_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = SlowWallet.create()
    wallet.gate, wallet.asked = asyncio.Event(), 0
    await chain.fund(wallet.address)
    async with (
        a_market(chain) as (shop, _, wire),
        await an_agent(chain, wire, wallet=wallet, policy=BY_SESSION) as agent,
    ):
        asking = asyncio.create_task(agent.get(BASE + "/ok"))
        await until(lambda: wallet.asked == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

        assert await at_rest(agent)
        assert await in_the_world(agent) == (0, 0, 0)
        wallet.gate.set()
        assert (await agent.get(BASE + "/ok")).status_code == 200
        assert shop.begun["/ok"] == 1


@pytest.mark.parametrize("opened", [False, True])
async def test_c8_a_process_may_die_at_any_step(
    agentpay_shared_chain: LocalChain, tmp_path: Path, opened: bool
) -> None:
    """Let it run `steps` turns, take its file as it is, and go on from there."""
    chain = agentpay_shared_chain
    async with a_market(chain) as (_, payee, wire):
        for steps in range(0, 90, 5 if opened else 10):
            file, image = tmp_path / f"{steps}.db", tmp_path / f"{steps}.image.db"
            options: dict[str, Any] = {
                "wallet": await chain.funded_wallet("$10", ether=0),
                "policy": BY_SESSION,
            }
            async with await an_agent(chain, wire, store=str(file), **options) as agent:
                if opened:
                    await agent.get(BASE + "/ok")
                asking = asyncio.create_task(agent.get(BASE + "/ok"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                _copy_as_it_is(file, image)
                wire.lose_requests = 10**6  # nothing more leaves this process
                asking.cancel()
                (outcome,) = await asyncio.gather(asking, return_exceptions=True)
            wire.lose_requests = 0
            async with await an_agent(
                chain, wire, store=str(image), **options
            ) as agent:
                assert (await agent.get(BASE + "/ok")).status_code == 200
                await eventually(lambda: at_rest(agent))

                ours, theirs = await spent(agent), await charged(payee, agent)
                assert ours == theirs, (steps, outcome)
                assert PRICE * (1 + opened) <= ours <= PRICE * (2 + opened)
                assert (await in_the_world(agent))[2] == 0
                assert len(await agent.channels()) == 1


def _copy_as_it_is(file: Path, image: Path) -> None:
    for suffix in ("", "-wal"):
        if (part := file.with_name(file.name + suffix)).exists():
            shutil.copy(part, image.with_name(image.name + suffix))


async def test_a_restored_database_signs_nothing_again(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    chain = agentpay_shared_chain
    file, backup = tmp_path / "agent.db", tmp_path / "backup.db"
    options: dict[str, Any] = {
        "wallet": await chain.funded_wallet(ether=0),
        "store": str(file),
        "policy": BY_SESSION,
    }
    async with a_market(chain) as (shop, _, wire):
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
            record = await the_session(agent)

        assert vouchers(wire)[sent:] == [PRICE]  # the very first one, again
        assert wire.sent[-1].method == "HEAD"
        assert record.ledger.status is PayerStatus.STOPPED
        assert shop.begun["/ok"] == 6


async def test_a_challenge_that_is_over_is_no_failure_and_nothing_is_signed_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    now = [1_800_000_000.0]
    async with (
        a_market(chain, clock=lambda: now[0]) as (shop, payee, wire),
        await an_agent(
            chain, wire, policy=BY_SESSION, clock=lambda: 1_800_000_000.0
        ) as agent,
    ):
        await agent.get(BASE + "/ok")
        now[0] += 10_000  # for the payee, remembered challenges are over
        answers = await asyncio.gather(*(agent.get(BASE + "/ok") for _ in range(8)))

        assert {a.status_code for a in answers} == {200}
        assert await spent(agent) == await charged(payee, agent) == 9 * PRICE
        assert len(vouchers(wire, fresh=True)) == 9
        assert len(vouchers(wire)) == 9 + 8
        assert shop.served["/ok"] == 9


class Proxy(httpx.AsyncBaseTransport):
    """Answers the first voucher in place of its payee, after passing it on."""

    def __init__(self, inner: httpx.AsyncBaseTransport, answer: httpx.Response) -> None:
        self._inner = inner
        self._answer: httpx.Response | None = answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        if "authorization" not in request.headers or self._answer is None:
            return response
        await response.aclose()
        answer, self._answer = self._answer, None
        return answer


async def test_c15_an_answer_without_a_fate_is_delivered_and_asked_about(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_market(chain) as (_, payee, wire):
        proxy = Proxy(wire, httpx.Response(502, text="bad gateway"))
        async with await an_agent(chain, proxy, policy=BY_SESSION) as agent:
            answer = await agent.get(BASE + "/ok")
            await eventually(lambda: at_rest(agent))
            again = await agent.get(BASE + "/ok")

            assert (answer.status_code, again.status_code) == (502, 200)
            assert await spent(agent) == await charged(payee, agent) == PRICE


async def test_a_payee_that_closed_a_session_is_paid_on_another(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    """It says 410; the chain says that the rest came back."""
    chain = agentpay_shared_chain
    file, backup = tmp_path / "agent.db", tmp_path / "backup.db"
    options: dict[str, Any] = {
        "wallet": await chain.funded_wallet("$10", ether=0),
        "store": str(file),
        "policy": BY_SESSION,
    }
    async with a_market(chain) as (_, payee, wire):
        async with await an_agent(chain, wire, **options) as agent:
            await agent.get(BASE + "/ok")
        shutil.copy(file, backup)
        async with await an_agent(chain, wire, **options) as agent:
            await agent.close_channel((await the_session(agent)).channel)
        shutil.copy(backup, file)
        async with await an_agent(chain, wire, **options) as agent:
            assert (await agent.get(BASE + "/ok")).status_code == 200
            old, new = sorted(await agent.channels(), key=lambda r: r.index)

            assert old.ledger.status is PayerStatus.CLOSED
            assert new.ledger.status is PayerStatus.OPEN
            assert await in_the_world(agent) == (2 * PRICE, 99 * PRICE, 0)
            assert await charged(payee, agent) == 2 * PRICE


async def test_a_payee_that_lost_its_books_is_paid_on_another_session(
    agentpay_shared_chain: LocalChain,
) -> None:
    """What it forgot is left alone, and counts as spent until it is back."""
    chain = agentpay_shared_chain
    async with (
        a_market(chain) as (_, payee, wire),
        await an_agent(chain, wire, policy=BY_SESSION) as agent,
    ):
        await agent.get(BASE + "/ok")
        await payee.stop()  # in memory: it forgets
        await payee.start()
        answer = await agent.get(BASE + "/ok")
        old, new = sorted(await agent.channels(), key=lambda r: r.index)

        assert answer.status_code == 200
        assert old.ledger.status is PayerStatus.STOPPED
        assert new.ledger.spent == PRICE
        assert await in_the_world(agent) == (2 * PRICE, 198 * PRICE, 0)
        assert not (await on_chain(chain, old)).finalized


async def test_a_deposit_that_reverts_is_said_as_such_and_signed_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet("$0.05", ether=0)  # less than its deposit
    async with (
        a_market(chain) as (shop, _, wire),
        await an_agent(chain, wire, policy=HASTY, wallet=wallet) as agent,
    ):
        with pytest.raises(PaymentRejected) as refused:
            await agent.get(BASE + "/ok")

        assert "session/" in str(refused.value)
        assert len({str(payload_of(c).get("deposit")) for c in wire.credentials}) == 1
        assert (await in_the_world(agent))[2] == 100 * PRICE  # it may still be made
        assert shop.begun["/ok"] == 0


async def test_a_request_of_a_name_that_was_used_is_rejected_and_costs_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain, named = agentpay_shared_chain, {"Idempotency-Key": "order-1"}
    async with (
        a_market(chain) as (shop, payee, wire),
        await an_agent(chain, wire, policy=BY_SESSION) as agent,
    ):
        await agent.get(BASE + "/ok")
        await agent.get(BASE + "/ok", headers=named)
        sent = len(wire.credentials)
        with pytest.raises(PaymentRejected, match="used before") as refused:
            await agent.get(BASE + "/ok", headers=named)
        assert refused.value.status == 409
        assert len(wire.credentials) == sent + 1
        await eventually(lambda: at_rest(agent))

        assert (await agent.get(BASE + "/ok")).status_code == 200
        assert shop.served["/ok"] == 3
        assert await spent(agent) == await charged(payee, agent) == 3 * PRICE
