"""Payers whose wallet is not deployed yet (ERC-6492), by listed factories only."""

from dataclasses import replace
from typing import Any

import pytest

from agentpay import Payee, Route, Wallet
from agentpay.errors import ConfigurationError
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.hashing import address_word, keccak, selector, uint_word
from agentpay.testing.local_chain import LocalChain
from agentpay.types import ZERO_ADDRESS, Address
from tests.http.world import a_payee
from tests.payee.hand import HandPayer, code, receipt_of, refused, serve, sold, terms_of
from tests.wallets import NewWallet, a_new_wallet, deploy

EXACT = Route(price=1000, schemes=("exact",))
UPTO = Route(price=1000, metered=True, schemes=("upto",))
TAKES_BOTH: dict[str, Any] = {"transfer_methods": ("eip3009", "permit2")}
NOT_ALLOWED = "eip6492_factory_not_allowed"


def hand_of(wallet: NewWallet, payee: Payee) -> HandPayer:
    return HandPayer(wallet.owner, payee.settings)


async def paid_by(wallet: NewWallet, payee: Payee, **changes: Any) -> str:
    terms = terms_of(payee, EXACT)
    hand = hand_of(wallet, payee)
    return await hand.transfer(terms, signer=wallet, payer=wallet.address, **changes)


