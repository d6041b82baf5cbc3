"""MPP's `evm/charge` by the wallet's own transactions: sent once, or held (C8)."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import httpx
import pytest

from agentpay import Agent
from agentpay.core.budget import Hold
from agentpay.errors import (
    ChainError,
    ChallengeUsed,
    GasMissing,
    KeyElsewhere,
    NoAcceptableOffer,
    NonceBusy,
    PaymentOutcomeUnknown,
    PaymentRejected,
    TransactionFailed,
)
from agentpay.evm.calls import Call
from agentpay.evm.eip1559 import read_signed_call
from agentpay.payee.payee import Payee
from agentpay.payer.own_holds import OWN, hold_id, is_unsigned, own_detail, read_own
from agentpay.payer.policy import scale
from agentpay.payer.transfer_holds import reserve
from agentpay.signers.smart_wallet import SmartWallet
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.mpp.challenge import Challenge
from tests.http.world import PRICE, Wire, an_agent, eventually, through, until
from tests.payee.charge_hand import allow_permit2
from tests.payee.mpp_hand import MPP, receipt_of
from tests.payer.charges import (
    BY_CHARGE,
    OK,
    a_market,
    app_of,
    challenging,
    changed,
    held,
    paid_with,
    spent,
)

WAYS = ("transaction", "hash")
GAS = replace(BY_CHARGE, pay_gas=True)
HASTY = replace(GAS, give_up_seconds=0.4)

Trio = tuple[Agent, Payee, Wire]


@contextlib.asynccontextmanager
async def a_pair(chain: LocalChain, *ways: str, **options: Any) -> AsyncGenerator[Trio]:
    """A shop that takes these ways, and an agent with gas of its own."""
    async with AsyncExitStack() as stack:
        mpp = replace(MPP, credential_types=ways)
        _, payee, wire = await stack.enter_async_context(a_market(chain, mpp=mpp))
        wallet = options.pop("wallet", None) or await chain.funded_wallet(ether=1)
        agent = await an_agent(chain, wire, wallet=wallet, **{"policy": GAS, **options})
        yield await stack.enter_async_context(agent), payee, wire


async def sent_by(chain: LocalChain, agent: Agent) -> int:
    """How many transactions of its wallet are mined."""
    account = agent.payer.keys.account
    return int(await chain.node.rpc("eth_getTransactionCount", account, "latest"), 16)


def kind_of(wire: Wire) -> set[str]:
    return {paid_with(credential).payload["type"] for credential in wire.credentials}


@pytest.mark.parametrize("way", WAYS)
async def test_a_charge_is_paid_by_our_own_transaction(
    agentpay_shared_chain: LocalChain, way: str
) -> None:
    chain = agentpay_shared_chain
    async with a_pair(chain, way) as (agent, payee, wire):
        paid = [await agent.get(OK) for _ in range(2)]

        assert [answer.status_code for answer in paid] == [200, 200]
        assert kind_of(wire) == {way}
        assert [receipt_of(answer).challenge_id for answer in paid] == [
            paid_with(credential).challenge.id for credential in wire.credentials
        ]
        assert await sent_by(chain, agent) == 2
        assert (await spent(agent), await held(agent)) == (2 * PRICE, 0)
        assert await chain.balance(payee.settings.pay_to) == 2 * PRICE


@pytest.mark.parametrize("way", WAYS)
async def test_no_transaction_is_signed_unless_policy_says_so(
    agentpay_shared_chain: LocalChain, way: str
) -> None:
    async with a_pair(agentpay_shared_chain, way, policy=BY_CHARGE) as trio:
        agent, _, wire = trio
        with pytest.raises(NoAcceptableOffer, match="pay_gas"):
            await agent.get(OK)

        assert wire.credentials == []
        assert await sent_by(agentpay_shared_chain, agent) == 0


@pytest.mark.parametrize("better", ["authorization", "permit2"])
async def test_gas_is_paid_only_where_nothing_else_is_taken(
    agentpay_shared_chain: LocalChain, better: str
) -> None:
    chain = agentpay_shared_chain
    async with a_pair(chain, *WAYS, better) as (agent, _, wire):
        await allow_permit2(chain, agent.payer.keys.account)
        before = await sent_by(chain, agent)
        assert (await agent.get(OK)).status_code == 200

        assert kind_of(wire) == {better}
        assert await sent_by(chain, agent) == before


@pytest.mark.parametrize("ways", [WAYS, WAYS[::-1]])
async def test_of_our_own_transactions_the_first_that_is_taken_is_used(
    agentpay_shared_chain: LocalChain, ways: tuple[str, str]
) -> None:
    async with a_pair(agentpay_shared_chain, *ways) as (agent, _, wire):
        await agent.get(OK)

        assert kind_of(wire) == {ways[0]}


@pytest.mark.parametrize("way", WAYS)
async def test_many_at_once_take_one_nonce_each(
    agentpay_shared_chain: LocalChain, way: str
) -> None:
    chain = agentpay_shared_chain
    patient = replace(GAS, give_up_seconds=20)
    async with a_pair(chain, way, policy=patient) as (agent, payee, _):
        paid = await asyncio.gather(*(agent.get(OK) for _ in range(6)))

        assert {answer.status_code for answer in paid} == {200}
        assert await sent_by(chain, agent) == 6
        assert (await spent(agent), await held(agent)) == (6 * PRICE, 0)
        assert await chain.balance(payee.settings.pay_to) == 6 * PRICE


@pytest.mark.parametrize("way", WAYS)
async def test_a_wallet_without_gas_signs_nothing(
    agentpay_shared_chain: LocalChain, way: str
) -> None:
    wallet = await agentpay_shared_chain.funded_wallet(ether=0)
    async with a_pair(agentpay_shared_chain, way, wallet=wallet) as (agent, _, wire):
        with pytest.raises(GasMissing):
            await agent.get(OK)

        assert await held(agent) == 0
        assert wire.credentials == []


@pytest.mark.parametrize("way", WAYS)
async def test_a_wallet_without_money_sends_nothing(
    agentpay_shared_chain: LocalChain, way: str
) -> None:
    chain = agentpay_shared_chain
    poor = await chain.funded_wallet(0, ether=1)
    async with a_pair(chain, way, wallet=poor) as (agent, _, wire):
        with pytest.raises(TransactionFailed):
            await agent.get(OK)

        assert await held(agent) == 0
        assert wire.credentials == []
        assert await sent_by(chain, agent) == 0


async def test_a_contract_sends_no_transactions(
    agentpay_shared_chain: LocalChain,
) -> None:
    owner = await agentpay_shared_chain.funded_wallet(ether=1)
    smart = SmartWallet("0x" + "c0" * 20, owner)
    async with a_pair(agentpay_shared_chain, "hash", wallet=smart) as trio:
        with pytest.raises(KeyElsewhere):
            await trio[0].get(OK)

        assert await held(trio[0]) == 0


# What is lost on the way to the payee.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ["lose_requests", "lose_answers"])
async def test_c8_what_is_lost_is_presented_again_and_sent_once(
    agentpay_shared_chain: LocalChain, way: str, what: str
) -> None:
    chain = agentpay_shared_chain
    async with a_pair(chain, way) as (agent, payee, wire):
        setattr(wire, what, 2)
        paid = await agent.get(OK)

        assert paid.status_code == 200
        assert len(wire.credentials) == 3
        assert len(set(wire.credentials)) == 1
        assert await sent_by(chain, agent) == 1
        assert (await spent(agent), await held(agent)) == (PRICE, 0)
        assert await chain.balance(payee.settings.pay_to) == PRICE


async def test_c8_a_transfer_that_bought_nothing_is_presented_again_after_a_restart(
    agentpay_shared_chain: LocalChain, tmp_path: Any
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet(ether=1)
    options: dict[str, Any] = {"wallet": wallet, "store": str(tmp_path / "agent.db")}
    async with a_pair(chain, "hash", policy=HASTY, **options) as (agent, payee, wire):
        wire.lose_requests = 100
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.get(OK)
        assert await chain.balance(payee.settings.pay_to) == PRICE
        assert (await spent(agent), await held(agent)) == (0, PRICE)

        wire.lose_requests = 0
        async with await an_agent(chain, wire, policy=GAS, **options) as again:
            assert (await again.get(OK)).status_code == 200
            assert await sent_by(chain, again) == 1
            assert (await spent(again), await held(again)) == (PRICE, 0)

            assert (await again.get(OK)).status_code == 200
            assert await sent_by(chain, again) == 2


async def test_c8_a_transfer_is_presented_for_one_request_at_a_time(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_pair(chain, "hash") as (agent, payee, wire):
        wire.hang = asyncio.Event()
        waiting = [asyncio.create_task(agent.get(OK)) for _ in range(2)]
        await until(lambda: len(wire.credentials) >= 2)
        wire.hang.set()
        paid = await asyncio.gather(*waiting)

        assert {answer.status_code for answer in paid} == {200}
        assert await chain.balance(payee.settings.pay_to) == 2 * PRICE


async def test_c8_a_transfer_too_old_to_buy_anything_is_spent(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    now = [0.0]
    head = await chain.node.rpc("eth_getBlockByNumber", "latest", False)
    now[0] = float(int(head["timestamp"], 16))
    async with a_pair(chain, "hash", policy=HASTY, clock=lambda: now[0]) as trio:
        agent, payee, wire = trio
        wire.lose_requests = 100
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.get(OK)
        assert await agent.payer.resolve() == 1

        now[0] += 10_000
        assert await agent.payer.resolve() == 0
        assert (await spent(agent), await held(agent)) == (PRICE, 0)
        assert await chain.balance(payee.settings.pay_to) == PRICE


@pytest.mark.parametrize("way", WAYS)
async def test_a_transaction_outlives_its_challenge(
    agentpay_shared_chain: LocalChain, way: str
) -> None:
    """It names none, so a fresh one is answered with the same."""
    chain = agentpay_shared_chain
    async with a_pair(chain, way) as (agent, payee, wire):
        spoilt = 1

        def spoil(challenge: Challenge) -> Challenge:
            nonlocal spoilt
            spoilt -= 1
            return replace(challenge, id="unknown") if spoilt >= 0 else challenge

        wire.inner = through(challenging(app_of(wire), spoil))
        assert (await agent.get(OK)).status_code == 200

        assert len(wire.credentials) == 2
        assert await sent_by(chain, agent) == 1
        assert (await spent(agent), await held(agent)) == (PRICE, 0)
        assert await chain.balance(payee.settings.pay_to) == PRICE


async def test_a_challenge_that_is_given_out_again_is_not_paid_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_pair(chain, "hash") as (agent, _, wire):
        first: list[Challenge] = []

        def repeating(challenge: Challenge) -> Challenge:
            first.append(challenge)
            return first[0]

        wire.inner = through(challenging(app_of(wire), repeating))
        assert (await agent.get(OK)).status_code == 200
        with pytest.raises(ChallengeUsed):
            await agent.get(OK)

        assert await sent_by(chain, agent) == 1


# Payees that do not do their part.


def refusing(wire: Wire) -> httpx.MockTransport:
    """The shop, to which no credential gets."""

    async def unpaid(request: httpx.Request) -> httpx.Response:
        app = app_of(wire)
        paid = request.headers.pop("authorization", None)
        if paid is not None:
            wire.sent.append(httpx.Request("GET", OK, headers={"authorization": paid}))
        return await through(app).handle_async_request(request)

    return httpx.MockTransport(unpaid)


async def test_c8_a_refused_transfer_is_offered_once_more_and_then_spent(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_pair(chain, "hash") as (_, payee, wire):
        wallet = await chain.funded_wallet(ether=1)
        async with await an_agent(
            chain, refusing(wire), wallet=wallet, policy=GAS
        ) as agent:
            for booked in ((0, PRICE), (PRICE, 0), (PRICE, PRICE)):
                with pytest.raises(PaymentRejected):
                    await agent.get(OK)
                assert (await spent(agent), await held(agent)) == booked
            assert await sent_by(chain, agent) == 2
        assert await chain.balance(payee.settings.pay_to) == 2 * PRICE


async def test_c8_a_transaction_that_is_not_sent_is_held_until_its_nonce_is_used(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_pair(chain, "transaction") as (_, payee, wire):
        wallet = await chain.funded_wallet(ether=1)
        options: dict[str, Any] = {"wallet": wallet, "policy": HASTY}
        async with await an_agent(chain, refusing(wire), **options) as agent:
            for _ in range(2):
                with pytest.raises(PaymentRejected):
                    await agent.get(OK)
                assert await agent.payer.resolve() == 1
                assert (await spent(agent), await held(agent)) == (0, PRICE)
            assert len({_nonce_of(credential) for credential in wire.credentials}) == 1

            wire.inner = through(
                challenging(
                    app_of(wire),
                    lambda c: replace(c, request=changed(c, amount=str(PRICE + 1))),
                )
            )
            with pytest.raises(NonceBusy) as busy:
                await agent.get(OK)
            blocked = read_signed_call(
                bytes.fromhex(
                    paid_with(wire.credentials[0])
                    .payload["signature"]
                    .removeprefix("0x")
                )
            )
            said = str(busy.value)
            assert wallet.address in said
            assert blocked.hash in said
            assert f"nonce {blocked.call.nonce} " in said

            # What it says to do:
            nothing = Call(to=wallet.address, data=b"", what="nothing")
            await chain.node.transact(wallet.address, nothing.data, to=nothing.to)
            assert await agent.payer.resolve() == 0
            assert (await spent(agent), await held(agent)) == (0, 0)
        assert await chain.balance(payee.settings.pay_to) == 0


async def test_c8_a_refused_transaction_that_is_sent_after_all_is_spent(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_pair(chain, "transaction") as (_, payee, wire):
        wallet = await chain.funded_wallet(ether=1)
        async with await an_agent(
            chain, refusing(wire), wallet=wallet, policy=GAS
        ) as agent:
            with pytest.raises(PaymentRejected):
                await agent.get(OK)
            raw = paid_with(wire.credentials[0]).payload["signature"]
            await chain.node.rpc("eth_sendRawTransaction", raw)

            async def is_known() -> bool:
                return not await agent.payer.resolve()

            await eventually(is_known)
            assert (await spent(agent), await held(agent)) == (PRICE, 0)
        assert await chain.balance(payee.settings.pay_to) == PRICE


# Processes that die, and callers that leave.


class Elsewhere(httpx.AsyncBaseTransport):
    """A server that goes on when its client has left, as one over a network does."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.running: set[asyncio.Task[httpx.Response]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        task = asyncio.create_task(self.inner.handle_async_request(request))
        self.running.add(task)
        return await asyncio.shield(task)


