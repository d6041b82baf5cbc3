"""Many `exact` payments in one transaction: each is paid, or is told why not."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay import Wallet
from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.errors import (
    ChainError,
    ChainUnreachable,
    GasMissing,
    GasTooExpensive,
    StoreUnavailable,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm import eip3009_abi as tokens
from agentpay.evm.calls import Call, Log, Receipt
from agentpay.evm.eip3009 import Authorization
from agentpay.evm.error_names import ERROR_NAMES
from agentpay.evm.hashing import address_word, selector, uint_word
from agentpay.evm.multicall3_abi import aggregate_call
from agentpay.evm.transfer import TokenTransfer, own_logs
from agentpay.facilitator.batches import BatchPolicy, TransferBatches
from agentpay.facilitator.embedded import Facilitator
from agentpay.facilitator.gas import GasLimits, GasSpending
from agentpay.onchain import is_used
from agentpay.records import Settled
from agentpay.sending_ports import Sender
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Asset, ChainId, Hash32
from agentpay.wire import x402_asks as asks
from tests.dear_sender import DearSender
from tests.facilitator.world import AMOUNT, a_desk, a_transfer

PAYMENTS = 200
POISONED = 3
SAYS_YES = bytes.fromhex("631626ba7e60e01b5f5260205ff3")
"""A wallet to which every signature is its own (ERC-1271)."""
GAS_ALONE = 68_456
"""What one transfer costs in a transaction of its own, to an account that has some."""


@dataclass
class Scene:
    local: LocalChain
    batches: TransferBatches
    key: Address
    spending: GasSpending

    def counted(self, payee: Address) -> int:
        """The gas of this hour on a payee's account."""
        return self.spending._by_payee[payee]

    async def transactions(self) -> int:
        found = await self.local.node.rpc("eth_getTransactionCount", self.key, "latest")
        return int(found, 16)

    async def settle(
        self, transfers: list[TokenTransfer]
    ) -> list[Settled | BaseException]:
        return await asyncio.gather(
            *(self.batches.settle_transfer(t, t.maximum) for t in transfers),
            return_exceptions=True,
        )


@asynccontextmanager
async def a_scene(
    local: LocalChain,
    *,
    seconds: float = 0.5,
    gas: GasLimits | None = None,
    dear: Callable[[TransactionSender], Sender] = lambda sender: sender,
    of: type[RpcChain] = RpcChain,
) -> AsyncIterator[Scene]:
    key = await local.funded_wallet(0)
    async with (
        of(local.rpc_url, chain_id=local.chain_id, error_names=ERROR_NAMES) as chain,
        TransactionSender(chain, key=key.gas_key()) as sender,
    ):
        spending = GasSpending(
            per_hour=10**8, per_payee_hour=10**8, clock=time.monotonic
        )
        facilitator = Facilitator(
            chain=chain, senders=[dear(sender)], gas=gas, spending=spending
        )
        batches = TransferBatches(
            chain=chain,
            facilitator=facilitator,
            policy=BatchPolicy(seconds=seconds),
        )
        yield Scene(local, batches, key.address, spending)


