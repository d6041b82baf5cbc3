"""
The key that pays gas: what it signs is a call, with a nonce and fees. Nothing is sent.
"""

from typing import TYPE_CHECKING

from agentpay.core.sending import Fees
from agentpay.errors import ConfigurationError
from agentpay.evm.calls import Call
from agentpay.evm.test_keys import refuse_test_key
from agentpay.evm.transaction import SignedCall
from agentpay.types import Address, ChainId

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount


class GasKey:
    """One private key, for one chain."""

    def __init__(self, key: bytes | str, *, chain: ChainId) -> None:
        """
        Raises:
            ConfigurationError: `key` is not a private key.
            UnsafeKey: A publicly known test key, and the chain is not local.
        """
        self._account = _account_of(key)
        self.address = Address(str(self._account.address))
        self.chain = chain
        refuse_test_key(self.address, chain)

    def __repr__(self) -> str:
        return f"GasKey({self.address}, chain {self.chain})"

    def sign(self, call: Call, *, nonce: int, gas: int, fees: Fees) -> SignedCall:
        """A call as the transaction that is sent."""
        signed = self._account.sign_transaction(
            {
                "type": 2,
                "chainId": self.chain,
                "nonce": nonce,
                "to": call.to.to_bytes(),
                "value": call.value,
                "data": call.data,
                "gas": gas,
                "maxFeePerGas": fees.most,
                "maxPriorityFeePerGas": fees.tip,
            }
        )
        return SignedCall(
            chain=self.chain,
            nonce=nonce,
            tip=fees.tip,
            fee_max=fees.most,
            gas=gas,
            to=call.to,
            value=call.value,
            data=call.data,
            raw=bytes(signed.raw_transaction),
        )


def _account_of(key: bytes | str) -> "LocalAccount":
    from eth_account import Account  # loaded when first used: it costs 0.6 s

    try:
        account: LocalAccount | None = Account.from_key(key)
    except Exception:  # noqa: BLE001 - it may be any, and its text repeats the key
        account = None
    if account is None:
        raise ConfigurationError("a private key is 32 bytes, or 64 hex digits")
    return account
