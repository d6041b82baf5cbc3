"""Threats F8, F9 and K13: several endpoints of one chain, some of them unwell."""

import asyncio
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest

from agentpay.chain.endpoints import Endpoints, open_endpoints
from agentpay.chain.height import Height
from agentpay.chain.rpc import RpcChain
from agentpay.errors import (
    ChainUnreachable,
    ConfigurationError,
    TransactionFailed,
    WrongChain,
)
from agentpay.testing.anvil import Anvil
from agentpay.testing.anvil_node import AnvilNode
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.types import ChainId
from tests.chain.chain_cases import (
    COUNTS,
    LOCAL,
    LOGS,
    RETURNS_BLOCK_NUMBER,
    REVERTS_WITH_CALL_DATA,
    call_of,
    counted,
    place,
    rich_wallet,
    sender_of,
    used_nonces,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two endpoints of one node, and a chain that reads through both."""

    first: FaultyRpc
    second: FaultyRpc
    chain: RpcChain


@asynccontextmanager
async def two_proxies(node: AnvilNode) -> AsyncIterator[tuple[FaultyRpc, FaultyRpc]]:
    async with FaultyRpc(node.url) as first, FaultyRpc(node.url) as second:
        yield first, second


@asynccontextmanager
async def two_endpoints(node: AnvilNode) -> AsyncIterator[Pair]:
    async with two_proxies(node) as (first, second):
        urls = f"{first.url}/SECRET,{second.url}/SECRET"
        async with RpcChain(urls, chain_id=LOCAL, timeout_seconds=0.5) as chain:
            yield Pair(first=first, second=second, chain=chain)


@pytest.mark.parametrize("fault", [f for f in Fault if f is not Fault.ANSWER_HANGS])
async def test_f8_what_one_endpoint_fails_to_read_another_reads(
    agentpay_chain: LocalChain, fault: Fault
) -> None:
    async with two_endpoints(agentpay_chain.node) as pair:
        pair.first.plan("eth_blockNumber", fault, times=2)
        head = await pair.chain.head()

    assert head.number > 0
    assert len(pair.second.requests) >= 1


async def test_an_endpoint_that_failed_rests_and_is_the_first_again_later(
    agentpay_chain: LocalChain,
) -> None:
    async with two_endpoints(agentpay_chain.node) as pair:
        pair.first.plan("eth_blockNumber", Fault.UNAVAILABLE)
        await pair.chain.head()
        failed = len(pair.first.requests)
        await pair.chain.head()
        rested = len(pair.first.requests)
        await asyncio.sleep(1.1)
        await pair.chain.head()
        back = len(pair.first.requests)

    assert rested == failed
    assert back == failed + 1


async def test_a_call_that_reverts_is_not_asked_of_the_next_endpoint(
    agentpay_chain: LocalChain,
) -> None:
    faulty = await place(agentpay_chain.node, REVERTS_WITH_CALL_DATA)
    async with two_endpoints(agentpay_chain.node) as pair:
        with pytest.raises(TransactionFailed):
            await pair.chain.read([call_of(faulty)])

    assert pair.second.requests == []


async def test_k13_a_replica_that_is_behind_what_was_seen_is_not_read_from() -> None:
    async with Anvil(no_mining=True) as node, two_endpoints(node) as pair:
        address = await place(node, RETURNS_BLOCK_NUMBER)
        await pair.chain.check()
        frozen = await pair.second.freeze()
        await node.mine(5)
        seen = await pair.chain.head()
        pair.first.plan("eth_blockNumber", Fault.UNAVAILABLE, times=1000)
        with pytest.raises(ChainUnreachable, match=f"at block {frozen}"):
            await pair.chain.read([call_of(address)])
        pair.second.heal()
        [answer] = await pair.chain.read([call_of(address)])

    assert seen.number == frozen + 5
    assert int.from_bytes(answer, "big") >= seen.number


async def test_k13_a_first_endpoint_that_stops_following_is_passed_over() -> None:
    async with Anvil(no_mining=True) as node, two_endpoints(node) as pair:
        await pair.chain.check()
        await pair.first.freeze()
        await node.mine(3)
        pair.first.plan("eth_blockNumber", Fault.REQUEST_DROPPED, times=2)
        newest = await pair.chain.head()
        await asyncio.sleep(1.1)  # the first is asked again, and has not moved
        still = await pair.chain.head()

    assert newest.number == still.number


async def test_f9_a_chain_that_was_turned_back_is_believed_after_a_while() -> None:
    async with Anvil(no_mining=True) as node:
        both = open_endpoints([node.url] * 2, chain=LOCAL, timeout_seconds=1)
        rpc = Endpoints(both, height=Height(turned_back_seconds=0.3))
        await node.mine(2)
        snapshot = await node.snapshot()
        await node.mine(3)
        await rpc.call("eth_blockNumber")
        await node.revert(snapshot)
        with pytest.raises(ChainUnreachable, match="5 was seen"):
            await rpc.call("eth_blockNumber")
        await asyncio.sleep(0.4)
        after = await rpc.call("eth_blockNumber")
        await rpc.aclose()

    assert after == "0x3"


async def test_k13_a_stale_replica_is_not_believed_after_a_quiet_while() -> None:
    async with Anvil(no_mining=True) as node, two_proxies(node) as (first, second):
        urls = [first.url, second.url]
        both = open_endpoints(urls, chain=LOCAL, timeout_seconds=1)
        rpc = Endpoints(both, height=Height(turned_back_seconds=0.3))
        await second.freeze()
        await node.mine(5)
        await rpc.call("eth_blockNumber")
        await asyncio.sleep(0.4)  # nobody asks for anything
        first.plan("eth_blockNumber", Fault.UNAVAILABLE)
        with pytest.raises(ChainUnreachable, match="5 was seen"):
            await rpc.call("eth_blockNumber")
        await rpc.aclose()


async def test_k13_a_stale_replica_is_not_believed_while_another_is_silent() -> None:
    async with Anvil(no_mining=True) as node, two_proxies(node) as (first, second):
        urls = [first.url, second.url]
        both = open_endpoints(urls, chain=LOCAL, timeout_seconds=1)
        rpc = Endpoints(both, height=Height(turned_back_seconds=0.3))
        await second.freeze()
        await node.mine(5)
        await rpc.call("eth_blockNumber")
        first.outage = Fault.UNAVAILABLE
        for _ in range(3):
            with pytest.raises(ChainUnreachable, match="5 was seen"):
                await rpc.call("eth_blockNumber")
            await asyncio.sleep(0.2)
        first.heal()
        healed = await rpc.call("eth_blockNumber")
        await rpc.aclose()

    assert healed == "0x5"


# One URL that is many nodes


@asynccontextmanager
async def one_url(
    node: AnvilNode, *, turned_back_seconds: float = 60
) -> AsyncIterator[tuple[FaultyRpc, RpcChain]]:
    async with (
        FaultyRpc(node.url) as proxy,
        RpcChain(
            proxy.url, chain_id=LOCAL, turned_back_seconds=turned_back_seconds
        ) as chain,
    ):
        yield proxy, chain


async def test_k13_a_node_behind_one_url_that_lags_is_waited_for() -> None:
    async with Anvil(no_mining=True) as node, one_url(node) as (proxy, chain):
        address = await place(node, RETURNS_BLOCK_NUMBER)
        await node.mine(5)
        seen = await chain.head()
        await proxy.freeze(behind=2)
        reading = asyncio.create_task(chain.read([call_of(address)]))
        await asyncio.sleep(0.2)
        proxy.heal()
        [answer] = await reading

    assert int.from_bytes(answer, "big") == seen.number


async def test_k13_a_node_behind_one_url_that_goes_on_lagging_is_not_believed() -> None:
    async with Anvil(no_mining=True) as node, one_url(node) as (proxy, chain):
        address = await place(node, RETURNS_BLOCK_NUMBER)
        await node.mine(5)
        await chain.head()
        await proxy.freeze(behind=1)
        with pytest.raises(ChainUnreachable, match="at block 4, 5 was seen"):
            await chain.read([call_of(address)])
        with pytest.raises(ChainUnreachable, match="at block 4, 5 was seen"):
            await chain.head()
        proxy.heal()
        [answer] = await chain.read([call_of(address)])

    assert int.from_bytes(answer, "big") == 5


async def test_k13_logs_of_a_node_that_lags_are_waited_for() -> None:
    """What it has not got it leaves out: a payment would be none."""
    async with Anvil(no_mining=True) as node, one_url(node) as (proxy, chain):
        address = await place(node, LOGS)
        await node.mine(5)
        await node.transact((await rich_wallet(node)).address, b"", to=address)
        seen = (await chain.head()).number
        read = partial(
            chain.logs, address=address, topics=[], first_block=0, last_block=seen
        )
        await proxy.freeze(behind=1)
        with pytest.raises(ChainUnreachable, match="at block 5, 6 was seen"):
            await read()
        reading = asyncio.create_task(read())
        await asyncio.sleep(0.2)
        proxy.heal()
        (log,) = await reading

    assert log.block == seen


@pytest.mark.parametrize(("blocks", "believed"), [(64, True), (65, False)])
async def test_f9_more_blocks_than_a_reorg_takes_are_not_given_up_as_soon(
    blocks: int, believed: bool
) -> None:
    async with (
        Anvil(no_mining=True) as node,
        one_url(node, turned_back_seconds=0.1) as (proxy, chain),
    ):
        await node.mine(90)
        await chain.head()
        await proxy.freeze(behind=blocks)
        with pytest.raises(ChainUnreachable):
            await chain.head()
        await asyncio.sleep(0.1)
        if believed:
            assert (await chain.head()).number == 90 - blocks
        else:
            with pytest.raises(ChainUnreachable, match="90 was seen"):
                await chain.head()


async def test_an_endpoint_of_another_chain_is_named_at_the_start(
    agentpay_chain: LocalChain,
) -> None:
    async with Anvil(chain_id=ChainId(1337)) as other:
        urls = [agentpay_chain.rpc_url, other.url + "/?SECRET"]
        async with RpcChain(urls, chain_id=LOCAL) as chain:
            with pytest.raises(WrongChain, match="serves chain 1337") as caught:
                await chain.check()

    assert "SECRET" not in str(caught.value)


async def test_an_endpoint_of_another_chain_is_neither_read_from_nor_sent_to(
    agentpay_chain: LocalChain,
) -> None:
    node = agentpay_chain.node
    wallet, counter = await rich_wallet(node), await place(node, COUNTS)
    async with (
        Anvil(chain_id=ChainId(1337)) as other,
        FaultyRpc(other.url) as proxy,
        RpcChain([proxy.url, node.url], chain_id=LOCAL) as chain,
        sender_of(chain, wallet) as sender,
    ):
        await sender.send(call_of(counter))

    methods = {call["method"] for calls in proxy.requests for call in calls}
    assert methods == {"eth_chainId"}
    assert await counted(node, counter) == 1


async def test_one_endpoint_that_is_out_of_reach_does_not_keep_us_from_starting(
    agentpay_chain: LocalChain,
) -> None:
    urls = ["http://127.0.0.1:9", agentpay_chain.rpc_url]
    async with RpcChain(urls, chain_id=LOCAL) as chain:
        await chain.check()
        head = await chain.head()
    async with RpcChain(urls[:1] * 2, chain_id=LOCAL) as chain:
        with pytest.raises(ChainUnreachable):
            await chain.check()

    assert head.number > 0


async def test_f8_no_error_names_the_secrets_of_any_endpoint() -> None:
    urls = ["http://127.0.0.1:9/SECRET", "http://u:sesame@127.0.0.1:9/?key=HIDDEN"]
    async with RpcChain(urls, chain_id=LOCAL) as chain:
        with pytest.raises(ChainUnreachable, match=r"127\.0\.0\.1:9") as caught:
            await chain.head()
    shown = "".join(traceback.format_exception(caught.value))

    assert not any(secret in shown for secret in ("sesame", "SECRET", "HIDDEN"))


@pytest.mark.parametrize(
    "fault",
    [
        Fault.REQUEST_DROPPED,
        Fault.ANSWER_DROPPED,
        Fault.REQUEST_REFUSED,
        Fault.ANSWER_BROKEN,
        Fault.UNAVAILABLE,
        Fault.HANGS,
        Fault.ANSWER_HANGS,
    ],
)
async def test_f8_a_transaction_that_one_endpoint_loses_goes_by_the_other(
    agentpay_chain: LocalChain, fault: Fault
) -> None:
    node = agentpay_chain.node
    wallet, counter = await rich_wallet(node), await place(node, COUNTS)
    async with (
        two_endpoints(node) as pair,
        sender_of(pair.chain, wallet, mined_within_seconds=8) as sender,
    ):
        pair.first.plan("eth_sendRawTransaction", fault, times=3)
        await asyncio.gather(*(sender.send(call_of(counter)) for _ in range(3)))

    assert await counted(node, counter) == 3
    assert await used_nonces(node, wallet.address) == (3, 3)


async def test_f8_both_endpoints_failing_leaves_no_gap(
    agentpay_chain: LocalChain,
) -> None:
    node = agentpay_chain.node
    wallet, counter = await rich_wallet(node), await place(node, COUNTS)
    async with (
        two_endpoints(node) as pair,
        sender_of(pair.chain, wallet, mined_within_seconds=8) as sender,
    ):
        pair.first.plan("eth_sendRawTransaction", Fault.ANSWER_DROPPED, times=2)
        pair.second.plan("eth_sendRawTransaction", Fault.REQUEST_DROPPED, times=2)
        await asyncio.gather(*(sender.send(call_of(counter)) for _ in range(3)))

    assert await counted(node, counter) == 3
    assert await used_nonces(node, wallet.address) == (3, 3)


@pytest.mark.parametrize("url", [[], ["ws://h:1"], "http://a:1,ftp://b:2"])
def test_what_names_no_endpoints_is_refused(url: str | list[str]) -> None:
    with pytest.raises(ConfigurationError):
        RpcChain(url, chain_id=LOCAL)


async def test_a_slow_endpoint_is_given_up_for_the_next(
    agentpay_chain: LocalChain,
) -> None:
    async with two_endpoints(agentpay_chain.node) as pair:
        pair.first.delay_seconds = 5
        async with asyncio.timeout(3):
            await pair.chain.head()
