"""
The accounts of the peer matrix, and what its programs are told of them and their chain.
"""

from dataclasses import dataclass

from peer_evidence import Json

from agentpay import Wallet
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.artifacts import load_artifact
from agentpay.evm.hashing import address_word, checksummed, keccak, uint_word
from agentpay.testing.local_chain import LocalChain
from agentpay.types import UINT128_MAX, Address, ChainId


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractWallet:
    """A contract that takes its owner's signatures (ERC-1271). Implements `Signer`."""

    address: Address
    owner: Wallet

    async def sign_digest(self, digest: bytes, *, chain: ChainId) -> bytes:
        """See `Signer.sign_digest`."""
        return await self.owner.sign_digest(digest, chain=chain)

    async def derive_secret(self, purpose: bytes) -> bytes:
        """See `Signer.derive_secret`."""
        return await self.owner.derive_secret(purpose)


def chain_settings(chain: LocalChain, wallet: Wallet) -> Json:
    """What each of the peer's programs is told."""
    return {
        "key": hex_key(wallet),
        "rpc_url": chain.rpc_url,
        "chain_id": chain.chain_id,
        "token": checksummed(chain.usdc.address),
        "name": chain.usdc.name,
        "version": chain.usdc.version,
        "decimals": chain.usdc.decimals,
    }


def hex_key(wallet: Wallet) -> str:
    return "0x" + wallet.gas_key().hex()


async def rich_wallet(chain: LocalChain) -> Wallet:
    """Has test dollars, and has allowed Permit2 to take them, once and for all."""
    wallet = await chain.funded_wallet()
    await allow_permit2(chain, wallet.address, UINT128_MAX)
    return wallet


async def contract_wallet(chain: LocalChain) -> ContractWallet:
    """Has test dollars, and an owner who signs for it."""
    owner, maker = Wallet.create(), await chain.funded_wallet(0)
    code = load_artifact("Wallet1271").creation + address_word(owner.address)
    sent = await chain.node.transact(maker.address, code, to=None)
    receipt = await chain.node.rpc("eth_getTransactionReceipt", sent)
    address = Address(receipt["contractAddress"])
    await chain.fund(address)
    return ContractWallet(address=address, owner=owner)


async def allow_permit2(chain: LocalChain, payer: Address, amount: int) -> None:
    """Have an account allow Permit2 to take so much."""
    approve = keccak(b"approve(address,uint256)")[:4] + address_word(PERMIT2)
    await chain.node.transact(payer, approve + uint_word(amount), to=chain.usdc.address)
