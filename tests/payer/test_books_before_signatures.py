"""What is signed or sent next is on disk first; how a request ended need not be."""

from typing import Any

import pytest

from agentpay import Policy
from agentpay.core.budget import Budget, Limits
from agentpay.core.payer_channel import (
    CloseWanted,
    ExitWanted,
    PayerEvent,
    SpentReported,
    TicketCharged,
)
from agentpay.payer.ledger import PayerLedger
from agentpay.records import PayerDecide, PayerRecord, PayerStep
from agentpay.stores import MemoryPayerStore
from agentpay.types import Address, Hash32
from tests.stores.store_cases import ACCOUNT, payer_record


class Noting(MemoryPayerStore):
    """Notes which steps were waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[bool] = []

    async def update(
        self,
        account: Address,
        channel: Hash32 | None,
        decide: PayerDecide[Any],
        *,
        durable: bool = True,
    ) -> Any:
        self.waited.append(durable)
        return await super().update(account, channel, decide, durable=durable)


@pytest.mark.parametrize(
    ("event", "waited"),
    [
        (CloseWanted(), True),
        (ExitWanted(), True),
        (TicketCharged(cumulative=1, charged=1), False),
        (SpentReported(charged=0), False),
    ],
)
async def test_what_is_acted_on_is_waited_for(event: PayerEvent, waited: bool) -> None:
    store, record = Noting(), payer_record()

    def begin(budget: Budget, before: PayerRecord | None) -> PayerStep[None]:
        return PayerStep(budget=budget, record=record, answer=None)

    limits = Limits(total=1, per_host=1, per_request=1)
    ledger = PayerLedger(
        account=ACCOUNT,
        store=store,
        limits=lambda _: limits,
        policy=Policy(),
        clock=lambda: 0.0,
        cheated=lambda _: None,
    )
    await store.update(ACCOUNT, record.channel, begin)
    await ledger.book(record.channel, event)

    assert store.waited[1:] == [waited]
