"""Tokens that are not what one expects: refused at the start, or never believed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from eth_abi.abi import decode
from fastapi import FastAPI

from agentpay import Agent, Budget, Payee, PaymentRejected, Paywall, Route, Wallet
from agentpay.errors import TransactionFailed, UnsuitableToken
from agentpay.evm.artifacts import load_artifact
from agentpay.evm.hashing import address_word, keccak, uint_word
from agentpay.evm.networks import LOCAL, Network
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Asset, Money
from tests.programs import serving

ADMIN = Address("0x" + "ad" * 20)
RICH = 100_000_000


def call_data(signature: str, *words: bytes) -> bytes:
    return keccak(signature.encode())[:4] + b"".join(words)


async def _text(chain: LocalChain, token: Address, signature: str) -> str:
    call = {"to": token, "data": "0x" + call_data(signature).hex()}
    answer = await chain.node.rpc("eth_call", call, "latest")
    return str(decode(["string"], bytes.fromhex(answer[2:]))[0])


async def deploy(chain: LocalChain, name: str) -> Network:
    """A network whose dollar is one of the awkward tokens."""
    await chain.node.set_balance(ADMIN, 10**18)
    sent = await chain.node.transact(ADMIN, load_artifact(name).creation, to=None)
    receipt = await chain.node.rpc("eth_getTransactionReceipt", sent)
    token = Address(receipt["contractAddress"])
    call = {"to": token, "data": "0x" + call_data("decimals()").hex()}
    decimals = int(await chain.node.rpc("eth_call", call, "latest"), 16)
    plain = name in ("PlainToken", "NoReturnToken")
    asset = Asset(
        chain=chain.chain_id,
        address=token,
        decimals=decimals,
        name=name if plain else await _text(chain, token, "name()"),
        version="1" if plain else await _text(chain, token, "version()"),
    )
    return replace(LOCAL, usdc=asset, rpc_url=chain.rpc_url)


async def act(chain: LocalChain, network: Network, data: bytes) -> None:
    await chain.node.set_balance(ADMIN, 10**18)
    await chain.node.transact(ADMIN, data, to=network.usdc.address)


async def held(chain: LocalChain, network: Network, account: Address) -> int:
    data = call_data("balanceOf(address)", address_word(account))
    call = {"to": network.usdc.address, "data": "0x" + data.hex()}
    return int(await chain.node.rpc("eth_call", call, "latest"), 16)


@dataclass(kw_only=True)
class Shop:
    chain: LocalChain
    network: Network
    payee: Payee
    agent: Agent
    wallet: Wallet
    url: str
    served: int = 0


@asynccontextmanager
async def a_shop(chain: LocalChain, network: Network) -> AsyncIterator[Shop]:
    wallet = await chain.funded_wallet("$0", ether=0)
    if network.usdc != chain.usdc:
        minted = call_data(
            "mint(address,uint256)", address_word(wallet.address), uint_word(RICH)
        )
        await act(chain, network, minted)
    payee = Payee(await chain.funded_wallet("$0"), network=network)
    agent = Agent(
        wallet,
        budget=Budget(total=2_000_000, per_request=10_000),
        network=network,
        allow_private_networks=True,
    )
    app = FastAPI()
    shop = Shop(
        chain=chain, network=network, payee=payee, agent=agent, wallet=wallet, url=""
    )

    @app.get("/channel")
    @app.get("/exact")
    async def data() -> dict[str, int]:
        shop.served += 1
        return {"data": 1}

    exact = Route(price=1000, schemes=("exact",))
    routes: dict[str, Money | Route] = {"GET /channel": 1000, "GET /exact": exact}
    app.add_middleware(Paywall, payee=payee, routes=routes)
    async with serving(app) as url, agent:
        shop.url = url
        yield shop


async def _refuses_to_start(network: Network, chain: LocalChain, match: str) -> None:
    payee = Payee(await chain.funded_wallet("$0"), network=network)

    with pytest.raises(UnsuitableToken, match=match):
        await payee.start()


async def test_a_token_without_code_is_refused_at_the_start(
    agentpay_chain: LocalChain,
) -> None:
    empty = replace(agentpay_chain.usdc, address=Address("0x" + "77" * 20))
    network = replace(agentpay_chain.network, usdc=empty)

    await _refuses_to_start(network, agentpay_chain, "no contract")


@pytest.mark.parametrize("name", ["PlainToken", "NoReturnToken"])
async def test_a_token_without_eip3009_is_refused_at_the_start(
    name: str, agentpay_chain: LocalChain
) -> None:
    network = await deploy(agentpay_chain, name)

    await _refuses_to_start(network, agentpay_chain, "EIP-3009")


@pytest.mark.parametrize(
    ("declared", "match"),
    [
        ({"name": "USD Coin"}, "domain"),
        ({"version": "1"}, "domain"),
        ({"decimals": 18}, "decimals"),
    ],
)
async def test_t6_a_token_that_is_not_what_is_declared_is_refused_by_both_sides(
    declared: dict[str, str | int], match: str, agentpay_chain: LocalChain
) -> None:
    lie = replace(agentpay_chain.usdc, **declared)  # type: ignore[arg-type]  # fields
    network = replace(agentpay_chain.network, usdc=lie)

    await _refuses_to_start(network, agentpay_chain, match)


async def test_t1_a_channel_is_not_funded_by_less_than_was_signed(
    agentpay_chain: LocalChain,
) -> None:
    network = await deploy(agentpay_chain, "FeeToken")
    async with a_shop(agentpay_chain, network) as shop:
        with pytest.raises(PaymentRejected, match="deposit"):
            await shop.agent.get(f"{shop.url}/channel")

        assert shop.served == 0
        assert await held(agentpay_chain, network, shop.wallet.address) == RICH


async def test_t1_a_transfer_that_arrives_short_buys_nothing(
    agentpay_chain: LocalChain,
) -> None:
    network = await deploy(agentpay_chain, "FeeToken")
    async with a_shop(agentpay_chain, network) as shop:
        with pytest.raises(PaymentRejected):
            await shop.agent.get(f"{shop.url}/exact")


@pytest.mark.parametrize("path", ["/exact", "/channel"])
async def test_f4_t4_a_transfer_without_its_event_buys_nothing(
    path: str, agentpay_chain: LocalChain
) -> None:
    network = await deploy(agentpay_chain, "FalseToken")
    async with a_shop(agentpay_chain, network) as shop:
        await act(agentpay_chain, network, call_data("setFailing(bool)", uint_word(1)))
        with pytest.raises(PaymentRejected):
            await shop.agent.get(shop.url + path)

        assert shop.served in (0, 1)  # reserve-then-settle runs the handler of /exact
        assert await held(agentpay_chain, network, shop.payee.settings.pay_to) == 0


async def test_k8_a_token_that_calls_back_gains_nothing(
    agentpay_chain: LocalChain,
) -> None:
    network = await deploy(agentpay_chain, "ReentrantToken")
    async with a_shop(agentpay_chain, network) as shop:
        for _ in range(3):
            assert (await shop.agent.get(f"{shop.url}/channel")).status_code == 200
        await shop.payee.settlement.claim()

        assert await shop.payee.settlement.settle() == 3000


async def test_t5_a_rebasing_token_is_counted_as_the_contract_counts_it(
    agentpay_chain: LocalChain,
) -> None:
    network = await deploy(agentpay_chain, "RebasingToken")
    async with a_shop(agentpay_chain, network) as shop:
        assert (await shop.agent.get(f"{shop.url}/channel")).status_code == 200
        (record,) = await shop.agent.channels()

        assert record.ledger.spent == 1000


async def test_t5_a_payout_that_a_shrunk_escrow_cannot_make_is_made_later(
    agentpay_chain: LocalChain,
) -> None:
    network = await deploy(agentpay_chain, "RebasingToken")
    async with a_shop(agentpay_chain, network) as shop:
        assert (await shop.agent.get(f"{shop.url}/channel")).status_code == 200
        (channel,) = await shop.agent.channels()
        settlement = shop.payee.settlement
        await settlement.claim()
        before = await settlement.see_chain(channel.channel)
        await act(agentpay_chain, network, call_data("rebase(uint256)", uint_word(0)))
        with pytest.raises(TransactionFailed):
            await settlement.settle()
        after = await settlement.see_chain(channel.channel)
        whole = uint_word(100)
        await act(agentpay_chain, network, call_data("rebase(uint256)", whole))

        assert before is not None
        assert after is not None
        assert after.ledger == before.ledger
        assert await settlement.settle() == 1000
