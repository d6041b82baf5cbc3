"""
Payments and deposits that their payer signed by Permit2, as others send them.

Permit2 leaves no event of its own when a nonce is used: what happened is told by the
token's `Transfer`, and which transfer it was by the transaction, if it called the proxy
itself. What a transaction that called something else holds proves nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agentpay.evm import eip3009_abi as tokens
from agentpay.evm import permit2_abi
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.allowance_abi import allowance_call
from agentpay.evm.approval import SignedApproval
from agentpay.evm.batch_settlement import ChannelConfig, channel_id
from agentpay.evm.calls import Call, Log
from agentpay.evm.eip2612 import SignedPermit
from agentpay.evm.erc6492 import inner_signature
from agentpay.evm.hashing import address_word, uint_word
from agentpay.evm.permit2 import (
    PermitDeposit,
    PermitTransfer,
    deposit_digest,
    transfer_digest,
)
from agentpay.evm.transfer import Trace
from agentpay.types import Address, Asset, Hash32


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit2Transfer:
    """By Permit2 through one of x402's proxies. Implements `transfer.Transfer`."""

    asset: Asset
    transfer: PermitTransfer
    signature: bytes
    permit: SignedPermit | None = None
    """Approves Permit2 first; None if the payer has approved it."""
    approval: SignedApproval | None = None
    """Does so by a transaction of the payer's own."""

    def __post_init__(self) -> None:
        if self.asset.address != self.transfer.token:
            raise ValueError(f"{self.transfer.token} is not {self.asset.address}")

    @property
    def payer(self) -> Address:
        return self.transfer.payer

    @property
    def to(self) -> Address:
        return self.transfer.to

    @property
    def maximum(self) -> int:
        return self.transfer.amount

    @property
    def valid_after(self) -> int:
        return self.transfer.valid_after

    @property
    def valid_before(self) -> int:
        return self.transfer.deadline

    @property
    def id(self) -> str:
        """All that a payer signs for Permit2 on a chain shares its nonces."""
        nonce = Hash32.of(uint_word(self.transfer.nonce))
        return f"{self.asset.chain}:{PERMIT2}:{self.payer}:{nonce}"

    @property
    def facilitator(self) -> Address | None:
        """See `Transfer.facilitator`; of an upto one always somebody."""
        return self.transfer.facilitator

    def digest(self) -> bytes:
        """See `Transfer.digest`."""
        return transfer_digest(self.transfer, self.asset.chain)

    def call(self, amount: int) -> Call:
        """See `Transfer.call`; of an exact one all or nothing."""
        signature = inner_signature(self.signature)
        return permit2_abi.settle_call(
            self.transfer, signature, amount=amount, permit=self.permit
        )

    def used_call(self) -> Call:
        """See `Transfer.used_call`."""
        return permit2_abi.nonces_call(self.payer, self.transfer.nonce)

    def is_used(self, answer: bytes) -> bool:
        """See `Transfer.is_used`."""
        return permit2_abi.is_nonce_used(answer, self.transfer.nonce)

    def trace(self) -> Trace:
        """See `Transfer.trace`."""
        payer, to = address_word(self.payer), address_word(self.to)
        return Trace(
            address=self.asset.address,
            topics=(tokens.TRANSFER, Hash32.of(payer), Hash32.of(to)),
            mark=permit2_abi.transfer_mark(self.transfer),
            by=self.transfer.spender,
        )

    def funds_calls(self) -> tuple[Call, ...]:
        """See `Transfer.funds_calls`; what comes along grants what is not granted."""
        granted = self.permit is not None or self.approval is not None
        return _funds_calls(self.asset.address, self.payer, granted=granted)

    def moved(self, logs: Sequence[Log]) -> int:
        """See `Transfer.moved`; of an upto one the first amount that it allows."""
        amounts = tokens.amounts_paid(
            logs, self.asset.address, payer=self.payer, to=self.to
        )
        least = self.maximum if self.transfer.facilitator is None else 1
        return next((n for n in amounts if least <= n <= self.maximum), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit2Deposit:
    """By Permit2, through its collector. Implements `deposit.Deposit`."""

    config: ChannelConfig
    asset: Asset
    amount: int
    nonce: int
    deadline: int
    signature: bytes
    permit: SignedPermit | None = None
    """Approves Permit2 first; None if the payer has approved it."""
    approval: SignedApproval | None = None
    """Does so by a transaction of the payer's own."""

    @property
    def valid_after(self) -> int:
        return 0

    @property
    def valid_before(self) -> int:
        return self.deadline

    @property
    def permitted(self) -> PermitDeposit:
        """What Permit2 is shown; the witness ties it to the channel."""
        return PermitDeposit(
            payer=self.config.payer,
            token=self.config.token,
            amount=self.amount,
            nonce=self.nonce,
            deadline=self.deadline,
            channel=channel_id(self.config, self.asset.chain),
        )

    def digest(self) -> bytes:
        """See `SignedDeposit.digest`."""
        return deposit_digest(self.permitted, self.asset.chain)

    def call(self) -> Call:
        """See `SignedDeposit.call`."""
        return permit2_abi.permit2_deposit_call(
            self.config,
            self.permitted,
            inner_signature(self.signature),
            permit=self.permit,
        )

    def funds_calls(self) -> tuple[Call, ...]:
        """See `Deposit.funds_calls`; what comes along grants what is not granted."""
        granted = self.permit is not None or self.approval is not None
        return _funds_calls(self.asset.address, self.config.payer, granted=granted)

    def used_call(self) -> Call:
        """See `SignedDeposit.used_call`."""
        return permit2_abi.nonces_call(self.config.payer, self.nonce)

    def is_used(self, answer: bytes) -> bool:
        """See `SignedDeposit.is_used`."""
        return permit2_abi.is_nonce_used(answer, self.nonce)


def _funds_calls(token: Address, payer: Address, *, granted: bool) -> tuple[Call, ...]:
    balance = tokens.balance_call(token, payer)
    if granted:
        return (balance,)
    return balance, allowance_call(token, owner=payer, spender=PERMIT2)
