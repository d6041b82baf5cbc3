"""When a transaction of somebody else cannot be mined any more."""

import time

from agentpay.chain.rpc import RpcChain
from agentpay.evm.calls import Receipt
from agentpay.evm.eip1559 import CallTransaction, SignedCall
from agentpay.onchain import is_void
from agentpay.signers.wallet import Wallet
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Hash32

NOBODY = Address("0x" + "99" * 20)


class LateReceipts(RpcChain):
    """Tells of a used nonce at once, and for a second not by what it was used."""

    first_asked = 0.0

    async def receipt(self, transaction: Hash32) -> Receipt | None:
        """See `ports.Chain.receipt`."""
        now = time.monotonic()
        self.first_asked = self.first_asked or now
        if now - self.first_asked < 1:
            return None
        return await super().receipt(transaction)


async def signed_by(wallet: Wallet, chain: LocalChain, *, fee: int) -> SignedCall:
    call = CallTransaction(
        chain=chain.chain_id,
        nonce=0,
        tip=10**9,
        fee_max=fee,
        gas=21_000,
        to=NOBODY,
        data=b"",
    )
    signature = await wallet.sign_digest(call.digest(), chain=chain.chain_id)
    return SignedCall(call=call, signature=signature)


async def mined(chain: LocalChain, signed: SignedCall) -> None:
    await chain.node.rpc("eth_sendRawTransaction", "0x" + signed.raw.hex())
    while await chain.node.rpc("eth_getTransactionReceipt", signed.hash) is None:
        pass


async def test_f8_who_knows_the_nonce_before_the_receipt_calls_nothing_void(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await chain.funded_wallet(0, ether=1)
    low = await signed_by(wallet, chain, fee=10**11)
    high = await signed_by(wallet, chain, fee=2 * 10**11)
    async with LateReceipts(chain.rpc_url, chain_id=chain.chain_id) as late:
        assert not await is_void(late, high)  # nothing has used its nonce
        await mined(chain, high)
        late.first_asked = 0.0
        assert not await is_void(late, high)
        assert await is_void(late, low)
