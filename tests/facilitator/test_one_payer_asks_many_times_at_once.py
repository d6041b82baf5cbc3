"""Payments of one payer that are settled at once, and that it can pay or not."""

import asyncio
from pathlib import Path

import pytest

from agentpay import Wallet
from agentpay.core.sending import FeePolicy
from agentpay.evm.transfer import Transfer
from agentpay.facilitator.host import FacilitatorHost, FacilitatorLimits
from agentpay.facilitator.transfers import SettlesTransfers
from agentpay.records import Settled
from agentpay.testing.local_chain import LocalChain
from agentpay.wire import x402_asks as asks
from agentpay.wire.headers import JsonObject
from tests.facilitator.test_channels_for_strangers import in_the_pool
from tests.facilitator.world import AMOUNT, Desk, a_desk, a_transfer
from tests.http.world import eventually

DOLLARS = {1: "$0.001", 2: "$0.002", 3: "$0.003"}
"""What so many payments need."""


async def requests(chain: LocalChain, count: int, *, covered: int) -> list[JsonObject]:
    """Payments of one payer, who can pay for so many of them."""
    payer = await chain.funded_wallet(DOLLARS[covered], ether=0)
    payee = Wallet.create().address
    transfers = [await a_transfer(chain.usdc, payer, payee) for _ in range(count)]
    return [asks.transfer_request(transfer, AMOUNT) for transfer in transfers]


async def sent(chain: LocalChain, desk: Desk) -> int:
    """How many transactions its key has made."""
    (key,) = desk.host.addresses
    return int(await chain.node.rpc("eth_getTransactionCount", key, "latest"), 16)


@pytest.mark.parametrize("covered", [1, 2])
async def test_f6_no_more_is_sent_at_once_for_a_payer_than_it_can_pay(
    agentpay_shared_chain: LocalChain, covered: int
) -> None:
    """What reverts is paid for by the facilitator."""
    chain = agentpay_shared_chain
    async with a_desk(chain) as desk:
        asked = await requests(chain, 5, covered=covered)
        await desk.host.start()
        answers = await asyncio.gather(*map(desk.settle, asked))
        made = await sent(chain, desk)

    refused = [answer for answer in answers if not answer["success"]]
    assert len(refused) == 5 - covered
    assert all("insufficient_funds" in str(answer) for answer in refused)
    assert made == covered


async def test_what_a_payer_can_pay_is_settled_all_at_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_desk(chain) as desk:
        asked = await requests(chain, 3, covered=3)
        others = await requests(chain, 1, covered=1)
        answers = await asyncio.gather(*map(desk.settle, [*asked, *others]))

    assert all(answer["success"] for answer in answers)


class Slow:
    """Sends transfers, and tells of none before it may."""

    def __init__(self, sends: SettlesTransfers) -> None:
        self._sends = sends
        self.tells = asyncio.Event()
        self.mined = asyncio.Event()

    async def settle_transfer(self, transfer: Transfer, amount: int) -> Settled:
        """See `SettlesTransfers`."""
        settled = await self._sends.settle_transfer(transfer, amount)
        self.mined.set()
        await self.tells.wait()
        return settled


async def slowed(desk: Desk) -> Slow:
    service = await desk.host.start()
    slow = Slow(service._transfers._sends)
    service._transfers._sends = slow
    return slow


async def test_what_is_mined_and_not_told_yet_is_not_counted_twice(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_desk(chain) as desk:
        slow = await slowed(desk)
        first, second, third = await requests(chain, 3, covered=2)
        one = asyncio.create_task(desk.settle(first))
        await asyncio.wait_for(slow.mined.wait(), 10)
        verified = await desk.verify(second)
        slow.mined.clear()
        two = asyncio.create_task(desk.settle(second))
        await asyncio.wait_for(slow.mined.wait(), 10)
        poor = await desk.verify(third)
        slow.tells.set()
        answers = [await one, await two]

    assert verified["isValid"]
    assert all(answer["success"] for answer in answers)
    assert poor["invalidReason"] == "insufficient_funds"


async def test_f6_what_is_sent_counts_when_another_is_verified() -> None:
    limits = FacilitatorLimits(mined_within_seconds=2)
    async with LocalChain() as chain, a_desk(chain, limits=limits) as desk:
        await desk.host.start()
        first, second = await requests(chain, 2, covered=1)
        await chain.node.rpc("evm_setIntervalMining", 0)
        one = asyncio.create_task(desk.settle(first))
        await in_the_pool(chain, 1)
        while_sent = await desk.verify(second)
        pending = await one
        later = await desk.verify(second)

    assert while_sent["invalidReason"] == "insufficient_funds"
    assert pending["errorReason"] == "settlement_pending"
    assert later["isValid"]  # nothing is counted for ever


async def test_f6_what_began_is_pending_and_not_refused_for_what_came_since(
    tmp_path: Path,
) -> None:
    """Restarted while one was in the pool, which its payer can pay, but not two."""
    async with LocalChain() as chain:
        key = await chain.funded_wallet(0)
        limits = FacilitatorLimits(mined_within_seconds=5)

        def host() -> FacilitatorHost:
            store = f"sqlite:///{tmp_path / 'facilitator.db'}"
            return FacilitatorHost(
                [key], network=chain.network, store=store, limits=limits
            )

        first, second = await requests(chain, 2, covered=1)
        async with a_desk(chain, host=host()) as desk:
            await desk.host.start()
            await chain.node.rpc("evm_setIntervalMining", 0)
            dies = asyncio.create_task(desk.settle(first))
            await in_the_pool(chain, 1)
            await desk.host.stop()
        dies.cancel()
        async with a_desk(chain, host=host()) as desk:
            await desk.host.start()
            since = asyncio.create_task(desk.settle(second))
            await in_the_pool(chain, 2)
            again = await desk.settle(first)
            await chain.node.mine()
            later, other = await desk.settle(first), await since

    assert again["errorReason"] == "settlement_pending"
    assert later["success"]
    assert not other["success"]


async def is_gone(chain: LocalChain, transaction: str) -> bool:
    return not await chain.node.rpc("eth_getTransactionByHash", transaction)


async def test_f6_what_more_gas_was_offered_for_is_pending_and_not_refused() -> None:
    """Nobody knows its first transaction any more."""
    limits = FacilitatorLimits(
        mined_within_seconds=3, fees=FeePolicy(raise_seconds=0.5)
    )
    async with LocalChain() as chain, a_desk(chain, limits=limits) as desk:
        await desk.host.start()
        first, second = await requests(chain, 2, covered=1)
        await chain.node.rpc("evm_setIntervalMining", 0)
        settling = asyncio.create_task(desk.settle(first))
        await in_the_pool(chain, 1)
        pending = await settling
        for _ in range(3):  # blocks that are too dear for it
            await chain.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(30 * 10**9))
            await chain.node.mine()
        await eventually(lambda: is_gone(chain, pending["transaction"]))
        since = asyncio.create_task(desk.settle(second))
        await in_the_pool(chain, 2)
        again = await desk.settle(first)
        await chain.node.rpc("anvil_setNextBlockBaseFeePerGas", hex(10**9))
        await chain.node.mine()
        await since
        later = await desk.settle(first)

    assert pending["errorReason"] == again["errorReason"] == "settlement_pending"
    assert later["success"]
