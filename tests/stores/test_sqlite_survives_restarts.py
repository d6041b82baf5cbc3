"""What a reopened file still knows, and what is durable before it is closed."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agentpay.core.budget import HostSpending
from agentpay.core.payee_channel import Fate
from agentpay.core.payee_events import Admitted, Delivered, Spent, VoucherPublished
from agentpay.errors import (
    InvariantViolated,
)
from agentpay.records import (
    AnswerRecord,
    PayeeRecord,
    PayeeStep,
    PayerDecide,
    PayerStep,
    PaymentStatus,
)
from agentpay.stores import SqliteStore
from tests.stores.store_cases import (
    ACCOUNT,
    WIDE,
    channel,
    fill,
    happens,
    is_put,
    payee_record,
    payment,
    voucher,
)


async def test_used_vouchers_are_still_used_after_a_restart(path: Path) -> None:
    await fill(path)

    async with await SqliteStore.open(path) as store:
        answer = await store.payee.update(channel(), happens(voucher(2)))

    assert answer == Spent(fate=Fate.CHARGED, charged=1)


async def test_the_floor_and_what_fell_below_it_survive_a_restart(path: Path) -> None:
    narrow = payee_record(window=2)
    async with await SqliteStore.open(path) as store:
        for cumulative in range(1, 6):
            await store.payee.update(channel(), happens(voucher(cumulative), narrow))
            done = Delivered(cumulative=cumulative, owner="us")
            await store.payee.update(channel(), happens(done))
        before = await store.payee.read(channel())

    async with await SqliteStore.open(path) as store:
        answer = await store.payee.update(channel(), happens(voucher(3)))
        after = await store.payee.read(channel())
    assert answer == Spent(fate=Fate.OLD)
    assert after == before
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM payee_used").fetchone() == (2,)


async def test_p1_what_the_chain_shows_of_an_untagged_channel_survives_a_restart(
    path: Path,
) -> None:
    fresh = payee_record(tagged=False)
    async with await SqliteStore.open(path) as store:
        await store.payee.update(fresh.channel, is_put(fresh))
        published = happens(VoucherPublished(amount=5))
        await store.payee.update(fresh.channel, published)

    async with await SqliteStore.open(path) as store:
        record = await store.payee.read(fresh.channel)
    assert record is not None
    assert [record.ledger.is_public(amount) for amount in (4, 5)] == [False, True]


async def test_p1_what_the_chain_shows_is_known_after_a_restart(path: Path) -> None:
    await fill(path)
    async with await SqliteStore.open(path) as store:
        for amount in (1, 2):
            shown = happens(VoucherPublished(amount=amount))
            await store.payee.update(channel(), shown)
        before = await store.payee.read(channel())

    async with await SqliteStore.open(path) as store:
        record = await store.payee.read(channel())
    assert record is not None
    assert record == before
    public = [record.ledger.is_public(amount) for amount in (1, 2, 3)]
    assert public == [True, True, False]


async def test_held_vouchers_survive_a_restart(path: Path) -> None:
    await fill(path)

    async with await SqliteStore.open(path) as store:
        record = await store.payee.read(channel())

    assert record is not None
    claim = record.ledger.claim_voucher()
    assert claim is not None
    assert claim.signature == voucher(3).signature


async def test_a_reservation_of_a_dead_owner_is_loaded_as_it_was(path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        first = store.payee.owner
        event = voucher(5, owner=first)
        await store.payee.update(channel(), happens(event))

    async with await SqliteStore.open(path) as store:
        record = await store.payee.read(channel())
        assert store.payee.owner != first
    assert record is not None
    assert record.ledger.running[0].owner == first


async def test_a_step_that_is_not_durable_is_saved_by_close(path: Path) -> None:
    async with await SqliteStore.open(path) as store:
        await store.payee.update(channel(), happens(voucher(5)), durable=False)

    async with await SqliteStore.open(path) as store:
        assert await store.payee.read(channel()) is not None


async def test_rows_that_left_and_came_back_in_one_group_keep_their_order(
    path: Path,
) -> None:
    def spend(*hosts: str) -> PayerDecide[None]:
        spent = tuple(HostSpending(host=host, amount=1) for host in hosts)
        return lambda budget, record: PayerStep(
            budget=replace(budget, spent=spent), record=record, answer=None
        )

    async with await SqliteStore.open(path) as store:
        for hosts in ("ab", "ba", "ab", "cb", "acb", "bca"):
            await store.payer.update(ACCOUNT, None, spend(*hosts), durable=False)
        saved = await store.payer.budget(ACCOUNT)

    async with await SqliteStore.open(path) as store:
        assert await store.payer.budget(ACCOUNT) == saved
    assert [spending.host for spending in saved.spent] == ["b", "c", "a"]


async def test_what_is_in_memory_is_bounded(path: Path) -> None:
    async with await SqliteStore.open(path, cached=3) as store:
        for number in range(20):
            await store.payee.update(channel(number), is_put(payee_record(number)))

        assert len(store.payee._channels._entries) <= 3


async def test_a_durable_step_is_seen_by_another_connection_at_once(
    path: Path,
) -> None:
    async with await SqliteStore.open(path) as store:
        await store.payee.update(channel(), happens(voucher(5)))
        with closing(sqlite3.connect(path)) as other:
            [row] = other.execute("SELECT fate FROM payee_used").fetchall()

    assert row == ("running",)


async def test_all_else_is_seen_by_another_connection_at_once(path: Path) -> None:
    def seen(sql: str) -> object:
        with closing(sqlite3.connect(path)) as other:
            return other.execute(sql).fetchone()[0]

    async with await SqliteStore.open(path) as store:
        await store.payee.begin_payment(payment(owner="dead"))
        assert seen("SELECT owner FROM payments") == "dead"
        assert await store.payee.take_payment(payment().id, owner="us")
        assert seen("SELECT owner FROM payments") == "us"
        done = PaymentStatus.SETTLED
        await store.payee.finish_payment(
            payment().id, owner="us", status=done, transaction="0x1", charged=7
        )
        assert seen("SELECT status FROM payments") == "settled"
        await store.payee.write_cursor("deposits", 7)
        assert seen("SELECT position FROM cursors") == 7
        spent = (HostSpending(host="api.example", amount=1),)
        await store.payer.update(
            ACCOUNT,
            None,
            lambda budget, record: PayerStep(
                budget=replace(budget, spent=spent), record=record, answer=None
            ),
        )
        assert seen("SELECT host FROM budget_spent") == "api.example"


async def test_an_answer_that_changes_nothing_waits_for_what_it_is_based_on(
    path: Path,
) -> None:
    async with await SqliteStore.open(path) as store:
        await store.payee.update(channel(), happens(voucher(5)), durable=False)
        answer = await store.payee.update(channel(), happens(voucher(5)))
        with closing(sqlite3.connect(path)) as other:
            rows = other.execute("SELECT fate FROM payee_used").fetchall()

    assert answer == Spent(fate=Fate.RUNNING, charged=1)
    assert rows == [("running",)]


async def test_a_step_that_hides_what_it_touched_is_refused(path: Path) -> None:
    def forget_to_touch(record: PayeeRecord | None) -> PayeeStep[None]:
        step = happens(voucher(2))(record)
        return PayeeStep(record=step.record, answer=None)

    async with await SqliteStore.open(path) as store:
        await store.payee.update(channel(), happens(voucher(1)))
        with pytest.raises(InvariantViolated, match="explains"):
            await store.payee.update(channel(), forget_to_touch)
        record = await store.payee.read(channel())

    assert record is not None
    assert record.ledger.find_used(2) is None


@pytest.mark.parametrize(
    "owner", ["\ud800", "x" * 10 + "\udfff"], ids=["surrogate", "late surrogate"]
)
async def test_what_cannot_be_stored_fails_alone(path: Path, owner: str) -> None:
    async with await SqliteStore.open(path) as store:
        outcomes = await asyncio.gather(
            store.payee.update(channel(), happens(voucher(1), WIDE)),
            store.payee.update(channel(), happens(voucher(2, owner=owner))),
            store.payee.update(channel(), happens(voucher(3))),
            return_exceptions=True,
        )

    assert [type(o) for o in outcomes] == [Admitted, InvariantViolated, Admitted]


async def test_an_answer_is_saved_no_later_than_what_uses_its_payment_up(
    path: Path,
) -> None:
    answer = AnswerRecord(key="a", request=b"r", kept_until=1, status=200, body=b"b")
    async with await SqliteStore.open(path) as store:
        await store.payee.keep_answer(answer, durable=False)
        await store.payee.begin_payment(payment("p"))
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT key FROM answers").fetchall()

    assert rows == [("a",)]
    async with await SqliteStore.open(path) as store:
        assert await store.payee.find_answer("a") == answer
