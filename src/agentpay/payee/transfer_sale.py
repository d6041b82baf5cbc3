"""
One transfer that may run its request, from its record to its receipt.

What is answered before it is settled is settled once it has left, and however long that
takes, before what was signed for it expires: nothing leaves that cannot be settled.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from agentpay.payee.movements import Movement
from agentpay.payee.pricing import Order, Terms
from agentpay.payee.sales import Refusal
from agentpay.records import PaymentRecord, PaymentStatus, Settled
from agentpay.stream_errors import StreamExhausted, StreamLost
from agentpay.types import Address
from agentpay.wire.x402 import UPTO

_log = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 60
"""So long before it expires a transfer is settled: blocks and fees take their time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """One transfer for one request."""

    movement: Movement
    scheme: str
    terms: Terms
    record: PaymentRecord
    again: bool = False
    """Whether it was presented before, and has not bought an answer yet."""
    expiring: bool = False
    """Whether it is too late to answer it before it is settled."""

    @property
    def served_first(self) -> bool:
        """Whether it is answered before it is settled, which a keeper can do too."""
        if self.expiring:
            return False
        return self.terms.order is Order.SERVE_FIRST and self.record.request != ""


def new_record(
    movement: Movement, terms: Terms, *, owner: str, now: int, only_for: str
) -> PaymentRecord:
    """A payment that nobody has begun; `only_for` is as of `TransferSales.sell`."""
    return PaymentRecord(
        id=movement.id,
        payer=movement.payer,
        amount=movement.maximum,
        resource=f"{terms.resource} {only_for}".rstrip(),
        owner=owner,
        started_at=now,
        good_until=movement.good_until,
        request=movement.kept if terms.order is Order.SERVE_FIRST else "",
    )


class Till(Protocol):
    """What a sale does with its payment; see `TransferSales`."""

    def seconds_left(self, movement: Movement) -> float: ...

    async def settle(self, purchase: Purchase, amount: int) -> Settled | Refusal: ...

    async def is_ours(self, purchase: Purchase) -> bool: ...

    async def answering(self, purchase: Purchase, due: int) -> bool: ...

    def taken(self, purchase: Purchase, settled: Settled | None) -> Refusal: ...

    async def delivered(self, purchase: Purchase, settled: Settled) -> None: ...

    async def served(self, purchase: Purchase, charged: int) -> None: ...

    async def void(self, purchase: Purchase) -> None: ...

    def release(self, purchase: Purchase) -> None: ...

    def receipt(self, purchase: Purchase, settled: Settled) -> str: ...


