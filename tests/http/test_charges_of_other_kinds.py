"""MPP charges by Permit2, by a whole transaction, and by the hash of a sent one."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from agentpay import MppTerms, Payee, Wallet
from agentpay.errors import ConfigurationError
from agentpay.evm.charge_permit import WITNESS_TYPE_ENCODED
from agentpay.evm.eip1559 import SignedCall
from agentpay.evm.hashing import selector
from agentpay.evm.multicall3_abi import aggregate_call
from agentpay.evm.plain_transfer import PlainTransfer
from agentpay.evm.session_escrow import charge_nonce_of_json
from agentpay.http.facilitator_client import RemoteFacilitator
from agentpay.http.paywall import Receive, Scope, Send
from agentpay.payee.mpp_offers import Share
from agentpay.stores.memory import MemoryPayeeStore
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, ChainId, Hash32
from agentpay.wire.headers import decode_json
from agentpay.wire.mpp.credential import parse_credential
from agentpay.wire.mpp.evm_write import hash_payload, transaction_payload
from agentpay.wire.x402 import PAYMENT_RESPONSE
from tests.http.world import (
    PRICE,
    Shop,
    a_shop,
    client_of,
    eventually,
    open_payee,
    until,
)
from tests.keeper.test_settlement_triggers import Clock
from tests.payee.charge_hand import OtherPayer, allow_permit2, send
from tests.payee.hand import NOBODY, HandPayer, terms_of
from tests.payee.mpp_hand import (
    MPP,
    SECRET,
    ChargePayer,
    asked_of,
    challenge_of,
    kind_of,
    receipt_of,
)

ALL = ("authorization", "permit2", "transaction", "hash")
PAID = "/exact/reserve-then-settle/ok"
FIRST = "/exact/settle-first/ok"
AFTER = "/exact/serve-then-settle/ok"
SLOW = "/exact/reserve-then-settle/slow"
PATHS = (PAID, FIRST, AFTER)
PLATFORM = Address("0x" + "a1" * 20)
PARTNER = Address("0x" + "a2" * 20)
STRANGER = Wallet(bytes(31) + b"\x77")
SHARES = (
    Share(recipient=str(PLATFORM), basis_points=500, memo="platform"),
    Share(recipient=str(PARTNER), basis_points=1250),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A shop that takes every kind of credential, and somebody who pays."""

    chain: LocalChain
    shop: Shop
    payee: Payee
    client: httpx.AsyncClient
    payer: OtherPayer

    async def balance(self) -> int:
        return await self.chain.balance(self.payee.settings.pay_to)

    async def asks(self, path: str = PAID) -> Any:
        return challenge_of(await self.client.get(path))

    async def another(self) -> OtherPayer:
        return OtherPayer(self.chain, await self.chain.funded_wallet(ether=1))


@contextlib.asynccontextmanager
async def a_world(
    chain: LocalChain, shop: Shop | None = None, **options: Any
) -> AsyncIterator[World]:
    defaults: dict[str, Any] = {
        "mpp": replace(MPP, credential_types=ALL),
        "pay_to": Wallet.create().address,
    }
    payer = OtherPayer(chain, await chain.funded_wallet(ether=1))
    async with (
        a_shop(chain, shop, **{**defaults, **options}) as (sells, payee, wall),
        client_of(wall) as client,
    ):
        yield World(chain=chain, shop=sells, payee=payee, client=client, payer=payer)


async def paying(world: World, kind: str, challenge: Any) -> dict[str, str]:
    payer = world.payer
    if kind == "permit2":
        await allow_permit2(world.chain, payer.wallet.address)
        return await payer.by_permit2(challenge)
    if kind == "transaction":
        return await payer.by_transaction(challenge)
    if kind == "hash":
        return await payer.by_hash(challenge)
    by_token = ChargePayer(payer.wallet, payer.asset)
    return await by_token.pays(challenge)


