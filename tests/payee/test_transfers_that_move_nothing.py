"""Transfers that are rightly signed and still no money for their payee."""

from typing import Any

import pytest

from agentpay.errors import TransactionFailed
from agentpay.evm.calls import Log, Receipt
from agentpay.evm.eip3009 import token_separator
from agentpay.evm.eip3009_abi import AUTHORIZATION_USED, TRANSFER
from agentpay.evm.hashing import (
    address_word,
    keccak,
    selector,
    type_hash,
    typed_digest,
    uint_word,
)
from agentpay.facilitator.outcomes import transfer_result
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Hash32
from tests.facilitator.world import AMOUNT, a_transfer
from tests.http.world import a_payee
from tests.payee.hand import NOBODY, HandPayer, code, refused, serve, terms_of

_CANCEL = "CancelAuthorization(address authorizer,bytes32 nonce)"
_CANCEL_CALL = "cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)"
NONCE = Hash32.of(b"n" * 32)


async def cancel(chain: LocalChain, payer: HandPayer, nonce: Hash32) -> None:
    """What a payer may do at any time, behind its payee's back."""
    words = address_word(payer.wallet.address) + nonce.to_bytes()
    struct = keccak(type_hash(_CANCEL) + words)
    digest = typed_digest(token_separator(chain.usdc), struct)
    signature = await payer.wallet.sign_digest(digest, chain=chain.chain_id)
    data = selector(_CANCEL_CALL) + words + uint_word(signature[64]) + signature[:64]
    await chain.node.set_balance(NOBODY, 10**18)
    await chain.node.transact(NOBODY, data, to=chain.usdc.address)


async def test_t12_a_cancelled_nonce_buys_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        payer = HandPayer(await chain.funded_wallet(), payee.settings)
        terms = terms_of(payee, schemes=("exact",))
        header = await payer.transfer(terms, nonce=NONCE)
        await cancel(chain, payer, NONCE)
        refusal = refused(await payee.answer(header, terms))

        assert code(refusal) == "invalid_transaction_state"
        assert await chain.balance(payee.settings.pay_to) == 0


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ({"valid_after": 2**40}, "after"),
        ({"valid_before": 1}, "before"),
        ({"valid_after": 2**40, "valid_before": 2**41}, "after"),
    ],
)
async def test_t12_a_transfer_outside_its_time_buys_nothing(
    agentpay_shared_chain: LocalChain, times: dict[str, Any], why: str
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        payer = HandPayer(await chain.funded_wallet(), payee.settings)
        terms = terms_of(payee, schemes=("exact",))
        header = await payer.transfer(terms, **times)
        refusal = refused(await payee.answer(header, terms))
        good = await payer.transfer(terms)

        wrong = f"invalid_exact_evm_payload_authorization_valid_{why}"
        assert code(refusal) == wrong
        assert (await serve(await payee.answer(good, terms))).success


@pytest.mark.parametrize("to", [NOBODY, None])
async def test_t7_a_transfer_that_arrived_elsewhere_is_no_payment(
    agentpay_shared_chain: LocalChain, to: Address | None
) -> None:
    chain = agentpay_shared_chain
    payer, payee = await chain.funded_wallet(), await chain.funded_wallet(0)
    transfer = await a_transfer(chain.usdc, payer, payee.address)
    payer_word = Hash32.of(address_word(payer.address))
    to_word = Hash32.of(address_word(to or payee.address))
    topics = (
        (AUTHORIZATION_USED, payer_word, transfer.authorization.nonce),
        (TRANSFER, payer_word, to_word),
    )
    receipt = Receipt(
        transaction=NONCE,
        block=1,
        gas_used=50_000,
        gas_price=1,
        logs=tuple(
            Log(
                address=chain.usdc.address,
                topics=words,
                data=uint_word(AMOUNT),
                block=1,
                transaction=NONCE,
                index=index,
            )
            for index, words in enumerate(topics)
        ),
    )
    if to is None:
        assert transfer_result(transfer, receipt).amount == AMOUNT
        return
    with pytest.raises(TransactionFailed, match="no matching Transfer"):
        transfer_result(transfer, receipt)
