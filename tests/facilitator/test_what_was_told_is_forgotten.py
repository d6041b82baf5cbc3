"""A facilitator's book does not grow for ever, and what left it is told to nobody."""

import asyncio
import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentpay import Wallet
from agentpay.chain.rpc import RpcChain
from agentpay.errors import (
    ChainUnreachable,
    GasLimitReached,
    GasMissing,
    GasTooExpensive,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm.calls import Receipt
from agentpay.facilitator.host import FacilitatorLimits
from agentpay.facilitator.once import KEPT_SECONDS, LATE_SECONDS, Refused, SettledOnce
from agentpay.records import PaymentRecord, Settled
from agentpay.stores import MemoryPayeeStore
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, ChainId
from agentpay.wire import x402_asks as asks
from tests.facilitator.world import AMOUNT, a_desk, a_transfer
from tests.keeper.test_settlement_triggers import Clock
from tests.stores.store_cases import ACCOUNT

CHAIN = RpcChain("http://127.0.0.1:9", chain_id=ChainId(31337))
"""Nobody is there: what is asked here is asked of the movement."""
EXPIRED = Refused(code="expired")
DAY = 24 * 3600


class Signed:
    """Something that its payer signed, and a chain that moves it once and in time."""

    maximum = 7
    failed_code = "invalid_transaction_state"

    def __init__(self, name: str, clock: Clock, *, valid_before: int) -> None:
        self.id = name
        self.valid_before = valid_before
        self.sent = 0
        self._clock = clock

    @property
    def payer(self) -> Address:
        return ACCOUNT

    def digest(self) -> bytes:
        return self.id.encode()

    async def check(self) -> Refused | None:
        if self._clock() >= self.valid_before:
            return EXPIRED
        return Refused(code=self.failed_code) if self.sent else None

    async def found(self) -> Settled | Refused | None:
        return self._moved() if self.sent else None

    async def send(self) -> Settled:
        self.sent += 1
        return self._moved()

    def result(self, receipt: Receipt) -> Settled:
        raise TransactionFailed("a payment", reason=str(receipt))

    def _moved(self) -> Settled:
        return Settled(transaction="0x" + "ab" * 32, amount=self.maximum)


Ask = tuple[int, int]
"""A wait, and which of the payments is presented after it."""

ASKS = st.lists(st.tuples(st.integers(0, 2 * DAY), st.integers(0, 3)), max_size=30)
LIVES = st.lists(st.integers(0, 3 * DAY), min_size=4, max_size=4)


@given(asks=ASKS, lives=LIVES)
@settings(max_examples=200)
def test_f2_a_payment_is_told_once_however_late_it_comes_again(
    asks: Sequence[Ask], lives: Sequence[int]
) -> None:
    async def live() -> None:
        clock, book = Clock(started=10**9), MemoryPayeeStore()
        once = SettledOnce(chain=CHAIN, book=book, clock=clock)
        payments = [
            Signed(str(n), clock, valid_before=10**9 + seconds)
            for n, seconds in enumerate(lives)
        ]
        told = dict.fromkeys((p.id for p in payments), 0)
        for wait, number in asks:
            clock.ahead += wait
            payment = payments[number]
            outcome = await once.settle(payment)
            told[payment.id] += isinstance(outcome, Settled)
            kept = [await book.find_payment(p.id) for p in payments]

            assert all(told[p.id] == p.sent <= 1 for p in payments)
            for record in filter(None, kept):
                assert clock() <= record.good_until + KEPT_SECONDS + 600

    asyncio.run(live())


async def test_f2_another_process_whose_clock_is_behind_tells_nothing_again() -> None:
    clock, slow = Clock(started=10**9), Clock(started=10**9)
    book = MemoryPayeeStore()
    ahead = SettledOnce(chain=CHAIN, book=book, clock=clock)
    behind = SettledOnce(chain=CHAIN, book=book, clock=slow)
    payment = Signed("1", slow, valid_before=10**9 + 300)
    other = Signed("2", clock, valid_before=10**9 + 3 * DAY)
    first = await ahead.settle(payment)
    clock.ahead = 300 + KEPT_SECONDS + 1
    await ahead.settle(other)
    forgotten = await book.find_payment(payment.id)
    slow.ahead = clock.ahead - (KEPT_SECONDS - LATE_SECONDS - 60)
    again = await behind.settle(payment)

    assert isinstance(first, Settled)
    assert forgotten is None
    assert again == EXPIRED
    assert payment.sent == 1


async def test_f3_what_another_has_sent_is_found_until_an_hour_after_it_expired() -> (
    None
):
    clock = Clock(started=10**9)
    once = SettledOnce(chain=CHAIN, book=MemoryPayeeStore(), clock=clock)
    soon, late = [Signed(n, clock, valid_before=10**9 + 300) for n in ("1", "2")]
    soon.sent = late.sent = 1  # by somebody else
    clock.ahead = 300 + LATE_SECONDS
    found = await once.settle(soon)
    clock.ahead += 1
    refused = await once.settle(late)

    assert isinstance(found, Settled)
    assert refused == EXPIRED


async def test_a_result_that_nobody_was_told_is_kept_and_told() -> None:
    clock, book = Clock(started=10**9), MemoryPayeeStore()
    once = SettledOnce(chain=CHAIN, book=book, clock=clock)
    payment = Signed("1", clock, valid_before=10**9 + 300)
    await once._begin(payment)
    await once._finish(payment, await payment.send())
    clock.ahead = 10 * DAY

    assert isinstance(await once.settle(payment), Settled)
    assert await once.settle(payment) != await payment.send()


class Unsent(Signed):
    """A payment whose sending ends with an error."""

    def __init__(self, error: Exception, clock: Clock) -> None:
        super().__init__("1", clock, valid_before=2**255)
        self._error = error

    async def send(self) -> Settled:
        raise self._error


async def left_of(error: Exception, *, known: bool = False) -> PaymentRecord | None:
    """What is kept of a payment whose sending ends so; `known` is of an earlier ask."""
    clock, book = Clock(started=10**9), MemoryPayeeStore()
    once = SettledOnce(chain=CHAIN, book=book, clock=clock)
    payment = Unsent(error, clock)
    if known:
        await once._begin(payment)
    with contextlib.suppress(type(error)):
        assert isinstance(await once.settle(payment), Refused)
    return await book.find_payment(payment.id)


UNSENT = [
    GasLimitReached(who="all payees", limit=1),
    GasMissing("no ether"),
    GasTooExpensive("5 gwei"),
    TransactionFailed("a payment", reason="refused in simulation"),
]
PERHAPS_SENT = [
    ChainUnreachable("away"),
    TransactionOutcomeUnknown("a payment", transaction="0x12"),
    TransactionOutcomeUnknown("a payment", transaction=""),
    TransactionFailed("a payment", reason="reverted", transaction="0x12"),
]


@pytest.mark.parametrize("error", UNSENT, ids=repr)
async def test_f6_nothing_is_kept_of_what_was_not_sent(error: Exception) -> None:
    assert await left_of(error) is None


@pytest.mark.parametrize("error", UNSENT, ids=repr)
async def test_f2_what_an_earlier_ask_may_have_sent_is_kept(error: Exception) -> None:
    assert await left_of(error, known=True) is not None


@pytest.mark.parametrize("error", PERHAPS_SENT, ids=repr)
async def test_f2_what_perhaps_was_sent_is_kept(error: Exception) -> None:
    assert await left_of(error) is not None


async def test_f6_asking_when_the_hours_gas_is_used_up_fills_no_book(
    agentpay_shared_chain: LocalChain,
) -> None:
    local = agentpay_shared_chain
    payer, payee = await local.funded_wallet(ether=0), Wallet.create().address
    limits = FacilitatorLimits(gas_per_payee_hour=300_000)
    async with a_desk(local, limits=limits, store="memory:") as desk:
        codes: list[int] = []
        for _ in range(6):
            transfer = await a_transfer(local.usdc, payer, payee, valid_before=2**255)
            asked = await desk.ask("/settle", asks.transfer_request(transfer, AMOUNT))
            codes.append(asked.status_code)
        book = (await desk.host.start())._transfers._once._book

    assert isinstance(book, MemoryPayeeStore)
    assert set(codes) == {200, 429}
    assert len(book._payments) == codes.count(200)
