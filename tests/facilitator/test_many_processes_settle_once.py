"""Facilitators that share one database settle a payment once, and tell of it once."""

import asyncio

from agentpay.chain.rpc import RpcChain
from agentpay.errors import TransactionFailed
from agentpay.evm.calls import Receipt
from agentpay.facilitator.once import DUPLICATE, Refused, SettledOnce
from agentpay.records import Settled
from agentpay.stores import PostgresStore
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from agentpay.wire.x402_facilitator import PENDING
from tests.http.world import eventually, until
from tests.stores.cut_wire import cut_wire
from tests.stores.store_cases import ACCOUNT

MOVED = Settled(transaction="0x" + "ab" * 32, amount=7)


class Money:
    """What a chain does with a signature: it moves once, whoever sends it."""

    def __init__(self) -> None:
        self.sent = 0
        self.moved = False
        self.may_move = asyncio.Event()


class OneMovement:
    """One facilitator's view of one payment."""

    id = "84532:token:payer:nonce"
    maximum = 7
    valid_before = 300
    failed_code = "invalid_transaction_state"

    def __init__(self, money: Money) -> None:
        self._money = money

    @property
    def payer(self) -> Address:
        return ACCOUNT

    def digest(self) -> bytes:
        return b"signed"

    async def check(self) -> Refused | None:
        return Refused(code=self.failed_code) if self._money.moved else None

    async def found(self) -> Settled | Refused | None:
        return MOVED if self._money.moved else None

    async def send(self) -> Settled:
        self._money.sent += 1
        await self._money.may_move.wait()
        self._money.moved = True
        return MOVED

    def result(self, receipt: Receipt) -> Settled:
        raise TransactionFailed("a payment", reason=str(receipt))


async def test_of_many_facilitators_one_sends_and_one_tells(
    agentpay_chain: LocalChain, postgres_url: str
) -> None:
    money = Money()
    chain = RpcChain(agentpay_chain.rpc_url, chain_id=agentpay_chain.chain_id)
    stores = [await PostgresStore.open(postgres_url, grace_seconds=0) for _ in range(4)]
    desks = [
        SettledOnce(chain=chain, book=store.payee, clock=lambda: 1.0)
        for store in stores
    ]
    asking = [
        asyncio.create_task(desk.settle(OneMovement(money)))
        for desk in desks
        for _ in range(5)
    ]
    done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    money.may_move.set()
    answers = await asyncio.gather(*asking)
    later = [await desk.settle(OneMovement(money)) for desk in desks]
    for store in stores:
        await store.close()
    await chain.aclose()

    assert done
    assert money.sent == 1
    assert answers.count(MOVED) == 1
    refused = [a for a in [*answers, *later] if isinstance(a, Refused)]
    assert len(refused) == len(answers) + len(later) - 1
    assert {r.code for r in refused} <= {PENDING, DUPLICATE}
    assert {r.code for r in later if isinstance(r, Refused)} == {DUPLICATE}


async def test_what_a_dead_facilitator_settled_and_did_not_tell_is_told(
    agentpay_chain: LocalChain, postgres_url: str
) -> None:
    money = Money()
    chain = RpcChain(agentpay_chain.rpc_url, chain_id=agentpay_chain.chain_id)
    first = await PostgresStore.open(postgres_url, grace_seconds=0)
    desk = SettledOnce(chain=chain, book=first.payee, clock=lambda: 1.0)
    await desk._begin(OneMovement(money))
    await desk._finish(OneMovement(money), MOVED)
    money.moved = True
    async with await PostgresStore.open(postgres_url, grace_seconds=0) as other:
        rival = SettledOnce(chain=chain, book=other.payee, clock=lambda: 1.0)
        while_alive = await rival.settle(OneMovement(money))
        await first.close()
        told = [await rival.settle(OneMovement(money)) for _ in range(2)]
    await chain.aclose()

    assert isinstance(while_alive, Refused)
    assert told[0] == MOVED
    assert isinstance(told[1], Refused)
    assert money.sent == 0


async def test_a_facilitator_that_was_taken_for_dead_tells_nothing(
    agentpay_chain: LocalChain, postgres_url: str
) -> None:
    money, again = Money(), Money()
    again.may_move.set()
    chain = RpcChain(agentpay_chain.rpc_url, chain_id=agentpay_chain.chain_id)
    async with (
        cut_wire(postgres_url) as (url, wire),
        await PostgresStore.open(url, grace_seconds=0) as parted,
        await PostgresStore.open(postgres_url, grace_seconds=0) as other,
    ):
        desk = SettledOnce(chain=chain, book=parted.payee, clock=lambda: 1.0)
        asked = asyncio.create_task(desk.settle(OneMovement(money)))
        await until(lambda: money.sent == 1)
        wire.cuts = lambda _: "before"
        wire.cut_all()
        rival = SettledOnce(chain=chain, book=other.payee, clock=lambda: 1.0)
        told: list[Settled | Refused] = []

        async def taken_over() -> bool:
            told.append(await rival.settle(OneMovement(again)))
            return isinstance(told[-1], Settled)

        await eventually(taken_over)
        wire.cuts = lambda _: ""
        money.may_move.set()
        left = await asked
    await chain.aclose()

    assert told[-1] == MOVED
    assert isinstance(left, Refused)
    assert left.code == PENDING
