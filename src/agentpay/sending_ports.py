"""
The promises of what sends transactions, and of what keeps them: a restart neither
forgets nor repeats what was sent.
"""

from typing import Protocol

from agentpay.evm.calls import Call, Receipt
from agentpay.evm.eip1559 import SignedCall
from agentpay.records import PaymentRecord, PaymentStatus, SentTransaction
from agentpay.types import Address, ChainId


class Sender(Protocol):
    """Sends transactions from one gas-paying key, one nonce after another."""

    @property
    def address(self) -> Address: ...

    async def simulate(self, call: Call, *, gas_max: int | None = None) -> None:
        """
        Raises:
            TransactionFailed: The call would revert, or use more than `gas_max`;
                `reason` names the error.
        """
        ...

    async def resume(self) -> None:
        """
        Take up what was sent and not mined when the last process ended; cheap later.

        Raises:
            StoreError: It could not be read.
        """
        ...

    def carries(self, call: Call) -> bool:
        """Whether this very call is under way, and nobody waits for it."""
        ...

    async def send(
        self, call: Call, *, gas_max: int | None = None, deadline: int = 0
    ) -> Receipt:
        """
        Simulate, send, and wait until mined. Many calls may be in flight at once.

        A call that it `carries` is waited for, and not sent again. With `gas_max`,
        neither the estimate nor the transaction has more gas than that, whatever the
        contract asks for. Near a `deadline` of the chain's clock, more is paid sooner.

        Raises:
            TransactionFailed: Refused in simulation, or mined and reverted.
            GasMissing: The key cannot pay for it; it was not sent.
            GasTooExpensive: The fee policy forbids it; it was not sent.
            StoreUnavailable: It could not be recorded; it was not sent.
            TransactionOutcomeUnknown: Sent, and not mined in time.
            ChainUnreachable: It was not sent.
        """
        ...


class Relay(Protocol):
    """Sends what others signed whole and pay for. May raise `ChainUnreachable`."""

    async def simulate(self, signed: SignedCall) -> None:
        """
        Raises:
            TransactionFailed: It would revert, or use more gas than it has.
            ChainUnreachable: The chain could not be asked.
        """
        ...

    async def send(self, signed: SignedCall) -> Receipt:
        """
        Send it, unless it was sent before, and wait until it is mined.

        Raises:
            TransactionFailed: The chain will not have it, or it reverted.
            TransactionOutcomeUnknown: It was sent, and not mined in time.
            ChainUnreachable: Perhaps it was sent; it may be sent again.
        """
        ...


class SendBook(Protocol):
    """What was sent, by chain, account and nonce: part of a `PayeeStore`."""

    async def keep_sent(self, sent: SentTransaction) -> None:
        """
        Record what is about to be sent, durably, in place of what its nonce had.

        Raises:
            StoreUnavailable: Nothing was saved; it must not be sent.
        """
        ...

    async def forget_sent(
        self, chain: ChainId, account: Address, nonce: int, *, durable: bool
    ) -> None:
        """Ours of that nonce is over: mined, replaced, or surely never taken."""
        ...

    async def list_sent(
        self, chain: ChainId, account: Address
    ) -> list[SentTransaction]:
        """
        What is not over, by nonce: ours, and dead owners', which becomes ours.

        Of two callers, one gets what a dead owner left. Where both have a nonce, the
        chain takes one of them at most, and only ours is kept.
        """
        ...


class PaymentBook(Protocol):
    """What was asked to be settled: the part of a `PayeeStore` a facilitator needs."""

    @property
    def owner(self) -> str:
        """Who holds reservations made now; see `PayeeChannel.living` for others."""
        ...

    async def begin_payment(self, payment: PaymentRecord) -> PaymentRecord:
        """
        Record a payment unless its id is known; returns what is recorded, durably.

        Of two concurrent calls with one id, exactly one gets its own record back: the
        very object (`recorded is payment`), since two records may be equal.
        """
        ...

    async def find_payment(self, payment_id: str) -> PaymentRecord | None:
        """What is recorded of a payment."""
        ...

    async def finish_payment(
        self,
        payment_id: str,
        *,
        owner: str,
        status: PaymentStatus,
        transaction: str,
        charged: int,
    ) -> bool:
        """
        Say how far its owner's payment is.

        False, and nothing is saved, if somebody else has taken it, or it is delivered:
        who lost its connection to the store, and was taken for dead, learns it here,
        before its answer leaves.
        """
        ...

    async def take_payment(self, payment_id: str, *, owner: str) -> bool:
        """Make a dead owner's payment ours; False if it lives, or others were first."""
        ...

    async def drop_payment(self, payment_id: str, *, owner: str) -> None:
        """See `PayeeStore.drop_payment`."""
        ...

    async def sweep_payments(self, *, now: int) -> None:
        """See `PayeeStore.sweep_payments`."""
        ...
