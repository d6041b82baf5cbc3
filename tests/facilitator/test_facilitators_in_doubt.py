"""Facilitators that were down, move too little, or change their mind."""

import asyncio
import gzip
import json
from typing import Any

import pytest

from agentpay import Wallet
from agentpay.errors import (
    FacilitatorUnavailable,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm import allowance_abi
from agentpay.evm.addresses import PERMIT2
from agentpay.http.paywall import Message, Receive, Scope, Send
from agentpay.testing.local_chain import LocalChain
from tests.facilitator.test_permit2_for_strangers import a_permit2_transfer
from tests.facilitator.test_remote_facilitators import (
    Front,
    a_client,
    a_front,
    a_payment,
    a_shop_without_gas,
    two_fronts,
)
from tests.facilitator.world import AMOUNT
from tests.http.world import BASE, client_of, eventually, serving
from tests.payee.hand import HandPayer, terms_of


class Skimmer:
    """A facilitator that settles one unit, whatever it was told."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.hides = False
        """Whether it says nothing of it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/settle":
            await self.front(scope, receive, send)
            return
        body, more = b"", True
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        request = json.loads(body)
        request["paymentRequirements"]["amount"] = "1"
        body = json.dumps(request).encode()

        async def changed() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        headers = [h for h in scope["headers"] if h[0] != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        if self.hides:
            self.front.after["/settle"] = 500
        await self.front({**scope, "headers": headers}, changed, send)


async def an_approver(chain: LocalChain) -> Wallet:
    wallet = await chain.funded_wallet()
    call = allowance_abi.approve_call(
        chain.usdc.address, spender=PERMIT2, amount=10 * AMOUNT
    )
    await chain.node.set_balance(wallet.address, 10**18)
    await chain.node.transact(wallet.address, call.data, to=call.to)
    return wallet


async def test_one_that_was_down_is_asked_again_whom_to_bind_to(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_front(chain) as (one, first),
        a_front(chain) as (two, _),
        a_client(chain, two) as second,
    ):
        first.instead["/supported"] = 503
        async with a_client(chain, one, two) as client:
            at_first = client.address
            first.instead.clear()
            await client.start(client._reads, chain.usdc)
            too_early = client.address
            client._endpoints._looked_at -= 60
            await client.start(client._reads, chain.usdc)
            await eventually(lambda: answered(client.address != second.address))

            assert at_first == too_early == second.address
            assert first.asked["/supported"] == 2


async def answered(fact: bool) -> bool:
    return fact


@pytest.mark.parametrize("hides", [False, True])
async def test_f10_who_moves_less_than_it_was_told_is_bound_to_nothing_more(
    agentpay_shared_chain: LocalChain,
    caplog: pytest.LogCaptureFixture,
    *,
    hides: bool,
) -> None:
    chain = agentpay_shared_chain
    payer, payee = await an_approver(chain), Wallet.create().address
    async with a_front(chain) as (_, front):
        skimmer = Skimmer(front)
        skimmer.hides = hides
        async with serving(skimmer) as url, a_client(chain, url) as client:
            bound = client.address
            transfer = await a_permit2_transfer(chain, payer, payee, facilitator=bound)
            settled = await client.settle_transfer(transfer, AMOUNT)
            another = await a_permit2_transfer(chain, payer, payee, facilitator=bound)
            with pytest.raises(FacilitatorUnavailable):
                await client.settle_transfer(another, AMOUNT)

            assert bound is not None
            assert client.address is None
    assert settled.amount == 1
    assert await chain.balance(payee) == 1
    assert f"moved 1 of {AMOUNT}" in caplog.text


async def test_f10_what_moved_unseen_is_compared_when_it_is_asked_about(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    payer, payee = await an_approver(chain), Wallet.create().address
    async with a_front(chain) as (url, front), a_client(chain, url) as client:
        transfer = await a_permit2_transfer(
            chain, payer, payee, facilitator=client.address
        )
        front.instead["/settle"] = 500
        with pytest.raises(TransactionOutcomeUnknown):
            await client.settle_transfer(transfer, AMOUNT)
        front.instead.clear()
        async with serving(Skimmer(front)) as cut, a_client(chain, cut) as its_own:
            await its_own.settle_transfer(transfer, AMOUNT)
        front.instead["/verify"] = {"isValid": True}
        with pytest.raises(TransactionFailed, match="used"):
            await client.verify(transfer)

        assert client.address is None


async def test_f1_a_no_while_a_deposit_is_on_its_way_burns_no_voucher(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_front(chain) as (url, front),
        a_shop_without_gas(chain, url, seen_within_seconds=0.2) as (shop, payee, wall),
        client_of(wall) as client,
    ):
        payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
        terms = terms_of(payee, url=BASE + "/ok")
        config, amount = payer.config(), 10 * AMOUNT
        header = await payer.funding(config, amount, terms.maximum, terms)
        headers = {"payment-signature": header}
        front.instead["/settle"] = 500
        unknown = await client.get("/ok", headers=headers)
        no: dict[str, Any] = {"isValid": False, "invalidReason": "pending"}
        front.instead["/verify"] = no
        still = await client.get("/ok", headers=headers)
        front.instead.clear()
        served = await client.get("/ok", headers=headers)

    assert (unknown.status_code, still.status_code) == (503, 503)
    assert served.status_code == 200
    assert shop.served["/ok"] == 1


def under_way(code: str) -> dict[str, Any]:
    return {"success": False, "transaction": "", "network": "", "errorReason": code}


@pytest.mark.parametrize("code", ["settlement_pending", "duplicate_settlement"])
async def test_f1_what_is_said_to_be_under_way_is_unknown_and_given_to_nobody_else(
    agentpay_shared_chain: LocalChain, code: str
) -> None:
    """As where a proxy sent it twice, or a first answer was waited for in vain."""
    chain = agentpay_shared_chain
    transfer = await a_payment(chain)
    async with two_fronts(chain) as (first, second, client):
        first.instead["/settle"] = under_way(code)
        with pytest.raises(TransactionOutcomeUnknown):
            await client.settle_transfer(transfer, AMOUNT)
        first.instead["/settle"] = 404
        with pytest.raises(FacilitatorUnavailable):
            await client.settle_transfer(transfer, AMOUNT)
        first.instead.clear()
        settled = await client.settle_transfer(transfer, AMOUNT)

    assert settled.amount == await chain.balance(transfer.to) == AMOUNT
    assert second.asked["/settle"] == 0


async def test_f1_a_deposit_that_is_said_to_be_under_way_burns_no_voucher(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with (
        a_front(chain) as (url, front),
        a_shop_without_gas(chain, url, seen_within_seconds=0.2) as (shop, payee, wall),
        client_of(wall) as client,
    ):
        payer = HandPayer(await chain.funded_wallet(ether=0), payee.settings)
        terms = terms_of(payee, url=BASE + "/ok")
        header = await payer.funding(payer.config(), 10_000, terms.maximum, terms)
        headers = {"payment-signature": header}
        front.instead["/settle"] = under_way("duplicate_settlement")
        unknown = await client.get("/ok", headers=headers)
        front.instead.clear()
        served = await client.get("/ok", headers=headers)

    assert (unknown.status_code, served.status_code) == (503, 200)
    assert shop.served["/ok"] == 1


async def test_f1_an_order_of_the_payee_that_is_under_way_is_unknown(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_front(chain) as (url, front), a_client(chain, url) as client:
        front.instead["/settle"] = under_way("duplicate_settlement")
        with pytest.raises(TransactionOutcomeUnknown):
            await client.settle(Wallet.create().address, chain.usdc)


class Odd:
    """A facilitator that answers questions and orders in a way of its own."""

    def __init__(self, front: Front, *, status: int = 200, **headers: str) -> None:
        self.front = front
        self.status = status
        self.headers = [
            (name.replace("_", "-").encode(), text.encode())
            for name, text in headers.items()
        ]
        self.parts: list[bytes] = []
        self.wait_seconds = 0.0
        self.accepts: list[bytes] = []
        """The codings that those who asked can read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/supported":
            await self.front(scope, receive, send)
            return
        self.accepts += [v for n, v in scope["headers"] if n == b"accept-encoding"]
        start = {"type": "http.response.start", "status": self.status}
        await send({**start, "headers": self.headers})
        for part in self.parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(self.wait_seconds)
        await send({"type": "http.response.body", "body": b""})


async def test_f10_an_answer_that_drips_is_none_and_another_is_asked(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    transfer = await a_payment(chain)
    async with a_front(chain) as (url, honest):
        odd = Odd(honest)
        odd.parts, odd.wait_seconds = [b" "] * 20, 0.2
        async with (
            serving(odd) as drips,
            a_client(chain, drips, url, timeout_seconds=0.5) as client,
            asyncio.timeout(3),
        ):
            await client.verify(transfer)
            with pytest.raises(TransactionOutcomeUnknown):
                await client.settle_transfer(transfer, AMOUNT)

    assert honest.asked == {"/supported": 2, "/verify": 1}


@pytest.mark.parametrize(
    ("status", "error"),
    [(200, TransactionOutcomeUnknown), (404, FacilitatorUnavailable)],
)
async def test_f10_an_answer_that_is_packed_is_not_unpacked(
    agentpay_shared_chain: LocalChain, status: int, error: type[Exception]
) -> None:
    """A few bytes may be many once they are unpacked."""
    chain = agentpay_shared_chain
    transfer = await a_payment(chain)
    async with a_front(chain) as (_, front):
        odd = Odd(front, status=status, content_encoding="gzip")
        odd.parts = [gzip.compress(b'{"isValid": true}')]
        async with serving(odd) as url, a_client(chain, url) as client:
            with pytest.raises(FacilitatorUnavailable):
                await client.verify(transfer)
            with pytest.raises(error):
                await client.settle_transfer(transfer, AMOUNT)

    assert odd.accepts == [b"identity"] * 2
