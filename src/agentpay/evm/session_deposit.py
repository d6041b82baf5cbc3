"""
Deposits that were signed for one session of MPP's: one value for each way to sign one.

Source: draft-evm-session-00, "openWithAuthorization", "openWithPermit2" and their like
for top-ups, "Front-Running Protection". Whoever holds one may put it on the chain,
once, and into that session alone. The first deposit opens its session, and is signed in
another way than those that fill it up.
"""

from dataclasses import dataclass
from typing import TypeAlias

from agentpay.evm import eip3009_abi as tokens
from agentpay.evm import permit2_abi
from agentpay.evm import session_escrow_abi as escrow_abi
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.calls import Call
from agentpay.evm.eip3009 import Authorization, receive_digest
from agentpay.evm.erc6492 import inner_signature
from agentpay.evm.permit2 import Permitted
from agentpay.evm.session_escrow import (
    SessionConfig,
    open_nonce,
    open_permit_digest,
    top_up_nonce,
    top_up_permit_digest,
)
from agentpay.types import Address, Asset, Hash32


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTokenDeposit:
    """By EIP-3009. Implements `deposit.SignedDeposit`."""

    config: SessionConfig
    asset: Asset
    payer: Address
    """Whose money it is; of a top-up that may be anybody."""
    amount: int
    valid_after: int
    valid_before: int
    opens: bool
    salt: Hash32
    """Makes a top-up unlike any other; what opens has its session's own salt."""
    signature: bytes

    @property
    def authorization(self) -> Authorization:
        """What the token is shown; the nonce ties it to the session."""
        nonce = open_nonce(self.config.terms)
        if not self.opens:
            nonce = top_up_nonce(
                self.config.channel,
                additional_deposit=self.amount,
                payer=self.payer,
                salt=self.salt,
            )
        return Authorization(
            payer=self.payer,
            to=self.config.escrow.contract,
            value=self.amount,
            valid_after=self.valid_after,
            valid_before=self.valid_before,
            nonce=nonce,
        )

    def digest(self) -> bytes:
        """See `SignedDeposit.digest`."""
        return receive_digest(self.authorization, self.asset)

    def call(self) -> Call:
        """See `SignedDeposit.call`."""
        signature = inner_signature(self.signature)
        if self.opens:
            return escrow_abi.open_with_authorization_call(
                self.config.terms, self.authorization, signature, self.config.escrow
            )
        return escrow_abi.top_up_with_authorization_call(
            self.config.channel,
            self.authorization,
            salt=self.salt,
            signature=signature,
            escrow=self.config.escrow,
        )

    def used_call(self) -> Call:
        """See `SignedDeposit.used_call`."""
        return tokens.authorization_used_call(
            self.asset.address, self.payer, self.authorization.nonce
        )

    def is_used(self, answer: bytes) -> bool:
        """See `SignedDeposit.is_used`."""
        return tokens.decode_uint(answer) != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPermit2Deposit:
    """By Permit2. Implements `deposit.SignedDeposit`."""

    config: SessionConfig
    asset: Asset
    payer: Address
    amount: int
    nonce: int
    deadline: int
    opens: bool
    signature: bytes
    permit2: Address = PERMIT2

    @property
    def valid_after(self) -> int:
        return 0

    @property
    def valid_before(self) -> int:
        return self.deadline

    @property
    def permitted(self) -> Permitted:
        """What Permit2 is shown; the witness ties it to the session."""
        return Permitted(
            payer=self.payer,
            token=self.asset.address,
            amount=self.amount,
            nonce=self.nonce,
            deadline=self.deadline,
        )

    def digest(self) -> bytes:
        """See `SignedDeposit.digest`."""
        config = self.config
        if self.opens:
            return open_permit_digest(
                self.permitted, config.terms, config.escrow, self.permit2
            )
        return top_up_permit_digest(
            self.permitted, config.channel, config.escrow, self.permit2
        )

    def call(self) -> Call:
        """See `SignedDeposit.call`."""
        signature = inner_signature(self.signature)
        config = self.config
        if self.opens:
            return escrow_abi.open_with_permit2_call(
                config.terms, self.permitted, signature, config.escrow
            )
        return escrow_abi.top_up_with_permit2_call(
            config.channel, self.permitted, signature, config.escrow
        )

    def used_call(self) -> Call:
        """See `SignedDeposit.used_call`."""
        return permit2_abi.nonces_call(self.payer, self.nonce)

    def is_used(self, answer: bytes) -> bool:
        """See `SignedDeposit.is_used`."""
        return permit2_abi.is_nonce_used(answer, self.nonce)


SessionDeposit: TypeAlias = SessionTokenDeposit | SessionPermit2Deposit
