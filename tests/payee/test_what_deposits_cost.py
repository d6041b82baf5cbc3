"""Strangers' deposits cost their payee no more gas in an hour than it allows."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpay import ConfigurationError, Payee, Wallet
from agentpay.chain.rpc import RpcChain
from agentpay.errors import ChainUnreachable, GasLimitReached, TransactionFailed
from agentpay.evm.batch_settlement import channel_id
from agentpay.evm.calls import Receipt, Standing
from agentpay.evm.networks import BASE_SEPOLIA, LOCAL
from agentpay.facilitator.deposit_gas import DepositGas
from agentpay.http.paywall import Paywall
from agentpay.payee.arguments import deposit_wei_of
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, ChainId, Hash32
from agentpay.wire.headers import decode_json
from agentpay.wire.x402 import (
    BATCH_SETTLEMENT,
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    PAYMENT_SIGNATURE,
    parse_response,
)
from tests.http.session_world import DEPOSIT, OK, a_world
from tests.http.world import PRICE, ROUTES, Shop, a_payee, client_of
from tests.keeper.test_settlement_triggers import Clock
from tests.payee.hand import HandPayer, terms_of
from tests.payee.mpp_hand import kind_of

GWEI = 10**9
HOUR = 10**15
"""Enough for one deposit at 2 gwei, the most that gas costs here, and not for 20."""
ACCOUNT = Address("0x" + "a1" * 20)


@dataclass
class Priced(RpcChain):
    """A chain whose gas costs what a test says; nothing else is asked of it."""

    price: int = GWEI
    asked: list[Address] = field(default_factory=list)

    async def standing(self, account: Address) -> Standing:
        self.asked.append(account)
        tip = min(1, self.price)
        return Standing(nonce=0, balance=0, base_fee=self.price - tip, tip=tip)


def receipt(gas: int, price: int) -> Receipt:
    return Receipt(
        transaction=Hash32("0x" + "00" * 32),
        block=1,
        gas_used=gas,
        gas_price=price,
        logs=(),
    )


Step = tuple[int, int, int, int]
"""The most gas, what is used of it (in percent), the price, and a wait before."""

STEPS = st.lists(
    st.tuples(
        st.integers(1, 60), st.integers(0, 100), st.integers(1, 9), st.integers(0, 2000)
    ),
    max_size=40,
)


@given(steps=STEPS)
def test_p13_no_hour_of_deposits_costs_more_than_is_allowed(steps: list[Step]) -> None:
    async def live() -> None:
        clock, chain = Clock(), Priced()
        gas = DepositGas(chain, wei_per_hour=500, clock=clock)
        paid: list[tuple[float, int]] = []
        for most, percent, price, wait in steps:
            clock.ahead += wait
            chain.price = price
            used = most * percent // 100

            async def send(used: int = used, price: int = price) -> Receipt:
                return receipt(used, price)

            now = clock()
            hour = sum(wei for at, wei in paid if at > now - 3600)
            try:
                await gas.send(ACCOUNT, most, send)
            except GasLimitReached:
                assert hour + most * price > 500
                continue
            paid.append((now, used * price))

            assert hour + used * price <= 500

    asyncio.run(live())


async def test_p13_deposits_sent_at_once_are_counted_as_the_most_they_use() -> None:
    gas = DepositGas(Priced(), wei_per_hour=250 * GWEI, clock=Clock())
    mined, sent = asyncio.Event(), 0

    async def send() -> Receipt:
        nonlocal sent
        sent += 1
        await mined.wait()
        return receipt(10, GWEI)

    sending = [asyncio.create_task(gas.send(ACCOUNT, 100, send)) for _ in range(5)]
    await asyncio.sleep(0.01)
    mined.set()
    outcomes = await asyncio.gather(*sending, return_exceptions=True)
    later = await gas.send(ACCOUNT, 100, send)

    assert sent == 3
    assert [isinstance(o, GasLimitReached) for o in outcomes].count(True) == 3
    assert later.gas_used == 10


@pytest.mark.parametrize(
    "error",
    [TransactionFailed("a deposit", reason="refused"), ChainUnreachable("not sent")],
)
async def test_what_was_not_sent_is_not_counted(error: Exception) -> None:
    gas = DepositGas(Priced(), wei_per_hour=100 * GWEI, clock=Clock())

    async def send() -> Receipt:
        raise error

    for _ in range(3):
        with pytest.raises(type(error)):
            await gas.send(ACCOUNT, 100, send)
    await gas.check(ACCOUNT, 100)


async def test_without_a_limit_nobody_asks_for_the_price() -> None:
    chain = Priced()
    gas = DepositGas(chain)
    await gas.check(ACCOUNT, 10**9)

    assert chain.asked == []


def test_a_limit_is_usual_where_the_coin_is_known_and_above_nothing() -> None:
    elsewhere = replace(BASE_SEPOLIA, chain=ChainId(137))
    assert deposit_wei_of(None, LOCAL) is None
    assert deposit_wei_of(None, elsewhere) is None
    assert deposit_wei_of(None, BASE_SEPOLIA) == 2 * 10**16
    assert deposit_wei_of(7, LOCAL) == 7
    with pytest.raises(ConfigurationError, match="deposit_wei_per_hour"):
        Payee(Wallet.create(), deposit_wei_per_hour=0)


async def test_p13_sessions_opened_and_closed_at_once_cost_a_payee_no_more_than_that(
    agentpay_chain: LocalChain,
) -> None:
    clock = Clock()
    async with a_world(agentpay_chain, deposit_wei_per_hour=HOUR, clock=clock) as world:
        before = await ether_of(world.chain, world.wallet)
        opened = 0
        while opened < 20:  # with the same dollars again and again
            config = world.payer.config()
            deposit = await world.payer.deposit(config, DEPOSIT)
            refused = await world.send(await world.payer.open(config, deposit))
            if refused.status_code != 200:
                break
            opened += 1
            await world.send(await world.payer.close(config, 0))
        kept = await world.payee._running.store.payee.read(config.channel)
        spent = before - await ether_of(world.chain, world.wallet)
        clock.ahead = 3601
        later = await world.opened()

        assert 0 < opened < 20
        assert refused.status_code == 503
        assert kind_of(refused) == "internal-payment-error"
        assert "gas_limit_reached" in refused.json()["detail"]
        assert PAYMENT_RESPONSE not in refused.headers
        assert kept is None
        assert spent < 2 * HOUR
        assert (await world.buy(later, PRICE)).status_code == 200


async def test_p13_a_channel_that_a_payee_pays_no_gas_for_is_a_503_with_a_receipt(
    agentpay_chain: LocalChain,
) -> None:
    async with a_payee(agentpay_chain, deposit_wei_per_hour=HOUR) as payee:
        wall = Paywall(Shop(), payee=payee, routes=ROUTES)
        payer = HandPayer(await agentpay_chain.funded_wallet("$10"), payee.settings)
        terms = terms_of(payee)
        async with client_of(wall) as client:
            asked = await client.get(OK)
            required: dict[str, Any] = decode_json(
                asked.headers[PAYMENT_REQUIRED], name="a 402"
            )
            offer = next(
                o for o in required["accepts"] if o["scheme"] == BATCH_SETTLEMENT
            )
            opened = 0
            while opened < 20:
                config = payer.config()
                header = await payer.funding(
                    config, 20 * PRICE, PRICE, terms, accepted=offer
                )
                headers = {PAYMENT_SIGNATURE: header}
                refused = await client.get(OK, headers=headers)
                if refused.status_code != 200:
                    break
                opened += 1
        channel = channel_id(config, payee.asset.chain)
        kept = await payee._running.store.payee.read(channel)
        told = parse_response(refused.headers[PAYMENT_RESPONSE])

        assert 0 < opened < 20
        assert refused.status_code == 503
        assert "gas_limit_reached" in refused.json()["detail"]
        assert told.error_reason == "payment_unavailable"
        assert kept is None


async def ether_of(chain: LocalChain, wallet: Wallet) -> int:
    return int(await chain.node.rpc("eth_getBalance", wallet.address, "latest"), 16)
