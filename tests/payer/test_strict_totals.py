"""A strict payee's total: what a lane goes on from, and that asking buys nothing."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from agentpay import Agent, Payee, onchain
from agentpay.core.budget import Budget
from agentpay.core.payer_channel import PendingDeposit
from agentpay.errors import AgentPayError
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.ledger_steps import Place
from agentpay.records import PayerRecord, PayerStep
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from agentpay.wire.headers import decode_json, encode_json
from agentpay.wire.x402 import PAYMENT_REQUIRED, PAYMENT_RESPONSE
from tests.http.world import (
    BASE,
    PRICE,
    Wire,
    a_shop,
    an_agent,
    eventually,
    through,
    until,
)
from tests.payer.books import charged, none_open, spent
from tests.payer.test_lanes import EXACTLESS, ONE_LANE, official

LANES = replace(ONE_LANE, low_water=0, lanes_max=4, give_up_seconds=1)


@contextlib.asynccontextmanager
async def a_lane(
    chain: LocalChain,
) -> AsyncIterator[tuple[Agent, Payee, PayerRecord]]:
    """An agent that has paid once for `EXACTLESS`, whom, and its channel then."""
    async with (
        a_shop(chain) as (_, payee, wall),
        await an_agent(chain, through(official(wall)), policy=LANES) as agent,
    ):
        assert (await agent.get(EXACTLESS)).status_code == 200
        (record,) = await agent.channels()
        yield agent, payee, record


def payload_of(request: httpx.Request) -> dict[str, Any]:
    """What a request pays with; empty if it does not pay."""
    paid = request.headers.get("payment-signature")
    payload: Any = decode_json(paid, name="payment")["payload"] if paid else {}
    return dict(payload)


def asks(request: httpx.Request) -> bool:
    voucher = payload_of(request).get("voucher", {})
    return bool(voucher.get("maxClaimableAmount") == "0")


@pytest.mark.parametrize("claimed", [False, True], ids=["", "claimed"])
@pytest.mark.parametrize("how", ["raises", "lost"])
async def test_c8_a_lane_asks_by_what_buys_nothing_and_comes_to_rest(
    agentpay_shared_chain: LocalChain, how: str, *, claimed: bool
) -> None:
    """Also after a claim, which showed the voucher of all that was spent to anybody."""
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        wire = Wire(through(official(wall)))
        async with await an_agent(agentpay_shared_chain, wire, policy=LANES) as agent:
            assert (await agent.get(EXACTLESS)).status_code == 200
            if claimed:
                await payee.settlement.claim()
            if how == "raises":
                assert (await agent.get(BASE + "/raises")).status_code == 500
            else:
                await _lose(agent, wire)
            begun = shop.begun.total()
            await eventually(lambda: none_open(agent))
            assert shop.begun.total() == begun
            assert any(map(asks, wire.sent))

            assert (await agent.get(EXACTLESS)).status_code == 200
            (record,) = await agent.channels()
            assert await spent(agent) == await charged(payee, agent) == 2 * PRICE
            closed = await agent.close_channel(record.channel)
            assert closed.returned == record.ledger.balance - 2 * PRICE


async def _lose(agent: Agent, wire: Wire) -> None:
    wire.lose_requests = 10**6
    with pytest.raises(AgentPayError):
        await agent.get(EXACTLESS)
    wire.lose_requests = 0


def shown_in(voucher: dict[str, str]) -> dict[str, str]:
    """A voucher as a corrective answer shows it."""
    return {
        "signedMaxClaimable": voucher["maxClaimableAmount"],
        "signature": voucher["signature"],
    }


class TotalFirst(Wire):
    """
    A payee that looks at the total before it says that it is busy, as x402's own does,
    and goes on without whoever leaves.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        super().__init__(inner)
        self.total = 0
        self.shown: dict[str, str] = {}
        self.looked = asyncio.Event()
        """It keeps a voucher, and serves it, once it has looked at it to the end."""
        self.looked.set()
        self.running = set[asyncio.Task[httpx.Response]]()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        payload = payload_of(request)
        if not payload:
            return await super().handle_async_request(request)
        self.sent.append(request)
        if asks(request):
            return await self._correct(request, shown_in(payload["voucher"]))
        task = asyncio.create_task(self._serve(request, payload["voucher"]))
        self.running.add(task)
        return await asyncio.shield(task)

    async def _serve(
        self, request: httpx.Request, voucher: dict[str, str]
    ) -> httpx.Response:
        await self.looked.wait()
        self.shown = shown_in(voucher)
        answer = await self.inner.handle_async_request(request)
        said: Any = decode_json(answer.headers[PAYMENT_RESPONSE], name="x")
        self.total = int(said["extra"]["channelState"]["chargedCumulativeAmount"])
        return answer

    async def _correct(
        self, request: httpx.Request, asked: dict[str, str]
    ) -> httpx.Response:
        """Of a channel that it does not know it shows what asks."""
        fields = {k: v for k, v in request.headers.items() if k != "payment-signature"}
        bare = httpx.Request(request.method, request.url, headers=fields)
        answer = await self.inner.handle_async_request(bare)
        required: Any = decode_json(answer.headers[PAYMENT_REQUIRED], name="x")
        for offer in required["accepts"]:
            offer["extra"] |= {
                "channelState": {"chargedCumulativeAmount": str(self.total)},
                "voucherState": self.shown or asked,
            }
        return httpx.Response(402, headers={PAYMENT_REQUIRED: encode_json(required)})


