"""C1, C15, rule 16: who takes too much, or gives nothing, is paid no more."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentpay import AnswerLost, Policy, Wallet
from agentpay.errors import (
    ConfigurationError,
    HostQuarantined,
    PayeeMisbehaved,
    PaymentOutcomeUnknown,
    PaymentRejected,
    PriceRose,
)
from agentpay.http.paywall import Paywall
from agentpay.onchain import read_channel
from agentpay.payee.answers import AnswerPolicy
from agentpay.payee.pricing import Order
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.headers import encode_json
from agentpay.wire.x402 import PAYMENT_RESPONSE
from tests.http.world import (
    BASE,
    PRICE,
    Shop,
    Wire,
    a_shop,
    an_agent,
    eventually,
    through,
)
from tests.payee.hand import decoded
from tests.payer.books import none_open, spent
from tests.payer.test_lanes import EXACTLESS, ONE_LANE, official

pytestmark = pytest.mark.usefixtures("way")

OTHER = "http://other.example"
EXACT = f"/exact/{Order.RESERVE}/ok"
FORGETFUL = AnswerPolicy(bytes_each=0)
"""Keeps no answers: one that is lost cannot be had again."""
SETTLED = f"/exact/{Order.SETTLE_FIRST}/ok"


class Ghost(httpx.AsyncBaseTransport):
    """A shop that takes payments and, while it haunts, answers as it likes."""

    def __init__(self, inner: httpx.AsyncBaseTransport, *, how: str) -> None:
        self.inner = inner
        self.how = how
        self.haunts = True
        self.paid: list[str] = []
        """Credentials that it had, of requests and not of questions."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        ours = request.url.host == "shop.example"
        if "payment-signature" not in request.headers or not self.haunts or not ours:
            return await self.inner.handle_async_request(request)
        credential = request.headers["payment-signature"]
        extensions = decoded(credential).get("extensions", {})
        known = credential in self.paid
        if "query" not in str(extensions) and not known:
            self.paid.append(credential)
        if self.how == "never sent":
            raise httpx.ConnectError("planned", request=request)
        if self.how == "silent":
            raise httpx.ReadTimeout("planned", request=request)
        if self.how == "bare 500":
            return httpx.Response(500, text="oops")
        answer = await self.inner.handle_async_request(request)
        if self.how == "lost" and not known:
            await answer.aclose()
            raise httpx.ReadError("planned", request=request)
        return answer


QUIET = Policy(deposit="$0.1", low_water="$0.01", give_up_seconds=0.1)
WAYS = {
    "silent": ("/ok", PaymentOutcomeUnknown),
    "bare 500": (EXACT, None),
    "lost": ("/ok", AnswerLost),
    "paid 500": (SETTLED + "?status=500", None),
}


async def lapse(
    agent: httpx.AsyncClient, url: str, error: type[Exception] | None
) -> None:
    if error is None:
        assert (await agent.get(url)).status_code == 500
    else:
        with pytest.raises(error):
            await agent.get(url)


@pytest.mark.parametrize("how", WAYS)
async def test_c15_a_host_that_never_delivers_is_paid_three_times_and_no_more(
    agentpay_shared_chain: LocalChain, tmp_path: Path, how: str
) -> None:
    path, error = WAYS[how]
    now = 1_800_000_000.0
    chain = agentpay_shared_chain
    policy = QUIET
    if how == "lost":
        policy = Policy(deposit="$0.1", low_water="$0.01", give_up_seconds=3)
    options: dict[str, Any] = {
        "wallet": await chain.funded_wallet(ether=0),
        "store": str(tmp_path / "agent.db"),
        "policy": policy,
        "clock": lambda: now,
    }
    async with a_shop(chain, clock=lambda: now, answers=FORGETFUL) as (_, _, wall):
        ghost = Ghost(through(wall), how="fine")
        async with await an_agent(chain, ghost, **options) as agent:
            await agent.get(BASE + "/ok")
            ghost.how, ghost.paid = how, []
            for number in range(3):  # none of them is another one again
                query = "&" if "?" in path else "?"
                await lapse(agent, f"{BASE}{path}{query}n={number}", error)
            before = str(await agent.spending())
            assert len(ghost.paid) == 3
            for url in (path, "/ok", EXACT):
                with pytest.raises(HostQuarantined, match=r"shop\.example") as refused:
                    await agent.get(BASE + url)
                assert refused.value.until == now + policy.quarantine_seconds
            assert len(ghost.paid) == 3
            assert str(await agent.spending()) == before
            assert (await agent.get(OTHER + "/ok")).status_code == 200
        async with await an_agent(chain, ghost, **options) as agent:
            for url in (EXACT, "/ok"):  # a restart changes nothing
                with pytest.raises(HostQuarantined):
                    await agent.get(BASE + url)
            ghost.haunts = False
            now += policy.quarantine_seconds + 1
            assert (await agent.get(BASE + EXACT)).status_code == 200
            ghost.haunts, ghost.how = True, "bare 500"
            for _ in range(2):  # what it delivered is remembered too
                await lapse(agent, BASE + EXACT, None)
            ghost.haunts = False
            assert (await agent.get(BASE + EXACT)).status_code == 200


