"""Contracts of a few bytes, and the calls and counts that the chain tests make."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.evm.calls import Call
from agentpay.signers.wallet import Wallet
from agentpay.testing.anvil_node import AnvilNode
from agentpay.types import Address, ChainId

LOCAL = ChainId(31337)

RETURNS_BLOCK_NUMBER = bytes.fromhex("435f5260205ff3")
RETURNS_CALL_DATA = bytes.fromhex("365f5f37365ff3")
REVERTS_WITH_CALL_DATA = bytes.fromhex("365f5f37365ffd")
COUNTS = bytes.fromhex("5f546001015f55005b")
"""Adds one to its storage slot 0."""
LOGS = bytes.fromhex("5f5f5fa1")
"""Leaves one log."""
SUCCEEDS_ONCE = bytes.fromhex("5f54600a5760015f55005b5f5ffd")
USES_18_MILLION_GAS = bytes.fromhex("63000aae605b600190038060055700")


async def place(node: AnvilNode, code: bytes) -> Address:
    """Place code at an address of its own."""
    address = Address("0x" + secrets.token_hex(20))
    await node.set_code(address, code)
    return address


def call_of(address: Address, data: bytes = b"", what: str = "count") -> Call:
    return Call(to=address, data=data, what=what)


async def counted(node: AnvilNode, address: Address) -> int:
    """How often a contract of `COUNTS` was called with success."""
    return int(await node.rpc("eth_getStorageAt", address, "0x0", "latest"), 16)


async def used_nonces(node: AnvilNode, account: Address) -> tuple[int, int]:
    """The account's transactions that are mined, and those that are known at all."""
    mined = await node.rpc("eth_getTransactionCount", account, "latest")
    pending = await node.rpc("eth_getTransactionCount", account, "pending")
    return int(mined, 16), int(pending, 16)


async def until_known(node: AnvilNode, account: Address, count: int) -> None:
    """Wait until the node knows so many transactions of an account."""
    async with asyncio.timeout(10):
        # The node tells nobody; it has to be asked.
        while (await used_nonces(node, account))[1] < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def rich_wallet(node: AnvilNode) -> Wallet:
    """A new wallet with ether."""
    wallet = Wallet.create()
    await node.set_balance(wallet.address, 10**20)
    return wallet


def sender_of(
    chain: RpcChain, wallet: Wallet, *, mined_within_seconds: float = 20
) -> TransactionSender:
    return TransactionSender(
        chain, key=wallet.gas_key(), mined_within_seconds=mined_within_seconds
    )


@asynccontextmanager
async def sending(
    url: str, wallet: Wallet, *, mined_within_seconds: float = 20, **options: Any
) -> AsyncIterator[TransactionSender]:
    """A sender with a view of the chain of its own."""
    async with (
        RpcChain(url, chain_id=LOCAL, **options) as chain,
        sender_of(chain, wallet, mined_within_seconds=mined_within_seconds) as sender,
    ):
        yield sender