async def test_t9_a_wallet_is_made_in_the_transaction_that_it_pays_in(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await a_new_wallet(chain)
    async with a_payee(chain, wallet_factories=(wallet.factory,)) as payee:
        terms = terms_of(payee, EXACT)
        header = await paid_by(wallet, payee)
        sale = sold(await payee.answer(header, terms))
        before = await wallet.is_there()
        receipt = await serve(sale)
        again = refused(await payee.answer(header, terms))

        assert not before
        assert await wallet.is_there()
        assert receipt.success
        assert await chain.balance(payee.settings.pay_to) == 1000
        assert (again.status, receipt_of(again).transaction) == (
            409,
            receipt.transaction,
        )


async def test_f6_a_factory_that_is_not_listed_is_never_called(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await a_new_wallet(chain)
    other = await deploy(chain, "WalletFactory")
    for listed in ((), (other,)):
        async with a_payee(chain, wallet_factories=listed) as payee:
            terms = terms_of(payee, EXACT)
            refusal = refused(await payee.answer(await paid_by(wallet, payee), terms))

            assert code(refusal) == NOT_ALLOWED
    assert not await wallet.is_there()


async def test_f6_what_is_not_the_wallets_signature_makes_no_wallet(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await a_new_wallet(chain)
    async with a_payee(chain, wallet_factories=(wallet.factory,)) as payee:
        terms = terms_of(payee, EXACT)
        hand = HandPayer(Wallet.create(), payee.settings)
        others = (b"", b"nonsense", wallet.factory_data[:-1] + b"?")
        for signer in (
            replace(wallet, owner=Wallet.create()),
            *(replace(wallet, factory_data=data) for data in others),
        ):
            header = await hand.transfer(terms, signer=signer, payer=wallet.address)
            refusal = refused(await payee.answer(header, terms))
            assert code(refusal) == "invalid_exact_evm_payload_signature"

        assert not await wallet.is_there()


async def test_f6_a_wrapped_signature_of_a_key_is_not_its_signature(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await a_new_wallet(chain)
    async with a_payee(chain, wallet_factories=(wallet.factory,)) as payee:
        terms = terms_of(payee, EXACT)
        await chain.fund(wallet.owner.address)
        hand = hand_of(wallet, payee)
        refusal = refused(
            await payee.answer(await hand.transfer(terms, signer=wallet), terms)
        )

        assert code(refusal) == "invalid_exact_evm_payload_signature"


async def test_t9_a_wallet_that_was_made_meanwhile_pays_all_the_same(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await a_new_wallet(chain)
    async with a_payee(chain, wallet_factories=(wallet.factory,)) as payee:
        terms = terms_of(payee, EXACT)
        first = sold(await payee.answer(await paid_by(wallet, payee), terms))
        await wallet.deploy()
        receipts = [
            await serve(first),
            await serve(await payee.answer(await paid_by(wallet, payee), terms)),
        ]
    async with a_payee(chain) as payee:  # which calls no factory
        terms = terms_of(payee, EXACT)
        header = await paid_by(wallet, payee)
        receipts.append(await serve(await payee.answer(header, terms)))

    assert all(receipt.success for receipt in receipts)


async def test_t9_a_wallet_is_made_with_its_first_deposit(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await a_new_wallet(chain)
    async with a_payee(chain, wallet_factories=(wallet.factory,)) as payee:
        hand, terms = hand_of(wallet, payee), terms_of(payee)
        config = hand.config(payer=wallet.address)
        header = await hand.funding(config, 5000, 1000, terms, depositor=wallet)
        opened = await serve(await payee.answer(header, terms))
        next_one = await hand.voucher(config, 2000, terms)
        used = await serve(await payee.answer(next_one, terms))

        assert opened.success
        assert used.success
        assert await wallet.is_there()
        assert await payee.settlement.claim() == 1


async def test_f6_a_deposit_by_a_factory_that_is_not_listed_is_refused(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await a_new_wallet(chain)
    async with a_payee(chain) as payee:
        hand, terms = hand_of(wallet, payee), terms_of(payee)
        config = hand.config(payer=wallet.address)
        header = await hand.funding(config, 5000, 1000, terms, depositor=wallet)
        refusal = refused(await payee.answer(header, terms))

        assert code(refusal) == NOT_ALLOWED
        assert not await wallet.is_there()


async def test_t9_vouchers_before_a_wallet_is_there_need_a_key_of_their_own(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await a_new_wallet(chain)
    async with a_payee(chain, wallet_factories=(wallet.factory,)) as payee:
        hand, terms = hand_of(wallet, payee), terms_of(payee)
        for authorizer in (ZERO_ADDRESS, wallet.address):
            config = hand.config(payer=wallet.address, payer_authorizer=authorizer)
            header = await hand.funding(
                config, 5000, 1000, terms, depositor=wallet, signer=wallet
            )
            refusal = refused(await payee.answer(header, terms))

            assert code(refusal) == "voucher_signature"


async def give_allowance(chain: LocalChain, owner: Address, amount: int) -> None:
    """Let Permit2 move what an account that is not there cannot approve."""
    call = {
        "from": owner,
        "to": chain.usdc.address,
        "data": "0x"
        + (
            selector("approve(address,uint256)")
            + address_word(PERMIT2)
            + uint_word(amount)
        ).hex(),
    }
    found = await chain.node.rpc("eth_createAccessList", call, "latest")
    (token,) = [
        entry
        for entry in found["accessList"]
        if entry["address"].lower() == chain.usdc.address
    ]
    inner = {
        keccak(address_word(PERMIT2) + keccak(address_word(owner) + uint_word(slot)))
        for slot in range(64)
    }
    (key,) = [k for k in token["storageKeys"] if bytes.fromhex(k[2:]) in inner]
    value = "0x" + uint_word(amount).hex()
    await chain.node.rpc("anvil_setStorageAt", chain.usdc.address, key, value)


@pytest.mark.parametrize("scheme", ["exact", "upto"])
async def test_t9_a_wallet_is_made_before_permit2_moves_its_money(
    agentpay_shared_chain: LocalChain, scheme: str
) -> None:
    chain = agentpay_shared_chain
    wallet = await a_new_wallet(chain)
    options = {**TAKES_BOTH, "wallet_factories": (wallet.factory,)}
    async with a_payee(chain, **options) as payee:
        terms = terms_of(payee, UPTO if scheme == "upto" else EXACT)
        hand = hand_of(wallet, payee)
        header = await hand.permit2(
            terms, scheme=scheme, signer=wallet, payer=wallet.address
        )
        poor = refused(await payee.answer(header, terms))
        there = await wallet.is_there()
        await give_allowance(chain, wallet.address, 1000)
        header = await hand.permit2(
            terms, scheme=scheme, signer=wallet, payer=wallet.address
        )
        receipt = await serve(await payee.answer(header, terms))

        assert code(poor) == "permit2_allowance_required"
        assert not there
        assert receipt.success
        assert await chain.balance(payee.settings.pay_to) == 1000


async def test_a_factory_is_an_address(agentpay_shared_chain: LocalChain) -> None:
    wallet = await agentpay_shared_chain.funded_wallet(0)
    with pytest.raises(ConfigurationError, match="wallet_factories"):
        Payee(wallet, network=agentpay_shared_chain.network, wallet_factories=("0x12",))