async def test_a_challenge_says_what_pays_and_who_will_send_it(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        details = asked_of(await world.asks()).method_details

        assert details.credential_types == ALL
        assert details.spender == world.payee.settings.facilitator
        assert details.splits is None


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["permit2", "transaction", "hash"])
async def test_p1_a_credential_of_any_kind_buys_one_answer(
    agentpay_shared_chain: LocalChain, kind: str, path: str
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge = await world.asks(path)
        headers = await paying(world, kind, challenge)
        copies = [world.client.get(path, headers=headers) for _ in range(10)]
        answers = await asyncio.gather(*copies)
        late = await world.client.get(path, headers=headers)

        assert {a.status_code for a in answers} <= {200, 409}
        assert late.status_code == 200
        assert {a.content for a in answers if a.status_code == 200} == {late.content}
        assert world.shop.begun[path] == 1
        await eventually(lambda: paid(world, PRICE))


class HalfWay(Shop):
    """Begins its answer, and ends it when it may."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.begun[str(scope["path"])] += 1
        await self.gate.wait()
        await send({"type": "http.response.body", "body": b"42"})


@pytest.mark.parametrize("kind", ["authorization", "permit2", "transaction"])
async def test_p10_a_charge_that_died_while_it_was_answered_is_paid(
    agentpay_shared_chain: LocalChain, kind: str
) -> None:
    clock = Clock()
    async with a_world(agentpay_shared_chain, HalfWay(), clock=clock) as world:
        challenge = await world.asks(AFTER)
        headers = await paying(world, kind, challenge)
        asked = asyncio.create_task(world.client.get(AFTER, headers=headers))
        await until(lambda: world.shop.begun[AFTER] == 1)
        store = world.payee._running.store.payee
        assert isinstance(store, MemoryPayeeStore)
        (answering,) = [p for p in store._payments.values() if p.amount == PRICE][-1:]
        # What the keeper could not settle is settled before its answer leaves.
        paid_first = await world.balance()
        await store.take_payment(answering.id, owner="the dead")
        clock.ahead = 61
        await world.payee._running.keeper.tick()
        paid_last = await world.balance()
        world.shop.gate.set()
        await asked

        assert paid_first == (PRICE if kind == "transaction" else 0)
        assert paid_last == await world.balance() == PRICE


async def paid(world: World, amount: int) -> bool:
    return await world.balance() == amount


@pytest.mark.parametrize("kind", ["permit2", "transaction", "hash"])
async def test_a_receipt_names_the_transaction(
    agentpay_shared_chain: LocalChain, kind: str
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge = await world.asks()
        headers = await paying(world, kind, challenge)
        answer = await world.client.get(PAID, headers=headers)
        receipt = receipt_of(answer)

        assert answer.status_code == 200
        assert receipt.challenge_id == challenge.id
        mined = await world.payee._running.chain.receipt(receipt.reference)
        assert mined is not None
        assert await world.balance() == PRICE


@pytest.mark.parametrize("nonce", ["packed", "json"])
@pytest.mark.parametrize("witness", ["as drafted", "as encoded"])
async def test_both_spellings_of_a_witness_are_taken(
    agentpay_shared_chain: LocalChain, nonce: str, witness: str
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge = await world.asks()
        await allow_permit2(world.chain, world.payer.wallet.address)
        changes: dict[str, Any] = {}
        if witness == "as encoded":
            changes["witness_type"] = WITNESS_TYPE_ENCODED
        if nonce == "json":
            said = charge_nonce_of_json(challenge.id, challenge.realm)
            changes["challenge_hash"] = said
        headers = await world.payer.by_permit2(challenge, **changes)
        answer = await world.client.get(PAID, headers=headers)

        assert answer.status_code == 200
        assert await world.balance() == PRICE


@pytest.mark.parametrize(
    "bad",
    [
        {"parts": [(NOBODY, PRICE)]},
        {"parts": [(NOBODY, 1)]},
        {"challenge_hash": Hash32("0x" + "11" * 32)},
        {"external_id": "order 1"},
        {"spender": NOBODY},
        {"signer": STRANGER},
        {"deadline": 1},
        {"token": NOBODY},
        {"source": None},
        {"source": f"did:pkh:eip155:1:{NOBODY}"},
        {"source": f"did:pkh:eip155:31337:{NOBODY}"},
    ],
    ids=str,
)
async def test_a_permit_on_other_terms_buys_nothing(
    agentpay_shared_chain: LocalChain, bad: dict[str, Any]
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge = await world.asks()
        await allow_permit2(world.chain, world.payer.wallet.address)
        headers = await world.payer.by_permit2(challenge, **bad)
        refused = await world.client.get(PAID, headers=headers)
        good = await world.payer.by_permit2(challenge)
        accepted = await world.client.get(PAID, headers=good)

        assert (refused.status_code, kind_of(refused)) == (402, "verification-failed")
        assert accepted.status_code == 200
        assert await world.balance() == PRICE


async def test_a_permit_without_allowance_buys_nothing_and_may_be_sent_later(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge = await world.asks()
        headers = await world.payer.by_permit2(challenge)
        refused = await world.client.get(PAID, headers=headers)

        assert (refused.status_code, kind_of(refused)) == (402, "verification-failed")
        assert await world.balance() == 0


async def test_shares_move_with_their_charge_or_not_at_all(
    agentpay_shared_chain: LocalChain,
) -> None:
    terms = replace(MPP, credential_types=("permit2",), shares=SHARES)
    async with a_world(agentpay_shared_chain, mpp=terms) as world:
        challenge = await world.asks()
        asked = asked_of(challenge)
        await allow_permit2(world.chain, world.payer.wallet.address)
        before = [await world.chain.balance(who) for who in (PLATFORM, PARTNER)]
        swapped = [
            (asked.recipient, asked.primary_amount),
            *((s.recipient, s.amount) for s in reversed(asked.splits)),
        ]
        for parts in (swapped, [(asked.recipient, asked.amount)]):
            other = await world.payer.by_permit2(challenge, parts=parts)
            refused = await world.client.get(PAID, headers=other)
            assert kind_of(refused) == "verification-failed"
        headers = await world.payer.by_permit2(challenge)
        answer = await world.client.get(PAID, headers=headers)
        after = [await world.chain.balance(who) for who in (PLATFORM, PARTNER)]

        assert [(s.recipient, s.amount, s.memo) for s in asked.splits] == [
            (PLATFORM, 50, "platform"),
            (PARTNER, 125, None),
        ]
        assert asked.amount == PRICE
        assert answer.status_code == 200
        assert [b - a for a, b in zip(before, after, strict=True)] == [50, 125]
        assert await world.balance() == PRICE - 175


async def test_a_split_charge_is_paid_by_nothing_else(
    agentpay_shared_chain: LocalChain,
) -> None:
    terms = replace(MPP, credential_types=("permit2",), shares=SHARES)
    async with a_world(agentpay_shared_chain, mpp=terms) as world:
        for kind in ("authorization", "transaction", "hash"):
            challenge = await world.asks()
            headers = await paying(world, kind, challenge)
            refused = await world.client.get(PAID, headers=headers)
            assert kind_of(refused) == "verification-failed"
        assert world.shop.begun.total() == 0


@pytest.mark.parametrize(
    "bad",
    [
        {"to": NOBODY},
        {"chain": ChainId(1)},
        {"data": b""},
        {"data": selector("transfer(address,uint256)") + bytes(64)},
        {"nonce": 7},
        {"gas": 30_000},
        {"gas": 2**24 + 1},
        {"fee_max": 1, "tip": 0},
        {"fee_max": 10**15},
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("path", [PAID, FIRST])
async def test_f7_a_transaction_of_another_kind_is_never_sent(
    agentpay_shared_chain: LocalChain, path: str, bad: dict[str, Any]
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge = await world.asks(path)
        signed = await world.payer.signed(challenge, **bad)
        headers = world.payer.headers(challenge, transaction_payload(signed.raw))
        refused = await world.client.get(path, headers=headers)
        found = await world.chain.node.rpc("eth_getTransactionByHash", signed.hash)

        assert refused.status_code == 402
        assert kind_of(refused) in ("verification-failed", "malformed-credential")
        assert found is None
        assert await world.balance() == 0


async def test_f7_a_transaction_is_its_signers(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge = await world.asks()
        signed = await world.payer.signed(challenge)
        other = await world.another()
        headers = other.headers(challenge, transaction_payload(signed.raw))
        refused = await world.client.get(PAID, headers=headers)

        assert kind_of(refused) == "verification-failed"
        assert await world.balance() == 0


async def replace_nonce(world: World, signed: SignedCall) -> Hash32:
    """The payer uses the nonce of what it signed for something else."""
    call = replace(signed.call, to=NOBODY, data=b"", fee_max=signed.call.fee_max * 2)
    signature = await world.payer.wallet.sign_digest(
        call.digest(), chain=world.chain.chain_id
    )
    other = SignedCall(call=call, signature=signature)
    await world.chain.node.rpc("eth_sendRawTransaction", "0x" + other.raw.hex())
    return other.hash


async def test_f8_a_payer_that_uses_its_nonce_elsewhere_has_not_paid(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        path = "/exact/reserve-then-settle/slow"
        challenge = await world.asks(path)
        signed = await world.payer.signed(challenge)
        headers = world.payer.headers(challenge, transaction_payload(signed.raw))
        asking = asyncio.create_task(world.client.get(path, headers=headers))
        await eventually(lambda: begun(world, path))
        other = await replace_nonce(world, signed)
        await eventually(lambda: mined(world, other))
        world.shop.gate.set()
        refused = await asking

        assert (refused.status_code, kind_of(refused)) == (402, "verification-failed")
        assert await world.balance() == 0


async def begun(world: World, path: str) -> bool:
    return world.shop.begun[path] > 0


async def mined(world: World, transaction: Hash32) -> bool:
    """Whether its receipt is there, which Anvil tells later than the new nonce."""
    receipt = await world.chain.node.rpc("eth_getTransactionReceipt", transaction)
    return receipt is not None


async def test_f1_a_transaction_that_is_not_mined_in_time_is_unknown() -> None:
    async with LocalChain() as chain, a_world(chain) as world:
        charges: Any = world.payee._running.charges
        charges._charges._relay._mined_within_seconds = 0.3
        challenge = await world.asks(FIRST)
        headers = await world.payer.by_transaction(challenge)
        await world.chain.node.rpc("evm_setIntervalMining", 0)
        waiting = await world.client.get(FIRST, headers=headers)
        again = await world.client.get(FIRST, headers=headers)
        await world.chain.node.rpc("evm_mine")
        answer = await world.client.get(FIRST, headers=headers)

        assert [waiting.status_code, again.status_code] == [503, 503]
        assert kind_of(waiting) == "internal-payment-error"
        assert PAYMENT_RESPONSE not in waiting.headers
        assert answer.status_code == 200
        assert world.shop.begun[FIRST] == 1
        assert await world.balance() == PRICE


async def test_f8_an_unknown_transaction_that_was_replaced_has_failed() -> None:
    async with LocalChain() as chain, a_world(chain) as world:
        charges: Any = world.payee._running.charges
        relay = charges._charges._relay
        relay._mined_within_seconds, relay._replaced_seconds = 0.3, 0.1
        challenge = await world.asks(FIRST)
        signed = await world.payer.signed(challenge)
        headers = world.payer.headers(challenge, transaction_payload(signed.raw))
        await world.chain.node.rpc("evm_setIntervalMining", 0)
        waiting = await world.client.get(FIRST, headers=headers)
        other = await replace_nonce(world, signed)
        await world.chain.node.rpc("evm_mine")
        await eventually(lambda: mined(world, other))
        refused = await world.client.get(FIRST, headers=headers)

        assert waiting.status_code == 503
        assert (refused.status_code, kind_of(refused)) == (402, "verification-failed")
        assert world.shop.begun.total() == 0


async def test_p3_a_transaction_pays_once_in_whatever_way_it_is_presented(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge = await world.asks()
        signed = await world.payer.signed(challenge)
        headers = world.payer.headers(challenge, transaction_payload(signed.raw))
        answer = await world.client.get(PAID, headers=headers)
        fresh = [await world.asks() for _ in range(3)]
        others = [
            world.payer.headers(fresh[0], hash_payload(signed.hash)),
            world.payer.headers(
                fresh[1], hash_payload(Hash32(signed.hash.upper().replace("0X", "0x")))
            ),
            world.payer.headers(fresh[2], transaction_payload(signed.raw)),
        ]
        refused = [await world.client.get(PAID, headers=h) for h in others]

        assert answer.status_code == 200
        assert [r.status_code for r in refused] == [409, 409, 409]
        assert all(r.content != answer.content for r in refused)
        assert world.shop.begun.total() == 1


@pytest.mark.parametrize("presented", ["hash", "transaction"])
async def test_p1_a_stranger_is_not_told_what_a_public_transaction_bought(
    agentpay_shared_chain: LocalChain, presented: str
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge, theirs = await world.asks(), await world.asks()
        signed = await world.payer.signed(challenge)
        headers = world.payer.headers(challenge, transaction_payload(signed.raw))
        answer = await world.client.get(PAID, headers=headers)
        payload = (
            hash_payload(signed.hash)
            if presented == "hash"
            else transaction_payload(signed.raw)
        )
        told = await world.client.get(
            PAID, headers=world.payer.headers(theirs, payload, source=None)
        )

        assert answer.status_code == 200
        assert told.status_code == 409
        assert told.content != answer.content


async def test_p1_a_transfer_from_before_is_no_payment(
    agentpay_shared_chain: LocalChain,
) -> None:
    now = [time.time()]
    async with a_world(agentpay_shared_chain, clock=lambda: now[0]) as world:
        challenge = await world.asks()
        signed = await world.payer.signed(challenge)
        raw = "0x" + signed.raw.hex()
        await world.chain.node.rpc("eth_sendRawTransaction", raw)
        await eventually(lambda: mined(world, signed.hash))
        sent = world.payer.headers(challenge, transaction_payload(signed.raw))
        as_if_new = await world.client.get(PAID, headers=sent)
        now[0] += 700
        late = await world.asks()
        headers = world.payer.headers(late, hash_payload(signed.hash))
        refused = await world.client.get(PAID, headers=headers)

        assert kind_of(as_if_new) == "verification-failed"
        assert kind_of(refused) == "verification-failed"
        assert "before" in refused.text
        assert world.shop.begun.total() == 0


async def test_a_transfer_that_was_mined_while_its_challenge_expired_still_pays(
    agentpay_shared_chain: LocalChain,
) -> None:
    now = [time.time() - 200]  # so that it is mined in the middle of its time
    async with a_world(agentpay_shared_chain, clock=lambda: now[0]) as world:
        headers = await world.payer.by_hash(challenge := await world.asks())
        now[0] += 301
        expired = await world.client.get(PAID, headers=headers)
        payload = parse_credential(headers["Authorization"][8:]).payload
        fresh = await world.asks()
        again = world.payer.headers(fresh, payload)
        answer = await world.client.get(PAID, headers=again)

        assert challenge.id != fresh.id
        assert kind_of(expired) == "payment-expired"
        assert answer.status_code == 200, answer.text


async def test_p3_what_paid_in_another_way_is_no_hash(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        hand = HandPayer(world.payer.wallet, world.payee.settings)
        terms = terms_of(world.payee, schemes=("exact",))
        header = {"payment-signature": await hand.transfer(terms)}
        by_x402 = await world.client.get(PAID, headers=header)
        settled = decode_json(by_x402.headers[PAYMENT_RESPONSE], name="a receipt")
        paid_in = settled["transaction"]
        challenge = await world.asks()
        charge = await paying(world, "authorization", challenge)
        by_mpp = receipt_of(await world.client.get(PAID, headers=charge)).reference
        permit = await paying(world, "permit2", await world.asks())
        by_permit = receipt_of(await world.client.get(PAID, headers=permit)).reference

        for transaction in (Hash32(str(paid_in)), by_mpp, by_permit):
            fresh = await world.asks()
            headers = world.payer.headers(fresh, hash_payload(transaction))
            refused = await world.client.get(PAID, headers=headers)
            assert (refused.status_code, kind_of(refused)) == (
                402,
                "verification-failed",
            )
        assert world.shop.begun.total() == 3


async def test_a_transfer_on_other_terms_is_no_hash(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        asked, payer = asked_of(await world.asks()), world.payer
        plain = PlainTransfer(
            token=payer.asset.address, to=asked.recipient, amount=PRICE
        ).call()
        tail = replace(plain, data=plain.data + b"\0")
        wrapped = aggregate_call([replace(plain, data=plain.data)])
        account = payer.wallet.address
        sent = [
            await payer.transfer(asked.recipient, PRICE - 1),
            await payer.transfer(asked.recipient, PRICE + 1),
            await payer.transfer(NOBODY, PRICE),
            await send(world.chain, account, tail),
        ]
        await world.chain.fund(wrapped.to, 10_000)
        sent.append(await send(world.chain, account, wrapped))
        for transaction in sent:
            headers = payer.headers(await world.asks(), hash_payload(transaction))
            refused = await world.client.get(PAID, headers=headers)
            assert kind_of(refused) == "verification-failed"
        assert world.shop.begun.total() == 0


async def test_f4_a_transaction_that_reverted_is_no_payment(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        poor = OtherPayer(world.chain, await world.chain.funded_wallet(0, ether=1))
        challenge = await world.asks()
        signed = await poor.signed(challenge)
        raw = "0x" + signed.raw.hex()
        await world.chain.node.rpc("eth_sendRawTransaction", raw)
        await eventually(lambda: mined(world, signed.hash))
        headers = poor.headers(challenge, hash_payload(signed.hash))
        refused = await world.client.get(PAID, headers=headers)

        assert kind_of(refused) == "verification-failed"


async def test_f1_what_reverted_after_its_worker_died_is_refused_and_not_unknown(
    agentpay_shared_chain: LocalChain,
) -> None:
    """Its payer would be told for ever that nobody knows, and send it for ever."""
    async with a_world(agentpay_shared_chain) as world:
        wallet = await world.chain.funded_wallet(PRICE, ether=1)
        payer = OtherPayer(world.chain, wallet)
        challenge = await world.asks(SLOW)
        signed = await payer.signed(challenge)
        headers = payer.headers(challenge, transaction_payload(signed.raw))
        asked = asyncio.create_task(world.client.get(SLOW, headers=headers))
        await until(lambda: world.shop.begun[SLOW] == 1)
        store = world.payee._running.store.payee
        assert isinstance(store, MemoryPayeeStore)
        (started,) = [p for p in store._payments.values() if "transaction" in p.id]
        await store.take_payment(started.id, owner="the dead")
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        elsewhere = await HandPayer(wallet, world.payee.settings).transfer(
            terms_of(world.payee, schemes=("exact",))
        )
        await world.client.get(PAID, headers={"payment-signature": elsewhere})
        raw = "0x" + signed.raw.hex()
        await world.chain.node.rpc("eth_sendRawTransaction", raw)
        await eventually(lambda: mined(world, signed.hash))
        refused = await world.client.get(SLOW, headers=headers)

        assert refused.status_code == 402
        assert await world.balance() == PRICE  # of the other


async def test_f1_a_hash_that_is_not_mined_is_unknown_and_not_refused(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        challenge = await world.asks()
        signed = await world.payer.signed(challenge)
        headers = world.payer.headers(challenge, hash_payload(signed.hash))
        early = await world.client.get(PAID, headers=headers)
        raw = "0x" + signed.raw.hex()
        await world.chain.node.rpc("eth_sendRawTransaction", raw)
        await eventually(lambda: mined(world, signed.hash))
        answer = await world.client.get(PAID, headers=headers)

        assert early.status_code == 503
        assert kind_of(early) == "internal-payment-error"
        assert PAYMENT_RESPONSE not in early.headers
        assert answer.status_code == 200


async def test_what_was_paid_by_hash_is_owed_when_the_handler_fails(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        path = PAID + "?status=500"
        challenge = challenge_of(await world.client.get(path))
        headers = await world.payer.by_hash(challenge)
        failed = await world.client.get(path, headers=headers)
        again = await world.client.get(path, headers=headers)

        assert [failed.status_code, again.status_code] == [500, 500]
        assert world.shop.begun[PAID] == 2  # it runs again for its own payer


async def test_a_higher_price_is_not_paid_by_hash(
    agentpay_shared_chain: LocalChain,
) -> None:
    terms = replace(MPP, credential_types=("authorization", "hash"), hash_up_to=PRICE)
    async with a_world(agentpay_shared_chain, mpp=terms) as world:
        cheap, dear = await world.asks(), await world.asks("/dear")
        headers = await world.payer.by_hash(dear)
        refused = await world.client.get("/dear", headers=headers)

        assert asked_of(cheap).method_details.credential_types == (
            "authorization",
            "hash",
        )
        assert asked_of(dear).method_details.credential_types == ("authorization",)
        assert kind_of(refused) == "verification-failed"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"credential_types": ()}, "credential_types"),
        ({"credential_types": ("gift",)}, "gift"),
        ({"shares": SHARES}, "permit2"),
        ({"credential_types": ALL, "shares": SHARES}, "permit2"),
        ({"credential_types": ("permit2",), "shares": SHARES * 6}, "10"),
        (
            {
                "credential_types": ("permit2",),
                "shares": (Share(recipient=str(PLATFORM), basis_points=5000),) * 2,
            },
            "10000",
        ),
    ],
)
def test_credentials_that_cannot_be_had_are_refused(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        MppTerms(**{"realm": "r", "secrets": (SECRET,), **changes})


@pytest.mark.parametrize(
    "bad",
    [
        {"recipient": "somebody"},
        {"basis_points": 0},
        {"basis_points": 10_000},
        {"memo": "x" * 257},
    ],
)
def test_shares_that_cannot_be_paid_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="share"):
        Share(**{"recipient": str(PLATFORM), "basis_points": 1, **bad})


async def test_permit2_needs_a_wallet_that_sends_it(
    agentpay_shared_chain: LocalChain,
) -> None:
    with pytest.raises(ConfigurationError, match="permit2"):
        await open_payee(
            agentpay_shared_chain,
            mpp=replace(MPP, credential_types=("permit2",)),
            facilitator=RemoteFacilitator(["http://127.0.0.1:1"]),
        )
