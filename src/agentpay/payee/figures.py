"""
What a payee is owed, as figures for who watches it: read when asked for, never before.
"""

from dataclasses import dataclass
from typing import Final

from agentpay.payee.works import Works
from agentpay.types import Address

_COUNTED_MAX: Final = 10_000
"""Of each kind. What is more than that is owed by channels with less in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Money that was earned and is not here yet, and what pays for fetching it."""

    unclaimed: int
    """On channels and sessions, in base units: vouchers that the chain has not seen."""
    channels: int
    """How many of them have something unclaimed."""
    unsettled: int
    """Served, and not known to be paid, in base units."""
    oldest_seconds: int
    """How long the voucher that came first of those that are unclaimed has waited."""
    gas_wei: int | None
    """What our own account has for gas; None where a facilitator pays it."""

    @property
    def exposure(self) -> int:
        """All that would be lost if the chain never gave it."""
        return self.unclaimed + self.unsettled


async def read_figures(
    works: Works, gas_account: Address | None, *, now: float
) -> Figures:
    """
    Raises:
        ChainError, StoreError: They cannot be read now.
    """
    store = works.store.payee
    owed = await store.owed(limit=_COUNTED_MAX)
    served = await store.served_payments(limit=_COUNTED_MAX)
    gas = None
    if gas_account is not None:
        gas = (await works.chain.standing(gas_account)).balance
    return Figures(
        unclaimed=owed.amount,
        channels=owed.channels,
        unsettled=sum(payment.charged for payment in served),
        oldest_seconds=max(0, int(now) - owed.since) if owed.channels else 0,
        gas_wei=gas,
    )