async def test_c8_what_was_recorded_and_not_sent_is_sent_by_who_comes_next(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_pair(chain, "hash") as (agent, payee, _):
        leaving = asyncio.create_task(agent.get(OK))

        async def is_recorded() -> bool:
            ledger = agent.payer.ledger
            budget = await ledger.store.budget(ledger.account)
            return any(not is_unsigned(h) for h in budget.holds)

        await eventually(is_recorded)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert await held(agent) == PRICE

        assert (await agent.get(OK)).status_code == 200
        assert await sent_by(chain, agent) == 1
        assert (await spent(agent), await held(agent)) == (PRICE, 0)
        assert await chain.balance(payee.settings.pay_to) == PRICE


@pytest.mark.parametrize("way", WAYS)
async def test_c8_a_caller_that_leaves_at_any_moment_forgets_and_repeats_nothing(
    agentpay_shared_chain: LocalChain, way: str
) -> None:
    chain = agentpay_shared_chain
    async with a_pair(chain, way, policy=replace(GAS, give_up_seconds=20)) as trio:
        agent, payee, wire = trio
        wire.inner = elsewhere = Elsewhere(wire.inner)
        for turns in range(0, 60, 4):
            leaving = asyncio.create_task(agent.get(OK))
            await asyncio.sleep(turns / 1000)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            ledger = agent.payer.ledger
            budget = await ledger.store.budget(ledger.account)
            kept = [read_own(h, (chain.usdc,)) for h in budget.holds]
            assert all(h.id.startswith(OWN) for h in budget.holds)
            assert len({own.signed.call.nonce for own in kept if own}) == len(kept)
        await asyncio.gather(*elsewhere.running)
        for _ in range(3):  # what bought something for who left is refused once
            with contextlib.suppress(PaymentRejected):
                assert (await agent.get(OK)).status_code == 200
                break
        else:
            pytest.fail("it was never served")

        async def agrees() -> bool:
            gone = await chain.balance(payee.settings.pay_to)
            exposed = await spent(agent) + await held(agent)
            assert exposed >= gone
            return exposed == gone and gone == await sent_by(chain, agent) * PRICE

        await eventually(agrees)
        known = {_nonce_of(credential) for credential in wire.credentials}
        assert len(known) <= await sent_by(chain, agent)


def _nonce_of(credential: str) -> str:
    payload = paid_with(credential).payload
    if payload["type"] == "hash":
        return str(payload["hash"])
    return str(read_signed_call(bytes.fromhex(payload["signature"][2:])).hash)


READS = ("eth_getTransactionReceipt", "eth_getTransactionCount", "eth_call")


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        ("eth_sendRawTransaction", Fault.REQUEST_DROPPED),
        ("eth_sendRawTransaction", Fault.ANSWER_DROPPED),
        ("eth_sendRawTransaction", Fault.ANSWER_BROKEN),
        *((method, Fault.REQUEST_DROPPED) for method in READS),
    ],
)
@pytest.mark.parametrize("way", WAYS)
async def test_c8_an_endpoint_that_fails_sends_nothing_twice(
    agentpay_shared_chain: LocalChain, way: str, method: str, fault: Fault
) -> None:
    chain = agentpay_shared_chain
    async with FaultyRpc(chain.rpc_url) as rpc:
        network = replace(chain.network, rpc_url=rpc.url)
        async with a_pair(chain, way, network=network) as (agent, payee, _):
            served = 0
            for times in (1, 2, 4, *(0 for _ in range(12))):
                if times:
                    rpc.plan(method, fault, times=times)
                with contextlib.suppress(PaymentOutcomeUnknown, ChainError):
                    served += (await agent.get(OK)).status_code == 200
                if served == 5:
                    break
            gone = await chain.balance(payee.settings.pay_to)

            assert gone == 5 * PRICE == await sent_by(chain, agent) * PRICE
            assert (await spent(agent), await held(agent)) == (gone, 0)


async def test_what_was_about_to_be_signed_is_free_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    """A process died between its reservation and its signature."""
    chain = agentpay_shared_chain
    async with a_pair(chain, "hash", policy=HASTY) as (agent, _, wire):
        wire.lose_requests = 1
        hold = await _reserved_only(chain, agent)
        assert await held(agent) == PRICE

        assert (await agent.get(OK)).status_code == 200
        ledger = agent.payer.ledger
        budget = await ledger.store.budget(ledger.account)
        assert budget.hold(hold) is None
        assert (await spent(agent), await held(agent)) == (PRICE, 0)


async def _reserved_only(chain: LocalChain, agent: Agent) -> str:
    asset = chain.usdc
    hold = Hold(
        id=hold_id(asset.chain, agent.payer.keys.account, 0),
        host="shop.example",
        amount=scale(PRICE, asset.decimals),
        valid_before=4_000_000_000,
        detail=own_detail(asset, "hash", None),
    )
    ledger = agent.payer.ledger
    await reserve(ledger, hold, decimals=asset.decimals, contested=True)
    return hold.id