async def test_c8_a_request_that_still_runs_is_not_taken_for_one_that_bought_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        wire = TotalFirst(through(official(wall)))
        async with await an_agent(agentpay_shared_chain, wire, policy=LANES) as agent:
            assert (await agent.get(EXACTLESS)).status_code == 200
            asking = asyncio.create_task(agent.get(BASE + "/slow"))
            await until(lambda: shop.begun["/slow"] == 1)
            asking.cancel()
            await until(lambda: sum(map(asks, wire.sent)) > 3)
            assert not await none_open(agent)

            shop.gate.set()
            await eventually(lambda: none_open(agent))
            assert await spent(agent) == await charged(payee, agent) == 2 * PRICE
            assert (await agent.get(EXACTLESS)).status_code == 200
            assert len(await agent.channels()) == 1


class Proxied(TotalFirst):
    """The same behind a server that answers, in its place, while a request runs."""

    instead: tuple[int, ...] = ()
    """One status for each time that a request is sent; 0 breaks the connection."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not self.instead or not payload_of(request) or asks(request):
            return await super().handle_async_request(request)
        status, *left = self.instead
        if not self.running:
            self.first = asyncio.create_task(super().handle_async_request(request))
            await until(lambda: bool(self.running))
        self.instead = tuple(left)
        if not status:
            raise httpx.ReadError("planned", request=request)
        return httpx.Response(status, text="said by another")


NO_END = [(504,), (408,), (200,), (0, 402), (0, 429), (0, 503)]


@pytest.mark.parametrize("instead", NO_END)
async def test_c8_what_another_server_answers_is_not_the_end_of_a_request(
    agentpay_shared_chain: LocalChain, instead: tuple[int, ...]
) -> None:
    policy = replace(LANES, give_up_seconds=0.4)
    async with a_shop(agentpay_shared_chain) as (shop, payee, wall):
        wire = Proxied(through(official(wall)))
        async with await an_agent(agentpay_shared_chain, wire, policy=policy) as agent:
            assert (await agent.get(EXACTLESS)).status_code == 200
            wire.running.clear()
            wire.instead = instead
            said = await agent.get(BASE + "/slow")
            assert said.status_code == instead[-1]
            await until(lambda: sum(map(asks, wire.sent)) > 3, seconds=5)
            assert not await none_open(agent)

            shop.gate.set()
            await eventually(lambda: none_open(agent))
            assert await spent(agent) == await charged(payee, agent) == 2 * PRICE
            assert (await agent.get(EXACTLESS)).status_code == 200


async def test_c8_a_request_that_is_looked_at_yet_is_not_taken_for_a_free_one(
    agentpay_shared_chain: LocalChain,
) -> None:
    policy = replace(LANES, lanes_max=1, give_up_seconds=10)
    async with a_shop(agentpay_shared_chain) as (_, payee, wall):
        wire = TotalFirst(through(official(wall)))
        async with await an_agent(agentpay_shared_chain, wire, policy=policy) as agent:
            for paid in (2, 4):  # the first is one whose channel nobody knows yet
                await _leave_while_it_is_looked_at(agent, wire)
                assert not await none_open(agent)

                wire.looked.set()
                assert (await agent.get(EXACTLESS)).status_code == 200
                assert await spent(agent) == await charged(payee, agent) == paid * PRICE
            assert len(await agent.channels()) == 1


async def _leave_while_it_is_looked_at(agent: Agent, wire: TotalFirst) -> None:
    wire.looked.clear()
    begun, asked = len(wire.running), sum(map(asks, wire.sent))
    asking = asyncio.create_task(agent.get(EXACTLESS))
    await until(lambda: len(wire.running) > begun)
    asking.cancel()
    await until(lambda: sum(map(asks, wire.sent)) > asked + 1)


async def test_c13_a_payee_that_lost_its_records_is_paid_on_the_same_lane(
    agentpay_shared_chain: LocalChain,
) -> None:
    """It begins again at what was claimed (x402, "Server state loss")."""
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet(0)
    wire = Wire(through(official(lambda *_: asyncio.sleep(0))))
    async with await an_agent(chain, wire, policy=LANES) as agent:
        for paid in (2, 3):
            async with a_shop(chain, wallet=wallet) as (_, _, wall):
                wire.inner = through(official(wall))
                for _ in range(paid):
                    assert (await agent.get(EXACTLESS)).status_code == 200

                (record,) = await agent.channels()
                assert (record.ledger.spent, record.ledger.open) == (paid * PRICE, ())
                if paid == 3:
                    closed = await agent.close_channel(record.channel)
                    kept = record.ledger.balance - closed.returned
                    assert kept == closed.spent == 3 * PRICE


async def test_a_refund_is_asked_for_again_by_the_total_that_its_payee_proves(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_lane(agentpay_shared_chain) as (agent, _, first):
        assert (await agent.get(EXACTLESS)).status_code == 200
        (record,) = await agent.channels()
        older = replace(record.ledger, spent=first.ledger.spent)
        await put(agent, replace(record, ledger=older))

        closed = await agent.close_channel(record.channel)

        assert closed.spent == 2 * PRICE
        assert closed.returned == record.ledger.balance - 2 * PRICE


def waiting_for_a_deposit(record: PayerRecord) -> PayerRecord:
    salt = Hash32.of(b"s" * 32)
    deposit = PendingDeposit(amount=PRICE, salt=salt, valid_before=2**40)
    return replace(record, ledger=replace(record.ledger, deposit=deposit))


async def put(agent: Agent, record: PayerRecord) -> None:
    """Have an agent's books say this of a channel."""

    def put(budget: Budget, _: PayerRecord | None) -> PayerStep[None]:
        return PayerStep(budget=budget, record=record, answer=None)

    ledger = agent.payer.ledger
    await ledger.store.update(ledger.account, record.channel, put)