class TransferSale:
    """
    One transfer that may run its request; see `Sale`.

    Until its books say what became of it, nobody else may be at it: what cannot be
    written now is still to be closed, and would be sold again meanwhile.
    """

    whole = None

    def __init__(self, sales: Till, purchase: Purchase) -> None:
        self._sales = sales
        self._purchase = purchase
        self.settled: Settled | None = None
        self._charged = purchase.movement.maximum
        record = purchase.record
        answering = record.status is PaymentStatus.ANSWERING
        self.owed = record.charged if answering else 0
        """What is due for an answer that may have left before a crash."""
        self._due = self.owed
        """What is due for what has left by now, or leaves next."""
        self._alarm: asyncio.TimerHandle | None = None
        """Settles what is due while its answer leaves: later it cannot be any more."""
        self._in_time: asyncio.Task[None] | None = None
        self._settling = False
        """Money may have moved: never void it, whatever cut the settlement short."""
        self.withheld = self._answer_key if purchase.again else ""

    @property
    def payer(self) -> Address:
        return self._purchase.movement.payer

    @property
    def id(self) -> str:
        return self._purchase.record.id

    @property
    def key(self) -> str:
        """See `Sale.key`: the chain shows to everybody what its payer signed."""
        return ""

    @property
    def _answer_key(self) -> str:
        """See `Sale.withheld`. An `upto` may cost something else when it is sent."""
        return "" if self._purchase.scheme == UPTO else f"withheld {self.id}"

    @property
    def maximum(self) -> int:
        return self._purchase.movement.maximum

    @property
    def stream(self) -> "TransferStream | None":
        """An `exact` transfer is of all that a request may cost."""
        return TransferStream(self) if self._purchase.scheme == UPTO else None

    async def due(self, charged: int) -> str:
        """So much will be settled once the answer has left: a receipt that says so."""
        self._charged = charged
        due = Settled(transaction="", amount=charged)
        return self._sales.receipt(self._purchase, due)

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    async def commit(self, charged: int) -> str | Refusal:
        """
        See `Sale.commit`; `exact` is all or nothing, so it charges all.

        The answer leaves only once the store has said, after all else, that the payment
        is still ours: of two workers that each think it is theirs, one is told no.
        """
        if self._purchase.scheme == UPTO:
            self._charged = max(charged, self.owed)
        if self.is_late:
            self._purchase = replace(self._purchase, expiring=True)
        if self.settled is None and not self._purchase.served_first:
            refusal = await self._settle()
            if refusal is not None:
                return refusal
        elif not await self.may_leave(self._charged):
            self._withhold(key="")
            return self._sales.taken(self._purchase, self.settled)
        else:
            self.set_alarm()
        due = Settled(transaction="", amount=self._charged)
        return self._sales.receipt(self._purchase, self.settled or due)

    async def _settle(self) -> Refusal | None:
        self._settling = True
        settled = await self._sales.settle(self._purchase, self._charged)
        if isinstance(settled, Refusal):
            self._withhold(key=self._answer_key if settled.status == 503 else "")
            return settled
        self.settled = settled
        return None

    def _withhold(self, *, key: str) -> None:
        """Its answer is not sent. Until that is kept, if it is, nobody else may ask."""
        self.withheld = key
        if not key:
            self._sales.release(self._purchase)

    async def may_leave(self, due: int) -> bool:
        """Whether it is ours still; what is due for what leaves is recorded first."""
        if self.settled is None:
            self._due = max(due, self.owed)
            return await self._sales.answering(self._purchase, self._due)
        return await self._sales.is_ours(self._purchase)

    @property
    def is_late(self) -> bool:
        """Whether nothing more may leave before it is settled."""
        if self.settled is not None:
            return False
        return self._settling or self._sales.seconds_left(self._purchase.movement) <= 0

    def set_alarm(self) -> None:
        """It leaves from now on, unsettled: for as long as it can be settled."""
        if self.settled is None and self._alarm is None:
            seconds = self._sales.seconds_left(self._purchase.movement)
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(seconds, self._settle_in_time)

    def _settle_in_time(self) -> None:
        self._settling = True
        self._in_time = asyncio.create_task(self._settle_served(self._due))

    async def _is_settled_in_time(self) -> bool:
        """It leaves no more: whether it took so long that it is settled already."""
        if self._alarm is not None:
            self._alarm.cancel()
        if self._in_time is None:
            return False
        await asyncio.wait([self._in_time])
        return not self._in_time.cancelled() and self._in_time.exception() is None

    async def draw(self, charged: int) -> int:
        """See `SaleStream.draw`: so much is due, also after a crash."""
        if self.is_late:
            return self._due
        covered = min(charged, self.settled.amount if self.settled else self.maximum)
        if not await self.may_leave(covered):
            raise StreamLost(f"payment {self.id} was taken over by another")
        return covered

    async def delivered(self) -> None:
        """
        See `Sale.delivered`; serve-then-settle settles here.

        Who has lost an `upto` settles none of it: the chain would move what it served,
        and never what its owner serves, who owes for both. An `exact` moves the same
        whoever settles it, and its owner is told.
        """
        if await self._is_settled_in_time():
            pass
        elif self.settled is not None:
            await self._sales.delivered(self._purchase, self.settled)
        else:
            await self._settle_served(self._charged)
        self._sales.release(self._purchase)

    async def _settle_served(self, charged: int) -> None:
        if not await self.may_leave(charged) and self._purchase.scheme == UPTO:
            return
        settled = await self._sales.settle(self._purchase, charged)
        if isinstance(settled, Refusal):
            _log.warning("served and not paid: %s", self._purchase.record.id)
            if settled.status == 503:
                await self._sales.served(self._purchase, charged)

    async def abandon(self, *, charged: int, failed: bool) -> str:
        """
        See `Sale.abandon`. What is settled stays settled, and the answer is owed: to
        the same payment, when it is sent again. What may have been answered before a
        crash stays due.
        """
        del charged, failed
        receipt = ""
        if await self._is_settled_in_time():
            receipt = await self.due(self._due)
        elif self.settled is not None:
            receipt = self._sales.receipt(self._purchase, self.settled)
        elif self.owed:
            await self._sales.served(self._purchase, self.owed)
            receipt = await self.due(self.owed)
        elif not self._settling:
            await self._sales.void(self._purchase)
        self._sales.release(self._purchase)
        return receipt


class TransferStream:
    """
    A stream by `upto`, settled once it has ended; see `SaleStream`.

    Where it takes longer than what was signed is good for, it is settled before that
    expires, at what is charged by then, and ends with what that is for.
    """

    def __init__(self, sale: TransferSale) -> None:
        self._sale = sale

    @property
    def charged(self) -> int:
        """See `SaleStream.charged`."""
        return self._sale.owed

    async def begin(self) -> str:
        """See `SaleStream.begin`: at most so much will be settled."""
        sale = self._sale
        if sale.is_late:
            raise StreamExhausted(needed=max(1, sale.owed), covered=0)
        sale.set_alarm()
        return await sale.due(sale.maximum)

    async def draw(self, charged: int) -> int:
        """See `SaleStream.draw`."""
        return await self._sale.draw(charged)

    async def ask(self, need: int, wish: int) -> None:
        """See `SaleStream.ask`."""

    async def wait(self, charged: int, seconds: float) -> bool:
        """See `SaleStream.wait`."""
        del charged, seconds
        return False

    async def finish(self, charged: int, units: int | None) -> None:
        """See `SaleStream.finish`: `delivered` settles it."""
        del units
        await self._sale.due(charged)
