"""A furnished chain: what is where, who has what, and whose chains are left alone."""

import asyncio
import json

import pytest

from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.errors import ChainUnreachable, TransactionFailed
from agentpay.evm.addresses import (
    BATCH_SETTLEMENT,
    ERC3009_COLLECTOR,
    EXACT_PROXY,
    MULTICALL3,
    PERMIT2,
    PERMIT2_COLLECTOR,
    UPTO_PROXY,
)
from agentpay.evm.batch_settlement import separator
from agentpay.evm.calls import Call
from agentpay.evm.eip3009 import token_separator
from agentpay.evm.hashing import address_word, domain_separator, keccak, uint_word
from agentpay.evm.networks import LOCAL
from agentpay.signers.wallet import Wallet
from agentpay.testing.anvil import Anvil
from agentpay.testing.anvil_node import UnsuitableNode
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address


async def view(chain: LocalChain, to: Address, signature: str) -> bytes:
    data = keccak(signature.encode())[:4]
    async with RpcChain(chain.rpc_url, chain_id=chain.chain_id) as reader:
        [answer] = await reader.read([Call(to=to, data=data, what=signature)])
    return answer


async def test_the_channel_contract_signs_for_its_canonical_address(
    agentpay_chain: LocalChain,
) -> None:
    answer = await view(agentpay_chain, BATCH_SETTLEMENT, "eip712Domain()")

    assert b"x402 Batch Settlement" in answer
    assert address_word(BATCH_SETTLEMENT) in answer
    assert uint_word(agentpay_chain.chain_id) in answer
    assert len(separator(agentpay_chain.chain_id)) == 32


@pytest.mark.parametrize(
    ("where", "signature", "expected"),
    [
        (ERC3009_COLLECTOR, "x402BatchSettlement()", BATCH_SETTLEMENT),
        (PERMIT2_COLLECTOR, "x402BatchSettlement()", BATCH_SETTLEMENT),
        (PERMIT2_COLLECTOR, "PERMIT2()", PERMIT2),
        (EXACT_PROXY, "PERMIT2()", PERMIT2),
        (UPTO_PROXY, "PERMIT2()", PERMIT2),
    ],
)
async def test_a_contract_obeys_those_at_their_canonical_addresses(
    agentpay_chain: LocalChain, where: Address, signature: str, expected: Address
) -> None:
    assert await view(agentpay_chain, where, signature) == address_word(expected)


async def test_permit2_signs_for_its_canonical_address(
    agentpay_chain: LocalChain,
) -> None:
    expected = domain_separator(
        name="Permit2", version=None, chain=agentpay_chain.chain_id, contract=PERMIT2
    )

    assert await view(agentpay_chain, PERMIT2, "DOMAIN_SEPARATOR()") == expected


async def test_many_calls_are_made_at_the_canonical_address(
    agentpay_chain: LocalChain,
) -> None:
    answer = await view(agentpay_chain, MULTICALL3, "getChainId()")

    assert answer == uint_word(agentpay_chain.chain_id)


async def test_the_token_is_what_its_asset_declares(agentpay_chain: LocalChain) -> None:
    usdc = agentpay_chain.usdc

    assert usdc == LOCAL.usdc
    assert await view(
        agentpay_chain, usdc.address, "DOMAIN_SEPARATOR()"
    ) == token_separator(usdc)
    assert await view(agentpay_chain, usdc.address, "decimals()") == uint_word(6)


async def test_funding_adds_to_what_an_account_has(agentpay_chain: LocalChain) -> None:
    wallet = await agentpay_chain.funded_wallet("$1.50", ether=2)
    await agentpay_chain.fund(wallet.address, 7, ether=1)
    ether = await agentpay_chain.node.rpc("eth_getBalance", wallet.address, "latest")

    assert await agentpay_chain.balance(wallet.address) == 1_500_007
    assert int(ether, 16) == 3 * 10**18


