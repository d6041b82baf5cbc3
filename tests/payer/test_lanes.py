"""Towards a payee that follows the specification alone: lanes, and their recovery."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentpay import Agent, Budget, Policy
from agentpay.errors import (
    AgentPayError,
    AnswerLost,
    BudgetExceeded,
    PaymentOutcomeUnknown,
    PaymentRejected,
)
from agentpay.http.paywall import App, Message, Receive, Scope, Send
from agentpay.payer.channel_kind import VoucherPayment
from agentpay.payer.inquiry import Inquiry
from agentpay.payer.underway import Whereabouts
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from agentpay.wire.headers import decode_json, encode_json
from agentpay.wire.x402 import PAYMENT_REQUIRED
from tests.http.world import (
    BASE,
    PRICE,
    QUICK,
    Wire,
    a_shop,
    an_agent,
    eventually,
    patient,
    through,
    until,
)
from tests.payer.books import at_rest, charged, none_open, spent
from tests.payer.test_lost_answers import HASTY

NAME = PAYMENT_REQUIRED.lower().encode()
EXACTLESS = BASE + "/channel/reserve-then-settle/ok"
ONE_LANE = Policy(deposit="$0.1", low_water="$0.01", lanes_max=1)


def official(app: App) -> App:
    """The same application by a payee that has not heard of our extension."""

    async def strict(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_plain(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    (n, _without_extensions(v) if n == NAME else v)
                    for n, v in message["headers"]
                ]
                message = {**message, "headers": headers}
            await send(message)

        await app(scope, receive, send_plain)

    return strict


def _without_extensions(header: bytes) -> bytes:
    message = decode_json(header.decode(), name="PAYMENT-REQUIRED")
    message.pop("extensions", None)
    return encode_json(message).encode()


async def test_thirty_two_at_once_are_paid_on_four_lanes(
    agentpay_shared_chain: LocalChain,
) -> None:
    policy = Policy(deposit="$0.1", low_water="$0.01", give_up_seconds=20)
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        wire = Wire(through(official(wall)))
        async with await an_agent(agentpay_shared_chain, wire, policy=policy) as agent:
            asked = [asyncio.create_task(agent.get(BASE + "/slow")) for _ in range(32)]
            await until(lambda: shop.begun["/slow"] == 4)  # or fewer could do
            shop.gate.set()
            answers = await asyncio.gather(*asked)
            records = await agent.channels()

            assert {a.status_code for a in answers} == {200}
            assert len(records) == 4
            assert not any(record.ledger.tagged for record in records)
            assert await spent(agent) == await charged(payee, agent) == 32 * PRICE
            assert shop.begun["/slow"] == 32


async def test_c9_requests_at_once_share_the_one_lane_that_the_budget_has_a_deposit_for(
    agentpay_shared_chain: LocalChain,
) -> None:
    policy = Policy(deposit="$0.1", low_water="$0.01", give_up_seconds=20)
    budget = Budget(total="$0.1", per_request="$0.01")
    async with (
        a_shop(agentpay_shared_chain) as (_, payee, wall),
        await an_agent(
            agentpay_shared_chain, through(official(wall)), policy=policy, budget=budget
        ) as agent,
    ):
        asked = [agent.get(BASE + "/ok") for _ in range(32)]
        answers = await asyncio.gather(*asked)

        assert {a.status_code for a in answers} == {200}
        assert len(await agent.channels()) == 1
        assert await spent(agent) == await charged(payee, agent) == 32 * PRICE


async def test_c9_lanes_spend_the_budget_to_its_end_and_no_further(
    agentpay_shared_chain: LocalChain,
) -> None:
    policy = Policy(deposit="$0.01", low_water=0, give_up_seconds=20)
    budget = Budget(total="$0.02", per_request="$0.01")
    async with (
        a_shop(agentpay_shared_chain) as (_, payee, wall),
        await an_agent(
            agentpay_shared_chain, through(official(wall)), policy=policy, budget=budget
        ) as agent,
    ):

        async def get() -> int:
            return (await agent.get(BASE + "/ok")).status_code

        both_lanes = await asyncio.gather(get(), get())
        first_lane_to_its_end = [await get() for _ in range(9)]
        rest = await asyncio.gather(*(get() for _ in range(9)))

        assert {*both_lanes, *first_lane_to_its_end, *rest} == {200}
        with pytest.raises(BudgetExceeded):
            await get()
        assert len(await agent.channels()) == 2
        assert await spent(agent) == await charged(payee, agent) == 20 * PRICE


def rejecting_the_first_deposit(app: App) -> App:
    """The same application, which never makes the first deposit it is sent."""
    rejected: list[str] = []

    async def rejecting(scope: Scope, receive: Receive, send: Send) -> None:
        sent = dict(scope["headers"]).get(b"payment-signature", b"").decode()
        payload = decode_json(sent, name="payment")["payload"] if sent else {}
        assert isinstance(payload, dict)
        deposit = str(payload.get("deposit", ""))
        if not deposit or rejected not in ([], [deposit]):
            await app(scope, receive, send)
            return
        rejected[:] = [deposit]
        asks = '"maxClaimableAmount": "0"' in json.dumps(payload)

        async def send_corrective(message: Message) -> None:
            if asks and message["type"] == "http.response.start":
                header = dict(message["headers"])[NAME].decode()
                offered = decode_json(header, name="PAYMENT-REQUIRED")
                none = {"channelState": {"chargedCumulativeAmount": "0"}}
                corrective = encode_json(_corrective(offered, none)).encode()
                message = {**message, "headers": [(NAME, corrective)]}
            await send(message)

        await app({**scope, "headers": []}, receive, send_corrective)

    return rejecting


async def test_c8_a_lane_whose_deposit_was_rejected_does_not_hold_up_the_others(
    agentpay_shared_chain: LocalChain,
) -> None:
    policy = Policy(deposit="$0.1", low_water="$0.01", give_up_seconds=20)
    async with a_shop(agentpay_shared_chain) as (_, payee, wall):
        app = rejecting_the_first_deposit(official(wall))
        wire = through(app)
        async with await an_agent(agentpay_shared_chain, wire, policy=policy) as agent:
            asked = [agent.get(EXACTLESS) for _ in range(16)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            await eventually(lambda: none_open(agent))
            again = [agent.get(EXACTLESS) for _ in range(16)]
            after = await asyncio.gather(*again)

            failed = [a for a in answers if isinstance(a, BaseException)]
            assert [type(error) for error in failed] == [PaymentRejected]
            assert {a.status_code for a in after} == {200}
            assert await spent(agent) == await charged(payee, agent) == 31 * PRICE


async def test_metered_requests_on_a_lane_sign_what_was_charged_plus_the_price(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        a_shop(agentpay_shared_chain) as (_, payee, wall),
        await an_agent(agentpay_shared_chain, through(official(wall))) as agent,
    ):
        for used in (0, 300, 1000, 1, 0, 999):
            await agent.get(BASE + f"/metered?used={used}")
        (record,) = await agent.channels()

        assert record.ledger.spent == await charged(payee, agent) == 2300


@pytest.mark.parametrize("lost", ["lose_requests", "lose_answers"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("restart", [True, False])
async def test_c8_a_lane_whose_answer_was_lost_is_asked_and_used_again(
    agentpay_shared_chain: LocalChain,
    tmp_path: Path,
    lost: str,
    first: bool,
    restart: bool,
) -> None:
    chain = agentpay_shared_chain
    policy = Policy(deposit="$0.1", low_water="$0.01", give_up_seconds=0.5, lanes_max=1)
    options: dict[str, Any] = {
        "wallet": await chain.funded_wallet(ether=0),
        "store": str(tmp_path / "agent.db"),
        "policy": policy,
    }
    async with a_shop(chain) as (_, payee, wall):
        wire = Wire(through(official(wall)))
        async with await an_agent(chain, wire, **options) as agent:
            if not first:
                await agent.get(EXACTLESS)
            setattr(wire, lost, 10**6)
            with pytest.raises((PaymentOutcomeUnknown, AnswerLost)):
                await agent.get(EXACTLESS)
            setattr(wire, lost, 0)
            if not restart:
                await eventually(lambda: none_open(agent))
                assert (await agent.get(EXACTLESS)).status_code == 200
                assert await spent(agent) == await charged(payee, agent)
                assert len(await agent.channels()) == 1
        if restart:
            async with await an_agent(chain, wire, **patient(options)) as agent:
                assert (await agent.get(EXACTLESS)).status_code == 200
                assert await at_rest(agent)
                assert await spent(agent) == await charged(payee, agent)
                assert len(await agent.channels()) == 1


@pytest.mark.parametrize("restart", [True, False])
async def test_c14_a_deposit_that_was_lost_goes_along_again_and_is_made_once(
    agentpay_shared_chain: LocalChain,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    restart: bool,
) -> None:
    """Also where the next request is given up before it has left."""
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet("$1", ether=0)
    options: dict[str, Any] = {
        "policy": replace(ONE_LANE, give_up_seconds=0.5),
        "wallet": wallet,
        "store": str(tmp_path / "agent.db"),
    }

    async def broken(*_: Any, **__: Any) -> str:
        raise RuntimeError("the key is away")

    async def goes_along(agent: Agent) -> None:
        (signed,) = await agent.channels()
        with monkeypatch.context() as away:
            away.setattr("agentpay.payer.batch_kind.sign_voucher", broken)
            with pytest.raises(RuntimeError):
                await agent.get(EXACTLESS)
        (kept,) = await agent.channels()
        held = (await agent.spending()).held
        assert (await agent.get(EXACTLESS)).status_code == 200
        assert await at_rest(agent)
        (record,) = await agent.channels()
        spending = await agent.spending()

        assert kept.ledger.deposit == signed.ledger.deposit is not None
        assert held == 10**17
        assert record.ledger.balance == 100_000
        assert (spending.held, spending.deposited) == (0, 10**17 - PRICE * 10**12)

    async with a_shop(chain) as (_, _, wall):
        wire = Wire(through(official(wall)))
        async with await an_agent(chain, wire, **options) as agent:
            wire.lose_requests = 10**6
            with pytest.raises(PaymentOutcomeUnknown):
                await agent.get(EXACTLESS)
            wire.lose_requests = 0
            await eventually(lambda: none_open(agent))
            if not restart:
                await goes_along(agent)
        if restart:
            async with await an_agent(chain, wire, **patient(options)) as agent:
                await goes_along(agent)

    assert await chain.balance(wallet.address) == 900_000


async def test_c8_a_lane_is_asked_about_each_request_of_one_amount(
    agentpay_shared_chain: LocalChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first question is not over yet when the second request is."""
    look, done = Inquiry.look_for_deposit, asyncio.Event()

    async def slowly(self: Inquiry, channel: Hash32) -> None:
        await done.wait()
        await look(self, channel)

    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(official(wall)))
        async with await an_agent(
            agentpay_shared_chain, wire, policy=ONE_LANE
        ) as agent:
            assert (await agent.get(EXACTLESS)).status_code == 200
            monkeypatch.setattr(Inquiry, "look_for_deposit", slowly)
            assert (await agent.get(BASE + "/raises")).status_code == 500
            await eventually(lambda: none_open(agent))
            assert (await agent.get(BASE + "/raises")).status_code == 500
            done.set()
            await eventually(lambda: none_open(agent))


