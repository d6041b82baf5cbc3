"""A payee behind other people's facilitators: honest, down, slow and lying ones."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest

from agentpay import Payee, Paywall, Wallet
from agentpay.chain.rpc import RpcChain
from agentpay.errors import (
    ConfigurationError,
    FacilitatorUnavailable,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm.batch_settlement import REFUND_ALL
from agentpay.evm.transfer import TokenTransfer
from agentpay.http.facilitator_app import FacilitatorApp
from agentpay.http.facilitator_client import RemoteFacilitator
from agentpay.http.paywall import Receive, Scope, Send
from agentpay.payee.pricing import Order
from agentpay.testing.local_chain import LocalChain
from tests.facilitator.world import AMOUNT, Channel, a_host, a_transfer
from tests.http.world import (
    BASE,
    PRICE,
    ROUTES,
    Shop,
    a_shop,
    an_agent,
    answer,
    client_of,
    required_header,
    serving,
    through,
)
from tests.payee.hand import HandPayer, terms_of

NO_ONE = "http://127.0.0.1:9"


class Front:
    """Passes requests on to a facilitator, or answers in its place."""

    def __init__(self, app: FacilitatorApp) -> None:
        self.app = app
        self.asked: Counter[str] = Counter()
        self.instead: dict[str, Any] = {}
        """By path: what is answered, a status, a body or both; it goes nowhere."""
        self.after: dict[str, Any] = {}
        """The same, once the request was carried out."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        self.asked[path] += 1
        if path in self.instead:
            await self._say(send, self.instead[path])
        elif path in self.after:
            await self.app(scope, receive, _nowhere)
            await self._say(send, self.after[path])
        else:
            await self.app(scope, receive, send)

    async def _say(self, send: Send, what: Any) -> None:
        if what == "hangs":
            await asyncio.sleep(1.5)
        status = what if isinstance(what, int) else 200
        if isinstance(what, tuple):
            status, what = what
        body = what if isinstance(what, bytes) else json.dumps(what).encode()
        await answer(send, status, body)


async def _nowhere(message: object) -> None:
    del message


@contextlib.asynccontextmanager
async def a_front(
    chain: LocalChain, **options: Any
) -> AsyncIterator[tuple[str, Front]]:
    front = Front(FacilitatorApp(await a_host(chain, **options)))
    async with serving(front) as url:
        yield url, front


@contextlib.asynccontextmanager
async def a_client(
    chain: LocalChain, *urls: str, **options: Any
) -> AsyncIterator[RemoteFacilitator]:
    """A started client, with a chain of its own to check by."""
    client = RemoteFacilitator(urls, **{"seen_within_seconds": 0.2, **options})
    async with RpcChain(chain.rpc_url, chain_id=chain.chain_id) as reads:
        await client.start(reads, chain.usdc)
        yield client
        await client.stop()


@contextlib.asynccontextmanager
async def two_fronts(
    chain: LocalChain,
) -> AsyncIterator[tuple[Front, Front, RemoteFacilitator]]:
    """Two facilitators, and who asks the first before the second."""
    async with (
        a_front(chain) as (one, first),
        a_front(chain) as (two, second),
        a_client(chain, one, two) as client,
    ):
        yield first, second, client


async def a_payment(chain: LocalChain) -> TokenTransfer:
    """Of somebody new, to somebody new."""
    payer, payee = await chain.funded_wallet(ether=0), Wallet.create().address
    return await a_transfer(chain.usdc, payer, payee)


def a_shop_without_gas(
    chain: LocalChain, url: str, **options: Any
) -> AbstractAsyncContextManager[tuple[Shop, Payee, Paywall]]:
    """A shop whose payee has nothing, and leaves it to this facilitator to settle."""
    facilitator = RemoteFacilitator([url], **options)
    return a_shop(chain, wallet=Wallet.create(), facilitator=facilitator)


def success(chain: LocalChain, transaction: str, **more: Any) -> dict[str, Any]:
    network = f"eip155:{chain.chain_id}"
    return {"success": True, "transaction": transaction, "network": network, **more}


async def test_a_payee_without_ether_sells_for_transfers_and_on_channels(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_front(chain) as (url, _),
        a_shop_without_gas(chain, url) as (_, payee, wall),
        await an_agent(chain, through(wall), allow_private_networks=True) as agent,
    ):
        exact = await agent.get(f"{BASE}/exact/{Order.SETTLE_FIRST}/ok")
        for _ in range(3):
            channel = await agent.get(BASE + "/ok")
        for record in await agent.channels():
            await agent.close_channel(record.channel)
        claimed = await payee.settlement.settle()

    assert (exact.status_code, channel.status_code) == (200, 200)
    assert claimed == 3 * PRICE
    assert await chain.balance(payee.settings.pay_to) == 4 * PRICE