async def test_many_accounts_are_funded_at_once(agentpay_chain: LocalChain) -> None:
    wallets = await asyncio.gather(*(agentpay_chain.funded_wallet() for _ in range(40)))
    balances = [await agentpay_chain.balance(wallet.address) for wallet in wallets]

    assert balances == [100_000_000] * 40


async def test_a_funded_wallet_can_send(agentpay_chain: LocalChain) -> None:
    wallet, other = await agentpay_chain.funded_wallet(), Wallet.create().address
    data = keccak(b"transfer(address,uint256)")[:4] + address_word(other) + uint_word(5)
    call = Call(to=agentpay_chain.usdc.address, data=data, what="transfer")
    async with (
        RpcChain(agentpay_chain.rpc_url, chain_id=agentpay_chain.chain_id) as chain,
        TransactionSender(chain, key=wallet.gas_key()) as sender,
    ):
        await sender.send(call)

    assert await agentpay_chain.balance(other) == 5


async def test_nobody_else_mints(agentpay_chain: LocalChain) -> None:
    wallet = await agentpay_chain.funded_wallet()
    data = keccak(b"mint(address,uint256)")[:4] + address_word(wallet.address)
    call = Call(to=agentpay_chain.usdc.address, data=data + uint_word(1), what="mint")
    async with (
        RpcChain(agentpay_chain.rpc_url, chain_id=agentpay_chain.chain_id) as chain,
        TransactionSender(chain, key=wallet.gas_key()) as sender,
    ):
        with pytest.raises(TransactionFailed):
            await sender.simulate(call)


def test_every_new_key_is_another_and_makes_a_wallet() -> None:
    chain = LocalChain()
    keys = {chain.new_key() for _ in range(20)}

    assert len({Wallet.from_key(key).address for key in keys}) == 20


async def test_a_chain_without_mining_is_furnished_all_the_same() -> None:
    async with LocalChain(no_mining=True) as chain:
        wallet = await chain.funded_wallet()

        assert await chain.balance(wallet.address) == 100_000_000


async def test_somebody_elses_anvil_is_furnished_twice_and_left_running() -> None:
    async with Anvil(chain_id=1337) as node:
        async with LocalChain(rpc_url=node.url) as first:
            wallet = await first.funded_wallet()
        async with LocalChain(rpc_url=node.url) as second:
            await second.fund(wallet.address, "$1")

            assert second.chain_id == second.usdc.chain == 1337
            assert second.network.rpc_url == node.url
            assert await second.balance(wallet.address) == 101_000_000
        assert await node.rpc("eth_chainId") == "0x539"


async def test_a_chain_that_is_not_local_is_left_alone() -> None:
    async with Anvil(chain_id=8453) as node:
        with pytest.raises(UnsuitableNode, match="8453"):
            await LocalChain(rpc_url=node.url).start()

        assert await node.code(BATCH_SETTLEMENT) == b""
        assert await node.code(LOCAL.usdc.address) == b""


async def test_another_contract_in_place_of_the_token_is_left_alone() -> None:
    async with Anvil() as node:
        await node.set_code(LOCAL.usdc.address, b"\x00")
        with pytest.raises(UnsuitableNode, match=LOCAL.usdc.address):
            await LocalChain(rpc_url=node.url).start()

        assert await node.code(LOCAL.usdc.address) == b"\x00"


async def test_a_node_that_is_not_anvil_is_left_alone() -> None:
    asked: list[str] = []

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        method = json.loads(await reader.readexactly(length))["method"]
        asked.append(method)
        result = "Geth/v1.16" if method == "web3_clientVersion" else "0x7a69"
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UnsuitableNode, match="Geth"):
            await LocalChain(rpc_url=f"http://127.0.0.1:{port}").start()

    assert asked == ["web3_clientVersion", "eth_chainId"]


async def test_a_node_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(ChainUnreachable):
        await LocalChain(rpc_url="http://127.0.0.1:9").start()
