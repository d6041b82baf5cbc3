"""
A private chain on which everything works: contracts, dollars, funded accounts.

It starts Anvil, or furnishes one that already runs, and never touches a chain that is
not local. What it hands out is worth nothing anywhere else.
"""

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from agentpay.evm.addresses import (
    BATCH_SETTLEMENT,
    ERC3009_COLLECTOR,
    EXACT_PROXY,
    MULTICALL3,
    PERMIT2,
    PERMIT2_COLLECTOR,
    SESSION_ESCROW,
    UPTO_PROXY,
)
from agentpay.evm.artifacts import load_artifact
from agentpay.evm.hashing import address_word, keccak, selector, uint_word
from agentpay.evm.networks import LOCAL, Network
from agentpay.evm.signature import ORDER
from agentpay.signers.wallet import Wallet
from agentpay.testing.anvil import Anvil
from agentpay.testing.anvil_node import AnvilNode, UnsuitableNode
from agentpay.types import Address, Asset, ChainId, Money, to_base_units

_ADMIN: Final = Address("0x" + keccak(b"agentpay local admin")[12:].hex())
"""Mints the test dollars: a contract that passes on whatever anybody asks of it."""
_NO_ADMIN = bytes(32)
_WEI = 10**18

_CONTRACTS: Final[dict[str, tuple[Address, ...]]] = {
    "x402BatchSettlement": (BATCH_SETTLEMENT,),
    "ERC3009DepositCollector": (ERC3009_COLLECTOR, BATCH_SETTLEMENT),
    "Permit2DepositCollector": (PERMIT2_COLLECTOR, BATCH_SETTLEMENT, PERMIT2),
    "x402ExactPermit2Proxy": (EXACT_PROXY, PERMIT2),
    "x402UptoPermit2Proxy": (UPTO_PROXY, PERMIT2),
    "Permit2": (PERMIT2,),
    "Multicall3": (MULTICALL3,),
    "EVMPaymentChannel": (SESSION_ESCROW,),
}
"""What is placed, where, and the arguments of its constructor."""


class LocalChain:
    """A furnished Anvil, usable inside `async with`."""

    def __init__(
        self,
        *,
        rpc_url: str | None = None,
        executable: Path | None = None,
        port: int = 0,
        block_seconds: float = 0.1,
        no_mining: bool = False,
    ) -> None:
        """With `rpc_url`, the Anvil there is furnished and left running at the end."""
        self.node: AnvilNode
        if rpc_url is None:
            self.node = Anvil(
                executable=executable,
                port=port,
                block_seconds=block_seconds,
                no_mining=no_mining,
            )
        else:
            self.node = AnvilNode(rpc_url)
        self._chain_id = LOCAL.chain

    @property
    def rpc_url(self) -> str:
        """
        Raises:
            ChainUnreachable: It is not running.
        """
        return self.node.url

    @property
    def chain_id(self) -> ChainId:
        """31337, unless somebody else's Anvil has another local id."""
        return self._chain_id

    @property
    def usdc(self) -> Asset:
        """The test dollar: TestUSDC, 6 decimals, always at the same address."""
        return replace(LOCAL.usdc, chain=self._chain_id)

    @property
    def network(self) -> Network:
        """This chain as a network to pay on."""
        return replace(LOCAL, chain=self.chain_id, usdc=self.usdc, rpc_url=self.rpc_url)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """
        Start the chain and place the contracts; doing it twice changes nothing.

        Raises:
            ToolMissing: There is no Anvil, and it could not be fetched.
            ChainUnreachable: Anvil did not start, or `rpc_url` does not answer.
            UnsuitableNode: `rpc_url` is no Anvil, its chain is not local, or another
                contract is at the test dollar's address.
        """
        if isinstance(self.node, Anvil):
            await self.node.start()
        try:
            self._chain_id = await self.node.check()
            await self._place_contracts()
            await self._place_token()
        except BaseException:
            # Also cancelled, it must not stay behind.
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the chain if it is ours."""
        if isinstance(self.node, Anvil):
            await self.node.stop()

    async def fund(
        self, address: Address, dollars: Money = "$100", *, ether: int = 0
    ) -> None:
        """
        Add test dollars, and whole ether to pay gas with, to what an account has.

        Raises:
            ChainError: The chain does not answer, or refused.
        """
        amount = to_base_units(dollars, self.usdc.decimals)
        if amount:
            data = selector("mint(address,uint256)") + address_word(address)
            await self._as_admin(data + uint_word(amount))
        if ether:
            held = int(await self.node.rpc("eth_getBalance", address, "latest"), 16)
            await self.node.set_balance(address, held + ether * _WEI)

    async def balance(self, address: Address) -> int:
        """What an account holds of the test dollar, in base units."""
        data = selector("balanceOf(address)") + address_word(address)
        return int(await self._view(data), 16)

    def new_key(self) -> str:
        """A new private key in hex, for the tests of one run."""
        return f"0x{secrets.randbelow(ORDER - 1) + 1:064x}"

    async def funded_wallet(self, dollars: Money = "$100", *, ether: int = 1) -> Wallet:
        """A new wallet with test dollars and ether."""
        wallet = Wallet.create()
        await self.fund(wallet.address, dollars, ether=ether)
        return wallet

    async def _place_contracts(self) -> None:
        await asyncio.gather(
            *(
                self._place(name, address, *arguments)
                for name, (address, *arguments) in _CONTRACTS.items()
            )
        )

    async def _place(self, name: str, where: Address, *arguments: Address) -> None:
        artifact = load_artifact(name)
        if not arguments:
            await self.node.set_code(where, artifact.runtime)
            return
        # Its constructor keeps the arguments in the code: let the chain run it, without
        # sending anything, and place what comes out.
        creation = artifact.creation + b"".join(map(address_word, arguments))
        data = "0x" + creation.hex()
        runtime: str = await self.node.rpc("eth_call", {"data": data}, "latest")
        await self.node.set_code(where, bytes.fromhex(runtime[2:]))

    async def _place_token(self) -> None:
        code = load_artifact("TestUSDC").runtime
        found = await self.node.code(self.usdc.address)
        if found not in (b"", code):
            raise UnsuitableNode(
                f"another contract is at {self.usdc.address}, where the test dollar"
                " belongs: start a new Anvil"
            )
        await self.node.set_code(self.usdc.address, code)
        await self.node.set_code(_ADMIN, _forwarder(self.usdc.address))
        admin = bytes.fromhex((await self._view(selector("admin()")))[2:])
        if admin == _NO_ADMIN:
            await self._as_admin(selector("takeAdmin()"))
        elif admin != address_word(_ADMIN):
            raise UnsuitableNode("the test dollar has another admin: start a new Anvil")

    async def _as_admin(self, data: bytes) -> None:
        # Each time from a new account: Anvil gives two transactions of one account the
        # same nonce if they come at once, and the admin may serve many at once.
        sender = Address("0x" + secrets.token_hex(20))
        await self.node.set_balance(sender, _WEI)
        await self.node.transact(sender, data, to=_ADMIN)

    async def _view(self, data: bytes) -> Any:
        call = {"to": self.usdc.address, "data": "0x" + data.hex()}
        return await self.node.rpc("eth_call", call, "latest")


def _forwarder(to: Address) -> bytes:
    """Code that calls `to` with what it is called with, and reverts if that does."""
    copy_data, call = "365f5f37", f"5f5f365f5f73{to[2:]}5af1"
    return bytes.fromhex(copy_data + call + "6026575f5ffd5b00")