async def test_it_settles_claims_and_refunds_as_the_embedded_one_does(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payer, payee = await chain.funded_wallet(ether=0), Wallet.create()
    channel = Channel(chain.usdc, payer, payee)
    async with a_front(chain) as (url, _), a_client(chain, url) as client:
        deposit, voucher = await channel.deposit(9000), await channel.voucher(10)
        await client.verify_deposit(deposit, voucher)
        deposited = await client.deposit(deposit, voucher)
        claims = [await channel.claim(4000)]
        claimed = await client.claim(claims, authorizer=payee)
        again = await client.claim(claims, authorizer=payee)
        settled = await client.settle(payee.address, chain.usdc)
        refunded = await client.refund(
            channel.config,
            amount=REFUND_ALL,
            nonce=0,
            claims=[await channel.claim(5000)],
            authorizer=payee,
        )

    assert deposited.amount == 9000
    assert (claimed.amount, again.amount, settled.amount) == (4000, 0, 4000)
    assert refunded.amount == 4000


@pytest.mark.parametrize(
    "lie",
    [
        "no transaction",
        "unknown transaction",
        "another's transaction",
        "another network",
        "not json",
        "status 500",
        "too large",
        "hangs",
    ],
)
async def test_f10_a_yes_that_the_chain_does_not_show_is_unknown_and_never_paid(
    agentpay_shared_chain: LocalChain, lie: str
) -> None:
    chain = agentpay_shared_chain
    payer, payee = await chain.funded_wallet(ether=0), Wallet.create().address
    transfer = await a_transfer(chain.usdc, payer, payee)
    async with (
        a_front(chain) as (url, front),
        a_client(chain, url, timeout_seconds=1) as client,
    ):
        other = await a_transfer(chain.usdc, payer, payee)
        paid = await client.settle_transfer(other, AMOUNT)
        front.instead["/settle"] = {
            "no transaction": success(chain, ""),
            "unknown transaction": success(chain, "0x" + "12" * 32),
            "another's transaction": success(chain, paid.transaction),
            "another network": success(chain, "0x12", network="solana:x"),
            "not json": b"<html>",
            "status 500": 500,
            "too large": b" " * 300_000,
            "hangs": "hangs",
        }[lie]
        with pytest.raises(TransactionOutcomeUnknown):
            await client.settle_transfer(transfer, AMOUNT)
        del front.instead["/settle"]
        settled = await client.settle_transfer(transfer, AMOUNT)

    assert settled.amount == AMOUNT
    assert await chain.balance(payee) == 2 * AMOUNT


@pytest.mark.parametrize(
    "said", [500, "hangs", {"success": False, "transaction": "", "errorReason": "no"}]
)
async def test_f1_what_was_settled_is_found_on_the_chain_whatever_is_said_of_it(
    agentpay_shared_chain: LocalChain, said: Any
) -> None:
    chain = agentpay_shared_chain
    transfer = await a_payment(chain)
    async with (
        a_front(chain) as (url, front),
        a_client(chain, url, timeout_seconds=1) as client,
    ):
        front.after["/settle"] = said
        settled = await client.settle_transfer(transfer, AMOUNT)

    assert settled.amount == AMOUNT
    assert settled.transaction
    assert await chain.balance(transfer.to) == AMOUNT


async def test_f2_an_order_that_one_was_sent_is_never_given_to_another(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    transfer = await a_payment(chain)
    async with two_fronts(chain) as (first, second, client):
        first.instead |= {"/settle": 500, "/verify": 500}
        await client.verify(transfer)  # a question: the second is asked
        for _ in range(3):
            with pytest.raises(TransactionOutcomeUnknown):
                await client.settle_transfer(transfer, AMOUNT)
        first.instead.clear()
        settled = await client.settle_transfer(transfer, AMOUNT)

    assert second.asked == {"/supported": 1, "/verify": 1}
    assert first.asked["/settle"] == 4
    assert settled.amount == AMOUNT


async def test_f10_one_that_cannot_be_reached_leaves_the_order_to_the_next(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    transfer = await a_payment(chain)
    async with a_front(chain) as (url, front):
        async with a_client(chain, NO_ONE, url) as client:
            await client.verify(transfer)
            settled = await client.settle_transfer(transfer, AMOUNT)
        async with a_client(chain, url) as client:
            front.instead["/supported"] = 500
            with pytest.raises(FacilitatorUnavailable):
                await RemoteFacilitator([NO_ONE]).start(client._reads, chain.usdc)

    assert settled.amount == AMOUNT


@pytest.mark.parametrize("status", [401, 403, 404, 429])
async def test_f10_one_that_turns_an_order_away_leaves_it_to_the_next(
    agentpay_shared_chain: LocalChain, status: int
) -> None:
    chain = agentpay_shared_chain
    payer, payee = await chain.funded_wallet(ether=0), Wallet.create().address
    transfer = await a_transfer(chain.usdc, payer, payee)
    other = await a_transfer(chain.usdc, payer, payee)
    async with a_front(chain) as (one, first), a_front(chain) as (two, second):
        async with a_client(chain, one) as client:
            first.instead["/settle"] = status
            with pytest.raises(FacilitatorUnavailable):
                await client.settle_transfer(transfer, AMOUNT)
        async with a_client(chain, one, two) as client:
            settled = await client.settle_transfer(transfer, AMOUNT)
            # But what it may have done before, it may still have done.
            for first.instead["/settle"] in (500, status, status):
                with pytest.raises((TransactionOutcomeUnknown, FacilitatorUnavailable)):
                    await client.settle_transfer(other, AMOUNT)
            first.instead.clear()
            await client.settle_transfer(other, AMOUNT)

    assert settled.amount == AMOUNT
    assert (first.asked["/settle"], second.asked["/settle"]) == (6, 1)
    assert await chain.balance(payee) == 2 * AMOUNT


async def test_f10_a_yes_to_a_payment_that_is_not_covered_is_not_believed(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    poor = await a_transfer(chain.usdc, Wallet.create(), Wallet.create().address)
    async with a_front(chain) as (url, front), a_client(chain, url) as client:
        with pytest.raises(TransactionFailed, match="insufficient_funds"):
            await client.verify(poor)
        front.instead["/verify"] = {"isValid": True}
        with pytest.raises(TransactionFailed, match="insufficient_funds"):
            await client.verify(poor)


async def test_a_refusal_that_the_chain_does_not_contradict_is_a_failure(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    poor = await a_transfer(chain.usdc, Wallet.create(), Wallet.create().address)
    async with a_front(chain) as (url, _), a_client(chain, url) as client:
        with pytest.raises(TransactionFailed, match="insufficient_funds"):
            await client.settle_transfer(poor, AMOUNT)


async def test_f10_without_its_facilitator_free_routes_work_and_paid_ones_are_a_503(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    front = Front(FacilitatorApp(await a_host(chain)))
    front.instead["/supported"] = 500
    async with serving(front) as url:
        payee = Payee(
            Wallet.create(), network=chain.network, facilitator=RemoteFacilitator([url])
        )
        wall = Paywall(Shop(), payee=payee, routes=ROUTES)
        async with (
            serving(wall) as shop,
            httpx.AsyncClient(base_url=shop) as client,
        ):
            free, down = await client.get("/free"), await client.get("/ok")
            front.instead.clear()
            await asyncio.sleep(1.1)
            up = await client.get("/ok")

    assert (free.status_code, down.status_code, up.status_code) == (200, 503, 402)
    assert required_header(up)


async def test_f10_a_payee_serves_nobody_for_a_lie(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_front(chain) as (url, front):
        payee = Payee(
            Wallet.create(),
            network=chain.network,
            facilitator=RemoteFacilitator([url], seen_within_seconds=0.2),
        )
        await payee.start()
        shop = Shop()
        wall = Paywall(shop, payee=payee, routes=ROUTES)
        payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
        path = f"/exact/{Order.SETTLE_FIRST}/ok"
        terms = terms_of(
            payee,
            schemes=("exact",),
            order=Order.SETTLE_FIRST,
            url=f"http://shop.example{path}",
        )
        header = await payer.transfer(terms)
        front.instead["/settle"] = success(chain, "0x" + "34" * 32)
        async with httpx.AsyncClient(
            transport=through(wall), base_url="http://shop.example"
        ) as client:
            headers = {"payment-signature": header}
            lied_to = await client.get(path, headers=headers)
            front.instead.clear()
            served = await client.get(path, headers=headers)
        await payee.stop()

    assert lied_to.status_code == 503
    assert served.status_code == 200
    assert shop.served[path] == 1
    assert await chain.balance(payee.settings.pay_to) == PRICE


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://u:p@x", "http://x/?a=b"])
def test_a_url_that_cannot_be_used_is_said_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError):
        RemoteFacilitator([url])


def test_tokens_are_for_the_urls_that_are_named() -> None:
    with pytest.raises(ConfigurationError):
        RemoteFacilitator(["http://one.example"], tokens={"http://two.example": "t"})


async def test_f1_what_may_have_been_sent_is_not_called_failed_for_a_later_no(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_front(chain) as (url, front),
        a_shop_without_gas(chain, url, seen_within_seconds=0.2) as (_, payee, wall),
        client_of(wall) as client,
    ):
        payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
        path = f"/exact/{Order.RESERVE}/ok"
        terms = terms_of(payee, schemes=("exact",), url=BASE + path)
        headers = {"payment-signature": await payer.transfer(terms)}
        front.instead["/settle"] = "hangs"
        unknown = await client.get(path, headers=headers)
        front.instead["/verify"] = {"isValid": False, "invalidReason": "pending"}
        still = await client.get(path, headers=headers)
        front.instead.clear()
        served = await client.get(path, headers=headers)

    assert (unknown.status_code, still.status_code) == (503, 503)
    assert served.status_code == 200
    assert await chain.balance(payee.settings.pay_to) == PRICE
