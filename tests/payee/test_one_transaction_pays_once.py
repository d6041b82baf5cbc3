"""A payer that makes one real payment look like many gets one answer for it."""

from typing import Any

import pytest

from agentpay import Route, Wallet
from agentpay.errors import TransactionOutcomeUnknown
from agentpay.evm import permit2_abi
from agentpay.evm.calls import Call
from agentpay.evm.eip3009 import Authorization, transfer_digest
from agentpay.evm.eip3009_abi import transfer_call
from agentpay.evm.hashing import address_word, selector, uint_word
from agentpay.evm.multicall3_abi import aggregate_call
from agentpay.evm.transfer import TokenTransfer
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from agentpay.wire import x402_asks as asks
from agentpay.wire.x402 import ExactPayload, Permit2Payload, parse_payment
from agentpay.wire.x402_transfers import read_transfer
from tests.facilitator.test_remote_facilitators import a_client, a_front, success
from tests.facilitator.world import Channel, a_desk
from tests.http.world import a_payee
from tests.payee.hand import HandPayer, refused, serve, terms_of
from tests.payee.test_selling_by_permit2 import BY_PERMIT2, a_payer

EXACT = Route(price=1000, schemes=("exact",))


def signed(header: str, payer: HandPayer) -> Any:
    payload = parse_payment(header).payload
    assert isinstance(payload, ExactPayload | Permit2Payload)
    return read_transfer(payload, payer.asset)


async def to_itself(payer: HandPayer, transfer: TokenTransfer) -> Call:
    """The nonce of a transfer, used up by another that costs its payer nothing."""
    used = transfer.authorization
    authorization = Authorization(
        payer=used.payer,
        to=used.payer,
        value=1,
        valid_after=0,
        valid_before=used.valid_before,
        nonce=used.nonce,
    )
    digest = transfer_digest(authorization, payer.asset)
    chain = payer.asset.chain
    signature = await payer.wallet.sign_digest(digest, chain=chain)
    return transfer_call(payer.asset.address, authorization, signature)


async def send(chain: LocalChain, sender: Address, call: Call) -> str:
    await chain.node.set_balance(sender, 10**18)
    return await chain.node.transact(sender, call.data, to=call.to)


async def test_p1_nonces_used_beside_one_payment_buy_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee:
        payer = HandPayer(await chain.funded_wallet(), payee.settings)
        terms = terms_of(payee, EXACT)
        headers = [await payer.transfer(terms) for _ in range(4)]
        paid, *others = [signed(header, payer) for header in headers]
        calls = [await to_itself(payer, other) for other in others]
        wrapped = aggregate_call([paid.call(1000), *calls])
        await send(chain, payer.wallet.address, wrapped)
        first, *rest = headers

        assert (await serve(await payee.answer(first, terms))).success
        for header in rest:
            assert refused(await payee.answer(header, terms)).status == 402
        assert await chain.balance(payee.settings.pay_to) == 1000


async def test_p1_permits_named_beside_one_payment_buy_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain, transfer_methods=BY_PERMIT2) as payee:
        payer = await a_payer(chain, payee)
        terms = terms_of(payee, EXACT)
        headers = [await payer.permit2(terms) for _ in range(4)]
        paid, *others = [signed(header, payer) for header in headers]
        marks = [permit2_abi.transfer_mark(other.transfer) for other in others]
        call = paid.call(1000)
        named = Call(to=call.to, data=call.data + b"".join(marks), what="")
        await send(chain, payer.wallet.address, named)
        for other in others:
            invalid = permit2_abi.invalidate_nonce_call(other.transfer.nonce)
            await send(chain, payer.wallet.address, invalid)
        first, *rest = headers

        assert (await serve(await payee.answer(first, terms))).success
        for header in rest:
            assert refused(await payee.answer(header, terms)).status == 402
        assert await chain.balance(payee.settings.pay_to) == 1000


@pytest.mark.parametrize("by_permit", [False, True])
async def test_f10_a_transaction_that_paid_for_another_is_no_proof(
    agentpay_shared_chain: LocalChain, by_permit: bool
) -> None:
    """A facilitator and a payer that cheat together show an old transaction."""
    chain = agentpay_shared_chain
    async with (
        a_payee(chain, transfer_methods=BY_PERMIT2) as payee,
        a_front(chain) as (url, front),
        a_client(chain, url) as client,
    ):
        payer = await a_payer(chain, payee)
        account, terms = payer.wallet.address, terms_of(payee, EXACT)
        sign = payer.permit2 if by_permit else payer.transfer
        old, new = [signed(await sign(terms), payer) for _ in range(2)]
        if by_permit:
            paid = await send(chain, account, old.call(1000))
            gone = permit2_abi.invalidate_nonce_call(new.transfer.nonce)
        else:
            words = address_word(payee.settings.pay_to) + uint_word(1000)
            plain = selector("transfer(address,uint256)") + words
            usdc = chain.usdc.address
            paid = await send(chain, account, Call(to=usdc, data=plain, what=""))
            gone = await to_itself(payer, new)
        await send(chain, account, gone)
        front.instead["/settle"] = success(chain, paid)

        with pytest.raises(TransactionOutcomeUnknown):
            await client.settle_transfer(new, 1000)


async def test_f10_a_deposit_is_not_shown_by_one_like_it(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_payee(chain) as payee, a_desk(chain) as desk:
        payer = HandPayer(await chain.funded_wallet(), payee.settings)
        channel = Channel(chain.usdc, payer.wallet, Wallet.create())
        made, other = [await channel.deposit(10_000) for _ in range(2)]
        voucher = await channel.voucher(1000)
        first = await desk.settle(asks.deposit_request(made, voucher))
        gone = await to_itself(payer, other.transfer)
        await send(chain, payer.wallet.address, gone)
        second = await desk.settle(asks.deposit_request(other, voucher))

    assert (first["success"], second["success"]) == (True, False)
