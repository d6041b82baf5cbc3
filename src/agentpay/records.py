"""
What stores keep: the pure ledgers, with what is needed to act on them after a crash.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Generic, TypeVar

from agentpay.core.budget import Budget
from agentpay.core.evolve import evolve
from agentpay.core.payee_channel import PayeeChannel
from agentpay.core.payer_channel import PayerChannel
from agentpay.errors import ChannelUnusable, InvariantViolated
from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.evm.session_escrow import SessionConfig
from agentpay.types import Address, ChainId, Hash32

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_ROW_BYTES = 128

Config = ChannelConfig | SessionConfig
"""What a channel's id is the hash of: a channel of x402's, or a session of MPP's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeeRecord:
    """A channel, as the payee keeps it."""

    channel: Hash32
    chain: ChainId
    config: Config
    ledger: PayeeChannel
    refund_nonce: int = 0
    withdrawal_started: int = 0
    """When its payer began to withdraw (block time), or 0; of x402's channels only."""
    last_voucher_at: int = 0
    chain_seen_at: int = 0
    owing_since: int = 0
    """When the first of what is unclaimed was charged, or before; 0 is none."""

    def __post_init__(self) -> None:
        _check_chain(self.config, self.chain)
        if isinstance(self.config, SessionConfig) != self.ledger.pays_whole:
            raise InvariantViolated(f"channel {self.channel} has books of another kind")

    @property
    def seen(self) -> tuple[int, int, int, int, int]:
        """
        What the chain showed of it. A look that began before this changed is too old.
        """
        ledger = self.ledger
        of_money = (ledger.balance, ledger.claimed, ledger.pending_withdrawal)
        return (*of_money, self.refund_nonce, self.withdrawal_started)

    def moved(self, ledger: PayeeChannel, *, at: int) -> "PayeeRecord":
        """This channel once its ledger has moved: what every request does thrice."""
        since = (self.owing_since or at) if ledger.owes else 0
        return evolve(self, ledger=ledger, last_voucher_at=at, owing_since=since)

    def seen_on_chain(
        self,
        ledger: PayeeChannel,
        *,
        at: int,
        refund_nonce: int = 0,
        withdrawal_started: int = 0,
        taken: "Taken | None" = None,
    ) -> "PayeeRecord":
        """This channel once its ledger has heard what the chain says of it."""
        since = self.owing_since or self.last_voucher_at
        if taken is not None and ledger.claimed >= taken.amount:
            since = max(since, taken.asked_at)
        return replace(
            self,
            ledger=ledger,
            refund_nonce=refund_nonce,
            withdrawal_started=withdrawal_started,
            chain_seen_at=at,
            owing_since=since if ledger.owes else 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A claim of all that was due on a channel at some moment."""

    amount: int
    """What the chain shows as claimed once it is made."""
    asked_at: int
    """When it was put together: what it leaves became due no earlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayeeStep(Generic[T_co]):
    """What to save, which voucher amounts to rewrite, and what to answer."""

    record: PayeeRecord | None
    answer: T_co
    touched: tuple[int, ...] = ()
    unsaved: Callable[[], None] | None = None
    """Called where nobody waited for it to be saved, and it was not."""
    kept: "AnswerRecord | None" = None
    """The answer that it pays for: saved with the record, and with nothing else."""


class PaymentStatus(StrEnum):
    """How far a transfer is, as the payee knows it."""

    STARTED = "started"
    """Recorded; its transaction may or may not have been sent."""
    SETTLED = "settled"
    """The money is ours; the answer may not have left yet."""
    ANSWERING = "answering"
    """Its answer may have left, or a part: so much is due, and is settled after it."""
    SERVED = "served"
    """Answered before it was settled, and whether the money moved is not known."""
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRecord:
    """A transfer to the payee: a signature buys one answer."""

    id: str
    """Chain, token, payer and nonce: what makes the authorization unique."""
    payer: Address
    amount: int
    """The most that it may move."""
    resource: str
    owner: str
    started_at: int
    status: PaymentStatus = PaymentStatus.STARTED
    charged: int = 0
    """What it moved, once it is settled; or what is due, once its answer may leave."""
    transaction: str = ""
    good_until: int = 0
    """When what was signed expires, after which it need not be known; 0 is never."""
    request: str = ""
    """The transfer itself (JSON), where it may have to be settled after its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a transaction moved; "" and 0 where there was nothing to move."""

    transaction: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """What channels and sessions owe that was not claimed yet, added up."""

    amount: int = 0
    channels: int = 0
    since: int = 0
    """The least `owing_since` of them; 0 is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentTransaction:
    """A call that was signed to be sent, and may be mined."""

    chain: ChainId
    account: Address
    """Whose key signed it, and pays the gas."""
    nonce: int
    raws: tuple[bytes, ...]
    """The signed bytes, for more and more gas; any one of them may be mined."""
    what: str
    """What it does, for people."""
    deadline: int = 0
    """When it has to be mined, by the chain's clock; 0 is whenever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecord:
    """What a paid request was answered, to be told again to who paid for it."""

    key: str
    """What was signed for it, or how its payer named the payment."""
    request: bytes
    """A hash of what was asked, and of the whole payment where it was named."""
    kept_until: int
    content: bytes = b""
    """A hash of the body that was read to answer it; empty if none was."""
    status: int = 0
    """0 where only the name is kept: there is no answer yet, or it was too large."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""

    @property
    def size(self) -> int:
        """What it takes to keep it, in bytes."""
        names = sum([len(name) + len(value) for name, value in self.headers])
        return _ROW_BYTES + len(self.key) + names + len(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class PayerRecord:
    """A channel, as the payer keeps it."""

    channel: Hash32
    chain: ChainId
    config: Config
    origin: str
    index: int
    ledger: PayerChannel
    decimals: int
    url: str = ""
    """Where it was last used, a method and a URL: to ask about it and to close it."""
    offer: str = ""
    """The offer it was last used under, as the payee sent it (JSON)."""

    def __post_init__(self) -> None:
        _check_chain(self.config, self.chain)

    def moved(self, ledger: PayerChannel) -> "PayerRecord":
        """This channel once its ledger has moved: what every request does twice."""
        return evolve(self, ledger=ledger)

    @property
    def host(self) -> str:
        """Whose budget it counts against: the host and port of its origin."""
        return self.origin.partition("://")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class PayerStep(Generic[T]):
    """What to save and what to answer."""

    budget: Budget
    record: PayerRecord | None
    answer: T


def _check_chain(config: Config, chain: ChainId) -> None:
    if isinstance(config, SessionConfig) and config.escrow.chain != chain:
        raise InvariantViolated(f"a session of {config.escrow.chain} kept on {chain}")


def channel_config(record: PayeeRecord | PayerRecord) -> ChannelConfig:
    """
    The terms of a channel of x402's, for whatever knows no others.

    Raises:
        ChannelUnusable: It is a session of MPP's.
    """
    if isinstance(record.config, ChannelConfig):
        return record.config
    raise ChannelUnusable(
        f"channel {record.channel} is a session of MPP's, and this is done with"
        " channels of x402's"
    )


def session_config(record: PayeeRecord | PayerRecord) -> SessionConfig:
    """
    The terms of a session of MPP's, for whatever knows no others.

    Raises:
        ChannelUnusable: It is a channel of x402's.
    """
    if isinstance(record.config, SessionConfig):
        return record.config
    raise ChannelUnusable(
        f"channel {record.channel} is one of x402's, and this is done with sessions"
        " of MPP's"
    )


PayeeDecide = Callable[[PayeeRecord | None], PayeeStep[T]]
PayerDecide = Callable[[Budget, PayerRecord | None], PayerStep[T]]
