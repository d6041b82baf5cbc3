"""Two processes that meet at a row which neither could lock, since it was not there."""

import asyncio

from agentpay.core.payee_events import Admitted
from agentpay.stores import PostgresStore
from tests.stores.store_cases import channel, happens, payee_record, payment, voucher


async def test_of_two_processes_that_begin_a_channel_at_once_one_is_first(
    postgres_url: str,
) -> None:
    async with (
        await PostgresStore.open(postgres_url, grace_seconds=0) as one,
        await PostgresStore.open(postgres_url, grace_seconds=0) as other,
    ):
        for number in range(40):
            steps = [
                store.payee.update(
                    channel(number),
                    happens(voucher(5, owner=store.payee.owner), payee_record(number)),
                )
                for store in (one, other)
            ]
            answers = await asyncio.gather(*steps)
            assert sum(isinstance(answer, Admitted) for answer in answers) == 1


async def test_of_two_processes_that_begin_a_payment_at_once_one_owns_it(
    postgres_url: str,
) -> None:
    async with (
        await PostgresStore.open(postgres_url, grace_seconds=0) as one,
        await PostgresStore.open(postgres_url, grace_seconds=0) as other,
    ):
        for number in range(40):
            begun = [payment(f"p{number}", owner="us") for _ in range(2)]
            recorded = await asyncio.gather(
                one.payee.begin_payment(begun[0]), other.payee.begin_payment(begun[1])
            )
            owned = [r is b for r, b in zip(recorded, begun, strict=True)]
            assert sum(owned) == 1


async def test_what_another_process_wrote_is_read_though_it_was_read_before(
    postgres_url: str,
) -> None:
    async with (
        await PostgresStore.open(postgres_url, grace_seconds=0) as one,
        await PostgresStore.open(postgres_url, grace_seconds=0) as other,
    ):
        for amount in (5, 6, 7):
            mine = voucher(amount, owner=one.payee.owner)
            await one.payee.update(channel(), happens(mine))

            assert await other.payee.read(channel()) == await one.payee.read(channel())
