"""
The payer's end of a channel: what it signed, what that bought, what is still open.

Values and events only; `payer_rules` decides. A ticket is a voucher's cumulative amount
together with the most its request may cost: each amount buys one request.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter

from agentpay.errors import InvariantViolated
from agentpay.types import Hash32


class PayerStatus(StrEnum):
    """Where a channel is in its life, as its payer sees it."""

    OPEN = "open"
    STOPPED = "stopped"
    """We are leaving, or the payee contradicted our books: nothing more is signed."""
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A signed amount whose outcome is not final yet."""

    cumulative: int
    maximum: int
    arrived: bool = False
    delivered: int = 0
    """The worth of what came in of its answer, by our own count: owed, not booked."""

    def __post_init__(self) -> None:
        if not 0 <= self.delivered <= self.maximum:
            raise InvariantViolated(
                f"a request of at most {self.maximum} delivered {self.delivered}"
            )


_maximum: Callable[[Ticket], int] = attrgetter("maximum")
_delivered: Callable[[Ticket], int] = attrgetter("delivered")


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingDeposit:
    """A deposit that was signed and is not known to be on the chain."""

    amount: int
    salt: Hash32
    valid_before: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PayerChannel:
    """Everything a payer must remember of one channel. Amounts are base units."""

    tagged: bool
    window: int
    in_flight_max: int
    headroom: int
    """The most that may be signed beyond what was spent."""
    status: PayerStatus = PayerStatus.OPEN
    balance: int = 0
    """Our deposits that arrived, less what came back."""
    spent: int = 0
    open: tuple[Ticket, ...] = ()
    signed: tuple[int, ...] = ()
    """The highest amounts ever signed, ascending: window + 1, and any still open."""
    acknowledged: int = 0
    """The highest amount that an answer proved to have arrived."""
    deposit: PendingDeposit | None = None

    @property
    def outstanding(self) -> int:
        """The most that open requests may still cost."""
        return sum(map(_maximum, self.open))

    @property
    def owed(self) -> int:
        """What was spent, and what running requests have brought us so far."""
        return self.spent + sum(map(_delivered, self.open))

    @property
    def highest(self) -> int:
        return self.signed[-1] if self.signed else 0

    @property
    def exposure(self) -> int:
        """Signed and not owed: what a dishonest payee could take at worst."""
        return max(0, self.highest - self.owed)

    def ticket(self, cumulative: int) -> Ticket | None:
        for ticket in self.open:
            if ticket.cumulative == cumulative:
                return ticket
        return None

    def was_signed(self, cumulative: int) -> bool:
        """Whether this amount is among those that it remembers."""
        at = bisect_left(self.signed, cumulative)
        return self.signed[at : at + 1] == (cumulative,)


# Events


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketWanted:
    """
    A request that may cost `maximum` is about to be sent.

    With `deposit`, it may carry one: if the balance does not cover it, or if less than
    `low_water` would be left.
    """

    maximum: int
    deposit: PendingDeposit | None = None
    low_water: int = 0
    rise: int = 0
    """What the payee wants its vouchers to rise by, where they must rise."""
    whole: bool = False
    """Where they must: it may cost all that its voucher authorizes, not `maximum`."""
    most: int | None = None
    """What no request may cost: then the highest voucher is rather signed again."""
    carries: bool = False
    """Whether a deposit that was signed before may still be made, as it was signed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketCharged:
    """A final answer: this amount was charged `charged`."""

    cumulative: int
    charged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketVoid:
    """A final answer: this amount bought nothing and never will."""

    cumulative: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketOld:
    """The payee no longer remembers: booked at its maximum until all is at rest."""

    cumulative: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketArrived:
    """An answer shows that the payee has it; the outcome is still open."""

    cumulative: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentReported:
    """The payee's own total, as an answer gave it."""

    charged: int
    late: bool = False
    """Whether it may count what we took for over: a strict payee's, which says of no
    request that it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalShown:
    """
    A strict payee's total, that it proves or that is no more than ours; and that this
    amount's request is over.
    """

    cumulative: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DepositArrived:
    """The pending deposit is on the chain."""

    salt: Hash32


@dataclass(frozen=True, slots=True, kw_only=True)
class DepositLapsed:
    """The pending deposit can no longer reach the chain, and did not."""

    salt: Hash32


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseWanted:
    """
    Ask for the refund: nothing more is signed but the voucher that asks. A channel to
    which no deposit came is closed by that alone.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitWanted:
    """Leave without the payee: nothing more is signed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelEmptied:
    """What was left came back."""

    returned: int


PayerEvent = (
    TicketWanted
    | TicketCharged
    | TicketVoid
    | TicketOld
    | TicketArrived
    | SpentReported
    | TotalShown
    | DepositArrived
    | DepositLapsed
    | CloseWanted
    | ExitWanted
    | ChannelEmptied
)


# Answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """Sign this amount, for this request only. Record it first."""

    cumulative: int
    deposit: PendingDeposit | None = None
    again: bool = False
    """Whether that deposit went along before: its signature is out already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Too much is in flight; ask again when an answer has come in."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DepositNeeded:
    """The balance does not cover it; `short` more would."""

    short: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """This channel will not sign for such a request; use another."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Misbehaved:
    """The payee contradicted our books: the channel is stopped, withdraw from it."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """Recorded."""


PayerAnswer = Issued | Wait | DepositNeeded | Unusable | Misbehaved | Booked
