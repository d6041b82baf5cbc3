"""
What happens to a channel or a session beside its requests, put into its books.
"""

from dataclasses import replace
from typing import TypeVar

from agentpay.core import payee_rules, session_rules
from agentpay.core.payee_events import Event
from agentpay.ports import PayeeStore
from agentpay.records import PayeeRecord, PayeeStep
from agentpay.types import Hash32

T = TypeVar("T")


def noted(record: PayeeRecord, event: Event, *, answer: T) -> PayeeStep[T]:
    """The books after an event, by the rules of their kind."""
    rules = session_rules if record.ledger.pays_whole else payee_rules
    after = rules.apply(record.ledger, event)
    if after.channel is not record.ledger:
        record = replace(record, ledger=after.channel)
    return PayeeStep(record=record, answer=answer, touched=after.touched)


async def note(store: PayeeStore, channel: Hash32, event: Event) -> None:
    """Put an event into the books, durably; of a channel that is not there, nothing."""

    def decide(record: PayeeRecord | None) -> PayeeStep[None]:
        if record is None:
            return PayeeStep(record=None, answer=None)
        return noted(record, event, answer=None)

    await store.update(channel, decide)