async def test_c14_a_deposit_keeps_the_offer_that_it_was_signed_under(
    agentpay_shared_chain: LocalChain,
) -> None:
    """By another way of the same channel it would be made a second time."""
    async with a_lane(agentpay_shared_chain) as (agent, _, record):
        await put(agent, waiting_for_a_deposit(record))

        elsewhere = Place(url="GET https://other.example", offer="{}")
        for waits in (True, False):
            _, after = await agent.payer.ledger.take_ticket(
                record.channel,
                maximum=PRICE,
                host=record.host,
                place=elsewhere,
                wish=agent.payer.channels.wish(await _offer(agent)),
            )
            assert ((after.url, after.offer) == (record.url, record.offer)) == waits
            await put(agent, record)


async def _offer(agent: Agent) -> Any:
    (offer, *_), _ = await agent._payments.look_up(EXACTLESS)
    return offer


async def test_c14_a_deposit_that_its_payee_says_is_made_does_not_go_along_again(
    agentpay_shared_chain: LocalChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the payer's node is late: its payee refuses a deposit that is used up."""
    late = [True]
    is_used = onchain.is_used

    async def shown_late(*args: Any, **options: Any) -> bool:
        return not late[0] and await is_used(*args, **options)

    monkeypatch.setattr("agentpay.payer.inquiry.is_used", shown_late)
    one_lane = replace(LANES, lanes_max=1, give_up_seconds=3)
    async with a_shop(agentpay_shared_chain) as (_, _, wall):
        wire = Wire(through(official(wall)))
        async with await an_agent(
            agentpay_shared_chain, wire, policy=one_lane
        ) as agent:
            assert (await agent.get(EXACTLESS)).status_code == 200
            second = asyncio.create_task(agent.get(EXACTLESS))
            await asyncio.sleep(1)
            late[0] = False
            assert (await second).status_code == 200

            deposits = [p for p in map(payload_of, wire.sent) if "deposit" in p]
            assert len(deposits) == 1


async def test_c8_a_deposit_whose_request_was_left_does_not_go_along_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Who waited for that request goes on by it, once it is charged."""
    one_lane = replace(LANES, lanes_max=1, give_up_seconds=5)
    async with a_shop(agentpay_shared_chain) as (shop, _, wall):
        wire = TotalFirst(through(official(wall)))
        async with await an_agent(
            agentpay_shared_chain, wire, policy=one_lane
        ) as agent:
            asking = asyncio.create_task(agent.get(BASE + "/slow"))
            await until(lambda: shop.begun["/slow"] == 1)
            asking.cancel()
            second = asyncio.create_task(agent.get(EXACTLESS))
            await until(lambda: any(map(asks, wire.sent)))
            shop.gate.set()

            assert (await second).status_code == 200
            sent = [p for r in wire.sent if not asks(r) and (p := payload_of(r))]
            assert ["deposit" in payload for payload in sent] == [True, False]


async def test_c15_what_an_earlier_request_cost_brought_nothing(
    agentpay_shared_chain: LocalChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    lapses, undelivered = list[str](), PayerLedger.undelivered

    async def noted(self: PayerLedger, host: str, *, sent_at: float) -> None:
        lapses.append(host)
        await undelivered(self, host, sent_at=sent_at)

    monkeypatch.setattr(PayerLedger, "undelivered", noted)
    async with a_lane(agentpay_shared_chain) as (agent, payee, _):
        assert (await agent.get(BASE + "/dear")).status_code == 200
        (record,) = await agent.channels()
        await put(agent, replace(record, ledger=replace(record.ledger, spent=0)))

        assert (await agent.get(EXACTLESS)).status_code == 200

        assert len(lapses) == 1
        assert await spent(agent) == await charged(payee, agent)


async def test_c8_a_request_may_run_as_long_as_its_own_offer_says(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Also while its channel is kept with the offer of a deposit that waits."""
    async with a_lane(agentpay_shared_chain) as (agent, _, record):
        older = json.dumps({**json.loads(record.offer), "maxTimeoutSeconds": 5})
        await put(agent, replace(waiting_for_a_deposit(record), offer=older))
        (offer, *_), target = await agent._payments.look_up(EXACTLESS)

        payment = await agent.payer.channels.pay(offer, target)

        assert payment.record.offer == older
        assert payment.runs_seconds == offer.max_timeout_seconds > 5


async def test_c17_no_time_that_an_offer_names_is_too_long(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_lane(agentpay_shared_chain) as (agent, _, record):
        kind = agent.payer.channels.kind

        for seconds, runs in ((10**400, 600), (0, 5), (60, 60)):
            offer = json.dumps({"maxTimeoutSeconds": seconds})
            asks = await kind.question(replace(record, offer=offer), PRICE)
            assert asks.runs_seconds == runs
