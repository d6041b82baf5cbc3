"""What must not buy anything on a session, and what is told to whom."""

import asyncio
import base64
import json
import random
import secrets
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest

from agentpay import Route, Wallet
from agentpay.core.meter import TOKEN, Rate, Rounding, Tariff
from agentpay.evm.allowance_abi import approve_call
from agentpay.evm.batch_settlement import channel_id as x402_channel_id
from agentpay.evm.session_escrow import Escrow, SessionConfig
from agentpay.evm.session_escrow_abi import open_call
from agentpay.evm.signature import ORDER
from agentpay.http.paywall import Receive, Scope, Send
from agentpay.testing.faulty_rpc import Fault, FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.types import ChainId, Hash32
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.challenge import Challenge, parse_challenges
from agentpay.wire.mpp.outcome import PAYMENT_VOUCHER
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT
from agentpay.wire.x402 import PAYMENT_REQUIRED, PAYMENT_RESPONSE
from tests.http.session_world import DEPOSIT, OK, World, a_world
from tests.http.world import PRICE
from tests.payee.hand import HandPayer, terms_of
from tests.payee.mpp_hand import (
    ChargePayer,
    kind_of,
    problem_of,
)
from tests.payee.session_hand import (
    outcome_of,
    session_of,
    session_receipt_of,
)


def tells_nothing(answer: httpx.Response) -> bool:
    """Whether an answer says nothing of how a session stands."""
    problem = problem_of(answer)
    numbers = (problem.spent, problem.accepted_cumulative, problem.deposit)
    quiet = PAYMENT_RECEIPT not in answer.headers
    return numbers == (None,) * 3 and quiet and PAYMENT_VOUCHER not in answer.headers


# Challenges.


async def test_p11_challenges_that_are_not_this_ones_buy_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        challenge = await world.challenge()
        payload = await world.payer.voucher(config, PRICE)
        for change in (
            {"id": "A" * 43},
            {"realm": "other.example"},
            {"method": "tempo"},
            {"intent": "subscription"},
            {"expires": "2099-01-01T00:00:00Z"},
            {"expires": None},
            {"digest": "sha-256=" + "A" * 43 + "="},
            {"opaque": None},
            {"header": "Payment-Authorization"},
        ):
            changed = replace(challenge, **change)
            headers = world.payer.headers(changed, payload)
            sent = {"authorization": next(iter(headers.values()))}
            refused = await world.client.get(OK, headers=sent)

            assert refused.status_code == 402
            assert kind_of(refused) in (
                "session/challenge-not-found",
                "invalid-challenge",
            )
            assert session_of(refused).id != challenge.id
            assert tells_nothing(refused)
        good = world.payer.headers(challenge, payload)
        assert (await world.client.get(OK, headers=good)).status_code == 200


