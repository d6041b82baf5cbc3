"""Approvals of Permit2 that payers sign whole, and whose gas the payee pays."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from agentpay import Payee, Route, Wallet
from agentpay.chain.rpc import RpcChain
from agentpay.errors import ConfigurationError
from agentpay.evm.addresses import PERMIT2
from agentpay.evm.allowance_abi import allowance_call, approve_call
from agentpay.evm.approval import APPROVAL_GAS, ApprovalTransaction, SignedApproval
from agentpay.evm.hashing import address_word, selector, uint_word
from agentpay.onchain import read_words
from agentpay.payee.pricing import Order, Terms
from agentpay.testing.local_chain import LocalChain
from agentpay.types import UINT256_MAX, Address, Asset
from agentpay.wire.headers import JsonObject
from agentpay.wire.x402_approvals import APPROVAL_KEY, approval_info
from tests.http.world import a_payee
from tests.payee.hand import HandPayer, code, refused, said, serve, sold, terms_of
from tests.wallets import deploy

CAP = 10**16
PRICE = 1000
EXACT = Route(price=PRICE, schemes=("exact",), order=Order.SETTLE_FIRST)
UPTO = Route(price=PRICE, metered=True, schemes=("upto",))
CHANNEL = Route(price=PRICE, schemes=("batch-settlement",))


async def a_plain_token(chain: LocalChain, name: str = "PlainToken") -> Asset:
    """An ERC-20 that neither EIP-3009 nor permits move."""
    token = await deploy(chain, name)
    decimals = 6 if name == "NoReturnToken" else 18
    bare = replace(chain.usdc, name="", version="", eip3009=False)
    return replace(bare, address=token, decimals=decimals)


async def mint(chain: LocalChain, asset: Asset, to: Address, amount: int) -> None:
    data = selector("mint(address,uint256)") + address_word(to) + uint_word(amount)
    sender = (await chain.funded_wallet(0)).address
    await chain.node.transact(sender, data, to=asset.address)


@dataclass(kw_only=True)
class Scene:
    """A payee that sponsors, and a payer without coin that has approved nothing."""

    local: LocalChain
    chain: RpcChain
    payee: Payee
    payer: HandPayer

    @property
    def address(self) -> Address:
        return self.payer.wallet.address

    def terms(self, route: Route = EXACT) -> Terms:
        return terms_of(self.payee, route)

    async def coin(self, address: Address | None = None) -> int:
        found = await self.local.node.rpc(
            "eth_getBalance", address or self.address, "latest"
        )
        return int(found, 16)

    async def allowance(self) -> int:
        call = allowance_call(
            self.payer.asset.address, owner=self.address, spender=PERMIT2
        )
        return (await read_words(self.chain, [call]))[0]

    async def approval(self, **changes: Any) -> SignedApproval:
        """Signed by the payer, for what it pays unless told otherwise."""
        standing = await self.chain.standing(self.address)
        unsigned = ApprovalTransaction(
            chain=self.payer.asset.chain,
            nonce=standing.nonce,
            tip=standing.tip,
            fee_max=2 * standing.base_fee + standing.tip,
            gas=APPROVAL_GAS,
            token=self.payer.asset.address,
            amount=PRICE,
        )
        unsigned = replace(unsigned, **changes)
        signature = await self.payer.wallet.sign_digest(
            unsigned.digest(), chain=self.payer.asset.chain
        )
        return unsigned.signed(signature)

    async def header(self, route: Route = EXACT, **changes: Any) -> str:
        extensions = approval_info(await self.approval(**changes))
        return await self.payer.permit2(
            self.terms(route), scheme=route.schemes[0], extensions=extensions
        )


@contextlib.asynccontextmanager
async def a_scene(
    local: LocalChain, *, cap: int = CAP, token: str = "PlainToken", held: int = 10**6
) -> AsyncIterator[Scene]:
    asset = await a_plain_token(local, token)
    network = replace(local.network, usdc=asset)
    options: dict[str, Any] = {"network": network, "sponsor_approvals_up_to": cap}
    async with (
        RpcChain(local.rpc_url, chain_id=local.chain_id) as chain,
        a_payee(local, **options) as payee,
    ):
        payer = HandPayer(Wallet.create(), payee.settings)
        await mint(local, asset, payer.wallet.address, held)
        yield Scene(local=local, chain=chain, payee=payee, payer=payer)


@pytest.mark.parametrize("route", [EXACT, UPTO], ids=["exact", "upto"])
async def test_a_payer_without_coin_and_permits_pays(
    agentpay_shared_chain: LocalChain, route: Route
) -> None:
    async with a_scene(agentpay_shared_chain) as scene:
        terms = scene.terms(route)
        bare = refused(await scene.payee.answer(None, terms))
        receipt = await serve(
            await scene.payee.answer(await scene.header(route), terms)
        )

        assert APPROVAL_KEY in said(bare).extensions
        assert receipt.success
        assert receipt.amount == str(PRICE)
        assert await scene.allowance() == 0


async def test_an_approval_comes_with_a_deposit(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_scene(agentpay_shared_chain) as scene:
        payer, terms = scene.payer, scene.terms(CHANNEL)
        config = payer.config()
        header = await payer.voucher(
            config,
            PRICE,
            terms,
            kind="deposit",
            accepted=payer.offer(terms, method="permit2"),
            deposit=await payer.permit2_deposit(config, 5 * PRICE),
            extensions=approval_info(await scene.approval(amount=5 * PRICE)),
        )
        receipt = await serve(await scene.payee.answer(header, terms))

        assert receipt.success
        assert receipt.amount == str(5 * PRICE)


async def test_c11_more_than_the_payment_is_the_payers_own_risk(
    agentpay_shared_chain: LocalChain,
) -> None:
    """As official clients approve it; and the next payment needs no approval."""
    async with a_scene(agentpay_shared_chain) as scene:
        terms = scene.terms()
        first = await scene.header(amount=UINT256_MAX)
        receipts = [await serve(await scene.payee.answer(first, terms))]
        coin = await scene.coin()
        for extensions in ({}, approval_info(await scene.approval(nonce=99))):
            header = await scene.payer.permit2(terms, extensions=extensions)
            receipts.append(await serve(await scene.payee.answer(header, terms)))

        assert all(receipt.success for receipt in receipts)
        assert await scene.coin() == coin


WRONG: dict[str, dict[str, Any]] = {
    "for less": {"amount": PRICE - 1},
    "of another token": {"token": Address("0x" + "11" * 20)},
    "of another chain": {"chain": 1},
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_f7_an_approval_that_is_not_of_this_payment_is_malformed(
    agentpay_shared_chain: LocalChain, wrong: str
) -> None:
    async with a_scene(agentpay_shared_chain) as scene:
        header = await scene.header(**WRONG[wrong])
        refusal = refused(await scene.payee.answer(header, scene.terms()))

        assert refusal.status == 400
        assert await scene.coin() == 0


async def test_f7_an_approval_that_another_signed_is_malformed(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_scene(agentpay_shared_chain) as scene:
        theirs = await scene.approval()
        other = HandPayer(Wallet.create(), scene.payee.settings)
        info = approval_info(theirs)
        for owner in (scene.address, other.wallet.address):
            extensions = _with_info(info, **{"from": str(owner)})
            header = await other.permit2(scene.terms(), extensions=extensions)
            refusal = refused(await scene.payee.answer(header, scene.terms()))
            assert refusal.status == 400

        assert await scene.coin() == 0


def _with_info(extension: JsonObject, **changes: Any) -> JsonObject:
    info: Any = extension[APPROVAL_KEY]
    return {APPROVAL_KEY: {"info": {**info["info"], **changes}}}


@pytest.mark.parametrize("field", ["asset", "spender", "amount", "signedTransaction"])
async def test_f7_an_approval_is_what_its_info_says(
    agentpay_shared_chain: LocalChain, field: str
) -> None:
    async with a_scene(agentpay_shared_chain) as scene:
        info = approval_info(await scene.approval())
        lie = "1001" if field == "amount" else "0x" + "11" * 20
        extensions = _with_info(info, **{field: lie})
        header = await scene.payer.permit2(scene.terms(), extensions=extensions)

        refusal = refused(await scene.payee.answer(header, scene.terms()))
        assert refusal.status == 400


NOT_PAID_FOR: dict[str, tuple[dict[str, Any], str]] = {
    "too much gas": ({"gas": 70_001}, "to 70000"),
    "too dear": ({"fee_max": CAP}, f"may {CAP}"),
    "too cheap": ({"fee_max": 0, "tip": 0}, "too little"),
    "tip above all": ({"fee_max": 10**10, "tip": 10**10 + 1}, "too little"),
    "too early": ({"nonce": 1}, "its nonce is 1"),
    "too little gas": ({"gas": 30_000}, "its 30000 gas"),
    "no gas at all": ({"gas": 1}, "it has 1 gas"),
}


@pytest.mark.parametrize("order", [Order.SETTLE_FIRST, Order.RESERVE])
@pytest.mark.parametrize("wrong", NOT_PAID_FOR)
async def test_f7_what_would_not_be_mined_or_costs_too_much_is_not_paid_for(
    agentpay_shared_chain: LocalChain, wrong: str, order: Order
) -> None:
    changes, why = NOT_PAID_FOR[wrong]
    async with a_scene(agentpay_shared_chain) as scene:
        header = await scene.header(**changes)
        terms = scene.terms(replace(EXACT, order=order))
        refusal = refused(await scene.payee.answer(header, terms))

        assert why in said(refusal).error
        assert code(refusal) == "invalid_transaction_state"
        assert (await scene.coin(), await scene.allowance()) == (0, 0)


async def test_f7_no_gas_is_paid_for_a_payment_that_could_not_follow(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_scene(agentpay_shared_chain, held=PRICE - 1) as scene:
        refusal = refused(await scene.payee.answer(await scene.header(), scene.terms()))

        assert "insufficient_funds" in said(refusal).error
        assert await scene.coin() == 0


async def test_f7_a_payer_is_paid_for_once_in_an_hour(
    agentpay_shared_chain: LocalChain,
) -> None:
    """A payer that takes the coin away, again and again, gets it no more."""
    local = agentpay_shared_chain
    async with a_scene(local) as scene:
        cost = (await scene.approval()).approval.cost
    async with a_scene(local, cap=cost * 3 // 2) as scene:
        terms = scene.terms()
        first = await serve(await scene.payee.answer(await scene.header(), terms))
        await local.node.set_balance(scene.address, 0)
        refusal = refused(await scene.payee.answer(await scene.header(), terms))

        assert first.success
        assert "no more is paid" in said(refusal).error
        assert await scene.coin() == 0


async def test_f7_many_payments_at_once_fund_their_payer_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_scene(agentpay_shared_chain) as scene:
        terms = scene.terms()
        headers = [await scene.header(amount=10 * PRICE) for _ in range(4)]
        answers = await asyncio.gather(
            *(scene.payee.answer(header, terms) for header in headers)
        )
        receipts = [await serve(answer) for answer in answers]

        assert all(receipt.success for receipt in receipts)
        assert await scene.coin() < (await scene.approval()).approval.cost


async def test_a_payer_with_coin_pays_its_own_gas(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_scene(agentpay_shared_chain) as scene:
        await scene.local.node.set_balance(scene.address, 10**18)
        terms = scene.terms()
        receipt = await serve(await scene.payee.answer(await scene.header(), terms))

        assert receipt.success
        assert 10**18 - CAP < await scene.coin() < 10**18


async def test_t10_an_allowance_that_cannot_be_changed_costs_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Some tokens (USDT) refuse to go from one allowance to another."""
    async with a_scene(agentpay_shared_chain, token="NoReturnToken") as scene:
        local, token = scene.local, scene.payer.asset.address
        call = approve_call(token, spender=PERMIT2, amount=PRICE - 1)
        await local.node.set_balance(scene.address, 10**18)
        await local.node.transact(scene.address, call.data, to=token)
        await local.node.set_balance(scene.address, 0)
        refusal = refused(await scene.payee.answer(await scene.header(), scene.terms()))

        assert code(refusal) == "invalid_transaction_state"
        assert await scene.coin() == 0