async def test_k7_of_200_payments_3_are_poisoned_and_the_other_197_are_paid(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Prints the gas of each payment (`pytest -s`)."""
    local = agentpay_shared_chain
    payers = [await local.funded_wallet("$1", ether=0) for _ in range(20)]
    payee = (await local.funded_wallet("$1", ether=0)).address
    transfers = [
        await a_transfer(local.usdc, payers[n % len(payers)], payee)
        for n in range(PAYMENTS)
    ]
    transfers[7] = await a_transfer(local.usdc, Wallet.create(), payee)
    transfers[100] = replace(transfers[100], signature=transfers[101].signature)
    transfers[199] = await a_transfer(local.usdc, payers[0], payee, valid_before=1)
    before = await local.balance(payee)
    async with a_scene(local, seconds=5) as scene:
        outcomes = await scene.settle(transfers)
        sent = await scene.transactions()
    paid = [o for o in outcomes if isinstance(o, Settled)]
    failed = [n for n, o in enumerate(outcomes) if isinstance(o, TransactionFailed)]
    (transaction,) = {settled.transaction for settled in paid}
    receipt = await local.node.rpc("eth_getTransactionReceipt", transaction)
    each = int(receipt["gasUsed"], 16) / len(paid)
    print(f"{len(paid)} payments in one transaction: {each:,.0f} gas each")

    assert failed == [7, 100, 199]
    assert len(paid) == PAYMENTS - POISONED
    assert sent == 1
    assert await local.balance(payee) - before == AMOUNT * (PAYMENTS - POISONED)
    assert each < 0.75 * GAS_ALONE


async def test_two_equal_payments_of_which_one_is_used_up_are_told_apart(
    agentpay_shared_chain: LocalChain,
) -> None:
    """One payer, one payee, one amount, and money for two of the three."""
    local = agentpay_shared_chain
    payer = await local.funded_wallet(2 * AMOUNT, ether=0)
    payee = Wallet.create().address
    transfers = [await a_transfer(local.usdc, payer, payee) for _ in range(3)]
    async with a_scene(local) as scene:
        outcomes = await scene.settle(transfers)
        used = [await is_used(scene.batches._chain, t) for t in transfers]

    assert [isinstance(outcome, Settled) for outcome in outcomes] == used
    assert sum(used) == 2
    assert await local.balance(payee) == 2 * AMOUNT


async def test_what_does_not_fit_one_transaction_goes_into_two(
    agentpay_shared_chain: LocalChain,
) -> None:
    local = agentpay_shared_chain
    payer, payee = await local.funded_wallet(ether=0), Wallet.create().address
    transfers = [await a_transfer(local.usdc, payer, payee) for _ in range(9)]
    async with a_scene(local, gas=GasLimits(batch=300_000)) as scene:
        outcomes = await scene.settle(transfers)
        sent = await scene.transactions()

    assert all(isinstance(outcome, Settled) for outcome in outcomes)
    assert sent == 3  # four, four, and one alone
    assert await local.balance(payee) == 9 * AMOUNT


@pytest.mark.parametrize("error", [GasTooExpensive("5 gwei"), GasMissing("too little")])
async def test_what_costs_too_much_together_is_settled_in_parts(
    agentpay_shared_chain: LocalChain, error: ChainError
) -> None:
    local = agentpay_shared_chain
    payer = await local.funded_wallet("$1", ether=0)
    payee = Wallet.create().address
    transfers = [await a_transfer(local.usdc, payer, payee) for _ in range(4)]
    two = len(aggregate_call([t.call(t.maximum) for t in transfers[:2]]).data)

    async with a_scene(
        local, dear=partial(DearSender, error=error, bytes_max=two)
    ) as s:
        outcomes = await s.settle(transfers)
        sent = await s.transactions()

    assert all(isinstance(outcome, Settled) for outcome in outcomes), outcomes
    assert sent == 2
    assert await local.balance(payee) == 4 * AMOUNT


async def test_who_waits_hears_that_even_one_transfer_costs_too_much(
    agentpay_shared_chain: LocalChain,
) -> None:
    local = agentpay_shared_chain
    payer = await local.funded_wallet("$1", ether=0)
    payee = Wallet.create().address
    transfers = [await a_transfer(local.usdc, payer, payee) for _ in range(3)]
    dear = partial(DearSender, error=GasTooExpensive("5 gwei"), bytes_max=0)
    async with a_scene(local, dear=dear) as scene:
        outcomes = await scene.settle(transfers)

    assert [type(outcome) for outcome in outcomes] == [GasTooExpensive] * 3


class LateSender(DearSender):
    """Something happens between the simulation of a batch and its sending."""

    def __init__(
        self, sender: TransactionSender, meanwhile: Callable[[], Awaitable[object]]
    ) -> None:
        super().__init__(sender, GasMissing("never"), bytes_max=10**6)
        self._meanwhile = meanwhile

    async def send(
        self, call: Call, *, gas_max: int | None = None, deadline: int = 0
    ) -> Receipt:
        if not self.sent:
            await self._meanwhile()
        return await super().send(call, gas_max=gas_max, deadline=deadline)


async def test_f6_the_gas_of_payments_that_fail_in_a_batch_is_their_payees(
    agentpay_shared_chain: LocalChain,
) -> None:
    """A payer takes its money away while the batch is on its way."""
    local = agentpay_shared_chain
    thief, honest = [await local.funded_wallet("$1", ether=0) for _ in range(2)]
    payee, shop = Wallet.create().address, Wallet.create().address
    transfers = [await a_transfer(local.usdc, thief, payee) for _ in range(3)]
    transfers.append(await a_transfer(local.usdc, honest, shop))
    all_of_it = uint_word(await local.balance(thief.address))
    away = selector("transfer(address,uint256)") + address_word(PAYEE) + all_of_it

    async def meanwhile() -> None:
        await local.node.set_balance(thief.address, 10**18)
        await local.node.transact(thief.address, away, to=local.usdc.address)

    dear = partial(LateSender, meanwhile=meanwhile)
    async with a_scene(local, dear=dear) as scene:
        *failed, paid = await scene.settle(transfers)
        sent = await scene.transactions()
        counted, ours = scene.counted(payee), scene.counted(shop)

    assert all(isinstance(outcome, TransactionFailed) for outcome in failed)
    assert isinstance(paid, Settled)
    receipt = await local.node.rpc("eth_getTransactionReceipt", paid.transaction)
    used = int(receipt["gasUsed"], 16)
    assert sent == 1
    assert (counted, ours) == (3 * (used // 4), used // 4)


async def test_f6_the_gas_of_a_batch_that_reverts_is_its_payees(
    agentpay_shared_chain: LocalChain,
) -> None:
    local = agentpay_shared_chain
    payer, payee = await local.funded_wallet(ether=0), Wallet.create().address
    transfers = [await a_transfer(local.usdc, payer, payee) for _ in range(3)]
    one = len(transfers[0].call(AMOUNT).data)
    error = TransactionFailed("a batch", reason="no", transaction="0x12")
    dear = partial(DearSender, error=error, bytes_max=one)
    async with a_scene(local, dear=dear) as scene:
        outcomes = await scene.settle(transfers)
        counted = scene.counted(payee)

    assert all(isinstance(outcome, Settled) for outcome in outcomes)
    assert counted > 3 * (BatchPolicy().gas_each + 21_000)


@pytest.mark.parametrize("funded", [1, 2])
async def test_f6_who_signs_for_more_than_it_has_makes_nothing_fail_at_a_price(
    agentpay_chain: LocalChain, funded: int
) -> None:
    local = agentpay_chain
    poor, payee = Wallet.create(), Wallet.create().address
    await local.fund(poor.address, f"$0.00{funded}")
    transfers = [await a_transfer(local.usdc, poor, payee) for _ in range(20)]
    async with a_scene(local) as scene:
        outcomes = await scene.settle(transfers)
        sent, counted = await scene.transactions(), scene.counted(payee)

    assert sum(isinstance(outcome, Settled) for outcome in outcomes) == funded
    assert sent == 1
    assert counted < 2 * 75_000 * funded


class BlindChain(RpcChain):
    """A chain that nobody can read, though what it has can be asked for."""

    async def read(
        self, calls: Sequence[Call], *, block: int | None = None
    ) -> list[bytes]:
        raise ChainUnreachable(f"{len(calls)} calls at {block}: not now")


async def test_f6_what_could_not_be_simulated_uses_up_no_hour(
    agentpay_shared_chain: LocalChain,
) -> None:
    local = agentpay_shared_chain
    payer, payee = await local.funded_wallet(ether=0), Wallet.create().address
    transfers = [await a_transfer(local.usdc, payer, payee) for _ in range(3)]
    async with a_scene(local, of=BlindChain) as scene:
        outcomes = await scene.settle(transfers)
        counted = scene.counted(payee)

    assert [type(outcome) for outcome in outcomes] == [ChainUnreachable] * 3
    assert counted == 0


@pytest.mark.parametrize(
    ("error", "each"),
    [
        (ChainUnreachable("away"), 0),
        (StoreUnavailable("full"), 0),
        (TransactionOutcomeUnknown("a batch", transaction="0x12"), 75_000),
    ],
    ids=["no chain", "no store", "perhaps"],
)
async def test_f6_what_was_not_sent_uses_up_no_hour_and_what_perhaps_was_does(
    agentpay_shared_chain: LocalChain, error: ChainError, each: int
) -> None:
    local = agentpay_shared_chain
    payer, payee = await local.funded_wallet(ether=0), Wallet.create().address
    transfers = [await a_transfer(local.usdc, payer, payee) for _ in range(3)]
    dear = partial(DearSender, error=error, bytes_max=0)
    async with a_scene(local, dear=dear) as scene:
        outcomes = await scene.settle(transfers)
        counted = scene.counted(payee)

    assert [type(outcome) for outcome in outcomes] == [type(error)] * 3
    assert counted == 3 * each


async def test_f6_a_payer_with_code_is_settled_alone_so_that_it_cannot_use_up_the_gas(
    agentpay_chain: LocalChain,
) -> None:
    local = agentpay_chain
    payer, payee = await local.funded_wallet(ether=0), Wallet.create().address
    wallet = await local.funded_wallet(ether=0)
    await local.node.set_code(wallet.address, SAYS_YES)
    transfers = [await a_transfer(local.usdc, payer, payee) for _ in range(2)]
    transfers.append(await a_transfer(local.usdc, wallet, payee))
    async with a_scene(local) as scene:
        outcomes = await scene.settle(transfers)

    one, other, alone = [o.transaction for o in outcomes if isinstance(o, Settled)]
    assert one == other != alone


async def test_over_http_many_payments_share_one_transaction(
    agentpay_shared_chain: LocalChain,
) -> None:
    local = agentpay_shared_chain
    payer, payee = await local.funded_wallet(ether=0), Wallet.create().address
    transfers = [await a_transfer(local.usdc, payer, payee) for _ in range(20)]
    async with a_desk(local, batch=BatchPolicy(seconds=1.5)) as desk:
        answers = await asyncio.gather(
            *(desk.settle(asks.transfer_request(t, AMOUNT)) for t in transfers)
        )

    assert all(answer["success"] for answer in answers)
    assert len({answer["transaction"] for answer in answers}) == 1
    assert await local.balance(payee) == 20 * AMOUNT


# Logs.

ASSET = Asset(
    chain=ChainId(1),
    address=Address("0x" + "aa" * 20),
    decimals=6,
    name="X",
    version="1",
)
PAYER, PAYEE = Address("0x" + "01" * 20), Address("0x" + "02" * 20)


def transfer_with(nonce: int) -> TokenTransfer:
    authorization = Authorization(
        payer=PAYER,
        to=PAYEE,
        value=5,
        valid_after=0,
        valid_before=9,
        nonce=Hash32.of(uint_word(nonce)),
    )
    return TokenTransfer(asset=ASSET, authorization=authorization, signature=b"")


def _log(*topics: bytes | Hash32, data: bytes = b"") -> Log:
    words = [t if isinstance(t, Hash32) else Hash32.of(t) for t in topics]
    return Log(
        address=ASSET.address,
        topics=tuple(words),
        data=data,
        block=1,
        transaction=Hash32("0x" + "00" * 32),
        index=0,
    )


def used_log(nonce: int) -> Log:
    return _log(tokens.AUTHORIZATION_USED, address_word(PAYER), uint_word(nonce))


def moved(amount: int) -> Log:
    words = address_word(PAYER), address_word(PAYEE)
    return _log(tokens.TRANSFER, *words, data=uint_word(amount))


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.booleans())
def test_f4_each_transfer_of_a_batch_has_its_own_logs(
    pays: list[bool], nonce_first: bool
) -> None:
    """
    Also where one alone succeeded, and of a token that says a nonce is used and moves
    nothing.
    """
    logs: list[Log] = []
    for nonce, pay in enumerate(pays):
        effects = [moved(5)] if pay else [moved(1)]
        own = (
            [used_log(nonce), *effects] if nonce_first else [*effects, used_log(nonce)]
        )
        logs += own
    for nonce, pay in enumerate(pays):
        transfer = transfer_with(nonce)

        assert transfer.moved(own_logs(transfer, logs)) == (5 if pay else 0)
    absent = transfer_with(99)
    assert absent.moved(own_logs(absent, logs)) == 0


def test_a_transfer_that_is_alone_has_all_logs_in_whatever_order() -> None:
    transfer = transfer_with(1)
    for logs in permutations([used_log(1), moved(5), moved(1)]):
        assert transfer.moved(own_logs(transfer, logs)) == 5


@pytest.mark.parametrize("seconds", [0.0, 0.2])
async def test_a_payment_that_nobody_joins_is_settled_alone(
    agentpay_shared_chain: LocalChain, seconds: float
) -> None:
    local = agentpay_shared_chain
    payer, payee = await local.funded_wallet(ether=0), Wallet.create().address
    async with a_scene(local, seconds=seconds) as scene:
        (outcome,) = await scene.settle([await a_transfer(local.usdc, payer, payee)])

    assert isinstance(outcome, Settled)
    assert await local.balance(payee) == AMOUNT
