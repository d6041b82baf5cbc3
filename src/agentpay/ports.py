"""
The promises that adapters keep: signers, chains, facilitators and stores. Those that
send are in `sending_ports`.

Orchestration is written against these, and every adapter passes the same tests.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from agentpay.core.budget import Budget
from agentpay.core.payee_channel import HeldVoucher
from agentpay.evm.batch_settlement import ChannelConfig, VoucherClaim
from agentpay.evm.calls import Block, Call, Log, Receipt, Standing
from agentpay.evm.deposit import Deposit
from agentpay.evm.transfer import Transfer
from agentpay.records import (
    AnswerRecord,
    Owed,
    PayeeDecide,
    PayeeRecord,
    PayerDecide,
    PayerRecord,
    PaymentRecord,
    Settled,
)
from agentpay.sending_ports import PaymentBook, SendBook
from agentpay.types import Address, Asset, ChainId, Hash32
from agentpay.wire.bazaar import Listing

T = TypeVar("T")


class Signer(Protocol):
    """Signs for one account. Signing may be remote, so it is awaited."""

    @property
    def address(self) -> Address: ...

    async def sign_digest(self, digest: bytes, *, chain: ChainId) -> bytes:
        """
        Sign 32 bytes, so that contracts on `chain` take it as this account's.

        The account of a key returns 65 bytes r, s, v with low s and v 27 or 28 (EIP-2).
        The account of a contract returns what its `isValidSignature` takes (ERC-1271),
        of any length up to 4096 bytes; it cannot be the key of vouchers, of claims or
        of refunds, which are checked without asking a contract.

        Raises:
            UnsafeKey: A publicly known test key, and `chain` is not local.
            KeyElsewhere: The key is not here, and cannot be asked.
        """
        ...

    async def derive_secret(self, purpose: bytes) -> bytes:
        """32 bytes that only this key can make again, always the same per purpose."""
        ...


class Chain(Protocol):
    """Reads one EVM chain. Every method may raise `ChainUnreachable`."""

    @property
    def chain_id(self) -> ChainId: ...

    async def check(self) -> None:
        """
        Raises:
            WrongChain: The endpoint serves another chain than `chain_id`.
        """
        ...

    async def head(self) -> Block: ...

    async def block(self, number: int) -> Block:
        """A block of the past, which the chain has."""
        ...

    async def read(
        self, calls: Sequence[Call], *, block: int | None = None
    ) -> list[bytes]:
        """
        Answer several calls in one round trip, in order, all at one block.

        Raises:
            TransactionFailed: One of them reverts.
        """
        ...

    async def code(self, address: Address) -> bytes:
        """The code at an address; empty for an account without any."""
        ...

    async def standing(self, account: Address) -> Standing:
        """What an account may send now, and what gas costs."""
        ...

    async def logs(
        self,
        *,
        address: Address,
        topics: Sequence[Hash32 | None],
        first_block: int,
        last_block: int,
    ) -> list[Log]:
        """The events of one contract in a range of blocks, oldest first."""
        ...

    async def input(self, transaction: Hash32) -> bytes:
        """The data that a transaction was sent with; empty if it is not known."""
        ...

    async def receipt(self, transaction: Hash32) -> Receipt | None:
        """
        The receipt of a transaction, or None while it is not mined.

        Raises:
            TransactionFailed: It was mined and reverted.
        """
        ...


class Settler(Protocol):
    """
    What a payee asks of a facilitator: its own, or one behind HTTP.

    What it says of money is read from the chain's events. Unless said otherwise, a
    method may raise `TransactionFailed` (it did not happen and will not),
    `TransactionOutcomeUnknown` (it may yet), or another `ChainError` (nothing was
    sent).
    """

    @property
    def address(self) -> Address | None:
        """The account to bind transfers to that one facilitator alone may send."""
        ...

    @property
    def claims_max(self) -> int:
        """The most channels to claim at once."""
        ...

    async def start(self, chain: Chain, asset: Asset) -> None:
        """
        Find out whether it does what is needed here. Cheap once it has succeeded.

        `chain` is the payee's own view, to check by what it is told.

        Raises:
            FacilitatorUnavailable: Not now; try again.
        """
        ...

    async def stop(self) -> None:
        """Let go of connections."""
        ...

    async def verify(
        self, transfer: Transfer, *, listing: Listing | None = None
    ) -> None:
        """
        Whether a transfer of all that it may move would go through now.

        Here and below, `listing` is for its catalogue, where it keeps one.
        """
        ...

    async def settle_transfer(
        self, transfer: Transfer, amount: int, *, listing: Listing | None = None
    ) -> Settled:
        """
        Send a transfer once, however often it is asked for; somebody else's sending it
        counts too, so read the amount.
        """
        ...

    async def verify_deposit(
        self, deposit: Deposit, voucher: HeldVoucher, *, listing: Listing | None = None
    ) -> None:
        """Whether a deposit, which comes with a voucher, would go through now."""
        ...

    async def deposit(
        self, deposit: Deposit, voucher: HeldVoucher, *, listing: Listing | None = None
    ) -> Settled:
        """Fund a channel with money that its payer signed for it alone."""
        ...

    async def claim(
        self, claims: Sequence[VoucherClaim], *, authorizer: Signer, deadline: int = 0
    ) -> Settled:
        """
        Record on chain what vouchers allow, 0 if all of it was; moves no tokens.

        With a `deadline`, of the chain's clock, more gas is paid as it comes near.
        """
        ...

    async def settle(self, receiver: Address, asset: Asset) -> Settled:
        """Send a receiver all that was claimed for it."""
        ...

    async def refund(
        self,
        config: ChannelConfig,
        *,
        amount: int,
        nonce: int,
        claims: Sequence[VoucherClaim],
        authorizer: Signer,
    ) -> Settled:
        """Claim what is due and give the rest, at most `amount`, back in one go."""
        ...


class PayeeStore(PaymentBook, SendBook, Protocol):
    """What a payee remembers. Every method may raise `StoreUnavailable`."""

    async def update(
        self, channel: Hash32, decide: PayeeDecide[T], *, durable: bool = True
    ) -> T:
        """
        Load a channel, decide, and save, in one atomic step.

        Of two concurrent calls, the second sees what the first saved. `decide` is pure
        and may run more than once; if it raises, nothing is saved. With `durable`, it
        returns when a crash can no longer undo it; without, soon is enough. Of a record
        that stays nothing is written. A step holds no timeout: another task may end it.

        Raises:
            StoreUnavailable: Nothing was saved.
        """
        ...

    async def read(self, channel: Hash32) -> PayeeRecord | None: ...

    async def claimable(
        self, *, sessions: bool, at_least: int, limit: int
    ) -> list[PayeeRecord]:
        """
        Channels with at least so much unclaimed (`PayeeChannel.unclaimed`), the most
        first: of MPP's sessions alone, or of x402's channels alone.
        """
        ...

    async def owed(self, *, limit: int) -> Owed:
        """What is unclaimed on as many of each kind, those with the most, in all."""
        ...

    async def closing(self, *, sessions: bool, limit: int) -> list[PayeeRecord]:
        """Channels whose payer wants them closed (`PayeeChannel.is_ending`)."""
        ...

    async def left_behind(self, *, limit: int) -> list[PayeeRecord]:
        """Channels of any kind with requests whose owner died, in any order."""
        ...

    async def seen_since(self, chain: ChainId, moment: int) -> list[Hash32]:
        """
        Channels of any kind whose last look at the chain is no older, in any order.

        All are read for it: this is for who starts, and for nobody's rounds.
        """
        ...

    async def drop_payment(self, payment_id: str, *, owner: str) -> None:
        """Forget its owner's payment, of which nothing was sent; durable soon."""
        ...

    async def served_payments(self, *, limit: int) -> list[PaymentRecord]:
        """What was answered and is not known to be settled, the oldest first."""
        ...

    async def bury_payments(self, *, begun_until: int) -> None:
        """
        What the dead were answering, and began by then, is ours, and counts as served.

        It may have been answered, it is due, and nobody else will settle it.
        """
        ...

    async def sweep_payments(self, *, now: int) -> None:
        """Forget what is over, and was signed for no longer than until `now`."""
        ...

    async def keep_answer(self, answer: AnswerRecord, *, durable: bool) -> None:
        """
        Remember an answer, or a name, in place of what its key had.

        The next reader sees it. Without `durable`, it is saved no later than anything
        that is saved after it.
        """
        ...

    async def find_answer(self, key: str) -> AnswerRecord | None:
        """What is kept under a key."""
        ...

    async def drop_answer(self, key: str) -> None:
        """Forget what a key has, if anything."""
        ...

    async def sweep_answers(self, *, now: int, bytes_total: int) -> None:
        """Forget what need not be kept any more, and the oldest above `bytes_total`."""
        ...

    async def set_mark(self, name: str, *, until: int) -> None:
        """Remember a name until some moment; returns when that is durable."""
        ...

    async def take_mark(self, name: str, *, until: int, now: int) -> bool:
        """The same, unless it is remembered: of two callers, one gets True."""
        ...

    async def read_mark(self, name: str) -> int:
        """Until when a name is remembered; 0 if it never was."""
        ...

    async def sweep_marks(self, *, now: int) -> None:
        """Forget the names whose moment is past."""
        ...

    async def lead(self, name: str) -> bool:
        """Of the owners that share a store, one gets True, until it dies."""
        ...

    async def read_cursor(self, name: str) -> int:
        """How far something has been followed (a block number); 0 at first."""
        ...

    async def write_cursor(self, name: str, position: int) -> None: ...

    async def close(self) -> None: ...


class PayerStore(Protocol):
    """What a payer remembers. Every method may raise `StoreUnavailable`."""

    @property
    def shared(self) -> bool:
        """Whether other processes may pay from it now, for the same account."""
        ...

    async def update(
        self,
        account: Address,
        channel: Hash32 | None,
        decide: PayerDecide[T],
        *,
        durable: bool = True,
    ) -> T:
        """
        Load an account's budget and perhaps a channel, decide, and save both together.

        The same promises as `PayeeStore.update`. With `channel` None, `decide` gets no
        record and returns none.
        """
        ...

    async def channels(self, account: Address) -> list[PayerRecord]: ...

    async def budget(self, account: Address) -> Budget: ...

    async def close(self) -> None: ...
