"""
Decisions about a payer's books: an event by the rules of its channel, with its deposit.
"""

import json
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Final

from agentpay.core import budget as budgets
from agentpay.core import payer_rules, payer_session_rules
from agentpay.core.budget import Budget, Hold, Limits
from agentpay.core.payer_channel import (
    DepositNeeded,
    Issued,
    PayerAnswer,
    PendingDeposit,
    Wait,
)
from agentpay.core.payer_session_rules import OnlyOfSessions, PayerSessionEvent
from agentpay.errors import BudgetExceeded, InvariantViolated
from agentpay.evm.session_escrow import SessionConfig
from agentpay.payer.policy import scale
from agentpay.records import PayerRecord, PayerStep
from agentpay.types import Hash32
from agentpay.wire.x402_terms import method_of

_MADE_SECONDS: Final = 10
"""What a signature must be good for yet, to be put on the chain."""

Want = Callable[[PendingDeposit | None, int], PayerSessionEvent]
"""What is wanted, with this deposit and with this low-water mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a channel is used, to ask about it and to close it after a restart."""

    url: str
    """A method and a URL without its query, which may hold secrets."""
    offer: str
    """The offer's own words (JSON)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DepositWish:
    """How a request may fund its channel."""

    amounts: tuple[int, ...]
    """What to deposit, the best first; less if the budget has less."""
    uncarried: Set[Hash32]
    """The salts of those that are not to go along again."""
    salt: Hash32
    now: int
    valid_before: int
    low_water: int
    rise: int = 0
    whole: bool = False
    """See `TicketWanted`."""


def apply_to(
    record: PayerRecord, event: PayerSessionEvent
) -> tuple[PayerRecord, PayerAnswer]:
    """
    A channel after an event, by the rules of its kind.

    Raises:
        InvariantViolated: A bug here; nothing may be saved, let alone signed.
    """
    if isinstance(record.config, SessionConfig):
        transition = payer_session_rules.apply(record.ledger, event)
    elif isinstance(event, OnlyOfSessions):
        raise InvariantViolated(f"a channel of x402's knows no {type(event).__name__}")
    else:
        transition = payer_rules.apply(record.ledger, event)
    if transition.channel is record.ledger:
        return record, transition.answer
    return record.moved(transition.channel), transition.answer


def may_carry(record: PayerRecord, words: str, wish: DepositWish) -> bool:
    """
    Whether the deposit that a channel has signed may go along once more, under an offer
    of these words: in another way it could be made a second time.
    """
    pending = record.ledger.deposit
    if pending is None or pending.salt in wish.uncarried:
        return False
    if pending.valid_before < wish.now + _MADE_SECONDS:
        return False
    ways = [method_of(json.loads(said or "{}")) for said in (record.offer, words)]
    return ways[0] == ways[1]


def take(
    budget: Budget,
    record: PayerRecord,
    want: Want,
    *,
    host: str,
    wish: DepositWish,
    limits: Limits,
) -> PayerStep[PayerAnswer]:
    """A voucher, with a deposit if one is due and the budget has it."""
    refused: BudgetExceeded | None = None
    for amount in wish.amounts:
        deposit = PendingDeposit(
            amount=amount, salt=wish.salt, valid_before=wish.valid_before
        )
        # Ahead of need only in full: a smaller deposit is for a request that needs it.
        low_water = wish.low_water if amount == wish.amounts[0] else 0
        after, answer = apply_to(record, want(deposit, low_water))
        if not isinstance(answer, Issued) or answer.deposit is None or answer.again:
            return PayerStep(budget=budget, record=after, answer=answer)
        hold = Hold(
            id=f"deposit {wish.salt}",
            host=host,
            amount=scale(amount, record.decimals),
            valid_before=wish.valid_before,
            detail=record.channel,
        )
        try:
            reserved = budgets.apply(budget, budgets.Reserved(hold=hold), limits)
        except BudgetExceeded as error:
            refused = error
            continue
        return PayerStep(budget=reserved, record=after, answer=answer)
    after, answer = apply_to(record, want(None, 0))
    if isinstance(answer, DepositNeeded) and refused is not None:
        if not record.ledger.open:
            raise refused
        answer = Wait(reason="the budget has no more to deposit until answers come in")
    return PayerStep(budget=budget, record=after, answer=answer)
