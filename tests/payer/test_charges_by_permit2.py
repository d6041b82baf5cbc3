"""MPP's `evm/charge` by Permit2: what is signed, split, lost and looked up."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from agentpay import Agent, Payee, Paywall, Share
from agentpay.errors import (
    ApprovalNeeded,
    ChallengeUsed,
    NoAcceptableOffer,
    PaymentOutcomeUnknown,
)
from agentpay.evm.charge_permit import Part
from agentpay.evm.session_escrow import charge_nonce
from agentpay.payer.transfer_holds import transfer_of
from agentpay.signers.wallet import Wallet
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from agentpay.wire.mpp.challenge import Challenge
from agentpay.wire.mpp.encoding import encode_object
from agentpay.wire.mpp.timestamps import format_time
from tests.http.world import (
    PRICE,
    ROUTES,
    Shop,
    Wire,
    a_payee,
    an_agent,
    eventually,
    through,
    until,
)
from tests.payee.charge_hand import allow_permit2
from tests.payee.mpp_hand import MPP, receipt_of
from tests.payer.charges import (
    BY_CHARGE,
    OK,
    a_market,
    app_of,
    challenging,
    held,
    paid_with,
    spent,
)
from tests.payer.test_paying_by_permit2 import a_token_without_3009

TAKING = replace(MPP, credential_types=("permit2",))
OTHER, THIRD = "0x" + "07" * 20, "0x" + "08" * 20
HASTY = replace(BY_CHARGE, give_up_seconds=0.3)


async def an_approved_wallet(chain: LocalChain) -> Wallet:
    """One that Permit2 may move dollars of, and that has no gas of its own."""
    wallet = await chain.funded_wallet(ether=0)
    await allow_permit2(chain, wallet.address)
    return wallet


@contextlib.asynccontextmanager
async def a_pair(
    chain: LocalChain, *, mpp: Any = TAKING, **options: Any
) -> AsyncGenerator[tuple[Agent, Payee, Wire]]:
    """A shop that is paid by Permit2, and an agent that may pay it so."""
    async with AsyncExitStack() as stack:
        _, payee, wire = await stack.enter_async_context(a_market(chain, mpp=mpp))
        wallet = options.pop("wallet", None) or await an_approved_wallet(chain)
        agent = await an_agent(
            chain, wire, wallet=wallet, **{"policy": BY_CHARGE, **options}
        )
        yield await stack.enter_async_context(agent), payee, wire


async def test_a_charge_is_paid_by_permit2_and_booked(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_pair(agentpay_shared_chain) as (agent, payee, wire):
        paid = await agent.get(OK)
        (credential,) = map(paid_with, wire.credentials)
        payload, challenge = credential.payload, credential.challenge
        expected = charge_nonce(challenge.id, challenge.realm)

        assert paid.status_code == 200
        assert receipt_of(paid).challenge_id == challenge.id
        assert payload["type"] == "permit2"
        assert payload["witness"] == {"challengeHash": str(expected)}
        assert int(payload["permit"]["nonce"]) == int(expected, 16)
        assert int(payload["permit"]["deadline"]) <= time.time() + 600
        assert (await spent(agent), await held(agent)) == (PRICE, 0)
        assert await agentpay_shared_chain.balance(payee.settings.pay_to) == PRICE


async def test_c10_a_permit_is_good_for_ten_minutes_at_most(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_pair(agentpay_shared_chain, policy=HASTY) as (agent, _, wire):
        wire.inner = through(
            challenging(
                app_of(wire), lambda c: replace(c, expires=format_time(4_000_000_000))
            )
        )
        wire.lose_requests = 100
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.get(OK)
        payload = paid_with(wire.credentials[0]).payload

        assert int(payload["permit"]["deadline"]) <= time.time() + 600


async def test_a_split_charge_is_paid_as_its_challenge_says(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    shares = (
        Share(recipient=OTHER, basis_points=500, memo="platform"),
        Share(recipient=THIRD, basis_points=100),
    )
    before = [await chain.balance(Address(to)) for to in (OTHER, THIRD)]
    async with a_pair(chain, mpp=replace(TAKING, shares=shares)) as (agent, payee, _):
        paid = await agent.get(OK)
        after = [await chain.balance(Address(to)) for to in (OTHER, THIRD)]

        assert paid.status_code == 200
        assert [b - a for a, b in zip(before, after, strict=True)] == [
            PRICE * 5 // 100,
            PRICE // 100,
        ]
        left = PRICE - PRICE * 5 // 100 - PRICE // 100
        assert await chain.balance(payee.settings.pay_to) == left
        assert (await spent(agent), await held(agent)) == (PRICE, 0)


async def test_what_needs_no_approval_is_signed_where_both_are_taken(
    agentpay_shared_chain: LocalChain,
) -> None:
    both = replace(MPP, credential_types=("permit2", "authorization"))
    async with a_pair(agentpay_shared_chain, mpp=both) as (agent, _, wire):
        await agent.get(OK)

        assert paid_with(wire.credentials[0]).payload["type"] == "authorization"


async def test_c11_without_an_allowance_nothing_is_signed(
    agentpay_shared_chain: LocalChain,
) -> None:
    wallet = await agentpay_shared_chain.funded_wallet(ether=1)
    async with a_pair(agentpay_shared_chain, wallet=wallet) as (agent, _, wire):
        with pytest.raises(ApprovalNeeded, match="approve_permit2"):
            await agent.get(OK)
        assert (await spent(agent), await held(agent)) == (0, 0)
        assert wire.credentials == []

        await agent.approve_permit2(2 * PRICE)
        assert [(await agent.get(OK)).status_code for _ in range(2)] == [200, 200]
        with pytest.raises(ApprovalNeeded):
            await agent.get(OK)
        assert (await spent(agent), await held(agent)) == (2 * PRICE, 0)


async def test_a_token_that_only_permit2_moves_pays_charges(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain, wallet = agentpay_shared_chain, Wallet.create()
    asset = await a_token_without_3009(chain, wallet.address)
    network = replace(chain.network, usdc=asset)
    await chain.node.set_balance(wallet.address, 10**18)
    taking = replace(MPP, credential_types=("authorization", "permit2"))
    async with a_payee(chain, network=network, mpp=taking) as payee:
        wire = Wire(through(Paywall(Shop(), payee=payee, routes=ROUTES)))
        agent = await an_agent(
            chain, wire, wallet=wallet, network=network, policy=BY_CHARGE
        )
        async with agent:
            await agent.approve_permit2("$1")
            paid = await agent.get(OK)

        assert paid.status_code == 200
        assert paid_with(wire.credentials[0]).payload["type"] == "permit2"


async def test_many_charges_at_once_each_have_a_permit(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_pair(agentpay_shared_chain) as (agent, payee, wire):
        paid = await asyncio.gather(*(agent.get(OK) for _ in range(12)))

        assert {answer.status_code for answer in paid} == {200}
        assert len(set(wire.credentials)) == 12
        assert (await spent(agent), await held(agent)) == (12 * PRICE, 0)
        balance = await agentpay_shared_chain.balance(payee.settings.pay_to)
        assert balance == 12 * PRICE


# What is asked for.


def detailing(**details: Any) -> Callable[[Challenge], Challenge]:
    """The same challenge, but for these `methodDetails`; None leaves one out."""

    def change(challenge: Challenge) -> Challenge:
        asked = challenge.decode_request()
        before = asked["methodDetails"]
        assert isinstance(before, dict)
        words = {n: v for n, v in {**before, **details}.items() if v is not None}
        return replace(
            challenge, request=encode_object({**asked, "methodDetails": words})
        )

    return change


def split(to: str, amount: int) -> Callable[[Challenge], Challenge]:
    return detailing(splits=[{"recipient": to, "amount": str(amount)}])


HOSTILE: dict[str, Callable[[Challenge], Challenge]] = {
    "c2 by another Permit2": detailing(permit2Address=OTHER),
    "c2 sent by nobody named": detailing(spender=None),
    "c2 sent by nobody": detailing(spender="0x" + "0" * 40),
    "c2 split for nobody": split("0x" + "0" * 40, 1),
    "c4 split for nothing": split(OTHER, 0),
    "c4 split for all of it": split(OTHER, PRICE),
    "c4 split for more than that": split(OTHER, PRICE + 1),
    "in a way we cannot": detailing(credentialTypes=["voucher"]),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_c2_c4_a_hostile_permit_is_not_signed(
    agentpay_shared_chain: LocalChain, name: str
) -> None:
    async with a_pair(agentpay_shared_chain) as (agent, _, wire):
        wire.inner = through(challenging(app_of(wire), HOSTILE[name]))
        with pytest.raises(NoAcceptableOffer):
            await agent.get(OK)

        assert await held(agent) == 0
        assert wire.credentials == []


async def test_a_split_charge_is_not_paid_by_an_authorization(
    agentpay_shared_chain: LocalChain,
) -> None:
    """One transfer would give everything to the first."""
    async with a_pair(agentpay_shared_chain, mpp=MPP) as (agent, _, wire):
        wire.inner = through(challenging(app_of(wire), split(OTHER, 1)))
        with pytest.raises(NoAcceptableOffer, match="only Permit2"):
            await agent.get(OK)

        assert wire.credentials == []


# What is lost, and what the chain knows.


@pytest.mark.parametrize("what", ["lose_requests", "lose_answers"])
async def test_c8_a_lost_permit_is_sent_again_as_it_was(
    agentpay_shared_chain: LocalChain, what: str
) -> None:
    async with a_pair(agentpay_shared_chain) as (agent, payee, wire):
        setattr(wire, what, 2)
        paid = await agent.get(OK)

        assert paid.status_code == 200
        assert len(wire.credentials) == 3
        assert len(set(wire.credentials)) == 1
        assert (await spent(agent), await held(agent)) == (PRICE, 0)
        assert await agentpay_shared_chain.balance(payee.settings.pay_to) == PRICE


async def test_c8_a_permit_that_nobody_answers_is_looked_up_after_a_restart(
    agentpay_shared_chain: LocalChain, tmp_path: Any
) -> None:
    chain = agentpay_shared_chain
    shares = (Share(recipient=OTHER, basis_points=1000),)
    options: dict[str, Any] = {
        "wallet": await an_approved_wallet(chain),
        "store": str(tmp_path / "agent.db"),
        "policy": HASTY,
    }
    async with a_pair(chain, mpp=replace(TAKING, shares=shares), **options) as (
        agent,
        payee,
        wire,
    ):
        first: list[Challenge] = []

        def repeating(challenge: Challenge) -> Challenge:
            first.append(challenge)
            return first[0]

        wire.inner = through(challenging(app_of(wire), repeating))
        wire.lose_answers = 100
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.get(OK)
        assert (await spent(agent), await held(agent)) == (0, PRICE)

        async with await an_agent(chain, wire, **options) as again:
            with pytest.raises(ChallengeUsed):
                await again.get(OK + "?other=1")
            assert await again.payer.resolve() == 0
            assert (await spent(again), await held(again)) == (PRICE, 0)
        gone = PRICE - PRICE // 10
        assert await chain.balance(payee.settings.pay_to) == gone


async def test_c8_a_permit_that_nobody_had_is_free_again_when_it_is_over(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    head = await chain.node.rpc("eth_getBlockByNumber", "latest", False)
    then = float(int(head["timestamp"], 16)) - 10_000
    async with a_pair(chain, policy=HASTY, clock=lambda: then) as (agent, _, wire):
        wire.lose_requests = 100
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.get(OK)
        assert await held(agent) == PRICE

        assert await agent.payer.resolve() == 0
        assert (await spent(agent), await held(agent)) == (0, 0)


async def _signed_of(chain: LocalChain, agent: Agent, wire: Wire) -> Any:
    """The permit that an agent holds money for, with the signature that it sent."""
    ledger = agent.payer.ledger
    (hold,) = (await ledger.store.budget(ledger.account)).holds
    unsigned = transfer_of(hold, (chain.usdc,))
    payload = paid_with(wire.credentials[0]).payload
    return replace(unsigned, signature=bytes.fromhex(payload["signature"][2:]))  # type: ignore[type-var]


async def test_c4_money_that_a_spender_sends_elsewhere_is_spent(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Permit2 leaves the recipient to the spender: what is signed may be gone."""
    chain = agentpay_shared_chain
    async with a_pair(chain, policy=HASTY) as (agent, payee, wire):
        wire.lose_requests = 100
        with pytest.raises(PaymentOutcomeUnknown):
            await agent.get(OK)
        signed = await _signed_of(chain, agent, wire)
        elsewhere = replace(
            signed, parts=(Part(to=Address(OTHER), amount=PRICE, permitted=PRICE),)
        )
        call = elsewhere.call(PRICE)
        spender = payee.settings.facilitator
        assert spender is not None
        await chain.node.transact(spender, call.data, to=call.to)

        assert await agent.payer.resolve() == 0
        assert (await spent(agent), await held(agent)) == (PRICE, 0)


async def test_c8_a_caller_that_leaves_leaves_its_permit_in_the_budget(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_pair(agentpay_shared_chain) as (agent, _, wire):
        wire.hang = asyncio.Event()
        leaving = asyncio.create_task(agent.get(OK))
        await until(lambda: bool(wire.credentials))
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await held(agent) == PRICE
        wire.hang.set()

        assert (await agent.get(OK)).status_code == 200
        assert len(set(wire.credentials)) == 1
        assert (await spent(agent), await held(agent)) == (PRICE, 0)


async def test_c8_a_caller_that_leaves_at_any_moment_pays_once_or_holds_it(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Whatever it was waiting for: nothing is signed and not in the budget."""
    chain = agentpay_shared_chain
    async with a_pair(chain) as (agent, payee, wire):
        for turns in range(0, 60, 3):
            leaving = asyncio.create_task(agent.get(OK))
            for _ in range(turns):
                await asyncio.sleep(0.001)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        signed = len(set(wire.credentials)) * PRICE
        assert await spent(agent) + await held(agent) == signed

        async def is_known() -> bool:
            await agent.payer.resolve()
            return await spent(agent) == await chain.balance(payee.settings.pay_to)

        await eventually(is_known)
        assert await spent(agent) + await held(agent) == signed
