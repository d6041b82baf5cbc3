"""What every store promises a payer, whatever it is made of."""

import asyncio
from dataclasses import replace

import pytest

from agentpay.core import budget as budget_rules
from agentpay.core.budget import Budget, Hold, HostSpending
from agentpay.core.payer_channel import Issued, PendingDeposit, TicketWanted
from agentpay.errors import BudgetExceeded, InvariantViolated
from agentpay.ports import PayerStore
from agentpay.records import (
    PayerRecord,
    PayerStep,
)
from agentpay.types import Hash32
from tests.stores.store_cases import (
    ACCOUNT,
    LIMITS,
    books,
    channel,
    payer_record,
)


def reserved(hold_id: str, amount: int = 10) -> budget_rules.Reserved:
    hold = Hold(
        id=hold_id,
        host="api.example",
        amount=amount,
        valid_before=9,
        detail="{}",
        request="f" * 64,
        presented_until=8,
    )
    return budget_rules.Reserved(hold=hold)


async def test_a_new_account_has_an_empty_budget_and_no_channels(
    payers: PayerStore,
) -> None:
    assert await payers.budget(ACCOUNT) == Budget()
    assert await payers.channels(ACCOUNT) == []


async def test_budget_and_channel_are_saved_together(payers: PayerStore) -> None:
    fresh = payer_record()
    deposit = PendingDeposit(
        amount=40, salt=Hash32.of(bytes([7]) * 32), valid_before=99
    )
    wanted = TicketWanted(maximum=3, deposit=deposit)

    answer = await payers.update(
        ACCOUNT, fresh.channel, books(wanted, reserved("h1"), LIMITS, fresh)
    )

    [record] = await payers.channels(ACCOUNT)
    assert answer == Issued(cumulative=3, deposit=deposit)
    assert record.ledger.deposit == deposit
    assert (await payers.budget(ACCOUNT)).hold("h1") == reserved("h1").hold


async def test_a_refused_budget_saves_neither(payers: PayerStore) -> None:
    fresh = payer_record()
    limits = replace(LIMITS, total=5)

    with pytest.raises(BudgetExceeded):
        await payers.update(
            ACCOUNT,
            fresh.channel,
            books(TicketWanted(maximum=3), reserved("h1"), limits, fresh),
        )

    assert await payers.channels(ACCOUNT) == []
    assert await payers.budget(ACCOUNT) == Budget()


async def test_fifty_concurrent_reservations_never_exceed_the_budget(
    payers: PayerStore,
) -> None:
    limits = replace(LIMITS, total=200)
    tries = [
        payers.update(
            ACCOUNT, None, books(None, reserved(f"h{n}"), limits, payer_record())
        )
        for n in range(50)
    ]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)

    assert sum(isinstance(o, BudgetExceeded) for o in outcomes) == 30
    assert (await payers.budget(ACCOUNT)).exposure == 200


async def test_fifty_concurrent_tickets_on_many_channels_are_all_booked(
    payers: PayerStore,
) -> None:
    def issue(number: int) -> asyncio.Future[None]:
        def decide(budget: Budget, record: PayerRecord | None) -> PayerStep[None]:
            before = record or payer_record(number % 10)
            ledger = replace(before.ledger, spent=before.ledger.spent + 1)
            spent = sum(s.amount for s in budget.spent) + 1
            one = HostSpending(host="api.example", amount=spent)
            return PayerStep(
                budget=replace(budget, spent=(one,)),
                record=replace(before, ledger=ledger),
                answer=None,
            )

        step = payers.update(ACCOUNT, channel(number % 10), decide)
        return asyncio.ensure_future(step)

    await asyncio.gather(*(issue(n) for n in range(50)))

    records = await payers.channels(ACCOUNT)
    assert [r.index for r in records] == list(range(10))
    assert [r.ledger.spent for r in records] == [5] * 10
    assert (await payers.budget(ACCOUNT)).exposure == 50


async def test_a_step_without_a_channel_returns_no_record(payers: PayerStore) -> None:
    with pytest.raises(InvariantViolated, match="without a channel"):
        await payers.update(
            ACCOUNT,
            None,
            lambda budget, _: PayerStep(
                budget=budget, record=payer_record(), answer=None
            ),
        )
