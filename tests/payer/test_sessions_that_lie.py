"""Payees of sessions that ask for what is not theirs, or say what is not so."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from agentpay import Budget, Policy
from agentpay.core.payer_channel import PayerStatus
from agentpay.errors import (
    AgentPayError,
    BudgetExceeded,
    ChannelUnusable,
    NoAcceptableOffer,
    OfferUntrusted,
    PayeeMisbehaved,
    PaymentOutcomeUnknown,
    PaymentRejected,
)
from agentpay.testing.local_chain import LocalChain
from agentpay.types import ChainId, Hash32
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.encoding import decode_object, encode_object
from agentpay.wire.mpp.outcome import PAYMENT_VOUCHER
from agentpay.wire.mpp.problem import (
    PROBLEM_JSON,
    Books,
    ProblemKind,
    write_problem,
)
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT, session_receipt
from tests.http.world import Wire, an_agent, eventually

from .books import at_rest, charged, spent
from .sessions import (
    BASE,
    BY_SESSION,
    HASTY,
    PRICE,
    a_market,
    alone,
    in_the_world,
    on_chain,
    payload_of,
    the_session,
    vouchers,
    within,
)

Lie = Callable[[httpx.Response], httpx.Response]


def paid(request: httpx.Request) -> bool:
    return "authorization" in request.headers


@dataclass
class Liar(httpx.AsyncBaseTransport):
    """Passes everything on, and changes what is answered to later credentials."""

    inner: httpx.AsyncBaseTransport
    lie: Lie
    after: int = 0
    heard: int = 0
    lied: list[httpx.Response] = field(default_factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.inner.handle_async_request(request)
        if not paid(request):
            return response
        self.heard += 1
        if self.heard <= self.after:
            return response
        self.lied.append(response)
        return self.lie(response)


def saying(name: str, **changes: Any) -> Lie:
    """Another receipt, or another outcome."""

    def lie(response: httpx.Response) -> httpx.Response:
        if name in response.headers:
            said = decode_object(response.headers[name], name=name)
            response.headers[name] = encode_object({**said, **changes})
        return response

    return lie


def nothing_said(response: httpx.Response) -> httpx.Response:
    for name in (PAYMENT_VOUCHER, PAYMENT_RECEIPT):
        response.headers.pop(name, None)
    return response


CLAIMS = {
    "charged more than it cost": saying(PAYMENT_VOUCHER, charged=str(PRICE + 1)),
    "charged more in all": saying(PAYMENT_VOUCHER, spent=str(3 * PRICE)),
    "charged more by the receipt": saying(PAYMENT_VOUCHER, charged="1000000"),
    "has a voucher that we never signed": saying(
        PAYMENT_RECEIPT, acceptedCumulative=str(50 * PRICE)
    ),
}


@pytest.mark.parametrize("claim", CLAIMS)
async def test_a_payee_that_claims_more_than_was_signed_is_paid_no_more(
    agentpay_shared_chain: LocalChain, claim: str
) -> None:
    chain = agentpay_shared_chain
    async with a_market(chain) as (_, _, wire):
        liar = Liar(wire, CLAIMS[claim], after=1)
        async with await an_agent(chain, liar, policy=HASTY) as agent:
            await agent.get(BASE + "/ok")
            with pytest.raises(PayeeMisbehaved):
                await agent.get(BASE + "/ok")
            sent = len(wire.credentials)
            with pytest.raises(ChannelUnusable):
                await agent.get(BASE + "/ok")
            record = await the_session(agent)

        assert record.ledger.status is PayerStatus.STOPPED
        assert PRICE <= record.ledger.spent <= 2 * PRICE
        assert len(wire.credentials) == sent


async def test_an_untagged_receipt_of_more_than_was_signed_is_not_booked(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_market(chain, reword=alone) as (_, _, wire):
        liar = Liar(wire, saying(PAYMENT_RECEIPT, spent=str(9 * PRICE)), after=1)
        async with await an_agent(chain, liar, policy=HASTY) as agent:
            await agent.get(BASE + "/ok")
            with pytest.raises(PayeeMisbehaved):
                await agent.get(BASE + "/ok")
            record = await the_session(agent)

        assert record.ledger.status is PayerStatus.STOPPED
        assert record.ledger.spent <= 2 * PRICE


OTHERS = {
    "of another session": {"channelId": "0x" + "22" * 32},
    "of another amount": {"cumulative": "77"},
}


@pytest.mark.parametrize("other", [*OTHERS, "none"])
async def test_the_outcome_of_another_voucher_is_no_word_on_ours(
    agentpay_shared_chain: LocalChain, other: str
) -> None:
    """Also where it says that nothing was charged: our books wait for the truth."""
    chain = agentpay_shared_chain
    async with a_market(chain) as (_, payee, wire):
        lie: Lie = nothing_said
        if other != "none":
            lie = saying(PAYMENT_VOUCHER, **OTHERS[other], charged="0")
        liar = Liar(wire, lie, after=1)
        async with await an_agent(chain, liar, policy=HASTY) as agent:
            await agent.get(BASE + "/ok")
            assert (await agent.get(BASE + "/ok")).status_code == 200
            assert (await the_session(agent)).ledger.outstanding == PRICE
            liar.after = 10**6
            await eventually(lambda: at_rest(agent))

            assert await spent(agent) == await charged(payee, agent) == 2 * PRICE


async def test_c14_a_deposit_that_was_not_made_is_held_until_it_expires(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Its payee says that all went well, with a receipt."""
    chain = agentpay_shared_chain
    async with a_market(chain) as (_, _, wire):

        class Pocketing(httpx.AsyncBaseTransport):
            async def handle_async_request(
                self, request: httpx.Request
            ) -> httpx.Response:
                if not paid(request):
                    return await wire.handle_async_request(request)
                payload = payload_of(request.headers["authorization"])
                outcome: JsonObject = {
                    "channelId": payload["channelId"],
                    "cumulative": payload["cumulativeAmount"],
                    "fate": "charged",
                    "charged": str(PRICE),
                    "spent": str(PRICE),
                }
                return httpx.Response(
                    200, headers={PAYMENT_VOUCHER: encode_object(outcome)}
                )

        async with await an_agent(chain, Pocketing(), policy=HASTY) as agent:
            assert (await agent.get(BASE + "/ok")).status_code == 200
            record = await the_session(agent)
            assert record.ledger.balance == 0
            assert record.ledger.deposit is not None
            assert await in_the_world(agent) == (0, 0, 100 * PRICE)
            for leave in (agent.close_channel, agent.start_withdrawal):
                with pytest.raises(AgentPayError):
                    await leave(record.channel)
            assert (await in_the_world(agent))[2] == 100 * PRICE


