"""Tokens that are not what they should be: nobody is told yes for one."""

import pytest

from agentpay import Wallet
from agentpay.errors import UnsuitableToken, WrongChain
from agentpay.evm.hashing import address_word, uint_word
from agentpay.evm.networks import BASE_SEPOLIA
from agentpay.facilitator.service import FacilitatorTerms
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Asset
from agentpay.wire import x402_asks as asks
from tests.facilitator.world import AMOUNT, a_desk, a_host, a_transfer
from tests.tokens.test_awkward_tokens import RICH, act, call_data, deploy


@pytest.mark.parametrize("kind", ["FalseToken", "FeeToken"])
async def test_f4_a_transaction_that_moved_something_else_is_no_success(
    agentpay_shared_chain: LocalChain, kind: str
) -> None:
    """Its status is 1: it said false, or took a fee of what it moved."""
    chain = agentpay_shared_chain
    network = await deploy(chain, kind)
    payer, payee = Wallet.create(), Wallet.create().address
    mint = "mint(address,uint256)"
    await act(
        chain, network, call_data(mint, address_word(payer.address), uint_word(RICH))
    )
    if kind == "FalseToken":
        paused = call_data("setFailing(bool)", uint_word(1))
        await act(chain, network, paused)
    terms = FacilitatorTerms(assets=(network.usdc,))
    transfer = await a_transfer(network.usdc, payer, payee)
    async with a_desk(chain, network=network, terms=terms) as desk:
        settled = await desk.settle(asks.transfer_request(transfer, AMOUNT))

    assert not settled["success"]
    assert settled["errorReason"] == "invalid_transaction_state"


async def test_f6_an_asset_that_is_not_what_is_declared_stops_it_at_the_start(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    usdc = chain.usdc

    def asset(**changes: object) -> Asset:
        fields = {
            "chain": usdc.chain,
            "address": usdc.address,
            "decimals": 6,
            "name": "USDC",
            "version": "2",
        }
        return Asset(**{**fields, **changes})  # type: ignore[arg-type]

    for wrong in (
        asset(name="USD Coin"),
        asset(decimals=18),
        asset(address=Wallet.create().address),
    ):
        host = await a_host(chain, terms=FacilitatorTerms(assets=(wrong,)))
        with pytest.raises(UnsuitableToken):
            await host.start()
    elsewhere = await a_host(chain, network=BASE_SEPOLIA, rpc_url=chain.rpc_url)
    with pytest.raises(WrongChain):
        await elsewhere.start()
