"""
What a payee of MPP's sessions does on their chain: the port that sales and keeper use.

A session needs no facilitator of x402: the payee's own gas-paying keys send what payers
signed, and what the payee's own account signs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentpay.core.payee_channel import HeldVoucher
from agentpay.evm.session_deposit import SessionDeposit
from agentpay.evm.session_escrow import Escrow, SessionConfig
from agentpay.evm.session_escrow_abi import SessionOnChain
from agentpay.records import Settled
from agentpay.types import Address, Hash32


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOrder:
    """A voucher of a session, to be settled or closed with."""

    config: SessionConfig
    voucher: HeldVoucher


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClosed:
    """What a session came to; amounts are in all, and read from its events."""

    transaction: str
    settled: int
    refunded: int


class SessionDesk(Protocol):
    """
    Opens, fills up, settles and closes sessions.

    What it says of money is read from the escrow's events. Unless said otherwise, a
    method may raise `SessionUnfit` or `TransactionFailed` (it did not happen and will
    not), `TransactionOutcomeUnknown` (it may yet), or another `ChainError` (nothing was
    sent). Asking again is safe: what was done is recognized.
    """

    @property
    def payee(self) -> Address:
        """The account that sessions pay: its key is here, and settles and closes."""
        ...

    @property
    def escrow(self) -> Escrow:
        """Where sessions are opened."""
        ...

    @property
    def grace_seconds(self) -> int:
        """How long a payee can still settle once a payer asked the escrow to close."""
        ...

    async def start(self) -> None:
        """
        Check that the escrow is one to rely on. Cheap once it has succeeded.

        Raises:
            UnsuitableEscrow: It is not there, is not what it should be, or leaves a
                payee too little time to settle.
        """
        ...

    async def read(
        self, config: SessionConfig, *, block: int | None = None
    ) -> SessionOnChain:
        """
        What the contract says of a session, which perhaps was never opened; now, or at
        a block of the past.
        """
        ...

    async def verify(self, deposit: SessionDeposit) -> None:
        """
        Whether a deposit would go through now, or did: its signature, then what it is
        for, then a simulation. Nothing is sent.

        Raises:
            SessionUnfit: Not signed by its payer; not for a session that we take; or
                its session cannot take it.
            TransactionFailed: It would revert; `reason` names the contract's error.
        """
        ...

    async def deposit(self, deposit: SessionDeposit) -> Settled:
        """Put a deposit that was verified on the chain, once, however often asked."""
        ...

    async def confirm(
        self,
        config: SessionConfig,
        transaction: Hash32,
        *,
        added: int | None = None,
        wait_seconds: float = 10,
    ) -> Settled:
        """
        Look at a transaction that the payer sent itself: it opened the session, or
        added `added` to it, and the session is fit to be drawn on.

        Raises:
            TransactionFailed: It reverted, which is final.
            SessionUnfit: It did something else, or the session is not fit.
            TransactionOutcomeUnknown: It is not mined yet, after waiting so long.
        """
        ...

    async def settle(
        self, orders: Sequence[SessionOrder], *, deadline: int = 0
    ) -> Mapping[Hash32, Settled]:
        """
        Take what vouchers allow, each of another session; the amounts are what they
        paid now. With a `deadline`, of the chain's clock, more gas is paid as it comes
        near.

        By channel, those that the chain shows as settled. What became of the others is
        read from the chain: it failed, or may yet happen.

        Raises:
            ChainError: Of none of them is known that it was settled.
        """
        ...

    async def close(self, order: SessionOrder) -> SessionClosed:
        """Take what a voucher allows, and give the rest back to the payer, for good."""
        ...
