"""
A payer's log: one line for each movement of money.
"""

import logging
from collections.abc import Sequence

from agentpay.core import budget as budgets
from agentpay.core.budget import Budget, BudgetEvent
from agentpay.types import MONEY_DECIMALS, format_money

_log = logging.getLogger(__name__)


def log_money(before: Budget | None, events: Sequence[BudgetEvent]) -> None:
    """Say what moved, once it is written down; `before` has the holds."""
    for event in events:
        match event:
            case budgets.Spent() | budgets.Moved():
                hold = before.hold(event.id) if before is not None else None
                if hold is not None and hold.amount:
                    amount = format_money(event.amount, MONEY_DECIMALS)
                    _log.info("paid %s to %s: %s", amount, hold.host, event.id)
            case budgets.Returned():
                amount = format_money(event.amount, MONEY_DECIMALS)
                _log.info("%s came back from %s", amount, event.host)
            case _:
                pass