async def test_c8_a_request_of_a_lane_is_asked_about_once(
    agentpay_shared_chain: LocalChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is left: by then its amount may be that of another."""
    ask, settle, questions = Inquiry.ask_later, Inquiry._settle, list[str]()

    async def ask_twice(
        self: Inquiry, payment: VoucherPayment, *, heard: bool = False
    ) -> None:
        await ask(self, payment, heard=heard)
        await ask(self, payment, heard=heard)

    async def noted(self: Inquiry, payment: VoucherPayment, at: Whereabouts) -> None:
        questions.append(payment.id)
        await settle(self, payment, at)

    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(official(wall)))
        async with await an_agent(
            agentpay_shared_chain, wire, policy=ONE_LANE
        ) as agent:
            assert (await agent.get(EXACTLESS)).status_code == 200
            monkeypatch.setattr(Inquiry, "ask_later", ask_twice)
            monkeypatch.setattr(Inquiry, "_settle", noted)
            assert (await agent.get(BASE + "/raises")).status_code == 500
            await until(lambda: not agent.payer.channels.inquiry._questions)

    assert len(questions) == 1


async def test_who_corrects_a_total_made_no_deposit_and_is_not_waited_for(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    """An agent whose store is an older copy sends a top-up with a voucher of before."""
    chain, store = agentpay_shared_chain, tmp_path / "agent.db"
    options: dict[str, Any] = {
        "wallet": await chain.funded_wallet("$1", ether=0),
        "store": str(store),
        "policy": replace(ONE_LANE, deposit="$0.002", low_water=0, give_up_seconds=30),
    }
    async with a_shop(chain) as (_, _, wall):
        wire = Wire(through(official(wall)))
        async with await an_agent(chain, wire, **options) as agent:
            for _ in range(2):
                await agent.get(EXACTLESS)
        before = store.read_bytes()
        async with await an_agent(chain, wire, **options) as agent:
            await agent.get(EXACTLESS)
        store.write_bytes(before)
        async with await an_agent(chain, wire, **options) as agent:
            async with asyncio.timeout(3):  # a deposit is waited for five seconds
                with pytest.raises(AnswerLost):
                    await agent.get(EXACTLESS)


@pytest.mark.parametrize(
    "state",
    [
        {"chargedCumulativeAmount": "1500"},
        {"chargedCumulativeAmount": "500"},
        {"chargedCumulativeAmount": "0", "channelId": "0x" + "ab" * 32},
    ],
    ids=["more", "less", "of another channel"],
)
async def test_c13_a_corrective_total_without_our_voucher_is_not_believed(
    agentpay_shared_chain: LocalChain, state: dict[str, str]
) -> None:
    claims = {"channelState": state}

    def lying(app: App) -> App:
        async def liar(scope: Scope, receive: Receive, send: Send) -> None:
            paid = any(n == b"payment-signature" for n, _ in scope["headers"])

            async def send_lies(message: Message) -> None:
                if paid and message["type"] == "http.response.start":
                    header = encode_json(_corrective(offered, claims))
                    headers = [(NAME, header.encode())]
                    message = {**message, "status": 402, "headers": headers}
                elif message["type"] == "http.response.start":
                    offered.update(
                        decode_json(dict(message["headers"])[NAME].decode(), name="x")
                    )
                await send(message)

            await app(scope, receive, send_lies)

        return liar

    offered: dict[str, Any] = {}
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(lying(official(wall))))
        async with await an_agent(agentpay_shared_chain, wire, policy=HASTY) as agent:
            with pytest.raises(AgentPayError):
                await agent.get(EXACTLESS)
            (record,) = await agent.channels()

            assert record.ledger.spent == 0
            assert record.ledger.outstanding == PRICE


def _corrective(offered: dict[str, Any], claims: dict[str, Any]) -> dict[str, Any]:
    (offer,) = offered["accepts"]
    return {**offered, "accepts": [{**offer, "extra": {**offer["extra"], **claims}}]}


async def test_a_lane_is_closed_and_its_money_comes_back(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet("$1", ether=0)
    async with (
        a_shop(chain) as (_, _, wall),
        await an_agent(
            chain, through(official(wall)), wallet=wallet, policy=QUICK
        ) as agent,
    ):
        await agent.get(BASE + "/ok")
        (record,) = await agent.channels()
        closed = await agent.close_channel(record.channel)
        spending = await agent.spending()

    assert closed.returned == 99_000
    assert str(spending) == "$0.001 spent, $0 deposited, $0 held"
    assert await chain.balance(wallet.address) == 999_000
