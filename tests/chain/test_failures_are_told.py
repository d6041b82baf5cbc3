"""Who watches a chain is told which endpoint fails, and not of calls that revert."""

from collections import Counter

import pytest

from agentpay.chain.json_rpc import NodeRefused
from agentpay.chain.rpc import RpcChain
from agentpay.errors import ChainUnreachable, TransactionFailed
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from tests.chain.chain_cases import REVERTS_WITH_CALL_DATA, call_of, place


class Told(Counter[tuple[str, str]]):
    """Failures by endpoint and code."""

    def __call__(self, endpoint: str, code: str) -> None:
        self[endpoint, code] += 1


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.UNAVAILABLE, ChainUnreachable.code),
        (Fault.REQUEST_BROKEN, NodeRefused.code),
    ],
)
async def test_an_endpoint_that_fails_is_told_of_though_another_answers(
    agentpay_shared_chain: LocalChain, fault: Fault, code: str
) -> None:
    local, told = agentpay_shared_chain, Told()
    async with FaultyRpc(local.rpc_url) as rpc:
        urls = [f"{rpc.url}/SECRET", local.rpc_url]
        async with RpcChain(urls, chain_id=local.chain_id, failed=told) as chain:
            await chain.head()
            before = dict(told)
            rpc.plan("eth_getBlockByNumber", fault)
            await chain.head()
        where = rpc.url.rstrip("/")

    assert before == {}
    assert set(told) == {(where, code)}


async def test_the_only_endpoint_that_fails_is_told_of_and_raises(
    agentpay_shared_chain: LocalChain,
) -> None:
    local, told = agentpay_shared_chain, Told()
    async with FaultyRpc(local.rpc_url) as rpc:
        rpc.outage = Fault.REQUEST_DROPPED
        async with RpcChain(rpc.url, chain_id=local.chain_id, failed=told) as chain:
            with pytest.raises(ChainUnreachable):
                await chain.head()

    assert told.total() > 0
    assert {code for _, code in told} == {ChainUnreachable.code}


async def test_a_call_that_reverts_is_no_failure_of_its_endpoint(
    agentpay_shared_chain: LocalChain,
) -> None:
    local, told = agentpay_shared_chain, Told()
    reverts = await place(local.node, REVERTS_WITH_CALL_DATA)
    url = local.rpc_url
    async with RpcChain(url, chain_id=local.chain_id, failed=told) as chain:
        with pytest.raises(TransactionFailed):
            await chain.read([call_of(reverts, b"no")])

    assert told == {}