@pytest.mark.parametrize("opened", [False, True])
async def test_a_payee_that_knows_no_session_gets_no_deposit_after_deposit(
    agentpay_shared_chain: LocalChain, opened: bool
) -> None:
    chain = agentpay_shared_chain
    body = write_problem(ProblemKind.CHANNEL_NOT_FOUND, "no such session")

    def gone(response: httpx.Response) -> httpx.Response:
        del response
        headers = {"content-type": PROBLEM_JSON}
        return httpx.Response(410, headers=headers, content=body)

    async with a_market(chain) as (_, _, wire):
        liar = Liar(wire, gone, after=1 if opened else 0)
        async with await an_agent(chain, liar, policy=HASTY) as agent:
            if opened:
                await agent.get(BASE + "/ok")
            before = (await in_the_world(agent))[1:]
            with pytest.raises(AgentPayError):
                await agent.get(BASE + "/ok")
            after = (await in_the_world(agent))[1:]

        assert sum(after) - sum(before) <= 100 * PRICE
        deposits = {str(payload_of(c).get("deposit")) for c in wire.credentials}
        assert len(deposits - {"None"}) <= 1 + opened


async def test_what_is_asked_for_a_deposit_is_what_our_policy_says(
    agentpay_shared_chain: LocalChain,
) -> None:
    def greedy(words: JsonObject) -> JsonObject:
        return {**words, "suggestedDeposit": str(10**12)}

    chain = agentpay_shared_chain
    async with (
        a_market(chain, reword=greedy) as (_, _, wire),
        await an_agent(chain, wire, policy=BY_SESSION) as agent,
    ):
        await agent.get(BASE + "/ok")
        assert (await on_chain(chain, await the_session(agent))).deposit == 100 * PRICE


async def test_a_price_above_the_headroom_is_not_signed_whatever_the_deposit(
    agentpay_shared_chain: LocalChain,
) -> None:
    def dear(words: JsonObject) -> JsonObject:
        return {**words, "amount": str(5 * PRICE)}

    chain = agentpay_shared_chain
    policy = Policy(prefer=("session",), deposit="$0.1", headroom=4 * PRICE)
    async with (
        a_market(chain, reword=dear) as (_, _, wire),
        await an_agent(chain, wire, policy=policy) as agent,
    ):
        with pytest.raises(AgentPayError):
            await agent.get(BASE + "/ok")

        assert wire.credentials == []
        assert await in_the_world(agent) == (0, 0, 0)


