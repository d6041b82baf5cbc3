"""Agents without coin, whose token has no permits: they sign approvals whole."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from agentpay import Agent, Paywall, Policy, Route, Wallet
from agentpay.errors import ApprovalNeeded, PaymentRejected
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.allowance_abi import approve_call
from agentpay.evm.approval import read_approval
from agentpay.ports import Signer
from agentpay.signers.smart_wallet import SmartWallet
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Money
from agentpay.wire.headers import decode_json
from agentpay.wire.x402_approvals import APPROVAL_KEY
from tests.http.world import BASE, BUDGET, Shop, Wire, a_payee, through
from tests.payee.test_sponsored_approvals import CAP, a_plain_token, mint
from tests.payer.test_paying_by_permit2 import allowance

ROUTES: dict[str, Money | Route] = {
    "/exact": Route(price="$0.001", schemes=("exact",)),
    "/upto": Route(price="$0.001", metered=True, schemes=("upto",)),
    "/channel": Route(price="$0.001", schemes=("batch-settlement",)),
}
QUICK = Policy(deposit="$0.1", low_water="$0.01", give_up_seconds=8)


@contextlib.asynccontextmanager
async def a_pair(
    chain: LocalChain,
    *,
    cap: int = CAP,
    wallet: Signer | None = None,
    dollars: bool = False,
) -> AsyncIterator[tuple[Agent, Wire]]:
    """An agent without coin; with `dollars`, its token has permits."""
    token = chain.usdc if dollars else await a_plain_token(chain)
    network = replace(chain.network, usdc=token)
    options: dict[str, Any] = {
        "network": network,
        "transfer_methods": ("permit2",),
        "sponsor_approvals_up_to": cap,
    }
    wallet = wallet or Wallet.create()
    if dollars:
        await chain.fund(wallet.address)
    else:
        await mint(chain, token, wallet.address, 10**18)
    async with a_payee(chain, **options) as payee:
        wire = Wire(through(Paywall(Shop(), payee=payee, routes=ROUTES)))
        agent = Agent(
            wallet, transport=wire, budget=BUDGET, policy=QUICK, network=network
        )
        async with agent:
            yield agent, wire


def approvals(wire: Wire) -> list[int]:
    """What was approved with each payment that approved anything."""
    amounts: list[int] = []
    for credential in wire.credentials:
        message: Any = decode_json(credential, name="payment")
        info = message.get("extensions", {}).get(APPROVAL_KEY, {}).get("info", {})
        if "signedTransaction" in info:
            raw = bytes.fromhex(info["signedTransaction"][2:])
            amounts.append(read_approval(raw).approval.amount)
    return amounts


@pytest.mark.parametrize("path", ["/exact", "/upto", "/channel"])
async def test_c11_an_agent_without_coin_approves_what_it_pays_and_no_more(
    agentpay_shared_chain: LocalChain, path: str
) -> None:
    async with a_pair(agentpay_shared_chain) as (agent, wire):
        answer = await agent.get(BASE + path)
        paid = 10**17 if path == "/channel" else 10**15

        assert answer.status_code == 200
        assert approvals(wire) == [paid]
        assert await allowance(agent) == 0


async def test_t10_payments_at_once_approve_one_after_another(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_pair(agentpay_shared_chain) as (agent, wire):
        asked = [agent.get(BASE + "/exact") for _ in range(3)]
        answers = await asyncio.gather(*asked)

        assert [answer.status_code for answer in answers] == [200] * 3
        assert approvals(wire) == [10**15] * 3


async def test_an_approval_that_its_payee_does_not_pay_for_is_rejected(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_pair(agentpay_shared_chain, cap=1) as (agent, wire):
        with pytest.raises(PaymentRejected):
            await agent.get(BASE + "/exact")

        assert len(approvals(wire)) == 1
        assert (await agent.spending()).spent == 0


async def test_t10_a_leftover_allowance_is_changed_by_its_owner_alone(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_pair(chain) as (agent, wire):
        owner = agent.payer.keys.account
        call = approve_call(agent._asset.address, spender=PERMIT2, amount=7)
        await chain.node.set_balance(owner, 10**18)
        await chain.node.transact(owner, call.data, to=call.to)
        with pytest.raises(ApprovalNeeded):
            await agent.get(BASE + "/exact")

        assert wire.credentials == []


async def test_a_contract_signs_no_transactions(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = SmartWallet("0x" + "11" * 20, Wallet.create())
    async with a_pair(chain, wallet=wallet) as (agent, wire):
        with pytest.raises(ApprovalNeeded):
            await agent.get(BASE + "/exact")

        assert wire.credentials == []


async def test_a_token_with_permits_is_approved_by_permit(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_pair(agentpay_shared_chain, dollars=True) as (agent, wire):
        answer = await agent.get(BASE + "/exact")

        assert answer.status_code == 200
        assert approvals(wire) == []
