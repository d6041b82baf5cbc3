"""C12: a channel is opened only where its contract is, and is looked at once."""

from dataclasses import replace
from typing import Any

import pytest

from agentpay.errors import OfferUntrusted
from agentpay.evm.addresses import BATCH_SETTLEMENT
from agentpay.evm.artifacts import load_artifact
from agentpay.evm.batch_settlement_abi import voucher_digest_call
from agentpay.testing.faulty_rpc import FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32
from tests.http.test_paying import a_counting_wallet
from tests.http.world import BASE, a_shop, an_agent, through
from tests.payer.test_lanes import EXACTLESS

DIGEST = "0x" + voucher_digest_call(Hash32.of(bytes(32)), 1).data[:4].hex()


@pytest.mark.parametrize(
    "code",
    [b"", load_artifact("TestUSDC").runtime, bytes.fromhex("6103845f5260205ff3")],
    ids=["nothing", "a token", "a contract that hashes otherwise"],
)
async def test_c12_nothing_is_signed_for_channels_of_another_contract(
    agentpay_chain: LocalChain, code: bytes
) -> None:
    chain = agentpay_chain
    wallet = await a_counting_wallet(chain)
    async with (
        a_shop(chain) as (_, _, paywall),
        await an_agent(chain, through(paywall), wallet=wallet) as agent,
    ):
        await chain.node.set_code(BATCH_SETTLEMENT, code)
        with pytest.raises(OfferUntrusted, match="not x402's contract of channels"):
            await agent.get(EXACTLESS)
        spending = await agent.spending()

    assert wallet.signatures == 0
    assert spending.spent == spending.held == 0


async def test_c12_the_contract_of_channels_is_asked_once_per_chain(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with FaultyRpc(chain.rpc_url) as rpc:
        network = replace(chain.network, rpc_url=rpc.url)
        async with (
            a_shop(chain) as (_, _, paywall),
            await an_agent(chain, through(paywall), network=network) as agent,
        ):
            for origin in (BASE, "https://another.example", BASE):
                answer = await agent.get(EXACTLESS.replace(BASE, origin))
                assert answer.status_code == 200
            channels = await agent.channels()

    assert len(channels) == 2
    assert len([trip for trip in rpc.requests if _begins_to_ask(trip)]) == 1


def _begins_to_ask(trip: list[dict[str, Any]]) -> bool:
    """
    Whether a request looks at the contract, and not again because a block came: only
    the first trip asks which block is the last as well.
    """
    looks = any(DIGEST[2:] in str(call["params"]) for call in trip)
    return looks and "eth_blockNumber" in [call["method"] for call in trip]
