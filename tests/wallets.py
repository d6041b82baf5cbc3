"""Contract wallets and their factory, for tests of payers that are contracts."""

import secrets
from dataclasses import dataclass

from eth_abi.abi import encode

from agentpay import Wallet
from agentpay.evm.artifacts import load_artifact
from agentpay.evm.erc6492 import WrappedSignature, wrap
from agentpay.evm.hashing import address_word, selector
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, ChainId


async def deploy(chain: LocalChain, name: str, arguments: bytes = b"") -> Address:
    """A contract of ours, at a new address."""
    sender = (await chain.funded_wallet(0)).address
    data = load_artifact(name).creation + arguments
    sent = await chain.node.transact(sender, data, to=None)
    receipt = await chain.node.rpc("eth_getTransactionReceipt", sent)
    return Address(receipt["contractAddress"])


async def a_contract_wallet(chain: LocalChain, owner: Address) -> Address:
    """A wallet whose owner signs for it, with dollars in it."""
    wallet = await deploy(chain, "Wallet1271", encode(["address"], [owner]))
    await chain.fund(wallet)
    return wallet


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWallet:
    """A wallet with dollars that nobody has deployed yet. Signs wrapped signatures."""

    chain: LocalChain
    address: Address
    owner: Wallet
    factory: Address
    factory_data: bytes

    async def sign_digest(self, digest: bytes, *, chain: ChainId) -> bytes:
        return wrap(
            WrappedSignature(
                factory=self.factory,
                factory_data=self.factory_data,
                signature=await self.owner.sign_digest(digest, chain=chain),
            )
        )

    async def derive_secret(self, purpose: bytes) -> bytes:
        return await self.owner.derive_secret(purpose)

    async def deploy(self) -> None:
        """Somebody else makes it."""
        sender = (await self.chain.funded_wallet(0)).address
        await self.chain.node.transact(sender, self.factory_data, to=self.factory)

    async def is_there(self) -> bool:
        return bool(await self.chain.node.code(self.address))


async def a_new_wallet(
    chain: LocalChain, *, factory: Address | None = None
) -> NewWallet:
    """One of a factory's wallets that is still to be made."""
    owner = Wallet.create()
    factory = factory or await deploy(chain, "WalletFactory")
    words = address_word(owner.address) + secrets.token_bytes(32)
    view = {
        "to": factory,
        "data": "0x" + (selector("addressOf(address,bytes32)") + words).hex(),
    }
    answer = await chain.node.rpc("eth_call", view, "latest")
    wallet = Address("0x" + answer[-40:])
    await chain.fund(wallet)
    return NewWallet(
        chain=chain,
        address=wallet,
        owner=owner,
        factory=factory,
        factory_data=selector("create(address,bytes32)") + words,
    )
