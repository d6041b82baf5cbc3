"""
What channels of x402 and sessions of MPP do differently, for their payer.

Which of them a request uses, when one is opened and what is asked about is in
`channels` and `inquiry`, once for both: the ledger is the same. The kinds are
`batch_kind` and `session_kind`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentpay.core.payer_channel import Issued, PendingDeposit
from agentpay.evm.deposit import SignedDeposit
from agentpay.payer.channel_key import Key
from agentpay.payer.offer import Offer
from agentpay.payer.payment import Answer, Payment, Target
from agentpay.payer.underway import Whereabouts, ended
from agentpay.records import Config, PayerRecord
from agentpay.types import Address, Asset, ChainId, Hash32
from agentpay.wire.parallel import ParallelTerms


class VoucherPayment(Payment, Protocol):
    """A signed voucher, for one request only."""

    @property
    def record(self) -> PayerRecord:
        """Its channel, as it was when it was signed."""
        ...

    @property
    def cumulative(self) -> int: ...

    @property
    def runs_seconds(self) -> float:
        """
        How long its request may run that nobody heard of, without its payee saying so.
        """
        ...

    def carried_on(self) -> "VoucherPayment":
        """The same, as a later request presents it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticketed:
    """A ticket that was taken, what for, and who looks after it."""

    record: PayerRecord
    issued: Issued
    offer: Offer
    target: Target
    leave: Callable[..., Awaitable[None]]
    """
    Find out later what became of a payment; `heard` says that its request has ended.
    """
    left: Callable[..., Awaitable[None]]
    """The same, where nobody had its answer: who asks for that again presents it."""
    is_made: Callable[..., Awaitable[bool]]
    """Whether the chain shows its deposit: `Inquiry.is_made` of its chain."""
    uncarried: Callable[[Hash32], None]
    """Told of a deposit, by its salt, that is not to go along again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferTerms:
    """What an offer of channels asks for, beside its price."""

    parallel: ParallelTerms | None
    deposit_min: int
    rise: int = 0
    """What its vouchers must rise by, where they must."""
    whole: bool = False
    """Whether all that is signed may be charged for a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """What a contract says of a channel. Amounts are base units."""

    unused: bool
    """Whether nothing was ever in it."""
    balance: int
    """What was put in, less what came back."""
    claimed: int
    """What of it is the payee's."""


class ChannelKind(Protocol):
    """One of the two; see the module."""

    def key_of(self, offer: Offer, target: Target, authorizer: Address) -> Key | None:
        """What a channel for an offer belongs to; None if it is not of this kind."""
        ...

    def key_in(self, record: PayerRecord) -> Key | None:
        """What a channel that we have belongs to; None if it is of another kind."""
        ...

    def terms_of(self, offer: Offer) -> OfferTerms: ...

    async def check(self, key: Key) -> None:
        """
        Whether a channel of this key may be opened at all.

        Raises:
            OfferUntrusted: Its contract is not what we take it for.
            ChainError: The chain could not be asked.
        """
        ...

    async def config(self, key: Key, index: int) -> Config:
        """
        The terms of a key's channel of this number: the same whenever they are made.

        Raises:
            KeyElsewhere: The wallet is only watched.
        """
        ...

    def id_of(self, config: Config, chain: ChainId) -> Hash32: ...

    async def state(self, config: Config, chain: ChainId) -> ChannelState:
        """
        Raises:
            ChainError: The chain could not be asked.
        """
        ...

    def deposits(
        self, record: PayerRecord, asset: Asset, pending: PendingDeposit
    ) -> Mapping[str, SignedDeposit]:
        """A deposit, unsigned, by each way to sign it."""
        ...

    async def sign(self, ticketed: Ticketed) -> VoucherPayment:
        """
        Sign the voucher of a ticket, with its deposit if it has one.

        Raises:
            ChannelUnusable: We do not hold the key of its vouchers.
            KeyElsewhere: The deposit needs a wallet that is only watched.
            ApprovalNeeded: The deposit needs an approval that nobody sends along.
            ConfigurationError: The key of its vouchers is that of a contract.
            ChainError: The chain is needed for the deposit and cannot be read.
        """
        ...

    # Asking.

    def to_ask(self, record: PayerRecord) -> Sequence[int]:
        """The amounts whose fate says whether the payee's books are ours."""
        ...

    def asking_method(self, method: str) -> str:
        """What a question is asked by, where a request is made by this method."""
        ...

    async def question(
        self,
        record: PayerRecord,
        cumulative: int,
        *,
        underway: Whereabouts = ended,
    ) -> VoucherPayment:
        """
        A voucher that buys nothing, and asks what became of this amount; `underway`
        says where its request may still be, for all we know.

        A first deposit that is open goes along, so that a payee that never had it knows
        the channel.

        Raises:
            ChannelUnusable: We do not hold the key of its vouchers.
        """
        ...

    def renewed(self, payment: VoucherPayment, answer: Answer) -> VoucherPayment | None:
        """The same question, as an answer wants it framed; None if it says not how."""
        ...

    async def repriced(
        self, payment: VoucherPayment, answer: Answer
    ) -> VoucherPayment | None:
        """
        The same question under what its refusal offers for the same channel; None if
        that is nothing else than it was asked under.
        """
        ...
