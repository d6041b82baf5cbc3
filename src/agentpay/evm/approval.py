"""
Transactions by which a payer approves Permit2, signed whole, for others to send.

One calls `approve(Permit2, amount)` of a token and does nothing else (F7). A value that
exists is such a transaction.

Source: x402 `specs/extensions/erc20_gas_sponsoring.md`.
"""

from dataclasses import dataclass, field
from typing import Final

from agentpay.evm.addresses import PERMIT2
from agentpay.evm.allowance_abi import approve_call, read_approve
from agentpay.evm.eip1559 import CallTransaction, SignedCall, read_signed_call
from agentpay.types import UINT256_MAX, Address, ChainId, Hash32

APPROVAL_GAS: Final = 70_000
"""What a payer's approval may use; tokens need some 46,000 to 60,000."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalTransaction:
    """A transaction that lets Permit2 move `amount` of a token, not signed yet."""

    chain: ChainId
    nonce: int
    """The next one of the account that signs it."""
    tip: int
    fee_max: int
    """Wei for each gas, with the tip."""
    gas: int
    token: Address
    amount: int

    def __post_init__(self) -> None:
        if not 0 <= self.amount <= UINT256_MAX:
            raise ValueError(f"{self.amount} is not a uint256")
        _ = self.transaction  # refuses what it cannot hold

    @property
    def transaction(self) -> CallTransaction:
        """The whole of it."""
        call = approve_call(self.token, spender=PERMIT2, amount=self.amount)
        return CallTransaction(
            chain=self.chain,
            nonce=self.nonce,
            tip=self.tip,
            fee_max=self.fee_max,
            gas=self.gas,
            to=self.token,
            data=call.data,
        )

    @property
    def cost(self) -> int:
        """The most wei that it can cost whoever signs it."""
        return self.transaction.cost

    def digest(self) -> bytes:
        """What the payer signs."""
        return self.transaction.digest()

    def signed(self, signature: bytes) -> "SignedApproval":
        """
        The transaction under its signature.

        Raises:
            BadSignature: Not 65 bytes of a key.
        """
        return SignedApproval(approval=self, signature=signature)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedApproval:
    """An approval that anybody can send, and its signer pays for."""

    approval: ApprovalTransaction
    signature: bytes
    signed: SignedCall = field(init=False, repr=False)

    def __post_init__(self) -> None:
        transaction = self.approval.transaction
        signed = SignedCall(call=transaction, signature=self.signature)
        object.__setattr__(self, "signed", signed)

    @property
    def owner(self) -> Address:
        """Who signed it."""
        return self.signed.owner

    @property
    def raw(self) -> bytes:
        """The bytes that a node takes."""
        return self.signed.raw

    @property
    def hash(self) -> Hash32:
        return self.signed.hash


def read_approval(raw: bytes) -> SignedApproval:
    """
    Read a signed transaction that approves Permit2 and does nothing else.

    Raises:
        ValueError: It is another transaction, or not in its one encoding.
    """
    signed = read_signed_call(raw)
    call = signed.call
    spender, amount = read_approve(call.data)
    if spender != PERMIT2:
        raise ValueError(f"it approves {spender}, not Permit2")
    approval = ApprovalTransaction(
        chain=call.chain,
        nonce=call.nonce,
        tip=call.tip,
        fee_max=call.fee_max,
        gas=call.gas,
        token=call.to,
        amount=amount,
    )
    return approval.signed(signed.signature)