async def test_a_request_above_the_budget_is_not_signed(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    budget = Budget(total="$5", per_request=PRICE - 1)
    async with (
        a_market(chain) as (_, _, wire),
        await an_agent(chain, wire, policy=BY_SESSION, budget=budget) as agent,
    ):
        with pytest.raises(BudgetExceeded):
            await agent.get(BASE + "/ok")
        assert wire.credentials == []


async def test_a_price_that_rises_once_it_is_paid_is_not_paid(
    agentpay_shared_chain: LocalChain,
) -> None:
    """The answer to a payment is a 402 that wants more for the same."""
    chain = agentpay_shared_chain
    times = 1

    def rising(words: JsonObject) -> JsonObject:
        return {**words, "amount": str(times * PRICE)}

    async with a_market(chain, reword=rising) as (shop, _, wire):

        class Refusing(Wire):
            async def handle_async_request(
                self, request: httpx.Request
            ) -> httpx.Response:
                nonlocal times
                if paid(request) and times == 1:
                    times = 2
                    self.sent.append(request)
                    bare = httpx.Request("GET", request.url)
                    return await self.inner.handle_async_request(bare)
                return await super().handle_async_request(request)

        refusing = Refusing(wire)
        async with await an_agent(chain, refusing, policy=HASTY) as agent:
            with pytest.raises(PaymentRejected):
                await agent.get(BASE + "/ok")
            assert max(vouchers(refusing)) == PRICE
            await eventually(lambda: at_rest(agent))

        assert shop.begun["/ok"] == 0


NOBODY = "0x" + "ab" * 20


def elsewhere(words: JsonObject) -> JsonObject:
    return within(words, escrowContract=NOBODY)


async def test_no_voucher_is_signed_for_an_escrow_that_nobody_named(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    policy = Policy(prefer=("session",), deposit="$0.1")
    async with (
        a_market(chain, reword=elsewhere) as (_, _, wire),
        await an_agent(chain, wire, policy=policy) as agent,
    ):
        with pytest.raises(NoAcceptableOffer, match="we do not trust escrow"):
            await agent.get(BASE + "/ok")
        assert wire.credentials == []


async def test_an_escrow_that_is_none_is_found_out_before_anything_is_signed(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    policy = Policy(prefer=("session",), deposit="$0.1", escrows=(NOBODY,))
    async with (
        a_market(chain, reword=elsewhere) as (_, _, wire),
        await an_agent(chain, wire, policy=policy) as agent,
    ):
        with pytest.raises((OfferUntrusted, NoAcceptableOffer)):
            await agent.get(BASE + "/ok")

        assert wire.credentials == []
        assert await in_the_world(agent) == (0, 0, 0)


def instead_of_a_close(
    wire: Wire, answer: Callable[[Any], httpx.Response]
) -> httpx.AsyncBaseTransport:
    """A payee that closes nothing, and says this."""

    class Open(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if paid(request):
                payload = payload_of(request.headers["authorization"])
                if payload["action"] == "close":
                    wire.sent.append(request)
                    return answer(payload)
            return await wire.handle_async_request(request)

    return Open()


async def test_a_payee_that_wants_to_close_for_more_than_was_spent_is_left(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    books = Books(accepted=9 * PRICE, spent=9 * PRICE, deposit=100 * PRICE)
    body = write_problem(ProblemKind.VERIFICATION_FAILED, "no", books=books)

    def more(payload: Any) -> httpx.Response:
        del payload
        headers = {"content-type": PROBLEM_JSON}
        return httpx.Response(402, headers=headers, content=body)

    async with a_market(chain) as (_, _, wire):
        there = instead_of_a_close(wire, more)
        async with await an_agent(chain, there, policy=HASTY) as agent:
            await agent.get(BASE + "/ok")
            with pytest.raises(PayeeMisbehaved):
                await agent.close_channel((await the_session(agent)).channel)
            record = await the_session(agent)

        assert record.ledger.status is PayerStatus.STOPPED
        assert payload_of(wire.credentials[-1])["cumulativeAmount"] == str(PRICE)
        assert len(wire.credentials) == 2


async def test_a_close_that_the_chain_does_not_show_brought_nothing_back(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain

    def closed(payload: Any) -> httpx.Response:
        receipt = session_receipt(
            challenge_id="x",
            chain=ChainId(chain.chain_id),
            channel=Hash32(payload["channelId"]),
            accepted=PRICE,
            spent=PRICE,
            at=1_800_000_000,
            transaction=Hash32("0x" + "33" * 32),
        )
        return httpx.Response(200, headers={PAYMENT_RECEIPT: encode_object(receipt)})

    async with a_market(chain) as (_, _, wire):
        there = instead_of_a_close(wire, closed)
        async with await an_agent(chain, there, policy=HASTY) as agent:
            await agent.get(BASE + "/ok")
            with pytest.raises(PaymentOutcomeUnknown):
                await agent.close_channel((await the_session(agent)).channel)

            assert await in_the_world(agent) == (PRICE, 99 * PRICE, 0)
            assert (await the_session(agent)).ledger.status is PayerStatus.CLOSING


async def test_c1_no_request_costs_more_than_the_budget_lets_one_cost(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Where nobody says what a request costs at most, all that is signed may be."""

    def greedy(words: JsonObject) -> JsonObject:
        by_token = {**alone(words), "unitType": "llm_token"}
        return within(by_token, minVoucherDelta="200000")

    chain = agentpay_shared_chain
    budget = Budget(total="$5", per_request="$0.03")
    policy = Policy(prefer=("session",), give_up_seconds=1)
    async with a_market(chain, reword=greedy) as (_, _, wire):
        liar = Liar(wire, saying(PAYMENT_RECEIPT, spent="200000"))
        agent = await an_agent(chain, liar, policy=policy, budget=budget)
        async with agent:
            with pytest.raises(BudgetExceeded, match="per-request"):
                await agent.get(BASE + "/ok")

            assert not vouchers(wire)
            assert await spent(agent) == 0
