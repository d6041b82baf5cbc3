"""Payers whose wallet is not deployed yet, at a facilitator for other people."""

from typing import Any

import pytest

from agentpay import Wallet
from agentpay.facilitator.batches import BatchPolicy
from agentpay.facilitator.gas import GasLimits
from agentpay.facilitator.host import FacilitatorLimits
from agentpay.facilitator.service import FacilitatorTerms
from agentpay.testing.local_chain import LocalChain
from agentpay.wire import x402_asks as asks
from tests.facilitator.world import AMOUNT, Channel, a_desk, a_transfer
from tests.wallets import NewWallet, a_new_wallet

NOT_ALLOWED = "eip6492_factory_not_allowed"


def terms(chain: LocalChain, *wallets: NewWallet) -> dict[str, Any]:
    factories = frozenset(wallet.factory for wallet in wallets)
    return {"terms": FacilitatorTerms(assets=(chain.usdc,), wallet_factories=factories)}


@pytest.mark.parametrize("batch", [None, BatchPolicy(seconds=0.01)])
async def test_t9_a_wallet_is_made_and_its_payment_settled(
    agentpay_shared_chain: LocalChain, batch: BatchPolicy | None
) -> None:
    chain, payee = agentpay_shared_chain, Wallet.create().address
    wallet = await a_new_wallet(chain)
    async with a_desk(chain, batch=batch, **terms(chain, wallet)) as desk:
        transfer = await a_transfer(chain.usdc, wallet, payee)
        request = asks.transfer_request(transfer, AMOUNT)
        verified, settled = await desk.verify(request), await desk.settle(request)
        again = await desk.settle(request)

        assert verified["isValid"], verified
        assert settled["success"], settled
        assert again["errorReason"] == "duplicate_settlement"
        assert await wallet.is_there()
        assert await chain.balance(payee) == AMOUNT


async def test_f6_no_gas_is_paid_for_a_factory_that_is_not_listed(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain, payee = agentpay_shared_chain, Wallet.create()
    wallet = await a_new_wallet(chain)
    async with a_desk(chain) as desk:
        transfer = await a_transfer(chain.usdc, wallet, payee.address)
        request = asks.transfer_request(transfer, AMOUNT)
        verified, settled = await desk.verify(request), await desk.settle(request)
        channel = Channel(chain.usdc, wallet, payee, voucher_key=Wallet.create())
        deposit = asks.deposit_request(
            await channel.deposit(AMOUNT), await channel.voucher(1)
        )
        funded = await desk.settle(deposit)

        assert verified["invalidReason"] == NOT_ALLOWED
        assert settled["errorReason"] == NOT_ALLOWED
        assert funded["errorReason"] == "invalid_batch_settlement_evm_" + NOT_ALLOWED
        assert not await wallet.is_there()


async def test_t9_a_wallet_is_made_with_the_deposit_of_its_channel(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await a_new_wallet(chain)
    async with a_desk(chain, **terms(chain, wallet)) as desk:
        channel = Channel(
            chain.usdc, wallet, Wallet.create(), voucher_key=Wallet.create()
        )
        request = asks.deposit_request(
            await channel.deposit(AMOUNT), await channel.voucher(1)
        )
        verified, settled = await desk.verify(request), await desk.settle(request)

        assert verified["isValid"], verified
        assert settled["success"], settled
        assert settled["extra"]["channelState"]["balance"] == str(AMOUNT)


async def test_f6_the_gas_of_making_a_wallet_is_capped(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain, payee = agentpay_shared_chain, Wallet.create().address
    wallet = await a_new_wallet(chain)
    limits = FacilitatorLimits(gas=GasLimits(wallet=20_000))
    async with a_desk(chain, limits=limits, **terms(chain, wallet)) as desk:
        transfer = await a_transfer(chain.usdc, wallet, payee)
        request = asks.transfer_request(transfer, AMOUNT)
        verified, settled = await desk.verify(request), await desk.settle(request)

        assert not verified["isValid"]
        assert not settled["success"]
        assert not await wallet.is_there()
