"""What every store promises a payee, whatever it is made of."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentpay.core.payee_channel import Fate
from agentpay.core.payee_events import (
    Admitted,
    ChainSeen,
    Charged,
    Closing,
    Delivered,
    OwnersDied,
    RefundAsked,
    RefundDone,
    Spent,
)
from agentpay.errors import InvariantViolated
from agentpay.records import (
    AnswerRecord,
    Owed,
    PayeeRecord,
    PayeeStep,
    PaymentStatus,
)
from agentpay.stores import Store
from agentpay.types import ChainId
from tests.stores.store_cases import (
    channel,
    config,
    happens,
    is_put,
    payee_record,
    payment,
    voucher,
)

MANY = payee_record(window=64, in_flight_max=64)


def count(record: PayeeRecord | None) -> PayeeStep[int]:
    before = record or payee_record()
    number = before.refund_nonce
    after = replace(before, refund_nonce=number + 1)
    return PayeeStep(record=after, answer=number)


async def charge(store: Store, number: int, amount: int) -> None:
    fresh = payee_record(number)
    event = voucher(amount, maximum=amount)
    await store.payee.update(channel(number), happens(event, fresh))
    delivered = Delivered(cumulative=amount, owner="us")
    await store.payee.update(channel(number), happens(delivered, fresh))


async def finish(
    store: Store, status: PaymentStatus, *, name: str = payment().id, **said: Any
) -> bool:
    """What its owner, who is `us` if nobody is named, says of a payment."""
    unsaid = {"owner": "us", "transaction": "", "charged": 0}
    return await store.payee.finish_payment(name, status=status, **{**unsaid, **said})


# A payee's channels


async def test_an_unknown_channel_is_none(store: Store) -> None:
    assert await store.payee.read(channel()) is None


async def test_what_was_saved_is_read(store: Store) -> None:
    record = replace(payee_record(), refund_nonce=1, withdrawal_started=2**40 - 1)

    await store.payee.update(record.channel, is_put(record))

    assert await store.payee.read(record.channel) == record


async def test_fifty_concurrent_steps_on_one_channel_each_see_the_one_before(
    store: Store,
) -> None:
    steps = [store.payee.update(channel(), count) for _ in range(50)]

    assert sorted(await asyncio.gather(*steps)) == list(range(50))


async def test_fifty_concurrent_steps_on_many_channels_do_not_mix(
    store: Store,
) -> None:
    def counting(number: int) -> asyncio.Future[int]:
        def decide(record: PayeeRecord | None) -> PayeeStep[int]:
            return count(record or payee_record(number))

        step = store.payee.update(channel(number), decide)
        return asyncio.ensure_future(step)

    answers = await asyncio.gather(*(counting(n % 10) for n in range(50)))

    assert sorted(answers) == sorted(list(range(5)) * 10)


async def test_of_fifty_copies_of_a_voucher_one_is_admitted(store: Store) -> None:
    copies = [
        store.payee.update(channel(), happens(voucher(5), MANY)) for _ in range(50)
    ]
    answers = await asyncio.gather(*copies)

    assert sum(isinstance(answer, Admitted) for answer in answers) == 1
    assert sum(isinstance(answer, Spent) for answer in answers) == 49


async def test_fifty_vouchers_at_once_are_all_admitted_and_all_remembered(
    store: Store,
) -> None:
    vouchers = [
        store.payee.update(channel(), happens(voucher(cumulative), MANY))
        for cumulative in range(1, 51)
    ]
    answers = await asyncio.gather(*vouchers)
    record = await store.payee.read(channel())

    assert all(isinstance(answer, Admitted) for answer in answers)
    assert record is not None
    assert [u.cumulative for u in record.ledger.used] == list(range(1, 51))
    assert record.ledger.charged == 50


async def test_a_decision_that_raises_saves_nothing(store: Store) -> None:
    await store.payee.update(channel(), happens(voucher(5)))
    too_much = Charged(cumulative=5, owner="us", charged=99)

    with pytest.raises(InvariantViolated):
        await store.payee.update(channel(), happens(too_much))

    record = await store.payee.read(channel())
    assert record is not None
    assert record.ledger.charged == 1


async def test_a_step_that_is_not_durable_is_seen_by_the_next(store: Store) -> None:
    await store.payee.update(channel(), count, durable=False)

    assert await store.payee.update(channel(), count) == 1


async def test_a_step_may_not_delete_a_channel(store: Store) -> None:
    record = payee_record()
    await store.payee.update(record.channel, is_put(record))

    with pytest.raises(InvariantViolated, match="deletes"):
        await store.payee.update(
            record.channel, lambda _: PayeeStep(record=None, answer=None)
        )

    assert await store.payee.read(record.channel) == record


async def test_a_step_may_not_return_another_channel(store: Store) -> None:
    with pytest.raises(InvariantViolated, match="returned"):
        await store.payee.update(channel(1), is_put(payee_record(2)))

    assert await store.payee.read(channel(1)) is None


async def test_a_step_may_not_change_the_terms(store: Store) -> None:
    record = payee_record()
    await store.payee.update(record.channel, is_put(record))
    other = replace(record, config=config(1))

    with pytest.raises(InvariantViolated, match="terms"):
        await store.payee.update(
            record.channel, lambda _: PayeeStep(record=other, answer=None)
        )


async def test_claimable_has_the_most_first_and_no_less_than_asked(
    store: Store,
) -> None:
    for number, amount in enumerate([3, 500, 7, 256, 255]):
        await charge(store, number, amount)

    found = await store.payee.claimable(sessions=False, at_least=7, limit=3)

    assert [r.ledger.unclaimed for r in found] == [500, 256, 255]


async def test_claimable_leaves_out_what_is_claimed_or_only_reserved(
    store: Store,
) -> None:
    await charge(store, 1, 5)
    seen = ChainSeen(balance=100, claimed=5, pending_withdrawal=0)
    await store.payee.update(channel(1), happens(seen))
    fresh = payee_record(2)
    await store.payee.update(channel(2), happens(voucher(9, maximum=9), fresh))

    assert await store.payee.claimable(sessions=False, at_least=0, limit=9) == []


async def test_claimable_sees_a_step_that_is_not_durable_yet(store: Store) -> None:
    fresh = payee_record(1)
    await store.payee.update(
        channel(1), happens(voucher(5, maximum=5), fresh), durable=False
    )
    delivered = Delivered(cumulative=5, owner="us")
    await store.payee.update(channel(1), happens(delivered), durable=False)

    found = await store.payee.claimable(sessions=False, at_least=5, limit=1)

    assert [r.channel for r in found] == [channel(1)]


async def test_what_is_owed_is_that_of_those_that_owe_the_most(store: Store) -> None:
    assert await store.payee.owed(limit=9) == Owed()
    for number, amount in enumerate([3, 500, 7, 2**64]):
        fresh = replace(
            payee_record(number, balance=2**65), last_voucher_at=100 - number
        )
        event = voucher(amount, maximum=amount)
        await store.payee.update(channel(number), happens(event, fresh))
        await store.payee.update(
            channel(number), happens(Delivered(cumulative=amount, owner="us"))
        )

    all_of_them = await store.payee.owed(limit=9)
    two = await store.payee.owed(limit=2)

    assert all_of_them == Owed(amount=2**64 + 510, channels=4, since=97)
    assert two == Owed(amount=2**64 + 500, channels=2, since=97)


async def test_what_is_owed_is_owed_since_the_first_of_it(store: Store) -> None:
    for now, amount in [(100, 5), (200, 10)]:
        event = voucher(amount, maximum=5)
        await store.payee.update(channel(), happens(event, now=now))
        delivered = Delivered(cumulative=amount, owner="us")
        await store.payee.update(channel(), happens(delivered, now=now + 1))

    assert await store.payee.owed(limit=9) == Owed(amount=10, channels=1, since=100)


async def test_claimable_sorts_amounts_beyond_64_bits(store: Store) -> None:
    for number, amount in enumerate([2**64, 2**127, 2**63]):
        fresh = payee_record(number, balance=2**128 - 1)
        event = voucher(amount, maximum=amount)
        await store.payee.update(channel(number), happens(event, fresh))
        delivered = Delivered(cumulative=amount, owner="us")
        await store.payee.update(channel(number), happens(delivered))

    found = await store.payee.claimable(sessions=False, at_least=2**63 + 1, limit=9)

    assert [r.ledger.unclaimed for r in found] == [2**127, 2**64]


async def test_closing_has_whoever_waits_longest_first_until_it_is_done(
    store: Store,
) -> None:
    for number, asked_at in [(1, 30), (2, 10), (3, 20)]:
        asks = RefundAsked(cumulative=4, signature=bytes(65), owner="us")
        answer = await store.payee.update(
            channel(number), happens(asks, payee_record(number), now=asked_at)
        )
        assert answer == Closing(ready=True)
    await store.payee.update(channel(3), happens(RefundDone()), durable=False)

    found = await store.payee.closing(sessions=False, limit=9)

    assert [r.channel for r in found] == [channel(2), channel(1)]
    assert [r.channel for r in await store.payee.closing(sessions=False, limit=1)] == [
        channel(2)
    ]


async def test_closing_sees_a_step_that_is_not_durable_yet(store: Store) -> None:
    asks = RefundAsked(cumulative=4, signature=bytes(65), owner="us")
    await store.payee.update(channel(), happens(asks), durable=False)

    assert [r.channel for r in await store.payee.closing(sessions=False, limit=1)] == [
        channel()
    ]


# Payments and cursors


async def test_what_runs_is_left_behind_once_its_owner_is_dead(store: Store) -> None:
    ours = voucher(5, maximum=5, owner=store.payee.owner)
    await store.payee.update(channel(1), happens(ours, payee_record(1)))
    for number in (2, 3):
        dead = voucher(5, maximum=5, owner="dead")
        await store.payee.update(channel(number), happens(dead, payee_record(number)))
    assert {r.channel for r in await store.payee.left_behind(limit=9)} == {
        channel(2),
        channel(3),
    }
    assert len(await store.payee.left_behind(limit=1)) == 1

    buried = OwnersDied(owner=store.payee.owner)
    await store.payee.update(channel(2), happens(buried))

    left = await store.payee.left_behind(limit=9)
    assert [record.channel for record in left] == [channel(3)]


@pytest.mark.parametrize("session", [False, True], ids=["channel", "session"])
async def test_what_was_seen_on_its_chain_since_some_moment_is_found(
    store: Store, session: bool
) -> None:
    records = [
        replace(payee_record(number, session=session), chain_seen_at=100 + number)
        for number in range(3)
    ]
    for record in records:
        await store.payee.update(record.channel, is_put(record))
    found = await store.payee.seen_since(records[0].chain, 101)
    again = replace(records[0], chain_seen_at=500)
    await store.payee.update(
        again.channel, lambda _: PayeeStep(record=again, answer=None), durable=False
    )

    assert sorted(found) == sorted(record.channel for record in records[1:])
    assert await store.payee.seen_since(again.chain, 500) == [again.channel]
    assert await store.payee.seen_since(again.chain, 501) == []
    assert await store.payee.seen_since(ChainId(1), 0) == []


async def test_of_fifty_equal_payments_one_is_the_callers_own(store: Store) -> None:
    payments = [payment() for _ in range(50)]
    recorded = await asyncio.gather(*map(store.payee.begin_payment, payments))

    own = [r is p for r, p in zip(recorded, payments, strict=True)]
    assert sum(own) == 1
    assert all(record == payments[0] for record in recorded)


async def test_a_finished_payment_stays_finished(store: Store) -> None:
    await store.payee.begin_payment(payment())
    assert await finish(store, PaymentStatus.SETTLED, transaction="0xabc")

    again = await store.payee.begin_payment(payment())

    assert again.status is PaymentStatus.SETTLED
    assert again.transaction == "0xabc"


async def test_a_payment_that_never_began_cannot_end(store: Store) -> None:
    with pytest.raises(InvariantViolated):
        await finish(store, PaymentStatus.FAILED, name="unknown")


async def test_a_dead_owners_payment_is_taken_once(store: Store) -> None:
    await store.payee.begin_payment(payment(owner="dead"))
    tries = [store.payee.take_payment(payment().id, owner="us") for _ in range(50)]

    assert sum(await asyncio.gather(*tries)) == 1
    assert (await store.payee.begin_payment(payment())).owner == "us"


async def test_a_payment_that_is_over_cannot_be_taken(store: Store) -> None:
    await store.payee.begin_payment(payment(owner="dead"))
    await finish(store, PaymentStatus.FAILED, owner="dead")

    assert not await store.payee.take_payment(payment().id, owner="us")


@pytest.mark.parametrize("status", list(PaymentStatus))
async def test_who_lost_a_payment_to_another_says_no_more_of_it(
    store: Store, status: PaymentStatus
) -> None:
    await store.payee.begin_payment(payment(owner="parted"))
    await store.payee.take_payment(payment().id, owner="us")
    before = await store.payee.find_payment(payment().id)

    assert not await finish(store, status, owner="parted", transaction="0xabc")
    assert await store.payee.find_payment(payment().id) == before


async def test_who_lost_a_payment_to_another_cannot_drop_it(store: Store) -> None:
    await store.payee.begin_payment(payment(owner="parted"))
    await store.payee.take_payment(payment().id, owner="us")
    await store.payee.drop_payment(payment().id, owner="parted")

    assert await finish(store, PaymentStatus.SETTLED)


async def test_of_fifty_who_end_a_payment_at_once_its_owner_is_believed(
    store: Store,
) -> None:
    await store.payee.begin_payment(payment())
    owners = ["us" if number == 25 else f"owner {number}" for number in range(50)]
    ends = [
        finish(store, PaymentStatus.SETTLED, owner=owner, transaction=owner)
        for owner in owners
    ]
    believed = await asyncio.gather(*ends)
    kept = await store.payee.find_payment(payment().id)

    assert believed == [owner == "us" for owner in owners]
    assert kept is not None
    assert (kept.owner, kept.transaction) == ("us", "us")


@pytest.mark.parametrize("status", list(PaymentStatus))
async def test_what_was_delivered_stays_delivered(
    store: Store, status: PaymentStatus
) -> None:
    await store.payee.begin_payment(payment())

    assert await finish(store, PaymentStatus.DELIVERED, transaction="0xabc")
    assert not await finish(store, status)
    kept = await store.payee.find_payment(payment().id)
    assert kept is not None
    assert (kept.status, kept.transaction) == (PaymentStatus.DELIVERED, "0xabc")


async def test_an_unknown_payment_cannot_be_taken(store: Store) -> None:
    assert not await store.payee.take_payment("unknown", owner="us")


async def test_cursors_start_at_zero_and_do_not_mix(store: Store) -> None:
    await store.payee.write_cursor("deposits", 17)
    await store.payee.write_cursor("deposits", 12)

    assert await store.payee.read_cursor("deposits") == 12
    assert await store.payee.read_cursor("claims") == 0


async def test_the_fate_of_a_voucher_is_what_it_bought(store: Store) -> None:
    await charge(store, 1, 5)

    answer = await store.payee.update(channel(1), happens(voucher(5)))

    assert answer == Spent(fate=Fate.CHARGED, charged=5)


# Answers that were paid for


def an_answer(key: str = "a", *, until: int = 100, size: int = 0) -> AnswerRecord:
    return AnswerRecord(
        key=key,
        request=b"r" * 32,
        kept_until=until,
        content=b"c" * 32,
        status=200,
        headers=((b"x", b""), (b"x", b"\xff\x00"), (b"", b"y")),
        body=bytes(size),
    )


@pytest.mark.parametrize("durable", [True, False])
async def test_an_answer_is_found_as_it_was_kept(store: Store, durable: bool) -> None:
    await store.payee.keep_answer(an_answer(size=100_000), durable=durable)

    assert await store.payee.find_answer("a") == an_answer(size=100_000)
    assert await store.payee.find_answer("b") is None


@pytest.mark.parametrize("durable", [True, False])
async def test_an_answer_is_kept_with_the_step_that_pays_for_it(
    store: Store, durable: bool
) -> None:
    def paid(record: PayeeRecord | None) -> PayeeStep[int]:
        return replace(count(record), kept=an_answer(size=1000))

    await store.payee.update(channel(), paid, durable=durable)

    assert await store.payee.find_answer("a") == an_answer(size=1000)


async def test_nothing_is_kept_with_a_step_that_changes_nothing_or_fails(
    store: Store,
) -> None:
    def same(record: PayeeRecord | None) -> PayeeStep[None]:
        return PayeeStep(record=record, answer=None, kept=an_answer())

    def another(record: PayeeRecord | None) -> PayeeStep[None]:
        del record
        return PayeeStep(record=payee_record(9), answer=None, kept=an_answer())

    await store.payee.update(channel(), is_put(payee_record()))
    await store.payee.update(channel(), same)
    with pytest.raises(InvariantViolated):
        await store.payee.update(channel(), another)

    assert await store.payee.find_answer("a") is None


async def test_an_answer_takes_the_place_of_its_name_and_may_be_dropped(
    store: Store,
) -> None:
    name = AnswerRecord(key="a", request=b"r" * 32, kept_until=100)
    await store.payee.keep_answer(name, durable=True)
    before = await store.payee.find_answer("a")
    await store.payee.keep_answer(an_answer(), durable=False)
    after = await store.payee.find_answer("a")
    await store.payee.drop_answer("a")
    await store.payee.drop_answer("never kept")

    assert (before, after) == (name, an_answer())
    assert await store.payee.find_answer("a") is None


async def test_sweeping_forgets_the_expired_and_then_the_oldest(store: Store) -> None:
    for key, until in (("gone", 10), ("old", 20), ("middle", 30), ("new", 30)):
        await store.payee.keep_answer(an_answer(key, until=until), durable=False)
    each = an_answer("middle").size

    await store.payee.sweep_answers(now=10, bytes_total=2 * each)

    found = [k for k in ("gone", "old", "middle", "new") if await is_kept(store, k)]
    assert found == ["middle", "new"]
    await store.payee.sweep_answers(now=10, bytes_total=each)
    assert not await is_kept(store, "middle")
    assert await is_kept(store, "new")


async def is_kept(store: Store, key: str) -> bool:
    return await store.payee.find_answer(key) is not None


# Marks: names that are remembered for a while


async def test_of_fifty_that_take_a_mark_one_gets_it(store: Store) -> None:
    taking = [store.payee.take_mark("n", until=20, now=10) for _ in range(50)]

    assert sum(await asyncio.gather(*taking)) == 1
    assert await store.payee.read_mark("n") == 20
    assert await store.payee.read_mark("m") == 0


async def test_a_mark_may_be_taken_again_when_it_is_past(store: Store) -> None:
    await store.payee.set_mark("n", until=20)

    assert not await store.payee.take_mark("n", until=30, now=19)
    assert await store.payee.take_mark("n", until=30, now=20)
    assert await store.payee.read_mark("n") == 30


async def test_sweeping_forgets_marks_that_are_past(store: Store) -> None:
    for name, until in (("old", 10), ("new", 11)):
        await store.payee.set_mark(name, until=until)
    await store.payee.sweep_marks(now=10)

    assert await store.payee.take_mark("old", until=20, now=10)
    assert not await store.payee.take_mark("new", until=20, now=10)


# Payments that are over, or served and not paid


async def finished(store: Store, name: str, status: PaymentStatus, until: int) -> None:
    await store.payee.begin_payment(replace(payment(name), good_until=until))
    await finish(store, status, name=name)


async def test_p1_what_is_over_is_forgotten_only_once_it_has_expired(
    store: Store,
) -> None:
    await finished(store, "paid", PaymentStatus.DELIVERED, 100)
    await finished(store, "refused", PaymentStatus.FAILED, 100)
    await finished(store, "good for longer", PaymentStatus.DELIVERED, 101)
    await finished(store, "good for ever", PaymentStatus.DELIVERED, 0)
    await finished(store, "owed an answer", PaymentStatus.SETTLED, 100)
    await finished(store, "not paid yet", PaymentStatus.SERVED, 100)
    await store.payee.sweep_payments(now=101)
    kept = [name for name in PAYMENTS if await store.payee.find_payment(name)]

    assert kept[-4:] == PAYMENTS[2:]


PAYMENTS = [
    "paid",
    "refused",
    "good for longer",
    "good for ever",
    "owed an answer",
    "not paid yet",
]


async def test_what_was_served_and_not_paid_is_listed_the_oldest_first(
    store: Store,
) -> None:
    for name, at in (("late", 9), ("early", 3), ("later", 11)):
        begun = replace(payment(name), started_at=at, request=f"{name} {{}}")
        await store.payee.begin_payment(begun)
        await finish(store, PaymentStatus.SERVED, name=name, charged=5)
    await finished(store, "paid", PaymentStatus.DELIVERED, 100)
    served = await store.payee.served_payments(limit=2)

    assert [p.id for p in served] == ["early", "late"]
    assert served[0].request == "early {}"
    assert served[0].charged == 5


async def answered(store: Store, name: str, owner: str, began: int) -> None:
    """What somebody began, and was answering when it was last heard of."""
    await store.payee.begin_payment(
        replace(payment(name, owner=owner), started_at=began, request="{}")
    )
    await finish(store, PaymentStatus.ANSWERING, name=name, owner=owner, charged=5)


async def test_what_the_dead_were_answering_is_served_and_ours(store: Store) -> None:
    ours = store.payee.owner
    await answered(store, "left", "dead", 10)
    await answered(store, "left later", "dead", 11)
    await answered(store, "ours", ours, 10)
    await store.payee.begin_payment(
        replace(payment("not answered", owner="dead"), started_at=1)
    )
    await store.payee.bury_payments(begun_until=10)
    (served,) = await store.payee.served_payments(limit=9)
    others = [
        await store.payee.find_payment(name)
        for name in ("left later", "ours", "not answered")
    ]

    assert (served.id, served.owner, served.charged) == ("left", ours, 5)
    assert [p.status for p in others if p] == [
        PaymentStatus.ANSWERING,
        PaymentStatus.ANSWERING,
        PaymentStatus.STARTED,
    ]
    assert not await finish(store, PaymentStatus.ANSWERING, name="left", owner="dead")


async def test_what_the_dead_were_answering_is_taken_by_its_own_resend(
    store: Store,
) -> None:
    await answered(store, "left", "dead", 10)
    tries = [store.payee.take_payment("left", owner="us") for _ in range(50)]

    assert sum(await asyncio.gather(*tries)) == 1
    await store.payee.bury_payments(begun_until=9)
    assert await finish(store, PaymentStatus.DELIVERED, name="left")


async def test_a_dropped_payment_can_begin_again(store: Store) -> None:
    await store.payee.begin_payment(payment("one"))
    await store.payee.drop_payment("one", owner="us")
    again = payment("one")

    assert await store.payee.find_payment("one") is None
    assert await store.payee.begin_payment(again) is again
