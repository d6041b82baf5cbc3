"""Agents whose account is a contract (ERC-1271, ERC-6492), or has code (EIP-7702)."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from eth_account import Account

from agentpay import Agent, Payee, Paywall, Policy, Route, SmartWallet, Wallet
from agentpay.errors import ApprovalNeeded, ConfigurationError, PaymentRejected
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.allowance_abi import approve_call
from agentpay.evm.erc6492 import MAGIC
from agentpay.ports import Signer
from agentpay.testing.local_chain import LocalChain
from agentpay.types import ZERO_ADDRESS, Address, Money
from agentpay.wire.headers import decode_json
from tests.http.world import BASE, BUDGET, Shop, Wire, a_payee, through
from tests.wallets import NewWallet, a_contract_wallet, a_new_wallet, deploy

PRICE = 1000
ROUTES: dict[str, Money | Route] = {
    "/exact": Route(price=PRICE, schemes=("exact",)),
    "/channel": Route(price=PRICE, schemes=("batch-settlement",)),
}
QUICK = Policy(deposit="$0.1", low_water="$0.01", give_up_seconds=5)


@contextlib.asynccontextmanager
async def a_pair(
    chain: LocalChain,
    wallet: Signer,
    *,
    voucher_key: Signer | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Agent, Wire, Payee]]:
    async with a_payee(chain, **options) as payee:
        wire = Wire(through(Paywall(Shop(), payee=payee, routes=ROUTES)))
        agent = Agent(
            wallet,
            voucher_key=voucher_key,
            transport=wire,
            budget=BUDGET,
            policy=QUICK,
            network=chain.network,
        )
        async with agent:
            yield agent, wire, payee


def not_there_yet(wallet: NewWallet) -> SmartWallet:
    return SmartWallet(
        wallet.address,
        wallet.owner,
        factory=wallet.factory,
        factory_data=wallet.factory_data,
    )


def wrapped(credential: str) -> bool:
    """Whether what moves the money is signed for a wallet that is to be made."""
    payload: Any = decode_json(credential, name="payment")["payload"]
    if "deposit" in payload:
        payload = payload["deposit"]["authorization"]["erc3009Authorization"]
    return bool(bytes.fromhex(payload["signature"][2:]).endswith(MAGIC))


@pytest.mark.parametrize("path", ["/exact", "/channel"])
async def test_t9_an_agent_pays_from_a_contract(
    agentpay_shared_chain: LocalChain, path: str
) -> None:
    chain, owner = agentpay_shared_chain, Wallet.create()
    wallet = SmartWallet(await a_contract_wallet(chain, owner.address), owner)
    key = Wallet.create()
    async with a_pair(chain, wallet, voucher_key=key) as (agent, _, payee):
        answers = [await agent.get(BASE + path) for _ in range(3)]
        spending = await agent.spending()
        await payee.settlement.claim()
        await payee.settlement.settle()

        assert [answer.status_code for answer in answers] == [200] * 3
        assert spending.spent == 3 * PRICE * 10**12
        assert await chain.balance(payee.settings.pay_to) == 3 * PRICE


@pytest.mark.parametrize("path", ["/exact", "/channel"])
async def test_t9_an_agent_pays_from_a_contract_that_its_first_payment_makes(
    agentpay_shared_chain: LocalChain, path: str
) -> None:
    chain = agentpay_shared_chain
    new = await a_new_wallet(chain)
    pair = a_pair(
        chain,
        not_there_yet(new),
        voucher_key=Wallet.create(),
        wallet_factories=(new.factory,),
    )
    async with pair as (agent, wire, _payee):
        answers = [await agent.get(BASE + path) for _ in range(3)]
        first, second, _ = wire.credentials

        assert [answer.status_code for answer in answers] == [200] * 3
        assert await new.is_there()
        assert wrapped(first)
        assert path == "/channel" or not wrapped(second)


async def test_a_contract_pays_by_permit2_what_it_approved(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain, owner = agentpay_shared_chain, Wallet.create()
    address = await a_contract_wallet(chain, owner.address)
    wallet = SmartWallet(address, owner)
    async with a_pair(chain, wallet, transfer_methods=("permit2",)) as (agent, _, _p):
        with pytest.raises(ApprovalNeeded):
            await agent.get(BASE + "/exact")
        await approve(chain, address, PRICE)
        answer = await agent.get(BASE + "/exact")

        assert answer.status_code == 200


async def approve(chain: LocalChain, owner: Address, amount: int) -> None:
    call = approve_call(chain.usdc.address, spender=PERMIT2, amount=amount)
    await chain.node.set_balance(owner, 10**18)
    await chain.node.transact(owner, call.data, to=call.to)


async def test_vouchers_of_a_contract_need_a_key_of_their_own(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain, owner = agentpay_shared_chain, Wallet.create()
    wallet = SmartWallet(await a_contract_wallet(chain, owner.address), owner)
    async with a_pair(chain, wallet) as (agent, wire, _payee):
        with pytest.raises(ConfigurationError, match="voucher_key"):
            await agent.get(BASE + "/channel")
        spending = await agent.spending()

        assert (spending.spent, spending.held, wire.credentials) == (0, 0, [])


async def test_a_contract_that_nobody_can_make_pays_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    new = await a_new_wallet(chain)
    wallet = SmartWallet(new.address, new.owner)
    async with a_pair(chain, wallet) as (agent, wire, _payee):
        with pytest.raises(ConfigurationError, match="not deployed"):
            await agent.get(BASE + "/exact")
        spending = await agent.spending()

        assert (spending.spent, spending.held, wire.credentials) == (0, 0, [])


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("0x12", {}),
        ("0x" + "11" * 20, {"factory": "0x12", "factory_data": b"x"}),
        ("0x" + "11" * 20, {"factory": "0x" + "22" * 20}),
        ("0x" + "11" * 20, {"factory_data": b"x"}),
    ],
)
def test_a_smart_wallet_is_described_whole(
    address: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match="smart wallet"):
        SmartWallet(address, Wallet.create(), **options)


async def test_each_contract_of_an_owner_has_its_own_channels() -> None:
    owner = Wallet.create()
    one, two = (SmartWallet("0x" + byte * 20, owner) for byte in ("11", "22"))
    signers: tuple[Signer, ...] = (owner, one, two)
    secrets = {await signer.derive_secret(b"salt") for signer in signers}

    assert len(secrets) == 3
    assert "0x11" in repr(one)


async def delegate(chain: LocalChain, wallet: Wallet, to: Address) -> None:
    """Give an account the code of another, by a real transaction of type 4."""
    sender = await chain.funded_wallet(0)
    signed = Account.from_key(wallet.gas_key()).sign_authorization(
        {"chainId": chain.chain_id, "address": to.to_bytes(), "nonce": 0}
    )
    transaction = {
        "type": 4,
        "chainId": chain.chain_id,
        "nonce": 0,
        "to": wallet.address.to_bytes(),
        "value": 0,
        "data": b"",
        "gas": 100_000,
        "maxFeePerGas": 10**11,
        "maxPriorityFeePerGas": 1,
        "authorizationList": [signed],
    }
    sent = Account.from_key(sender.gas_key()).sign_transaction(transaction)
    raw = "0x" + bytes(sent.raw_transaction).hex()
    await chain.node.rpc("eth_sendRawTransaction", raw)
    for _ in range(20):
        await chain.node.mine()
        if await chain.node.code(wallet.address):
            break

    code = await chain.node.code(wallet.address)
    assert code == bytes.fromhex("ef0100") + to.to_bytes()


@pytest.mark.parametrize("path", ["/exact", "/channel"])
async def test_t9_an_account_with_code_that_takes_its_key_pays_as_before(
    agentpay_shared_chain: LocalChain, path: str
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet(ether=0)
    async with a_pair(chain, wallet) as (agent, _, payee):
        before = await agent.get(BASE + path)
        await delegate(chain, wallet, await deploy(chain, "Delegate7702"))
        answers = [await agent.get(BASE + path) for _ in range(2)]
        await payee.settlement.claim()
        await payee.settlement.settle()

        assert before.status_code == 200
        assert [answer.status_code for answer in answers] == [200, 200]
        assert await chain.balance(payee.settings.pay_to) == 3 * PRICE


@pytest.mark.parametrize("path", ["/exact", "/channel"])
async def test_t9_an_account_whose_code_refuses_its_key_is_rejected_before_it_is_served(
    agentpay_shared_chain: LocalChain, path: str
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet(ether=0)
    refuses = await a_contract_wallet(chain, ZERO_ADDRESS)
    await delegate(chain, wallet, refuses)
    async with a_pair(chain, wallet) as (agent, _, payee):
        with pytest.raises(PaymentRejected):
            await agent.get(BASE + path)

        assert await chain.balance(payee.settings.pay_to) == 0
        assert (await agent.spending()).spent == 0
