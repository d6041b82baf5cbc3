"""
What travels between the payer and the payee of a modelled channel.
"""

from dataclasses import dataclass
from enum import StrEnum

from agentpay.core.payee_channel import Fate, Reservation
from agentpay.core.payer_channel import PendingDeposit


class Kind(StrEnum):
    """How a route charges."""

    FIXED = "fixed"
    METERED = "metered"
    STREAM = "stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the payer sends: a voucher, and what it is to buy."""

    cumulative: int
    maximum: int
    kind: Kind
    resource: str
    deposit: PendingDeposit | None = None
    purpose: str = "buy"
    raises: tuple[int, int] | None = None
    """The running request that it is for, and what that may cost from now."""
    number: int = 0
    """Which request it is: an amount may be signed again on an untagged channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A message on its way to the payee."""

    request: Request
    purpose: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A message on its way to the payer."""

    cumulative: int
    fate: Fate
    charged: int
    total: int
    accepted: int = 0
    number: int = 0
    purpose: str = "buy"


@dataclass(slots=True, kw_only=True)
class Handler:
    """A request that the payee's application is working on."""

    request: Request
    reservation: Reservation
    owner: str
    hears_payer: bool
    sliced: int = 0
    answered: bool = False
    again: bool = False
    """Whether another owner began it, and died."""

    @property
    def at_work(self) -> bool:
        """Whether it takes a slot: a second run had one, and may have been answered."""
        return not self.answered and not self.again
