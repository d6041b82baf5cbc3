"""
Payers whose wallet is not deployed yet (ERC-6492): it is made on the way.

That calls somebody else's contract with somebody else's data, so only factories that
are listed are called; what making a wallet may use is capped like every other call.
"""

from collections.abc import Collection

from agentpay.errors import TransactionFailed
from agentpay.evm.calls import Call
from agentpay.evm.erc6492 import is_wrapped, unwrap
from agentpay.evm.signature import BadSignature
from agentpay.evm.transfer import Transfer
from agentpay.onchain import read_words_after
from agentpay.ports import Chain
from agentpay.types import Address
from agentpay.wire.x402_transfers import FACTORY_NOT_ALLOWED


class NewWallets:
    """Says which wallet has to be made first, for one facilitator."""

    def __init__(self, chain: Chain, factories: Collection[Address]) -> None:
        self._chain = chain
        self.factories = frozenset(factories)

    async def deploy_call(self, payer: Address, signature: bytes) -> Call | None:
        """
        What makes the wallet of a payer; None if it is there, or needs no making.

        Raises:
            TransactionFailed: Its factory is not listed, or cannot be made out.
            ChainError: The chain could not be asked.
        """
        if not is_wrapped(signature) or await self._chain.code(payer):
            return None
        what = f"deploy the wallet of {payer}"
        try:
            wrapped = unwrap(signature)
        except BadSignature as error:
            raise TransactionFailed(what, reason=str(error)) from error
        if wrapped.factory not in self.factories:
            raise TransactionFailed(what, reason=FACTORY_NOT_ALLOWED)
        return wrapped.deploy_call()

    async def check_funds(self, deploy: Call, transfer: Transfer) -> None:
        """
        Whether a transfer that one account alone may send is covered.

        That account is not Multicall3, so both cannot be simulated in one.

        Raises:
            TransactionFailed: It is not, or its wallet cannot be made.
            ChainError: The chain could not be asked.
        """
        what = f"transfer from {transfer.payer}"
        funds = await read_words_after(self._chain, deploy, transfer.funds_calls())
        if min(funds) < transfer.maximum:
            raise TransactionFailed(what, reason="insufficient_funds")
