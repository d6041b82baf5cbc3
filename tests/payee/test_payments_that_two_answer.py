"""
Two workers that each answer one payment: all that was served is paid for, once.

The first lives and was taken for dead; its payer's own resend came to the other.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from agentpay.payee.offers import PayeeSettings
from agentpay.payee.pricing import Order, Route, Terms, terms_of
from agentpay.payee.sales import Refusal
from agentpay.payee.transfer_sale import TransferSale, TransferStream
from agentpay.payee.transfer_sales import TransferSales
from agentpay.records import PaymentRecord, PaymentStatus, Settled
from agentpay.stores.memory import MemoryPayeeStore
from agentpay.stream_errors import StreamLost
from agentpay.types import Address, Asset, ChainId, Hash32
from agentpay.wire.parallel import ParallelTerms

PRICE = 1000
PAYEE = Address("0x" + "11" * 20)
PAYER = Address("0x" + "22" * 20)
TRANSACTION = Hash32("0x" + "ab" * 32)
SETTINGS = PayeeSettings(
    asset=Asset(
        chain=ChainId(1), address=PAYEE, decimals=6, name="USD Coin", version="2"
    ),
    pay_to=PAYEE,
    authorizer=PAYEE,
    withdraw_delay=3600,
    parallel=ParallelTerms(window=64, in_flight_max=8),
    min_deposit=1,
    facilitator=PAYEE,
)


@dataclass
class Purse:
    """A payment whose money moves once, as far as whoever is first says."""

    id: str = "1:transfer:1"
    payer: Address = PAYER
    maximum: int = PRICE
    done: bool = False
    good_until: int = 0
    expires_at: int = 2**62
    kept: str = "{}"
    moved: list[int] = field(default_factory=list[int])
    on_its_way: Callable[[], None] = lambda: None

    async def check(self) -> None:
        """It would go through."""

    async def found(self) -> Settled | None:
        """Nobody asks: `check` refuses nothing."""
        return None

    async def send(self, amount: int) -> Settled:
        self.on_its_way()
        self.moved = self.moved or [amount]
        return Settled(transaction=TRANSACTION, amount=self.moved[0])

    async def funds(self) -> int:
        return self.maximum

    async def is_over(self) -> bool:
        return False

    async def lacks_allowance(self) -> bool:
        return False


class Two:
    """Two workers over one book."""

    def __init__(self, scheme: str) -> None:
        self.purse = Purse()
        self.scheme = scheme
        self.book: dict[str, PaymentRecord] = {}
        self.one, self.other = self._worker(), self._worker()
        self._terms = self._terms_of(scheme)

    def _worker(self) -> TransferSales:
        store = MemoryPayeeStore()
        store._payments = self.book
        nobody: object = None
        return TransferSales(
            settings=SETTINGS,
            chain=nobody,  # type: ignore[arg-type]
            facilitator=nobody,  # type: ignore[arg-type]
            store=store,
            clock=lambda: 1.0,
        )

    @staticmethod
    def _terms_of(scheme: str) -> Terms:
        route = Route(
            price=PRICE,
            metered=scheme == "upto",
            schemes=(scheme,),
            order=Order.SERVE_FIRST,
        )
        terms = terms_of(route, resource="GET /s", decimals=6)
        return terms.at("GET /s", url="", query="", bound=False)

    async def sell(self, worker: TransferSales) -> TransferSale:
        sale = await worker.sell(self.purse, self.scheme, self._terms)
        assert isinstance(sale, TransferSale)
        return sale

    @property
    def record(self) -> PaymentRecord:
        return self.book[self.purse.id]


def stream_of(sale: TransferSale) -> TransferStream:
    assert sale.stream is not None
    return sale.stream


async def test_p10_who_lost_a_stream_settles_none_of_it() -> None:
    two = Two("upto")
    lost = await two.sell(two.one)
    await stream_of(lost).draw(100)
    owned = await two.sell(two.other)
    await stream_of(owned).draw(500)
    with pytest.raises(StreamLost, match=two.purse.id):
        await stream_of(lost).draw(200)
    await stream_of(lost).finish(100, None)
    await lost.delivered()
    assert two.purse.moved == []

    await stream_of(owned).draw(900)
    await stream_of(owned).finish(900, None)
    await owned.delivered()

    assert two.purse.moved == [900]
    assert (two.record.status, two.record.charged) == (PaymentStatus.DELIVERED, 900)


async def test_p1_who_has_taken_what_was_answered_whole_answers_nothing() -> None:
    two = Two("exact")
    first = await two.sell(two.one)
    assert isinstance(await first.commit(PRICE), str)
    second = await two.sell(two.other)
    await first.delivered()
    late = await second.commit(PRICE)

    assert isinstance(late, Refusal)
    assert late.status == 503
    assert two.purse.moved == [PRICE]
    assert two.record.status is PaymentStatus.DELIVERED


async def test_p1_what_is_taken_over_while_it_is_settled_is_answered_no_more() -> None:
    two = Two("upto")
    first = await two.sell(two.one)
    await first.commit(300)
    taken: list[str] = []

    def take() -> None:
        owner = two.other._store.owner
        two.book[two.purse.id] = replace(two.record, owner=owner)
        taken.append(owner)

    two.purse.on_its_way = take
    await first.delivered()

    assert two.record.owner == taken[0]
    assert (two.record.status, two.record.charged) == (PaymentStatus.DELIVERED, 300)
