"""
What happens to a payee's channel, and what is answered: plain values.

Whoever makes an event has checked what its docstring says. `payee_rules` decides.
"""

from dataclasses import dataclass

from agentpay.core.payee_channel import Fate, PartRefund, Reservation


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherVerified:
    """A request came with a voucher whose signature is the payer's."""

    cumulative: int
    signature: bytes
    maximum: int
    prepaid: bool
    owner: str
    resource: str
    exposure_max: int | None = None
    """The most that may be unclaimed on its channel with this; None is any amount."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeAsked:
    """The payer asks what became of a voucher (signature checked); burns an unused."""

    cumulative: int
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherRefused:
    """A verified voucher came with terms that are not ours: it must not come again."""

    cumulative: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """
    This much is charged, in all; never above the reservation.

    Its receipt leaves next, so that it stands; unless `more` may follow, as after a
    slice of a stream, of which as much is charged as the reservation covers.
    """

    cumulative: int
    owner: str
    charged: int
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The answer has left; the reservation closes at what was charged."""

    cumulative: int
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenBack:
    """
    The handler failed or the client left; the reservation closes at `charged`.

    If its receipt may have left before, what that said stands: see the answer.
    """

    cumulative: int
    owner: str
    charged: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundAsked:
    """The payer asks for its money back with a verified voucher (rule 10)."""

    cumulative: int
    signature: bytes
    owner: str
    part: int | None = None
    """How much of it; None is all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnersDied:
    """Close what owners that are gone left: all others but those known to live."""

    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSeen:
    """A fact from the chain: always stored, whatever it does to the books (rule 8)."""

    balance: int
    claimed: int
    pending_withdrawal: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherPublished:
    """A claim of ours put a voucher on the chain, where everyone can read it."""

    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartBegun:
    """
    The part that this amount asked for may be sent next, as the channel's refund of
    this nonce.
    """

    cumulative: int
    nonce: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundDone:
    """The refund is on the chain: all that was left, or the part with this nonce."""

    nonce: int | None = None
    refunded: int = 0
    """How much of a part came back."""
    transaction: str = ""


Event = (
    VoucherVerified
    | OutcomeAsked
    | VoucherRefused
    | Charged
    | Delivered
    | GivenBack
    | RefundAsked
    | OwnersDied
    | ChainSeen
    | VoucherPublished
    | PartBegun
    | RefundDone
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """Run the handler. The reservation stands, and is to be made durable first."""

    reservation: Reservation


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """This voucher was presented before; nothing runs. Final unless running."""

    fate: Fate
    charged: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Nothing runs. If `burnt`, it never will, and the payer books nothing for it."""

    reason: str
    burnt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """The channel admits nothing more; claim and refund when `ready`."""

    ready: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PartGiven:
    """This part was given back before; nothing moves."""

    part: PartRefund


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLost:
    """The reservation is not this owner's any more; its handler sends nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """Recorded; of a request, with what it is charged: what its receipt must say."""

    charged: int = 0


Answer = Admitted | Spent | Refused | Closing | PartGiven | LeaseLost | Noted

MISMATCH = "cumulative_amount_mismatch"
EXCEEDS_BALANCE = "cumulative_exceeds_balance"
BUSY = "channel_busy"
CLOSING = "channel_closing"
NOT_COVERED = "charge_exceeds_signed_cumulative"
EXPOSED = "too_much_unclaimed"
REFUND_AMOUNT = "refund_amount_invalid"
