"""Agents whose money Permit2 moves: allowances, permits, `upto`, bare tokens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from agentpay import Agent, Paywall, Policy, Route, Wallet
from agentpay.errors import ApprovalNeeded, ConfigurationError
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.allowance_abi import allowance_call
from agentpay.evm.artifacts import load_artifact
from agentpay.evm.hashing import address_word, selector, uint_word
from agentpay.evm.networks import Network
from agentpay.onchain import read_words
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Asset, Money
from tests.http.world import BASE, BUDGET, Shop, Wire, a_payee, through

PRICE = 1000
ROUTES: dict[str, Money | Route] = {
    "/exact": Route(price=PRICE, schemes=("exact",)),
    "/upto": Route(price=PRICE, metered=True, schemes=("upto",)),
    "/channel": Route(price=PRICE, schemes=("batch-settlement",)),
}
BY_PERMIT2: dict[str, Any] = {"transfer_methods": ("permit2",)}
QUICK = Policy(deposit="$0.1", low_water="$0.01", give_up_seconds=5)


@asynccontextmanager
async def a_pair(
    chain: LocalChain, *, ether: int = 0, network: Network | None = None, **options: Any
) -> AsyncIterator[tuple[Agent, Wire, Any]]:
    place = network or chain.network
    async with a_payee(chain, network=place, **options) as payee:
        wall = Paywall(Shop(), payee=payee, routes=ROUTES)
        wire = Wire(through(wall))
        agent = Agent(
            await chain.funded_wallet(ether=ether),
            transport=wire,
            budget=BUDGET,
            policy=QUICK,
            network=place,
        )
        async with agent:
            yield agent, wire, payee


async def allowance(agent: Agent) -> int:
    asset = agent._asset
    call = allowance_call(
        asset.address, owner=agent.payer.keys.account, spender=PERMIT2
    )
    return (await read_words(agent._chain, [call]))[0]


@pytest.mark.parametrize("path", ["/exact", "/upto", "/channel"])
async def test_an_agent_without_gas_pays_by_permit2(
    agentpay_shared_chain: LocalChain, path: str
) -> None:
    async with a_pair(agentpay_shared_chain, **BY_PERMIT2) as (agent, wire, payee):
        answers = [await agent.get(BASE + path) for _ in range(3)]

        assert [a.status_code for a in answers] == [200] * 3
        assert len(wire.credentials) == 3
        await payee.settlement.claim()
        await payee.settlement.settle()
        assert await agentpay_shared_chain.balance(payee.settings.pay_to) == 3 * PRICE


async def test_c11_a_permit_approves_what_is_paid_and_no_more(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_pair(agentpay_shared_chain, **BY_PERMIT2) as (agent, _, _payee):
        for _ in range(2):
            assert (await agent.get(BASE + "/exact")).status_code == 200
            assert await allowance(agent) == 0


async def test_t8_many_permits_at_once_go_one_after_another(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_pair(agentpay_shared_chain, **BY_PERMIT2) as (agent, wire, _payee):
        asked = [agent.get(BASE + "/exact") for _ in range(6)]
        answers = await asyncio.gather(*asked)

        assert [a.status_code for a in answers] == [200] * 6
        assert len(wire.credentials) == 6


async def test_an_allowance_is_used_without_permits(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_pair(chain, ether=1, **BY_PERMIT2) as (agent, _, _payee):
        await agent.approve_permit2(10 * PRICE)
        asked = [agent.get(BASE + "/exact") for _ in range(4)]
        answers = await asyncio.gather(*asked)

        assert [a.status_code for a in answers] == [200] * 4
        assert await allowance(agent) == 6 * PRICE


async def test_t10_an_allowance_is_changed_through_zero(
    agentpay_chain: LocalChain,
) -> None:
    async with a_pair(agentpay_chain, ether=1, **BY_PERMIT2) as (agent, _, _payee):
        for amount in (5000, 7000, 0):
            await agent.approve_permit2(amount)
            assert await allowance(agent) == amount
        with pytest.raises(ConfigurationError, match="approve_permit2"):
            await agent.approve_permit2("$0.0000001")


@pytest.mark.parametrize("used", [0, 300, PRICE])
async def test_upto_is_booked_as_the_chain_shows_it(
    agentpay_shared_chain: LocalChain, used: int
) -> None:
    async with a_pair(agentpay_shared_chain) as (agent, _, _payee):
        answer = await agent.get(f"{BASE}/upto?used={used}")
        spending = await agent.spending()
        held = PRICE if used == 0 else 0

        assert answer.status_code == 200
        assert spending.spent == used * 10**12
        assert spending.held == held * 10**12


async def test_c13_upto_that_claims_less_than_it_moved_is_held_in_full(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_pair(agentpay_shared_chain) as (agent, wire, _payee):
        inner = wire.inner

        class Liar(Wire):
            async def handle_async_request(self, request: Any) -> Any:
                response = await inner.handle_async_request(request)
                receipt = response.headers.get("payment-response")
                if receipt:
                    lie = _with_amount(receipt, "1")
                    response.headers["payment-response"] = lie
                return response

        wire.inner = Liar(inner)
        await agent.get(f"{BASE}/upto?used=900")
        before = await agent.spending()
        await agent.payer.resolve()
        after = await agent.spending()

        assert (before.spent, before.held) == (0, PRICE * 10**12)
        assert (after.spent, after.held) == (900 * 10**12, 0)


def _with_amount(receipt: str, amount: str) -> str:
    from agentpay.wire.headers import decode_json, encode_json

    return encode_json({**decode_json(receipt, name="receipt"), "amount": amount})


async def a_token_without_3009(chain: LocalChain, holder: Address) -> Asset:
    """An ERC-20 without EIP-3009 and permits, of which `holder` has plenty."""
    sender = (await chain.funded_wallet(0)).address
    await chain.node.set_balance(sender, 10**18)
    creation = load_artifact("PlainToken").creation
    sent = await chain.node.transact(sender, creation, to=None)
    receipt = await chain.node.rpc("eth_getTransactionReceipt", sent)
    token = Address(receipt["contractAddress"])
    mint = selector("mint(address,uint256)") + address_word(holder) + uint_word(10**24)
    await chain.node.transact(sender, mint, to=token)
    return replace(
        chain.usdc, address=token, decimals=18, name="", version="", eip3009=False
    )


async def test_a_token_that_only_permit2_moves_needs_an_approval_of_its_owner(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = Wallet.create()
    asset = await a_token_without_3009(chain, wallet.address)
    network = replace(chain.network, usdc=asset)
    await chain.node.set_balance(wallet.address, 10**18)
    async with a_payee(chain, network=network) as payee:
        wall = Paywall(Shop(), payee=payee, routes={"/exact": "$0.001"})
        agent = Agent(
            wallet,
            transport=through(wall),
            budget=BUDGET,
            policy=QUICK,
            network=network,
        )
        async with agent:
            with pytest.raises(ApprovalNeeded, match="approve_permit2"):
                await agent.get(BASE + "/exact")
            nothing = await agent.spending()
            await agent.approve_permit2("$1")
            answers = [await agent.get(BASE + "/exact") for _ in range(2)]

        assert (nothing.spent, nothing.held) == (0, 0)
        assert [a.status_code for a in answers] == [200, 200]
