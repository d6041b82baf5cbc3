"""A facilitator is told addresses; what they are is what their contracts prove."""

from dataclasses import replace
from typing import Any

import pytest

from agentpay import Wallet
from agentpay.chain.rpc import RpcChain
from agentpay.errors import UnsuitableToken
from agentpay.evm.addresses import MULTICALL3
from agentpay.evm.hashing import selector
from agentpay.facilitator.assets import read_asset
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Asset
from tests.wallets import deploy


async def read(chain: LocalChain, token: Address) -> Asset:
    async with RpcChain(chain.rpc_url, chain_id=chain.network.chain) as rpc:
        return await read_asset(rpc, token)


def without(code: bytes, *functions: str) -> bytes:
    """The same contract, in which functions have another selector."""
    for function in functions:
        known = b"\x63" + selector(function)
        assert known in code
        code = code.replace(known, known[:-1] + bytes([known[-1] ^ 1]))
    return code


async def test_the_dollar_is_what_we_know_it_as(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain

    assert await read(chain, chain.usdc.address) == chain.usdc


TOLD = {
    "Plain3009": {"decimals": 6, "name": "Plain 3009", "version": "1", "eip3009": True},
    "PermitToken": {
        "decimals": 18,
        "name": "Permit Token",
        "version": "1",
        "eip3009": False,
    },
    "PlainToken": {"decimals": 18, "name": "", "version": "", "eip3009": False},
    "NoReturnToken": {"decimals": 6, "name": "", "version": "", "eip3009": False},
}


@pytest.mark.parametrize("kind", TOLD)
async def test_a_token_is_what_its_contract_says(
    agentpay_shared_chain: LocalChain, kind: str
) -> None:
    chain = agentpay_shared_chain
    token = await deploy(chain, kind)
    told: dict[str, Any] = TOLD[kind]

    assert await read(chain, token) == replace(chain.usdc, address=token, **told)


async def test_a_domain_is_read_as_the_deployed_dollar_tells_it(
    agentpay_chain: LocalChain,
) -> None:
    """By name and version: it was deployed before EIP-5267."""
    chain = agentpay_chain
    code = without(await chain.node.code(chain.usdc.address), "eip712Domain()")
    await chain.node.set_code(chain.usdc.address, code)

    assert await read(chain, chain.usdc.address) == chain.usdc


async def test_a_domain_that_is_not_told_has_to_be_declared(
    agentpay_chain: LocalChain,
) -> None:
    chain = agentpay_chain
    hidden = ("eip712Domain()", "version()")
    code = without(await chain.node.code(chain.usdc.address), *hidden)
    await chain.node.set_code(chain.usdc.address, code)
    with pytest.raises(UnsuitableToken, match="declare it in Python"):
        await read(chain, chain.usdc.address)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (Wallet.create().address, "no contract"),
        (MULTICALL3, "0 to 18 decimals"),
    ],
    ids=["nobody", "no token"],
)
async def test_what_is_no_token_is_refused(
    agentpay_shared_chain: LocalChain, token: Address, why: str
) -> None:
    with pytest.raises(UnsuitableToken, match=why):
        await read(agentpay_shared_chain, token)


async def test_a_token_of_more_decimals_than_money_has_is_refused(
    agentpay_chain: LocalChain,
) -> None:
    chain, answers_900 = agentpay_chain, bytes.fromhex("6103845f5260205ff3")
    await chain.node.set_code(chain.usdc.address, answers_900)
    with pytest.raises(UnsuitableToken, match="0 to 18 decimals"):
        await read(chain, chain.usdc.address)
