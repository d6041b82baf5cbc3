"""
A payer's own approval of Permit2, which it pays gas for: for an amount, never for ever.
"""

from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.errors import KeyElsewhere
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.allowance_abi import allowance_call, approve_call
from agentpay.onchain import read_words
from agentpay.payer.keys import PayerKeys
from agentpay.signers.wallet import Wallet
from agentpay.types import Asset


async def approve_permit2(
    amount: int, *, asset: Asset, keys: PayerKeys, chain: RpcChain
) -> None:
    """
    Set what Permit2 may move.

    Some tokens do not change an allowance that is not zero, so it is taken back first.

    Raises:
        KeyElsewhere: We do not hold the wallet's key.
        ChainError: A transaction was not sent, or is not known to be mined.
    """
    if not isinstance(keys.wallet, Wallet):
        raise KeyElsewhere(f"{keys.account} signs elsewhere: approve Permit2 there")
    read = allowance_call(asset.address, owner=keys.account, spender=PERMIT2)
    (allowance,) = await read_words(chain, [read])
    if allowance == amount:
        return
    steps = (0, amount) if allowance and amount else (amount,)
    sender = TransactionSender(chain, key=keys.wallet.gas_key())
    try:
        for step in steps:
            await sender.send(approve_call(asset.address, spender=PERMIT2, amount=step))
    finally:
        await sender.aclose()
