"""Payers that are contracts, or keys whose account was given code (EIP-7702)."""

from agentpay.evm.hashing import keccak, uint_word
from agentpay.testing.local_chain import LocalChain
from agentpay.types import ZERO_ADDRESS
from tests.http.world import a_payee
from tests.payee.hand import HandPayer, code, refused, serve, terms_of
from tests.wallets import a_contract_wallet


async def test_t9_a_contract_that_signs_for_itself_opens_and_uses_a_channel(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        owner = HandPayer(await chain.funded_wallet(0), payee.settings)
        wallet = await a_contract_wallet(chain, owner.wallet.address)
        terms = terms_of(payee)
        config = owner.config(payer=wallet, payer_authorizer=ZERO_ADDRESS)
        first = await serve(
            await payee.answer(await owner.funding(config, 5000, 1000, terms), terms)
        )
        header = await owner.voucher(config, 2000, terms)
        second = await serve(await payee.answer(header, terms))
        claimed = await payee.settlement.claim()

        assert first.success
        assert second.success
        assert claimed == 1


async def test_t9_a_voucher_is_checked_by_the_code_of_its_payer_not_by_its_key(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        payer = HandPayer(await chain.funded_wallet(), payee.settings)
        terms = terms_of(payee)
        config = payer.config(payer_authorizer=ZERO_ADDRESS)
        served = await serve(
            await payee.answer(await payer.funding(config, 5000, 1000, terms), terms)
        )
        refuses_all = await a_contract_wallet(chain, ZERO_ADDRESS)
        delegation = bytes.fromhex("ef0100") + refuses_all.to_bytes()
        await chain.node.set_code(payer.wallet.address, delegation)
        header = await payer.voucher(config, 2000, terms)
        refusal = refused(await payee.answer(header, terms))

        assert served.success
        assert code(refusal) == "voucher_signature"


async def test_t9_a_contract_pays_by_transfer_until_it_changes_its_mind(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        owner = HandPayer(await chain.funded_wallet(0), payee.settings)
        wallet = await a_contract_wallet(chain, owner.wallet.address)
        terms = terms_of(payee, schemes=("exact",))
        first = await owner.transfer(terms, payer=wallet)
        second = await owner.transfer(terms, payer=wallet)
        receipt = await serve(await payee.answer(first, terms))
        data = keccak(b"refuse(bool)")[:4] + uint_word(1)
        await chain.node.set_balance(owner.wallet.address, 10**18)
        await chain.node.transact(owner.wallet.address, data, to=wallet)
        refusal = refused(await payee.answer(second, terms))

        assert receipt.success
        assert code(refusal) == "invalid_exact_evm_payload_signature"
