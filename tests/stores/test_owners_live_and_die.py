"""
With many processes over one database, what a living one holds is nobody else's.

And what a dead one held is anybody's, at once.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentpay.core.payee_channel import Fate
from agentpay.core.payee_events import (
    Admitted,
    Closing,
    Noted,
    OutcomeAsked,
    OwnersDied,
    RefundAsked,
    Refused,
    Spent,
)
from agentpay.records import PaymentStatus, SentTransaction
from agentpay.stores import PostgresStore
from tests.stores.cut_wire import cut_wire
from tests.stores.store_cases import (
    ACCOUNT,
    CHAIN,
    channel,
    happens,
    payee_record,
    payment,
    voucher,
)
from tests.stores.test_stores_survive_crashes import first_line, kill, start

STRICT = payee_record(tagged=False)


@pytest.fixture
async def two(postgres_url: str) -> AsyncIterator[tuple[PostgresStore, PostgresStore]]:
    async with (
        await PostgresStore.open(postgres_url, grace_seconds=0) as one,
        await PostgresStore.open(postgres_url, grace_seconds=0) as other,
    ):
        yield one, other


Two = tuple[PostgresStore, PostgresStore]


async def test_a_living_owners_request_does_not_run_again(two: Two) -> None:
    one, other = two
    first = await one.payee.update(
        channel(), happens(voucher(5, owner=one.payee.owner))
    )

    again = await other.payee.update(
        channel(), happens(voucher(5, owner=other.payee.owner))
    )

    assert isinstance(first, Admitted)
    assert again == Spent(fate=Fate.RUNNING, charged=1)


async def test_a_strict_channel_is_busy_while_the_other_owner_lives(two: Two) -> None:
    one, other = two
    events = [voucher(1, owner=one.payee.owner), voucher(2, owner=other.payee.owner)]
    await one.payee.update(STRICT.channel, happens(events[0], STRICT))

    busy = await other.payee.update(STRICT.channel, happens(events[1], STRICT))
    await one.close()
    free = await other.payee.update(STRICT.channel, happens(events[1], STRICT))

    assert busy == Refused(reason="channel_busy", burnt=False)
    assert isinstance(free, Admitted)


async def test_asking_about_a_living_owners_voucher_does_not_end_it(two: Two) -> None:
    one, other = two
    await one.payee.update(channel(), happens(voucher(5, owner=one.payee.owner)))
    asks = OutcomeAsked(cumulative=5, owner=other.payee.owner)

    assert await other.payee.update(channel(), happens(asks)) == Spent(
        fate=Fate.RUNNING, charged=1
    )


async def test_a_refund_waits_for_what_a_living_owner_runs(two: Two) -> None:
    one, other = two
    await one.payee.update(channel(), happens(voucher(5, owner=one.payee.owner)))
    asks = RefundAsked(cumulative=6, signature=bytes(65), owner=other.payee.owner)

    answer = await other.payee.update(channel(), happens(asks))
    buried = OwnersDied(owner=other.payee.owner)
    await other.payee.update(channel(), happens(buried))
    record = await other.payee.read(channel())

    assert answer == Closing(ready=False)
    assert record is not None
    assert [r.cumulative for r in record.ledger.running] == [5]


async def test_a_living_owners_payment_is_not_taken(two: Two) -> None:
    one, other = two
    await one.payee.begin_payment(payment(owner=one.payee.owner))

    refused = await other.payee.take_payment(payment().id, owner=other.payee.owner)
    await one.close()
    taken = await other.payee.take_payment(payment().id, owner=other.payee.owner)

    assert (refused, taken) == (False, True)


async def test_what_a_living_owner_answers_is_not_counted_as_served(two: Two) -> None:
    one, other = two
    await one.payee.begin_payment(payment(owner=one.payee.owner))
    await one.payee.finish_payment(
        payment().id,
        owner=one.payee.owner,
        status=PaymentStatus.ANSWERING,
        transaction="",
        charged=5,
    )
    await other.payee.bury_payments(begun_until=2**40)
    while_alive = await other.payee.served_payments(limit=9)
    await one.close()
    await other.payee.bury_payments(begun_until=2**40)
    (left,) = await other.payee.served_payments(limit=9)

    assert while_alive == []
    assert (left.id, left.owner) == (payment().id, other.payee.owner)


async def test_what_a_living_owner_sent_is_not_taken_over(two: Two) -> None:
    one, other = two
    sent = SentTransaction(
        chain=CHAIN, account=ACCOUNT, nonce=7, raws=(b"raw",), what="a claim"
    )
    await one.payee.keep_sent(sent)

    while_alive = await other.payee.list_sent(CHAIN, ACCOUNT)
    await one.close()
    taken = [await other.payee.list_sent(CHAIN, ACCOUNT) for _ in range(2)]

    assert (while_alive, taken) == ([], [[sent], [sent]])


async def test_one_owner_leads_until_it_dies(two: Two) -> None:
    one, other = two
    first = [await one.payee.lead("x"), await other.payee.lead("x")]
    second = [await other.payee.lead("y"), await one.payee.lead("y")]
    again = [await one.payee.lead("x"), await other.payee.lead("x")]
    await one.close()

    assert first == second == again == [True, False]
    assert await other.payee.lead("x")


async def test_a_killed_owner_leads_no_more(postgres_url: str) -> None:
    child = await start("serve", postgres_url)
    await first_line(child)
    async with await PostgresStore.open(postgres_url) as store:
        before = await store.payee.lead("x")
        await kill(child)

        assert not before
        async with asyncio.timeout(30):  # its server sees that in a moment
            while not await store.payee.lead("x"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_killed_owners_request_runs_again_at_once(postgres_url: str) -> None:
    child = await start("serve", postgres_url)
    owner = (await first_line(child)).decode().split()[1]
    async with await PostgresStore.open(postgres_url, grace_seconds=0) as store:
        mine = voucher(5, owner=store.payee.owner)
        before = await store.payee.update(channel(), happens(mine))
        await kill(child)
        after = before
        async with asyncio.timeout(30):  # its server sees that in a moment
            while after == before:
                after = await store.payee.update(channel(), happens(mine))

        assert before == Spent(fate=Fate.RUNNING, charged=1)
        assert isinstance(after, Admitted)
        assert after.reservation.owner == store.payee.owner != owner


async def test_an_owner_whose_connection_breaks_comes_back_as_itself(
    postgres_url: str,
) -> None:
    async with (
        cut_wire(postgres_url) as (url, wire),
        await PostgresStore.open(url, grace_seconds=0) as one,
        await PostgresStore.open(postgres_url, grace_seconds=0) as other,
    ):
        await one.payee.update(channel(), happens(voucher(5, owner=one.payee.owner)))
        wire.cut_all()
        await one.payee.read(channel())

        again = await other.payee.update(
            channel(), happens(voucher(5, owner=other.payee.owner))
        )

        assert again == Spent(fate=Fate.RUNNING, charged=1)


async def test_an_owner_whose_connection_broke_does_not_lead_beside_another(
    postgres_url: str,
) -> None:
    async with (
        cut_wire(postgres_url) as (url, wire),
        await PostgresStore.open(url, grace_seconds=0) as one,
        await PostgresStore.open(postgres_url, grace_seconds=0) as other,
    ):
        led = await one.payee.lead("x")
        wire.cut_all()
        for _ in range(1000):
            if await other.payee.lead("x"):
                break
            await asyncio.sleep(0.001)

        assert led
        assert [await store.payee.lead("x") for store in (other, one)] == [True, False]


async def test_an_idle_owner_notices_that_its_connection_broke(
    postgres_url: str,
) -> None:
    async with (
        cut_wire(postgres_url) as (url, wire),
        await PostgresStore.open(url, grace_seconds=0),
    ):
        wire.cut_all()
        for _ in range(600):
            if wire.connections == 2:
                break
            await asyncio.sleep(0.1)

        assert wire.connections == 2


async def test_nobody_is_called_dead_while_a_server_has_just_started(
    postgres_url: str,
) -> None:
    gone = await PostgresStore.open(postgres_url)
    await gone.payee.update(channel(), happens(voucher(5, owner=gone.payee.owner)))
    await gone.close()

    async with await PostgresStore.open(postgres_url, grace_seconds=10**6) as store:
        mine = voucher(5, owner=store.payee.owner)
        answer = await store.payee.update(channel(), happens(mine))
        buried = OwnersDied(owner=store.payee.owner)

        assert answer == Spent(fate=Fate.RUNNING, charged=1)
        assert await store.payee.update(channel(), happens(buried)) == Noted()
        record = await store.payee.read(channel())
        assert record is not None
        assert record.ledger.running