async def test_c15_who_refuses_payments_and_settles_them_later_is_paid_no_more(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_shop(chain) as (_, _, wall):
        honest, kept = through(wall), list[httpx.Request]()

        async def refuse(request: httpx.Request) -> httpx.Response:
            if "payment-signature" in request.headers:
                kept.append(request)
                bare = httpx.Request(request.method, request.url)
                return await honest.handle_async_request(bare)
            return await honest.handle_async_request(request)

        async with await an_agent(chain, httpx.MockTransport(refuse)) as agent:
            for _ in range(3):
                with pytest.raises(PaymentRejected):
                    await agent.get(BASE + SETTLED)
            assert await agent.payer.resolve() == 3
            for request in kept[:3]:
                answer = await honest.handle_async_request(request)
                assert answer.status_code == 200
            assert await agent.payer.resolve() == 0
            with pytest.raises(HostQuarantined):
                await agent.get(BASE + SETTLED)


@pytest.mark.parametrize("lane", [False, True], ids=["parallel", "lane"])
async def test_c15_who_refuses_vouchers_and_charges_for_them_is_paid_no_more(
    agentpay_shared_chain: LocalChain, *, lane: bool
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        honest = through(official(wall) if lane else wall)
        cheats = False

        async def refuse(request: httpx.Request) -> httpx.Response:
            answer = await honest.handle_async_request(request)
            if cheats and answer.status_code == 200:
                bare = httpx.Request(request.method, request.url)
                return await honest.handle_async_request(bare)
            return answer

        wire = httpx.MockTransport(refuse)
        policy = replace(ONE_LANE, give_up_seconds=2)
        async with await an_agent(agentpay_shared_chain, wire, policy=policy) as agent:
            await agent.get(EXACTLESS)
            cheats = True
            for _ in range(3):
                with pytest.raises(PaymentRejected):
                    await agent.get(EXACTLESS)
                await eventually(lambda: none_open(agent))
            assert await spent(agent) == 4 * PRICE
            with pytest.raises(HostQuarantined):
                await agent.get(EXACTLESS)


async def test_c15_a_host_that_cannot_be_reached_has_taken_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        ghost = Ghost(through(wall), how="never sent")
        async with await an_agent(agentpay_shared_chain, ghost, policy=QUIET) as agent:
            for _ in range(4):
                with pytest.raises(PaymentOutcomeUnknown):
                    await agent.get(BASE + EXACT)
            ghost.haunts = False

            assert (await agent.get(BASE + EXACT)).status_code == 200


async def test_c15_one_broken_connection_is_one_lapse_however_many_it_takes_along(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain, answers=FORGETFUL) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire) as agent:
            await agent.get(BASE + "/ok")
            wire.lose_answers = 12
            outcomes = await asyncio.gather(
                *(agent.get(BASE + "/ok") for _ in range(12)), return_exceptions=True
            )
            assert AnswerLost in {type(outcome) for outcome in outcomes}
            assert (await agent.get(BASE + "/ok")).status_code == 200


@pytest.mark.parametrize("status", [500, 503])
async def test_an_error_that_cost_nothing_is_no_lapse(
    agentpay_shared_chain: LocalChain, status: int
) -> None:
    async with (
        a_shop(agentpay_shared_chain) as (_, _, wall),
        await an_agent(agentpay_shared_chain, through(wall)) as agent,
    ):
        for _ in range(5):
            answer = await agent.get(f"{BASE}/ok?status={status}")
            assert answer.status_code == status


async def test_c15_quarantine_can_be_turned_off(
    agentpay_shared_chain: LocalChain,
) -> None:
    policy = Policy(quarantine_after=None, give_up_seconds=0.1)
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        ghost = Ghost(through(wall), how="bare 500")
        async with await an_agent(agentpay_shared_chain, ghost, policy=policy) as agent:
            for _ in range(6):
                await lapse(agent, BASE + EXACT, None)


# Prices that creep up


def priced(shop: Shop, payee: Any, price: int) -> httpx.AsyncBaseTransport:
    return through(Paywall(shop, payee=payee, routes={"/ok": price}))


@pytest.mark.parametrize("most", [10, 2, None])
async def test_c1_a_price_that_creeps_up_stops_at_a_multiple_of_the_first(
    agentpay_shared_chain: LocalChain, most: int | None
) -> None:
    policy = Policy(deposit="$0.1", price_rise_max=most, give_up_seconds=3)
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        wire = Wire(through(wall))
        async with await an_agent(agentpay_shared_chain, wire, policy=policy) as agent:
            await agent.get(BASE + "/ok")
            paid = []
            for times in (2, 10, 11, 20):
                # As if remembered offers had expired.
                agent._payments._memory._offers.clear()
                wire.inner = priced(shop, payee, PRICE * times)
                if most is None or times <= most:
                    await agent.get(BASE + "/ok")
                    paid.append(times)
                    continue
                with pytest.raises(PriceRose, match=f"{most} times") as refused:
                    await agent.get(BASE + "/ok")
                assert "$0.001" in str(refused.value)
            spending = await agent.spending()
            wire.inner = priced(shop, payee, PRICE)
            if most is None:
                agent._payments._memory._offers.clear()
            assert (await agent.get(BASE + "/ok")).status_code == 200

    assert spending.spent == (1 + sum(paid)) * PRICE * 10**12


@pytest.mark.parametrize("wrong", [{"price_rise_max": 0}, {"quarantine_after": 0}])
async def test_a_policy_that_would_pay_nobody_is_refused(
    agentpay_shared_chain: LocalChain, wrong: dict[str, int]
) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        await an_agent(agentpay_shared_chain, policy=Policy(**wrong))  # type: ignore[arg-type]


# A payee that contradicts our signatures


async def cheat(agent: httpx.AsyncClient, wire: Wire) -> None:
    honest = wire.inner

    async def lie(request: httpx.Request) -> httpx.Response:
        answer = await honest.handle_async_request(request)
        if PAYMENT_RESPONSE in answer.headers:
            receipt = decoded(answer.headers[PAYMENT_RESPONSE])
            receipt["extra"]["channelState"]["chargedCumulativeAmount"] = str(10**9)
            answer.headers[PAYMENT_RESPONSE] = encode_json(receipt)
        return answer

    wire.inner = httpx.MockTransport(lie)
    with pytest.raises(PayeeMisbehaved):
        await agent.get(BASE + "/ok")


@pytest.mark.parametrize("wanted", [True, False])
async def test_c13_a_channel_is_left_by_itself_where_there_is_gas_for_it(
    agentpay_shared_chain: LocalChain, caplog: pytest.LogCaptureFixture, wanted: bool
) -> None:
    chain = agentpay_shared_chain
    policy = Policy(deposit="$0.1", withdraw_when_cheated=wanted, give_up_seconds=3)
    wallet = await chain.funded_wallet(ether=1)
    async with a_shop(chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(chain, wire, wallet=wallet, policy=policy) as agent:
            await agent.get(BASE + "/ok")
            with caplog.at_level(logging.INFO, logger="agentpay"):
                await cheat(agent, wire)
                (record,) = await agent.channels()

                async def leaving() -> bool:
                    state = await read_channel(agent._chain, record.channel)
                    return state.withdrawal_started > 0

                if wanted:
                    await eventually(leaving)
                    await eventually(lambda: logged(caplog, "finish_withdrawal"))
                else:
                    assert await logged(caplog, "start_withdrawal")
                    assert not await leaving()

    assert record.ledger.status == "stopped"


@pytest.mark.parametrize("wanted", [True, False])
async def test_c13_a_channel_that_could_not_be_left_is_left_by_a_later_sweep(
    agentpay_shared_chain: LocalChain, tmp_path: Path, wanted: bool
) -> None:
    """Also by another process, and though its payee answers."""
    chain, wallet = agentpay_shared_chain, await agentpay_shared_chain.funded_wallet()
    policy = Policy(deposit="$0.1", withdraw_when_cheated=wanted, give_up_seconds=3)
    kept: dict[str, Any] = {"wallet": wallet, "policy": policy}
    kept["store"] = str(tmp_path / "payer.db")
    await chain.node.set_balance(wallet.address, 0)
    async with a_shop(chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(chain, wire, **kept) as agent:
            await agent.get(BASE + "/ok")
            await cheat(agent, wire)
            poor = await agent.sweep()
        await chain.node.set_balance(wallet.address, 10**18)
        async with await an_agent(chain, through(wall), **kept) as agent:
            left = await agent.sweep()
            again = await agent.sweep()
            (record,) = await agent.channels()
            state = await read_channel(agent._chain, record.channel)

    assert poor == again == []
    assert [withdrawal.channel for withdrawal in left] == [record.channel] * wanted
    assert (state.withdrawal_started > 0) is wanted


async def test_a_channel_that_was_found_is_left_by_no_sweep(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Another agent of the same wallet may be paying on it."""
    chain, wallet = agentpay_shared_chain, await agentpay_shared_chain.funded_wallet()
    async with a_shop(chain) as (_, _, wall):
        async with await an_agent(chain, through(wall), wallet=wallet) as agent:
            await agent.get(BASE + "/ok")
        async with await an_agent(chain, through(wall), wallet=wallet) as other:
            found = await other.find_lost_channels(BASE + "/ok")
            left = await other.sweep()

    assert len(found) == 1
    assert left == []


async def logged(caplog: pytest.LogCaptureFixture, word: str) -> bool:
    return word in caplog.text


@pytest.mark.parametrize("quits", [True, False])
async def test_c13_without_gas_it_is_said_what_to_do_and_nobody_is_disturbed(
    agentpay_shared_chain: LocalChain, caplog: pytest.LogCaptureFixture, quits: bool
) -> None:
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(wall))
        async with await an_agent(
            agentpay_shared_chain, wire, voucher_key=Wallet.create()
        ) as agent:
            await agent.get(BASE + "/ok")
            await cheat(agent, wire)
            if not quits:
                await eventually(lambda: logged(caplog, "start_withdrawal"))

    assert "start_withdrawal" in caplog.text
    assert "gas" in caplog.text
