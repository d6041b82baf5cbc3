"""Claims, settlements and refunds of a payee, whose facilitator names transactions."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from agentpay import Wallet
from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.errors import (
    FacilitatorUnavailable,
    TransactionFailed,
    TransactionOutcomeUnknown,
)
from agentpay.evm.batch_settlement import REFUND_ALL
from agentpay.evm.calls import Call
from agentpay.facilitator.embedded import Facilitator
from agentpay.http.facilitator_client import RemoteFacilitator
from agentpay.onchain import read_channel, read_claimed, read_unsettled
from agentpay.records import Settled
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Asset
from tests.facilitator.test_remote_facilitators import (
    Front,
    a_client,
    a_front,
    success,
)
from tests.facilitator.world import AMOUNT, Channel, a_transfer
from tests.payee.test_sponsored_approvals import mint
from tests.wallets import deploy


@dataclass(kw_only=True)
class Scene:
    """A channel, a facilitator that may lie of it, and somebody who does not."""

    local: LocalChain
    chain: RpcChain
    front: Front
    url: str
    client: RemoteFacilitator
    other: Facilitator
    payee: Wallet
    channel: Channel

    def lie(self, settled: Settled) -> None:
        """Call whatever is ordered done, by this transaction."""
        self.front.instead["/settle"] = success(self.local, settled.transaction)

    def be_silent(self) -> None:
        self.front.instead["/settle"] = 500

    async def claim(self, amount: int) -> Settled:
        claims = [await self.channel.claim(amount)]
        return await self.client.claim(claims, authorizer=self.payee)

    async def settle(self) -> Settled:
        return await self.client.settle(self.payee.address, self.local.usdc)

    async def refund(self, amount: int, nonce: int) -> Settled:
        return await self.client.refund(
            self.channel.config,
            amount=amount,
            nonce=nonce,
            claims=[],
            authorizer=self.payee,
        )

    async def unsettled(self) -> int:
        token = self.local.usdc.address
        return await read_unsettled(self.chain, self.payee.address, token)


@contextlib.asynccontextmanager
async def a_scene(local: LocalChain) -> AsyncIterator[Scene]:
    payee, key = Wallet.create(), await local.funded_wallet(0)
    channel = Channel(local.usdc, await local.funded_wallet(ether=0), payee)
    async with (
        RpcChain(local.rpc_url, chain_id=local.chain_id) as chain,
        TransactionSender(chain, key=key.gas_key()) as sender,
        a_front(local) as (url, front),
        a_client(local, url) as client,
    ):
        other = Facilitator(chain=chain, senders=[sender])
        await other.deposit(await channel.deposit(9000))
        yield Scene(
            local=local,
            chain=chain,
            front=front,
            url=url,
            client=client,
            other=other,
            payee=payee,
            channel=channel,
        )


@pytest.fixture
async def scene(agentpay_shared_chain: LocalChain) -> AsyncIterator[Scene]:
    async with a_scene(agentpay_shared_chain) as scene:
        yield scene


async def test_f10_an_older_claim_of_a_channel_is_no_proof_of_a_newer(
    scene: Scene,
) -> None:
    older = await scene.claim(1000)
    scene.lie(older)
    with pytest.raises(TransactionOutcomeUnknown):
        await scene.claim(3000)
    claimed = await read_claimed(scene.chain, [scene.channel.id])
    scene.front.instead.clear()
    settled = await scene.claim(3000)

    assert claimed == [1000]
    assert settled.amount == 2000


async def test_f10_a_claim_of_less_since_it_was_ordered_is_no_proof_either(
    scene: Scene,
) -> None:
    scene.be_silent()
    with pytest.raises(TransactionOutcomeUnknown):
        await scene.claim(3000)
    less = [await scene.channel.claim(1000)]
    scene.lie(await scene.other.claim(less, authorizer=scene.payee))
    with pytest.raises(TransactionOutcomeUnknown):
        await scene.claim(3000)


async def test_f1_what_was_claimed_is_done_whatever_is_said_of_it(scene: Scene) -> None:
    older = await scene.claim(1000)
    claims = [await scene.channel.claim(3000)]
    await scene.other.claim(claims, authorizer=scene.payee)
    said: list[Settled] = []
    for lie in (success(scene.local, older.transaction), 500):
        scene.front.instead["/settle"] = lie
        said.append(await scene.claim(3000))

    assert said == [Settled(transaction="", amount=0)] * 2


async def test_f10_a_settlement_before_it_was_ordered_is_not_it(scene: Scene) -> None:
    await scene.claim(1000)
    older = await scene.settle()
    await scene.claim(3000)
    scene.lie(older)
    for _ in range(2):
        with pytest.raises(TransactionOutcomeUnknown):
            await scene.settle()
    unsettled = await scene.unsettled()
    scene.front.instead.clear()
    settled = await scene.settle()

    assert unsettled == settled.amount == 2000
    assert await scene.local.balance(scene.payee.address) == 3000


async def test_f1_a_settlement_since_it_was_first_ordered_is_it(scene: Scene) -> None:
    await scene.claim(1000)
    scene.front.after["/settle"] = 500
    with pytest.raises(TransactionOutcomeUnknown):
        await scene.settle()
    head = await scene.chain.head()
    block = await scene.local.node.rpc("eth_getBlockByNumber", hex(head.number), False)
    (transaction,) = block["transactions"]
    scene.front.instead["/settle"] = success(scene.local, transaction)
    settled = await scene.settle()
    with pytest.raises(TransactionOutcomeUnknown):
        await scene.settle()  # that one is over: this is another

    assert settled == Settled(transaction=transaction, amount=1000)


async def _settled_of(scene: Scene, asset: Asset) -> Settled:
    """A settlement of another token, for the same payee."""
    payer = Wallet.create()
    await mint(scene.local, asset, payer.address, 5000)
    channel = Channel(asset, payer, scene.payee)
    await scene.other.deposit(await channel.deposit(5000))
    claims = [await channel.claim(5000)]
    await scene.other.claim(claims, authorizer=scene.payee)
    return await scene.other.settle(scene.payee.address, asset)


async def test_f10_a_settlement_of_another_token_is_not_it(scene: Scene) -> None:
    token = await deploy(scene.local, "Plain3009")
    worthless = replace(scene.local.usdc, address=token, name="Plain 3009", version="1")
    await scene.claim(1000)
    scene.be_silent()
    with pytest.raises(TransactionOutcomeUnknown):
        await scene.settle()
    scene.lie(await _settled_of(scene, worthless))
    with pytest.raises(TransactionOutcomeUnknown):
        await scene.settle()

    assert await scene.unsettled() == 1000


async def test_f10_an_older_refund_of_a_channel_is_no_proof_of_a_newer(
    scene: Scene,
) -> None:
    part = await scene.refund(500, 0)
    scene.lie(part)
    with pytest.raises(TransactionOutcomeUnknown):
        await scene.refund(REFUND_ALL, 1)
    state = await read_channel(scene.chain, scene.channel.id)
    scene.front.instead.clear()
    refunded = await scene.refund(REFUND_ALL, 1)

    assert (state.balance, state.refund_nonce) == (8500, 1)
    assert refunded.amount == 8500


class LateReads(RpcChain):
    """Knows of the last transaction before it shows what that did."""

    late = 0

    async def read(
        self, calls: Sequence[Call], *, block: int | None = None
    ) -> list[bytes]:
        if self.late:
            self.late -= 1
            block = (await self.head()).number - 1
        return await super().read(calls, block=block)


async def test_a_node_that_shows_it_late_is_waited_for(scene: Scene) -> None:
    local = scene.local
    async with LateReads(local.rpc_url, chain_id=local.chain_id) as reads:
        scene.client._chain = reads
        reads.late = 1
        claimed = await scene.claim(1000)
        reads.late = 1
        refunded = await scene.refund(500, 0)

    assert (claimed.amount, refunded.amount) == (1000, 500)
    assert claimed.transaction


async def test_f10_who_settled_nothing_is_not_the_only_one_asked_for_ever(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Somebody else was quicker, so that it moved nothing; and then it left."""
    local = agentpay_shared_chain
    async with (
        a_scene(local) as scene,
        a_front(local) as (second, _),
        a_client(local, scene.url, second) as client,
    ):
        await scene.claim(1000)
        payee = scene.payee.address
        await scene.other.settle(payee, local.usdc)
        scene.lie(await scene.other.settle(payee, local.usdc))
        with pytest.raises(TransactionOutcomeUnknown):
            await client.settle(payee, local.usdc)
        scene.front.instead["/settle"] = 404
        claims = [await scene.channel.claim(3000)]
        await scene.other.claim(claims, authorizer=scene.payee)
        settled = await client.settle(payee, local.usdc)

        assert settled.amount == 2000
        assert await scene.unsettled() == 0


