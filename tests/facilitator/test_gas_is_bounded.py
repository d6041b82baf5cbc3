"""A contract may ask for any gas; it gets what its kind of call may use (F6)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay.errors import (
    ChainError,
    ConfigurationError,
    GasLimitReached,
    GasMissing,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm.calls import Receipt, Reverted
from agentpay.facilitator.gas import GasLimits, GasSpending
from agentpay.facilitator.senders import SenderPool
from agentpay.signers.wallet import Wallet
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Hash32
from tests.chain.chain_cases import (
    COUNTS,
    USES_18_MILLION_GAS,
    call_of,
    counted,
    place,
    rich_wallet,
    sending,
    used_nonces,
)

MINED = Receipt(
    transaction=Hash32("0x" + "00" * 32), block=1, gas_used=30, gas_price=2, logs=()
)
PAYEES = [Address(f"0x{n:040x}") for n in range(1, 4)]


async def test_f6_a_call_that_needs_more_gas_than_it_may_use_is_not_sent(
    agentpay_shared_chain: LocalChain,
) -> None:
    node = agentpay_shared_chain.node
    burner = await place(node, USES_18_MILLION_GAS)
    wallet = await rich_wallet(node)
    async with sending(node.url, wallet) as sender:
        for ask in (sender.simulate, sender.send):
            with pytest.raises(TransactionFailed, match="gas"):
                await ask(call_of(burner), gas_max=200_000)

    assert await used_nonces(node, wallet.address) == (0, 0)


async def test_f6_a_transaction_carries_no_more_gas_than_it_may_use(
    agentpay_shared_chain: LocalChain,
) -> None:
    node = agentpay_shared_chain.node
    counter = await place(node, COUNTS)
    wallet = await rich_wallet(node)
    async with sending(node.url, wallet) as sender:
        receipt = await sender.send(call_of(counter), gas_max=50_000)
    sent = await node.rpc("eth_getTransactionByHash", receipt.transaction)

    assert int(sent["gas"], 16) <= 50_000
    assert await counted(node, counter) == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from(PAYEES),
            st.integers(1, 60),
            st.integers(0, 60),
            st.integers(0, 2000),
        ),
        max_size=60,
    )
)
def test_f6_no_hour_costs_more_gas_than_its_limits(
    steps: list[tuple[Address, int, int, int]],
) -> None:
    now = 0.0
    spending = GasSpending(per_hour=100, per_payee_hour=70, clock=lambda: now)
    used: list[tuple[float, Address, int]] = []
    for payee, most, really, wait in steps:
        now += wait
        try:
            spent = spending.reserve(payee, most)
        except GasLimitReached:
            continue
        gas = min(really, most)
        spending.correct(spent, gas)
        used.append((now, payee, gas))
        hour = [(p, g) for at, p, g in used if at > now - 3600]

        assert sum(g for _, g in hour) <= 100
        assert all(sum(g for p, g in hour if p == x) <= 70 for x in PAYEES)


def test_f6_what_was_not_used_is_there_for_others_and_an_hour_later_all_of_it() -> None:
    now = 0.0
    spending = GasSpending(per_hour=100, per_payee_hour=100, clock=lambda: now)
    first = spending.reserve(PAYEES[0], 100)
    with pytest.raises(GasLimitReached):
        spending.reserve(PAYEES[1], 1)
    spending.correct(first, 40)
    spending.reserve(PAYEES[1], 60)
    now = 3601
    spending.correct(first, 90)  # too late to count
    spending.reserve(PAYEES[2], 100)


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (TransactionFailed("it", reason="no"), 0),
        (TransactionFailed("it", reason="no", transaction="0x12"), 100),
        (Reverted("it", reason="no", receipt=MINED), 60),
        (TransactionOutcomeUnknown("it", transaction="0x12"), 100),
    ],
    ids=["not sent", "perhaps all of it", "reverted", "unknown"],
)
async def test_f6_what_reverted_counts_for_what_it_used(
    error: ChainError, counted: int
) -> None:
    spending = GasSpending(per_hour=1000, per_payee_hour=100, clock=lambda: 0.0)

    async def sending_fails() -> Receipt:
        raise error

    with pytest.raises(type(error)):
        await spending.pay(
            spending.reserve(PAYEES[0], 100),
            sending_fails(),
            cost=lambda mined: mined.gas_used * mined.gas_price,
        )

    assert spending.allows(PAYEES[0], 100 - counted)
    assert not spending.allows(PAYEES[0], 101 - counted)


class Key:
    """A sender that keeps its calls until told, or that has no ether."""

    def __init__(self, *, poor: bool = False) -> None:
        self.address = Wallet.create().address
        self.poor = poor
        self.sent: list[int | None] = []
        self.under_way: list[object] = []

    async def simulate(self, call: object, *, gas_max: int | None = None) -> None:
        """Everything goes through."""

    async def resume(self) -> None:
        """Nothing was in flight."""

    def carries(self, call: object) -> bool:
        """Whatever it was told before."""
        return call in self.under_way

    async def send(
        self, call: object, *, gas_max: int | None = None, deadline: int = 0
    ) -> Receipt:
        """At once, if it can pay."""
        if self.poor:
            raise GasMissing("no ether")
        self.sent.append(gas_max)
        return Receipt(
            transaction=Hash32("0x" + "00" * 32),
            block=1,
            gas_used=1,
            gas_price=1,
            logs=(),
        )


async def test_a_key_without_ether_leaves_the_call_to_the_next() -> None:
    poor, rich = Key(poor=True), Key()
    pool = SenderPool([poor, rich])
    await pool.send(call_of(rich.address), gas_max=7)

    assert rich.sent == [7]
    with pytest.raises(GasMissing):
        await pool.send(call_of(rich.address), gas_max=7, by=poor.address)


async def test_f8_a_call_that_is_under_way_stays_with_its_key() -> None:
    keys = [Key(), Key()]
    call = call_of(keys[0].address)
    keys[1].under_way.append(call)
    pool = SenderPool(keys)
    await pool.send(call, gas_max=7)

    assert keys[1].sent == [7]
    assert keys[0].sent == []


async def test_a_bound_call_is_sent_by_its_key_or_not_at_all() -> None:
    keys = [Key(), Key()]
    pool = SenderPool(keys)
    call = call_of(keys[0].address)
    await pool.send(call, gas_max=7, by=keys[1].address)

    assert [len(key.sent) for key in keys] == [0, 1]
    with pytest.raises(TransactionFailed, match="no key of ours"):
        await pool.send(call, gas_max=7, by=Wallet.create().address)


def test_a_pool_needs_different_keys() -> None:
    key = Key()
    for keys in ([], [key, key]):
        with pytest.raises(ConfigurationError):
            SenderPool(keys)


def test_a_claim_of_nothing_needs_no_gas() -> None:
    assert GasLimits().claims(0) == 0
    assert GasLimits().claims(2) > GasLimits().claims(1)
