"""What may be sent to a facilitator, and that it answers all of it."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from agentpay import Wallet
from agentpay.http.facilitator_app import FacilitatorApp
from agentpay.http.paywall import Receive, Scope, Send
from agentpay.testing.local_chain import LocalChain
from agentpay.wire import x402_asks as asks
from agentpay.wire.x402_facilitator import BODY_BYTES_MAX
from tests.facilitator.world import (
    AMOUNT,
    Channel,
    Desk,
    a_desk,
    a_host,
    a_transfer,
)
from tests.http.world import serving


async def good_requests(chain: LocalChain, dollars: str = "$1") -> list[dict[str, Any]]:
    """One of each kind, rightly signed."""
    payer, payee = await chain.funded_wallet(dollars, ether=0), Wallet.create()
    channel = Channel(chain.usdc, payer, payee)
    claim = await channel.claim(5)
    voucher = await channel.voucher(5)
    transfer = await a_transfer(chain.usdc, payer, payee.address)
    return [
        asks.transfer_request(transfer, AMOUNT),
        asks.deposit_request(await channel.deposit(100), voucher),
        asks.claim_request([claim], await channel.authorize(claim), chain.usdc),
        asks.settle_request(payee.address, chain.usdc),
        asks.refund_request(await channel.refund(3, 0, claim), chain.usdc),
    ]


async def test_supported_lists_what_it_does_and_who_sends_it(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    async with a_desk(chain, keys=2) as desk:
        answer = await desk.client.get(desk.url + "/supported")
        keys = [wallet.address for wallet in desk.host._wallets]

    supported = answer.json()
    assert {kind["scheme"] for kind in supported["kinds"]} >= {
        "exact",
        "batch-settlement",
    }
    assert {kind["network"] for kind in supported["kinds"]} == {
        f"eip155:{chain.chain_id}"
    }
    assert supported["extensions"] == ["eip2612GasSponsoring"]
    assert [s.lower() for s in supported["signers"]["eip155:*"]] == keys


async def post(desk: Desk, path: str, body: bytes) -> httpx.Response:
    return await desk.client.post(desk.url + path, content=body)


async def test_c17_what_cannot_be_read_is_a_400_in_the_words_of_x402(
    agentpay_shared_chain: LocalChain,
) -> None:
    bodies = [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"a":' * 3000 + b"1" + b"}" * 3000,
        b'{"x402Version":NaN}',
        b'{"x402Version":' + b"9" * 5000 + b"}",
        b'{"x402Version":2,"paymentPayload":{},"paymentRequirements":{}}',
        b'{"x":"\\ud800"}',
    ]
    async with a_desk(agentpay_shared_chain) as desk:
        for body in bodies:
            verified = await post(desk, "/verify", body)
            settled = await post(desk, "/settle", body)

            assert (verified.status_code, settled.status_code) == (400, 400)
            assert verified.json()["isValid"] is False
            assert settled.json()["success"] is False
            assert settled.json()["transaction"] == ""
        version = await post(desk, "/settle", b'{"x402Version":1}')
        large = await post(desk, "/settle", b" " * (BODY_BYTES_MAX + 1))
        lost = await desk.client.get(desk.url + "/settle")
        none = await desk.client.get(desk.url + "/else")

    assert version.json()["errorReason"] == "invalid_x402_version"
    assert large.status_code == 413
    assert (lost.status_code, none.status_code) == (405, 404)


def _mutated(rng: random.Random, value: Any) -> Any:
    """The same with one thing in it changed to something else."""
    strange = ["", "0x", "-1", 2**300, -5, None, [], {}, True, 1.5, "0x" + "f" * 130]
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: _mutated(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], _mutated(rng, value[at]), *value[at + 1 :]]
    return rng.choice(strange)


async def test_p13_nothing_that_is_sent_is_a_500_and_nothing_moves(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    rng = random.Random(402)
    good = await good_requests(chain, "$0")
    statuses: set[int] = set()
    async with a_desk(chain) as desk:
        for _ in range(300):
            body = json.dumps(_mutated(rng, rng.choice(good))).encode()
            path = rng.choice(["/verify", "/settle"])
            answer = await post(desk, path, body)
            statuses.add(answer.status_code)
            answer.json()

            assert answer.status_code in (200, 400), answer.text
        key = desk.host._wallets[0].address
        supported = await desk.client.get(desk.url + "/supported")
        sent = await chain.node.rpc("eth_getTransactionCount", key, "latest")

    assert statuses == {200, 400}
    assert supported.status_code == 200
    assert int(sent, 16) == 0


async def test_f11_with_a_token_nobody_else_makes_it_pay_gas(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    (request, *_) = await good_requests(chain)
    async with a_desk(chain, app={"tokens": ["one", "two"]}) as desk:
        strangers = [
            await desk.ask("/settle", request),
            await desk.ask("/verify", request),
            await desk.ask("/settle", request, authorization="Bearer three"),
            await desk.ask("/settle", request, authorization="Basic two"),
        ]
        known = await desk.ask("/settle", request, authorization="bearer two")
        open_to_all = await desk.client.get(desk.url + "/supported")

    assert [answer.status_code for answer in strangers] == [401] * 4
    assert strangers[0].json()["errorReason"] == "unauthorized"
    assert strangers[1].json()["invalidReason"] == "unauthorized"
    assert known.json()["success"], known.text
    assert open_to_all.status_code == 200


async def test_more_requests_than_it_takes_at_once_are_a_503(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    (request, *_) = await good_requests(chain)
    async with a_desk(chain, app={"requests_max": 0}) as desk:
        answer = await desk.ask("/settle", request)

    assert answer.status_code == 503
    assert answer.json()["errorReason"] == "busy"


async def test_p13_a_body_that_never_ends_holds_no_place(
    agentpay_shared_chain: LocalChain,
) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"x402Version":'
        await asyncio.sleep(1)
        yield b"2}"

    app = {"requests_max": 1, "body_within_seconds": 0.2}
    async with a_desk(agentpay_shared_chain, app=app) as desk:
        slow = await desk.client.post(desk.url + "/settle", content=slowly())
        next_one = await post(desk, "/settle", b"{}")

    assert slow.status_code == 408
    assert next_one.status_code == 400


async def test_without_its_chain_it_starts_and_says_so_until_the_chain_is_there(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    (request, *_) = await good_requests(chain)
    host = await a_host(chain, rpc_url="http://127.0.0.1:9")
    async with a_desk(chain, host=host) as desk:
        down = [
            await desk.ask("/settle", request),
            await desk.ask("/verify", request),
            await desk.client.get(desk.url + "/supported"),
        ]
        host._rpc_url = chain.rpc_url
        await asyncio.sleep(1.1)  # it says the same for a second
        settled = await desk.settle(request)

    assert [answer.status_code for answer in down] == [503] * 3
    assert settled["success"]


@pytest.mark.parametrize(
    ("root", "path"),
    [("/pay", "/pay"), ("/pay", ""), ("/settle", "/settle"), ("/sup", ""), ("", "")],
)
async def test_it_answers_below_where_it_is_mounted(
    agentpay_shared_chain: LocalChain, root: str, path: str
) -> None:
    """With and without the root in the path: servers and frameworks differ."""
    app = FacilitatorApp(await a_host(agentpay_shared_chain))

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": path + scope["path"], "root_path": root}
        await app(scope, receive, send)

    async with serving(mounted) as url, httpx.AsyncClient(base_url=url) as client:
        supported = await client.get("/supported")
        refused = await client.post("/verify", json={})
        nothing = await client.get("/pay")

    assert supported.status_code == 200
    assert refused.json()["isValid"] is False
    assert nothing.status_code == 404
