"""A payee with `batch_seconds`: many are settled at once, each buys one answer."""

import asyncio

import pytest

from agentpay import Payee, RemoteFacilitator
from agentpay.errors import ConfigurationError
from agentpay.payee.pricing import Order
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.x402 import PAYMENT_RESPONSE, parse_response
from tests.http.world import PRICE, a_shop, client_of
from tests.payee.hand import HandPayer, terms_of

_PAYERS = 8
_PATH = f"/exact/{Order.SETTLE_FIRST}/ok"


async def test_all_of_a_batch_are_answered_for_one_transaction(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_shop(chain, batch_seconds=1) as (shop, payee, wall):
        terms = terms_of(payee, schemes=("exact",), order=Order.SETTLE_FIRST)
        payers = [
            HandPayer(await chain.funded_wallet(ether=0), payee.settings)
            for _ in range(_PAYERS)
        ]
        payments = [await payer.transfer(terms) for payer in payers]
        poor = HandPayer(await chain.funded_wallet(0, ether=0), payee.settings)
        payments.append(await poor.transfer(terms))
        client = client_of(wall)
        async with client:
            *paid, refused = await asyncio.gather(
                *(
                    client.get(_PATH, headers={"payment-signature": payment})
                    for payment in payments
                )
            )
        receipts = [parse_response(a.headers[PAYMENT_RESPONSE]) for a in paid]

        assert {answer.status_code for answer in paid} == {200}
        assert len({receipt.transaction for receipt in receipts}) == 1
        assert refused.status_code == 402
        assert shop.begun[_PATH] == _PAYERS
        balance = await chain.balance(payee.settings.pay_to)
        assert balance == _PAYERS * PRICE


async def test_only_who_sends_transactions_gathers_them(
    agentpay_shared_chain: LocalChain,
) -> None:
    wallet = await agentpay_shared_chain.funded_wallet(0)
    network = agentpay_shared_chain.network
    elsewhere = RemoteFacilitator(["https://facilitator.example"])

    with pytest.raises(ConfigurationError, match="batch_seconds"):
        Payee(wallet, network=network, batch_seconds=1, facilitator=elsewhere)
    with pytest.raises(ConfigurationError, match="batch_seconds"):
        Payee(wallet, network=network, batch_seconds=-1)
