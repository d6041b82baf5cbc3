"""
Where a payer's money is.
"""

from dataclasses import dataclass

from agentpay.core.payer_channel import PayerStatus
from agentpay.payer.ledger import PayerLedger
from agentpay.payer.policy import scale
from agentpay.types import MONEY_DECIMALS, format_money


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """Where an agent's money is. Amounts are in 10^-18 of its currency."""

    spent: int
    """Paid for answers."""
    deposited: int
    """In channels and not spent: it comes back when they are closed."""
    held: int
    """Signed, and not known to have moved."""

    def __str__(self) -> str:
        spent = format_money(self.spent, MONEY_DECIMALS)
        deposited = format_money(self.deposited, MONEY_DECIMALS)
        held = format_money(self.held, MONEY_DECIMALS)
        return f"{spent} spent, {deposited} deposited, {held} held"


async def spending_of(ledger: PayerLedger) -> Spending:
    """Where the money of an account is now."""
    budget = await ledger.store.budget(ledger.account)
    unspent = 0
    for record in await ledger.store.channels(ledger.account):
        if record.ledger.status is PayerStatus.CLOSED:
            continue  # what did not come back was taken, perhaps without an answer
        left = max(0, record.ledger.balance - record.ledger.spent)
        unspent += scale(left, record.decimals)
    gone = sum(host.amount for host in budget.spent)
    return Spending(
        spent=gone - unspent,
        deposited=unspent,
        held=sum(hold.amount for hold in budget.holds),
    )