async def test_p2_a_challenge_is_for_one_method_path_and_price(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        payload = await world.payer.voucher(config, 10 * PRICE)
        headers = world.payer.headers(await world.challenge(), payload)
        elsewhere = [
            await world.client.post(OK, headers=headers),
            await world.client.get("/ok", headers=headers),
            await world.client.get("/dear", headers=headers),
            await world.client.get("/metered", headers=headers),
        ]

        assert {kind_of(a) for a in elsewhere} == {"session/challenge-not-found"}
        assert {a.status_code for a in elsewhere} == {402}
        assert world.shop.begun.total() == 0
        assert await world.spent(config) == (0, 0)


async def test_p3_a_payload_is_for_the_intent_of_its_challenge(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        asks = await world.client.get("/ok")
        session = session_of(asks)
        charge_payer = ChargePayer(world.payer.wallet, world.payee.asset)
        charge = next(c for c in _challenges(asks) if c.intent == "charge")
        voucher = await world.payer.voucher(config, PRICE)
        crossed = [
            (charge, voucher, 402),
            (session, await charge_payer.payload(charge), 400),
            (replace(charge, intent="session"), voucher, 402),
            (
                replace(session, intent="charge"),
                await charge_payer.payload(charge),
                402,
            ),
        ]
        for challenge, payload, status in crossed:
            headers = world.payer.headers(challenge, payload)
            refused = await world.client.get("/ok", headers=headers)

            assert refused.status_code == status
        assert world.shop.begun.total() == 0


async def test_p11_an_expired_challenge_burns_nothing_and_unsays_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    now = [time.time()]
    async with a_world(agentpay_shared_chain, clock=lambda: now[0]) as world:
        config = await world.opened()
        old = await world.challenge()
        vouchers = [await world.payer.voucher(config, n * PRICE) for n in (1, 2)]
        taken, late = [world.payer.headers(old, voucher) for voucher in vouchers]
        in_time = await world.client.get(OK, headers=taken)
        now[0] += 301
        again = await world.client.get(OK, headers=taken)
        refused = await world.client.get(OK, headers=late)
        fills = await world.payer.deposit(config, PRICE, opens=False)
        topped = await world.client.get(
            OK, headers=world.payer.headers(old, world.payer.top_up(fills))
        )
        fresh = await world.send(vouchers[1])

        assert again.content == in_time.content
        assert kind_of(refused) == "session/challenge-not-found"
        assert tells_nothing(refused)
        assert (topped.status_code, kind_of(topped)) == (
            402,
            "session/challenge-not-found",
        )
        assert fresh.json() == {"answer": 42}
        assert world.shop.begun.total() == 2


# Messages.


@pytest.mark.parametrize(
    "value",
    [
        "Payment",
        "Payment !!",
        "Payment e30",
        'Payment "' + "\\" * 12_000,
        "Payment " + "\\" * 12_000,
        "Payment " + "A" * 49_999,
    ],
    ids=["nothing", "signs", "empty", "quoted", "backslashes", "long"],
)
async def test_c17_what_is_no_credential_is_402_with_a_fresh_challenge(
    agentpay_shared_chain: LocalChain, value: str
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        started = time.perf_counter()
        refused = await world.client.get(OK, headers={"authorization": value})

        assert (refused.status_code, kind_of(refused)) == (402, "malformed-credential")
        assert session_of(refused)
        assert time.perf_counter() - started < 2
        assert world.shop.begun.total() == 0


async def test_c17_a_credential_that_is_cut_off_anywhere_buys_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        payload = await world.payer.voucher(config, PRICE)
        headers = world.payer.headers(await world.challenge(), payload)
        whole = headers["Authorization"]
        for length in range(8, len(whole), 41):
            cut = await world.client.get(OK, headers={"authorization": whole[:length]})

            assert (cut.status_code, kind_of(cut)) == (402, "malformed-credential")
        assert (await world.client.get(OK, headers=headers)).status_code == 200


async def test_a_credential_may_have_its_members_in_any_order(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        payload = await world.payer.voucher(config, PRICE)
        headers = world.payer.headers(await world.challenge(), payload)
        encoded = headers["Authorization"].removeprefix("Payment ")
        message = json.loads(base64.urlsafe_b64decode(encoded + "=="))
        turned: dict[str, Any] = dict(reversed(list(message.items())))
        turned["challenge"] = dict(reversed(list(message["challenge"].items())))
        raw = json.dumps(turned, indent=1).encode()
        again = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        bought = await world.client.get(
            OK, headers={"authorization": f"Payment {again}"}
        )

        assert bought.status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"action": "gift"},
        {"action": None},
        {"channelId": "0x12"},
        {"cumulativeAmount": 1000},
        {"cumulativeAmount": "-1"},
        {"cumulativeAmount": "01"},
        {"cumulativeAmount": str(2**128)},
        {"signature": "0x" + "zz" * 65},
        {"deposit": {"action": "open", "type": "hash"}},
        {"deposit": "all of it"},
    ],
    ids=str,
)
async def test_k10_a_malformed_payload_is_400(
    agentpay_shared_chain: LocalChain, change: JsonObject
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        payload = {**await world.payer.voucher(config, PRICE), **change}
        refused = await world.send(payload)

        assert (refused.status_code, kind_of(refused)) == (400, "malformed-credential")
        assert "www-authenticate" not in refused.headers
        assert tells_nothing(refused)


async def test_several_payments_are_400_and_use_nothing_up(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        payload = await world.payer.voucher(config, PRICE)
        headers = world.payer.headers(await world.challenge(), payload)
        hand = HandPayer(world.payer.wallet, world.payee.settings)
        terms = terms_of(world.payee, schemes=("batch-settlement",))
        both = {
            **headers,
            "payment-signature": await hand.voucher(hand.config(), PRICE, terms),
        }
        refused = await world.client.get(OK, headers=both)
        bought = await world.client.get(OK, headers=headers)

        assert (refused.status_code, bought.status_code) == (400, 200)


# Signatures.


def _mirrored(signature: bytes) -> bytes:
    """The other signature of the same message, with a high s."""
    s = ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


async def test_k3_k4_a_signature_comes_before_everything(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        await world.buy(config, 5 * PRICE)
        good = await world.payer.signature(config, 2 * PRICE)
        other = await world.opened()
        elsewhere = Escrow(chain=ChainId(1), contract=config.escrow.contract)
        chains = SessionConfig(terms=config.terms, escrow=elsewhere)
        forged = {
            "zero": (bytes(65), "invalid-signature"),
            "short": (good[:64], "invalid-signature"),
            "mirrored": (_mirrored(good), "invalid-signature"),
            "v": (good[:64] + b"\x00", "invalid-signature"),
            "amount": (
                await world.payer.signature(config, 3 * PRICE),
                "signer-mismatch",
            ),
            "channel": (
                await world.payer.signature(other, 2 * PRICE),
                "signer-mismatch",
            ),
            "chain": (
                await world.payer.signature(chains, 2 * PRICE),
                "signer-mismatch",
            ),
            "stranger": (
                await world.payer.signature(config, 2 * PRICE, signer=Wallet.create()),
                "signer-mismatch",
            ),
        }
        for method in ("GET", "HEAD"):
            for signature, kind in forged.values():
                payload = await world.payer.voucher(config, 2 * PRICE)
                payload["signature"] = "0x" + signature.hex()
                refused = await world.send(payload, method=method)

                assert refused.status_code == 402
                assert PAYMENT_RECEIPT not in refused.headers
                assert PAYMENT_VOUCHER not in refused.headers
                if method == "GET":
                    assert kind_of(refused) == f"session/{kind}"
                    assert tells_nothing(refused)
        assert await world.spent(config) == (PRICE, 5 * PRICE)
        assert (await world.buy(config, 2 * PRICE)).status_code == 200


async def test_p3_a_voucher_of_x402_is_none_of_a_session(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        hand = HandPayer(world.payer.wallet, world.payee.settings)
        channel = hand.config()
        terms = terms_of(world.payee, schemes=("batch-settlement",))
        funded = await hand.funding(channel, DEPOSIT, PRICE, terms)
        bought = await world.client.get("/ok", headers={"payment-signature": funded})
        named = x402_channel_id(channel, world.chain.chain_id)
        config = await world.opened()
        payload = await world.payer.voucher(config, 2 * PRICE)
        payload["channelId"] = named
        refused = await world.send(payload)

        assert bought.status_code == 200
        assert (refused.status_code, kind_of(refused)) == (
            410,
            "session/channel-not-found",
        )


async def test_a_session_that_we_do_not_know_is_410(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = world.payer.config()
        fills = await world.payer.deposit(config, PRICE, opens=False)
        refused = [
            await world.buy(config, PRICE),
            await world.send(await world.payer.close(config, 0)),
            await world.send(world.payer.top_up(fills)),
            await world.send(await world.payer.voucher(config, PRICE, fills)),
        ]

        assert [a.status_code for a in refused] == [410] * 4
        assert {kind_of(a) for a in refused} == {"session/channel-not-found"}
        assert {problem_of(a).channel_id for a in refused} == {config.channel}
        assert all("www-authenticate" not in a.headers for a in refused)


# Money.


async def test_a_payer_may_not_pay_one_unit_at_a_time(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        units = [await world.buy(config, n) for n in range(1, 20)]
        paid = await world.buy(config, PRICE)

        assert {kind_of(a) for a in units} == {"session/insufficient-balance"}
        assert {outcome_of(a).fate for a in units} == {"void"}
        assert problem_of(units[0]).required_cumulative == PRICE
        assert paid.status_code == 200
        assert await world.spent(config) == (PRICE, PRICE)


async def test_a_refused_voucher_is_not_served_to_a_late_copy(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        above = await world.buy(config, DEPOSIT + 1)
        fills = await world.payer.deposit(config, PRICE, opens=False)
        await world.send(world.payer.top_up(fills))
        late = await world.buy(config, DEPOSIT + 1)

        assert (outcome_of(above).fate, outcome_of(late).fate) == ("void", "void")
        assert late.status_code == 402
        assert world.shop.begun.total() == 0


@pytest.mark.parametrize(
    ("changes", "kind", "status"),
    [
        ({"valid_before": 1}, "session/transaction-reverted", 409),
        ({"valid_after": 2**40}, "session/transaction-reverted", 409),
        ({"amount": PRICE - 1}, "session/insufficient-balance", 402),
        ({"amount": 10**9}, "session/insufficient-balance", 402),
        ({"signer": Wallet.create()}, "session/invalid-signature", 402),
    ],
    ids=["late", "early", "little", "poor", "stranger"],
)
async def test_an_open_that_fails_is_said_as_such_and_buys_nothing(
    agentpay_shared_chain: LocalChain,
    changes: dict[str, Any],
    kind: str,
    status: int,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = world.payer.config()
        deposit = await world.payer.deposit(config, **{"amount": DEPOSIT, **changes})
        for payload in (
            await world.payer.open(config, deposit, PRICE),
            await world.payer.voucher(config, PRICE, deposit),
        ):
            refused = await world.send(payload)

            assert (refused.status_code, kind_of(refused)) == (status, kind)
            assert PAYMENT_RECEIPT not in refused.headers
            assert (PAYMENT_REQUIRED in refused.headers) == (status == 402)
        assert world.shop.begun.total() == 0
        assert await world.chain.balance(config.payer) == 10**8


async def test_a_top_up_that_fails_takes_its_voucher_with_it(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        fills = await world.payer.deposit(config, 10**9, opens=False)
        refused = await world.send(await world.payer.voucher(config, PRICE, fills))
        alone = await world.buy(config, PRICE)
        other = await world.buy(config, PRICE + 1)

        assert (refused.status_code, kind_of(refused)) == (
            402,
            "session/insufficient-balance",
        )
        assert (outcome_of(refused).fate, outcome_of(alone).fate) == ("void", "void")
        assert other.status_code == 200


async def test_k9_a_deposit_is_for_the_session_that_it_was_signed_for(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config, other = world.payer.config(), world.payer.config()
        deposit = await world.payer.deposit(config, DEPOSIT)
        moved = await world.payer.open(other, deposit, PRICE)
        renamed = await world.payer.open(config, deposit, PRICE)
        renamed["salt"] = other.terms.salt
        for payload in (moved, renamed):
            refused = await world.send(payload)

            assert refused.status_code == 400
        assert await world.chain.balance(config.payer) == 10**8


async def test_only_its_payer_tops_a_session_up_here(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        await world.buy(config, PRICE)
        friend = await world.chain.funded_wallet(ether=0)
        fills = await world.payer.deposit(
            config, PRICE, opens=False, payer=friend.address, signer=friend
        )
        forged = await world.payer.deposit(config, PRICE, opens=False, signer=friend)
        refused = await world.send(world.payer.top_up(fills))
        unsigned = await world.send(world.payer.top_up(forged))

        assert (refused.status_code, kind_of(refused)) == (
            402,
            "session/signer-mismatch",
        )
        assert kind_of(unsigned) == "session/invalid-signature"
        assert config.payer not in refused.text
        assert tells_nothing(refused)
        assert tells_nothing(unsigned)


# What payers have sent themselves.


async def test_f4_a_hash_of_something_else_opens_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain, ether=1) as world:
        config, other = world.payer.config(), world.payer.config()
        token = world.payee.asset.address
        sent = await world.sends(
            approve_call(token, spender=config.escrow.contract, amount=1)
        )
        opened = await world.opens_itself(other, DEPOSIT)
        for transaction in (sent, opened):
            payload = await world.payer.opened(config, transaction, PRICE)
            refused = await world.send(payload)

            assert refused.status_code in (402, 410)
        nameless = await world.payer.opened(other, opened, PRICE)
        headers = world.payer.headers(
            await world.challenge(), nameless, source="did:pkh:eip155:1:0x" + "11" * 20
        )
        assert (await world.client.get(OK, headers=headers)).status_code == 400
        assert world.shop.begun.total() == 0


async def test_a_session_that_holds_less_than_a_request_is_not_opened(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain, ether=1) as world:
        config = world.payer.config()
        opened = await world.opens_itself(config, PRICE - 1)
        refused = await world.send(await world.payer.opened(config, opened))

        assert (refused.status_code, kind_of(refused)) == (
            402,
            "session/insufficient-balance",
        )


async def test_a_reverted_open_is_409_at_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain, ether=1) as world:
        config = world.payer.config()
        sent = await _reverted(world, config)
        started = time.perf_counter()
        refused = await world.send(await world.payer.opened(config, sent, PRICE))

        assert (refused.status_code, kind_of(refused)) == (
            409,
            "session/transaction-reverted",
        )
        assert time.perf_counter() - started < 5
        assert PAYMENT_RESPONSE not in refused.headers


async def _reverted(world: World, config: SessionConfig) -> Hash32:
    """An `open` without an allowance, sent as if it would go through."""

    call = open_call(config.terms, DEPOSIT, config.escrow)
    node, payer = world.chain.node, world.payer.wallet.address
    await node.rpc("anvil_impersonateAccount", payer)
    transaction = {
        "from": payer,
        "to": call.to,
        "data": "0x" + call.data.hex(),
        "gas": hex(500_000),
    }
    return Hash32(str(await node.rpc("eth_sendTransaction", transaction)))


async def test_p13_hashes_that_strangers_make_up_hold_up_no_deposit(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        made_up = [
            world.payer.filled(config, Hash32.of(secrets.token_bytes(32)), PRICE)
            for _ in range(3)
        ]
        waiting = [asyncio.create_task(world.send(payload)) for payload in made_up]
        await asyncio.sleep(1)
        fills = await world.payer.deposit(config, PRICE, opens=False)
        async with asyncio.timeout(15):
            filled = await world.send(world.payer.top_up(fills))
        for task in waiting:
            task.cancel()

        assert filled.status_code == 200


# What is not known.


async def test_f1_what_is_not_known_is_503_and_the_same_may_come_again(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with (
        FaultyRpc(agentpay_shared_chain.rpc_url) as rpc,
        a_world(agentpay_shared_chain, rpc_url=rpc.url) as world,
    ):
        world.payee._running.sender._mined_within_seconds = 0.3
        config = world.payer.config()
        deposit = await world.payer.deposit(config, DEPOSIT)
        payload = await world.payer.open(config, deposit, PRICE)
        headers = world.payer.headers(await world.challenge(), payload)
        rpc.plan("eth_getTransactionReceipt", Fault.UNAVAILABLE, times=10**6)
        unknown = await world.client.get(OK, headers=headers)
        rpc.heal()
        await world.chain.node.mine(2)
        again = await world.client.get(OK, headers=headers)

        assert (unknown.status_code, kind_of(unknown)) == (
            503,
            "internal-payment-error",
        )
        assert unknown.headers["retry-after"] == "1"
        assert PAYMENT_RESPONSE not in unknown.headers
        assert again.json() == {"answer": 42}
        assert session_receipt_of(again).spent == PRICE
        assert await world.chain.balance(config.payer) == 10**8 - DEPOSIT


def _challenges(answer: httpx.Response) -> tuple[Challenge, ...]:

    return parse_challenges(answer.headers.get_list("www-authenticate"))


# Anything else.


def _leaves(message: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(message, dict):
        return [leaf for key in message for leaf in _leaves(message[key], (*path, key))]
    return [path]


def _changed(message: Any, path: tuple[str, ...], rng: random.Random) -> Any:
    """The same message with something else, or nothing, at one place."""
    copied: Any = json.loads(json.dumps(message))
    place = copied
    for key in path[:-1]:
        place = place[key]
    old = str(place[path[-1]])
    at = rng.randrange(len(old)) if old else 0
    flipped = old[:at] + rng.choice("0123456789abcdefXYZ-_") + old[at + 1 :]
    choices: list[Any] = [flipped, old[:-1], old + "0", "", 7, None, [old], {"a": old}]
    if rng.random() < 0.1:
        del place[path[-1]]
    else:
        place[path[-1]] = rng.choice(choices)
    return copied


@pytest.mark.parametrize("seed", range(4))
async def test_c17_a_credential_with_anything_changed_buys_nothing(
    agentpay_shared_chain: LocalChain, seed: int
) -> None:
    rng = random.Random(seed)
    async with a_world(agentpay_shared_chain) as world:
        config = await world.opened()
        fills = await world.payer.deposit(config, PRICE, opens=False)
        payloads = [
            await world.payer.voucher(config, PRICE),
            await world.payer.voucher(config, PRICE, fills),
            await world.payer.close(config, 0),
            world.payer.top_up(fills),
        ]
        challenge = await world.challenge()
        for _ in range(100):
            headers = world.payer.headers(challenge, rng.choice(payloads))
            encoded = headers["Authorization"].removeprefix("Payment ")
            message = json.loads(base64.urlsafe_b64decode(encoded + "=="))
            paths = [p for p in _leaves(message) if p != ("source",)]
            changed = _changed(message, rng.choice(paths), rng)
            if changed == message:
                continue
            raw = base64.urlsafe_b64encode(json.dumps(changed).encode()).decode()
            sent = {"authorization": "Payment " + raw.rstrip("=")}
            refused = await world.client.get(OK, headers=sent)

            assert refused.status_code in (400, 402, 409, 410), changed
            assert problem_of(refused).of_a_paywall
            assert PAYMENT_RECEIPT not in refused.headers
        assert world.shop.begun.total() == 0
        assert (await world.spent(config))[0] == 0
        assert (await world.buy(config, 2 * PRICE)).status_code == 200


async def test_p2_a_402_for_a_body_that_streamed_past_has_no_charge_for_another(
    agentpay_shared_chain: LocalChain,
) -> None:
    tariff = Tariff(rates=(Rate(unit=TOKEN, price=PRICE),), rounding=Rounding.UP)
    routes = {"/count": Route(price=PRICE, metered=True, tariff=tariff)}

    async def greedy(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await scope["agentpay"].meter.charge(tokens=2)

    async with a_world(agentpay_shared_chain, app=greedy, routes=routes) as world:
        unpaid = await world.client.post("/count", content=b"words")
        config = world.payer.config()
        deposit = await world.payer.deposit(config, DEPOSIT)
        opens = world.payer.headers(
            session_of(unpaid), await world.payer.open(config, deposit, PRICE)
        )
        refused = await world.client.post("/count", content=b"words", headers=opens)

        assert refused.status_code == 402
        assert intents_of(unpaid) == {"charge", "session"}
        assert intents_of(refused) == {"session"}


def intents_of(answer: httpx.Response) -> set[str]:
    lines = answer.headers.get_list("www-authenticate")
    return {challenge.intent for challenge in parse_challenges(lines)}
