"""
A process of its own that a test can kill: `python -m tests.stores.store_child ...`.

It says what it does on standard output, one line at a time, before and after each step.
"""

import asyncio
import os
import signal
import sys
from dataclasses import replace
from hashlib import sha256
from random import Random

from agentpay.core import payee_rules
from agentpay.core.payee_events import (
    Admitted,
    Answer,
    Charged,
    Delivered,
    Event,
    GivenBack,
    OutcomeAsked,
    VoucherVerified,
)
from agentpay.records import PayeeRecord, PayeeStep
from agentpay.stores import PostgresStore, SqliteStore, Store
from tests.stores.store_cases import channel, happens, is_put, payee_record, voucher

CHANNELS = 3
OWNER = "killed"


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def digest(record: PayeeRecord) -> str:
    return sha256(repr(record).encode()).hexdigest()


async def open_place(place: str) -> Store:
    """A URL of PostgreSQL, or the path of a file."""
    if place.startswith("postgresql:"):
        return await PostgresStore.open(place, cached=2, grace_seconds=0)
    return await SqliteStore.open(place, cached=2)


async def hold(place: str) -> None:
    """Hold the file until killed."""
    async with await open_place(place):
        say("holding")
        await asyncio.sleep(60)


async def serve(place: str) -> None:
    """Hold a reservation and a lead until killed."""
    store = await open_place(place)
    owner = store.payee.owner
    await store.payee.update(channel(), happens(voucher(5, owner=owner)))
    await store.payee.lead("x")
    say("serving", owner)
    await asyncio.sleep(60)


async def once(place: str) -> None:
    """One step of each kind, and die at the very moment they are acknowledged."""
    store = await open_place(place)
    await store.payee.update(channel(), is_put(payee_record()), durable=False)
    await store.payee.write_cursor("deposits", 7)
    await store.payee.update(channel(), happens(voucher(5, owner=OWNER)))
    os.kill(os.getpid(), signal.SIGKILL)


async def drive(place: str, seed: str) -> None:
    """Random events on few channels from many tasks, until killed."""
    random = Random(seed)
    store = await open_place(place)
    tasks = [asyncio.create_task(_play(store, random)) for _ in range(12)]
    await asyncio.gather(*tasks)


async def _play(store: Store, random: Random) -> None:
    while True:
        number = random.randrange(CHANNELS)
        durable = random.random() < 0.8
        decide = _Told(number, _event(random))
        answer = await store.payee.update(channel(number), decide, durable=durable)
        if durable:
            say("saved", number, decide.version)
        if durable and isinstance(answer, Admitted):
            say("admitted", number, answer.reservation.cumulative)


class _Told:
    """A decision that says what it decided, so that the survivor can compare."""

    def __init__(self, number: int, event: Event) -> None:
        self._number = number
        self._event = event
        self.version = 0

    def __call__(self, record: PayeeRecord | None) -> PayeeStep[Answer]:
        before = record or payee_record(
            self._number, window=8, in_flight_max=6, balance=10**30
        )
        event = _ahead(self._event, before)
        done = payee_rules.apply(before.ledger, event)
        after = replace(
            before, ledger=done.channel, refund_nonce=before.refund_nonce + 1
        )
        self.version = after.refund_nonce
        say("decided", self._number, self.version, digest(after))
        return PayeeStep(record=after, answer=done.answer, touched=done.touched)


def _ahead(event: Event, record: PayeeRecord) -> Event:
    """Amounts are drawn near to where the channel is, so that it never wears out."""
    if isinstance(event, Charged | GivenBack | Delivered):
        running = record.ledger.running
        first = running[event.cumulative % len(running)] if running else None
        return replace(event, cumulative=first.cumulative if first else 1)
    if isinstance(event, OutcomeAsked | VoucherVerified):
        near = record.ledger.highest + event.cumulative - 6
        return replace(event, cumulative=max(1, near))
    return event


def _event(random: Random) -> Event:
    near = random.randrange(1, 12)
    event = random.choice(
        [
            OutcomeAsked(cumulative=near, owner=OWNER),
            Charged(cumulative=near, owner=OWNER, charged=1),
            Delivered(cumulative=near, owner=OWNER),
            GivenBack(cumulative=near, owner=OWNER),
            None,
            None,
        ]
    )
    return event or voucher(near, owner=OWNER, prepaid=near % 2 == 0)


if __name__ == "__main__":
    command, place, *seed = sys.argv[1:]
    match command:
        case "hold":
            asyncio.run(hold(place))
        case "serve":
            asyncio.run(serve(place))
        case "once":
            asyncio.run(once(place))
        case _:
            asyncio.run(drive(place, seed[0]))
