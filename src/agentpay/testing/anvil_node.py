"""
Speaks to an Anvil node: plain JSON-RPC, and the powers that only a test chain has.

No retries and no signing. For reading a real chain there is `agentpay.chain.rpc`.
"""

import time
from dataclasses import dataclass
from typing import Any, Final

import httpx

from agentpay.errors import ChainError, ChainUnreachable, ConfigurationError
from agentpay.evm.test_keys import LOCAL_CHAINS
from agentpay.types import Address, ChainId, Hash32

_SECONDS_MAX: Final = 30.0
_MINED_AT_ONCE: Final = 50
"""Blocks that a busy machine mines in much less than that."""
_BLOCKS_MAX: Final = 100

_REVERTS_MAX: Final = 6
_PAUSE_SECONDS_MAX: Final = 0.5
_WITHOUT_BODIES = False


class UnsuitableNode(ConfigurationError):
    """The endpoint is no Anvil with a local chain, or its chain is used otherwise."""

    code = "unsuitable_node"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Snapshot:
    names: list[str]
    """Anvil's, of the same state: each can be gone back to once, the last one first."""
    block: int
    """The last one, or one before it."""
    ahead: int
    """Seconds that the chain's clock was ahead of the machine's."""


class AnvilNode:
    """A running Anvil node, ours or somebody else's."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._snapshots: dict[str, _Snapshot] = {}

    @property
    def url(self) -> str:
        """The endpoint, such as `http://127.0.0.1:8545`."""
        return self._url

    async def rpc(self, method: str, *params: object) -> Any:
        """
        Call one JSON-RPC method and return its result as decoded JSON.

        Raises:
            ChainUnreachable: No answer, or none that is JSON.
            ChainError: The node answered with an error.
        """
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        # A client per call belongs to no event loop, so that a node started by one
        # test can be used by the next. Building TLS settings would cost 20 ms.
        secure = self.url.startswith("https")
        try:
            async with httpx.AsyncClient(trust_env=False, verify=secure) as client:
                answer = await client.post(self.url, json=request, timeout=_SECONDS_MAX)
            body: dict[str, Any] | list[object] = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise ChainUnreachable(
                f"no answer to {method} from the local chain: {error!r}; is it running?"
            ) from error
        if not isinstance(body, dict) or "result" not in body:
            raise ChainError(f"the local chain refused {method}: {body}")
        return body["result"]

    async def mine(self, blocks: int = 1) -> None:
        """Mine at once, without waiting for the interval."""
        for part in range(0, blocks, _MINED_AT_ONCE):
            await self.rpc("anvil_mine", hex(min(_MINED_AT_ONCE, blocks - part)))

    async def snapshot(self) -> str:
        """Remember the state of the chain; returns a name for `revert`."""
        block = int(await self.rpc("eth_blockNumber"), 16)
        names = [str(await self.rpc("evm_snapshot")) for _ in range(_REVERTS_MAX)]
        ahead = await self.rpc("evm_increaseTime", 0)
        self._snapshots[names[-1]] = _Snapshot(names=names, block=block, ahead=ahead)
        return names[-1]

    async def revert(self, snapshot: str) -> None:
        """
        Go back to a snapshot, which can be used once, and mine a block.

        The chain's clock is what it would be if nothing had been done to it since. How
        it mines stays as it is: who changes that needs a chain of his own.

        Raises:
            ChainError: There is no such snapshot, or the chain is not whole after it.
        """
        taken = self._snapshots.pop(snapshot, None)
        if taken is None:
            raise ChainError(f"the local chain has no snapshot {snapshot}")
        for turn, name in enumerate(reversed(taken.names)):
            if turn:
                await self._next_block()
            if not await self.rpc("evm_revert", name):
                raise ChainError(f"the local chain has lost its snapshot {name}")
            # Else it would stand at its last block: behind by what was done since.
            await self.rpc("evm_setTime", int(time.time()) + taken.ahead)
            # A block that was being mined comes out on top of what was gone back to,
            # with its old number and time. After another block there is none.
            await self.mine()
            if await self._is_whole(taken.block):
                return
        raise ChainError(
            f"the local chain lacks blocks after {taken.block}: restart it"
        )

    async def _next_block(self) -> None:
        # Just after a block, none is being mined.
        last = await self.rpc("eth_blockNumber")
        deadline = time.monotonic() + _PAUSE_SECONDS_MAX
        while time.monotonic() < deadline:
            if await self.rpc("eth_blockNumber") != last:
                return

    async def _is_whole(self, first: int) -> bool:
        last = int(await self.rpc("eth_blockNumber"), 16)
        for number in range(first, last + 1):
            if await self._hash(hex(number)) is None:
                return False
        return True

    async def reorg(self, *, after: int) -> None:
        """
        Replace the blocks after one by empty ones: what was in them never happened.

        Their transactions are gone too, unless somebody sends them again.
        """
        first = hex(after + 1)
        gone = await self._hash(first)
        # A block may be mined meanwhile, which is then the only one replaced.
        while await self._hash(first) == gone:
            last = int(await self.rpc("eth_blockNumber"), 16)
            if last <= after:
                return
            await self.rpc("anvil_reorg", last - after, [])

    async def _hash(self, block: str) -> str | None:
        found = await self.rpc("eth_getBlockByNumber", block, _WITHOUT_BODIES)
        return None if found is None else str(found["hash"])

    async def increase_time(self, seconds: int) -> None:
        """Move the chain's clock forward for good, and mine a block that shows it."""
        await self.rpc("evm_increaseTime", seconds)
        await self.mine()

    async def code(self, address: Address) -> bytes:
        """The code at an address; empty for an account without any."""
        return bytes.fromhex((await self.rpc("eth_getCode", address, "latest"))[2:])

    async def set_code(self, address: Address, code: bytes) -> None:
        """Place code at an address, without a transaction and without storage."""
        await self.rpc("anvil_setCode", address, "0x" + code.hex())

    async def set_balance(self, address: Address, wei: int) -> None:
        """Give an account this much of the chain's own coin."""
        await self.rpc("anvil_setBalance", address, hex(wei))

    async def transact(
        self, sender: Address, data: bytes, *, to: Address | None
    ) -> Hash32:
        """
        Send a transaction in somebody's name and mine it; no `to` deploys a contract.

        Raises:
            ChainError: It was refused, is not mined, or reverted.
        """
        await self.rpc("anvil_impersonateAccount", sender)
        fields = {"from": sender, "data": "0x" + data.hex()}
        if to is not None:
            fields["to"] = to
        sent = Hash32(await self.rpc("eth_sendTransaction", fields))
        for _ in range(_BLOCKS_MAX):
            await self.mine()
            receipt = await self.rpc("eth_getTransactionReceipt", sent)
            if receipt is None:  # it came just after the block was closed
                continue
            if receipt["status"] != "0x1":
                raise ChainError(f"transaction {sent} reverted on the local chain")
            return sent
        raise ChainError(f"the local chain does not mine transaction {sent}")

    async def check(self) -> ChainId:
        """
        Make sure that this is an Anvil with a local chain; returns the chain's id.

        Raises:
            UnsuitableNode: It is something else; nothing was changed.
        """
        version = str(await self.rpc("web3_clientVersion"))
        chain = ChainId(int(await self.rpc("eth_chainId"), 16))
        if not version.lower().startswith("anvil/"):
            raise UnsuitableNode(
                f"the node says it is {version[:80]!r}, and only Anvil will do"
            )
        if chain not in LOCAL_CHAINS:
            raise UnsuitableNode(f"chain {chain} is not a local one; it was left alone")
        return chain