@contextlib.asynccontextmanager
async def two_desks(
    local: LocalChain,
) -> AsyncIterator[tuple[Scene, Front, RemoteFacilitator]]:
    """A scene, another facilitator that is honest, and who asks both of them."""
    async with (
        a_scene(local) as scene,
        a_front(local) as (second, honest),
        a_client(local, scene.url, second) as client,
    ):
        await scene.claim(1000)
        yield scene, honest, client


def minutes_later(client: RemoteFacilitator) -> None:
    """All that any of them was given, or gave no result of, is two minutes older."""
    given, silent = client._endpoints._asked, client._endpoints._silent_since
    for key, each in given.items():
        given[key] = replace(each, since=each.since - 120)
    for url in silent:
        silent[url] -= 120


@pytest.mark.parametrize("named", ["", "0x" + "ab" * 32])
async def test_f10_who_names_no_transaction_is_not_asked_before_the_others(
    agentpay_shared_chain: LocalChain, named: str
) -> None:
    async with two_desks(agentpay_shared_chain) as (scene, honest, client):
        scene.lie(Settled(transaction=named, amount=0))
        payee, token = scene.payee.address, scene.local.usdc
        with pytest.raises(TransactionOutcomeUnknown):
            await client.settle(payee, token)
        settled = await client.settle(payee, token)
        claims = [await scene.channel.claim(3000)]
        claimed = await client.claim(claims, authorizer=scene.payee)

    assert (settled.amount, claimed.amount) == (1000, 2000)
    assert honest.asked["/settle"] == 2


