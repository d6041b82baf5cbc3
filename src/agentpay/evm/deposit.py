"""
Deposits that their payer signed for one channel: one value for each way to sign one.

Whoever holds a `Deposit` may put it on the chain, once, and into that channel alone.
"""

from dataclasses import dataclass
from typing import Protocol

from agentpay.evm import eip3009_abi as tokens
from agentpay.evm.addresses import ERC3009_COLLECTOR
from agentpay.evm.batch_settlement import ChannelConfig, channel_id, deposit_nonce
from agentpay.evm.batch_settlement_abi import deposit_call
from agentpay.evm.calls import Call
from agentpay.evm.eip3009 import Authorization, receive_digest
from agentpay.evm.erc6492 import inner_signature
from agentpay.evm.transfer import TokenTransfer
from agentpay.types import Asset, Hash32


class SignedDeposit(Protocol):
    """Money that was signed for one channel, whichever contract has it."""

    @property
    def asset(self) -> Asset: ...

    @property
    def amount(self) -> int: ...

    def digest(self) -> bytes:
        """What the payer signed."""
        ...

    def call(self) -> Call:
        """Put it on the chain."""
        ...

    def used_call(self) -> Call:
        """Ask the chain whether it was used or cancelled; see `is_used`."""
        ...

    def is_used(self, answer: bytes) -> bool:
        """
        Raises:
            ValueError: Not an answer to `used_call`.
        """
        ...


class Deposit(SignedDeposit, Protocol):
    """Money of `config.payer`, signed for the channel of `config`."""

    @property
    def config(self) -> ChannelConfig: ...

    @property
    def valid_after(self) -> int: ...

    @property
    def valid_before(self) -> int: ...

    def funds_calls(self) -> tuple[Call, ...]:
        """See `Transfer.funds_calls`."""
        ...

    @property
    def signature(self) -> bytes:
        """As its message has it: perhaps wrapped (`erc6492`), which `call` undoes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDeposit:
    """By EIP-3009, through its collector. Implements `Deposit`."""

    config: ChannelConfig
    asset: Asset
    amount: int
    valid_after: int
    valid_before: int
    salt: Hash32
    signature: bytes

    @property
    def authorization(self) -> Authorization:
        """What the token is shown; the nonce ties it to the channel."""
        channel = channel_id(self.config, self.asset.chain)
        return Authorization(
            payer=self.config.payer,
            to=ERC3009_COLLECTOR,
            value=self.amount,
            valid_after=self.valid_after,
            valid_before=self.valid_before,
            nonce=deposit_nonce(channel, self.salt),
        )

    @property
    def transfer(self) -> TokenTransfer:
        """What it moves to the collector, which alone may use its nonce for that."""
        return TokenTransfer(
            asset=self.asset, authorization=self.authorization, signature=self.signature
        )

    def digest(self) -> bytes:
        """See `SignedDeposit.digest`."""
        return receive_digest(self.authorization, self.asset)

    def call(self) -> Call:
        """See `SignedDeposit.call`."""
        return deposit_call(
            self.config,
            amount=self.amount,
            valid_after=self.valid_after,
            valid_before=self.valid_before,
            salt=self.salt,
            signature=inner_signature(self.signature),
        )

    def funds_calls(self) -> tuple[Call, ...]:
        """See `Deposit.funds_calls`."""
        return self.transfer.funds_calls()

    def used_call(self) -> Call:
        """See `SignedDeposit.used_call`."""
        return tokens.authorization_used_call(
            self.asset.address, self.config.payer, self.authorization.nonce
        )

    def is_used(self, answer: bytes) -> bool:
        """See `SignedDeposit.is_used`."""
        return tokens.decode_uint(answer) != 0