async def test_t8_an_approval_that_somebody_sent_before_is_as_good(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_scene(agentpay_shared_chain) as scene:
        approval = await scene.approval()
        header = await scene.payer.permit2(
            scene.terms(), extensions=approval_info(approval)
        )
        await scene.local.node.set_balance(scene.address, 10**16)
        raw = "0x" + approval.raw.hex()
        await scene.local.node.rpc("eth_sendRawTransaction", raw)
        await scene.local.node.mine()
        receipt = await serve(await scene.payee.answer(header, scene.terms()))

        assert receipt.success


async def test_a_payee_that_does_not_sponsor_offers_nothing_and_pays_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_scene(agentpay_shared_chain, cap=0) as scene:
        terms = scene.terms()
        bare = refused(await scene.payee.answer(None, terms))
        refusal = refused(await scene.payee.answer(await scene.header(), terms))

        assert APPROVAL_KEY not in said(bare).extensions
        assert refusal.status == 412
        assert code(refusal) == "permit2_allowance_required"
        assert await scene.coin() == 0


async def test_serving_first_checks_the_approval_and_settles_later(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_scene(agentpay_shared_chain) as scene:
        terms = scene.terms(replace(EXACT, order=Order.RESERVE))
        sale = sold(await scene.payee.answer(await scene.header(), terms))
        before = await scene.coin()
        receipt = await serve(sale)

        assert before == 0
        assert receipt.success


async def test_k7_a_payment_that_was_settled_before_a_crash_is_not_called_failed(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Its approval is used up, and can be sent no more."""
    async with a_scene(agentpay_shared_chain) as scene:
        terms, header = scene.terms(), await scene.header()
        sale: Any = sold(await scene.payee.answer(header, terms))
        facilitator = scene.payee.settlement._facilitator
        again = await facilitator.settle_transfer(
            sale._purchase.movement.transfer, PRICE
        )

        assert again == sale.settled


async def test_only_a_payee_that_pays_gas_sponsors(
    agentpay_shared_chain: LocalChain,
) -> None:
    wallet = await agentpay_shared_chain.funded_wallet(0)
    with pytest.raises(ConfigurationError, match="sponsor_approvals_up_to"):
        Payee(wallet, network=agentpay_shared_chain.network, sponsor_approvals_up_to=-1)