@pytest.mark.parametrize(
    "said", [500, {"success": False, "errorReason": "settlement_pending"}]
)
async def test_f10_who_gives_no_result_for_minutes_leaves_it_to_the_others(
    agentpay_shared_chain: LocalChain, said: Any
) -> None:
    async with two_desks(agentpay_shared_chain) as (scene, honest, client):
        payee, token = scene.payee.address, scene.local.usdc
        scene.front.instead["/settle"] = said
        for moment in range(3):
            if moment == 2:
                minutes_later(client)
            with pytest.raises(TransactionOutcomeUnknown):
                await client.settle(payee, token)
        before = honest.asked["/settle"]
        settled = await client.settle(payee, token)

    assert before == 0
    assert settled.amount == 1000


async def new_claim(
    scene: Scene, client: RemoteFacilitator, amount: int
) -> Settled | None:
    """What a claim of more than the last one comes to; None is unknown."""
    claims = [await scene.channel.claim(amount)]
    try:
        return await client.claim(claims, authorizer=scene.payee)
    except TransactionOutcomeUnknown:
        return None


async def test_f10_who_is_silent_for_minutes_is_left_though_each_claim_is_a_new_one(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Vouchers come in from round to round, so that no order is given twice."""
    async with two_desks(agentpay_shared_chain) as (scene, honest, client):
        scene.be_silent()
        first = await new_claim(scene, client, 2000)
        minutes_later(client)
        second = await new_claim(scene, client, 3000)
        before = honest.asked["/settle"]
        third = await new_claim(scene, client, 4000)

    assert (first, second, before) == (None, None, 0)
    assert third is not None
    assert third.amount == 3000


@pytest.mark.parametrize("answers", ["a settlement", "a refusal", "a claim"])
async def test_f10_a_result_ends_the_silence(
    agentpay_shared_chain: LocalChain, answers: str
) -> None:
    async with two_desks(agentpay_shared_chain) as (scene, honest, client):
        scene.be_silent()
        await new_claim(scene, client, 2000)
        scene.front.instead.clear()
        if answers == "a settlement":
            await client.settle(scene.payee.address, scene.local.usdc)
        elif answers == "a refusal":
            with pytest.raises(TransactionFailed, match="nothing_to_settle"):
                await client.settle(Wallet.create().address, scene.local.usdc)
        else:  # it is done, and only the answer to it is lost
            scene.front.after["/settle"] = 500
            await new_claim(scene, client, 3000)
        minutes_later(client)
        scene.be_silent()
        await new_claim(scene, client, 4000)
        await new_claim(scene, client, 5000)

    assert honest.asked["/settle"] == 0


async def test_f10_who_settles_payments_and_no_claims_is_left_all_the_same(
    agentpay_shared_chain: LocalChain,
) -> None:
    local = agentpay_shared_chain
    payer = await local.funded_wallet(ether=0)
    async with two_desks(local) as (scene, _, client):
        payment = await a_transfer(local.usdc, payer, scene.payee.address)
        scene.be_silent()
        await new_claim(scene, client, 2000)
        minutes_later(client)
        scene.front.instead.clear()
        await client.settle_transfer(payment, AMOUNT)
        scene.be_silent()
        await new_claim(scene, client, 3000)
        claimed = await new_claim(scene, client, 4000)

    assert claimed is not None


async def test_f10_who_cannot_be_reached_any_more_leaves_it_to_the_others(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with two_desks(agentpay_shared_chain) as (scene, _, client):
        payee, token = scene.payee.address, scene.local.usdc
        scene.be_silent()
        with pytest.raises(TransactionOutcomeUnknown):
            await client.settle(payee, token)
        scene.front.instead["/settle"] = 404
        minutes_later(client)
        with pytest.raises(FacilitatorUnavailable):
            await client.settle(payee, token)
        settled = await client.settle(payee, token)

    assert settled.amount == 1000


async def test_f1_a_no_to_what_somebody_was_given_before_is_no_failure(
    scene: Scene,
) -> None:
    await scene.claim(1000)
    scene.front.after["/settle"] = 500
    with pytest.raises(TransactionOutcomeUnknown):
        await scene.settle()
    scene.front.after.clear()
    with pytest.raises(TransactionOutcomeUnknown):
        await scene.settle()
    with pytest.raises(TransactionFailed, match="nothing_to_settle"):
        await scene.settle()
