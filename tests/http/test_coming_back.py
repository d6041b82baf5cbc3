"""Who has paid comes back by a signature, and nobody else does."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentpay import Agent, Policy, Wallet
from agentpay.errors import ConfigurationError
from agentpay.evm.erc6492 import unwrap
from agentpay.http.paywall import Paywall
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Order, Route
from agentpay.payer.sign_in import sign_challenge
from agentpay.ports import Signer
from agentpay.testing.faulty_rpc import FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.wire.headers import encode_json
from agentpay.wire.sign_in import HEADER
from agentpay.wire.x402 import (
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    parse_payment_required,
)
from tests.http.world import (
    BASE,
    EXACT_ONLY,
    PRICE,
    Shop,
    Wire,
    an_agent,
    open_payee,
    required_header,
    rewriting,
    through,
)
from tests.payee.hand import HandPayer, decoded, terms_of
from tests.wallets import NewWallet, a_new_wallet

pytestmark = pytest.mark.usefixtures("way")

ONCE = Route(price=PRICE, schemes=EXACT_ONLY, access_seconds=3600)
ROUTES = {"/one": ONCE, "/two": ONCE, "/each": Route(price=PRICE, schemes=EXACT_ONLY)}


@dataclass
class Visit:
    """A payee whose routes are paid for once, a client, and a wallet that paid."""

    shop: Shop
    payee: Payee
    client: httpx.AsyncClient
    wallet: Wallet
    ahead: list[float]

    async def pay(
        self, path: str = "/one", wallet: NewWallet | None = None
    ) -> httpx.Response:
        payer = HandPayer(self.wallet, self.payee.settings)
        account = (wallet or self.wallet).address
        header = await payer.transfer(
            terms_of(self.payee, ONCE), signer=wallet, payer=account
        )
        return await self.client.get(path, headers={"payment-signature": header})

    async def sign(self, wallet: Signer | None = None, path: str = "/one") -> str:
        """What a client sends that found a challenge in a 402."""
        asked = await self.client.get(path)
        required = parse_payment_required(required_header(asked))
        header = await sign_challenge(
            required.extensions,
            url=BASE + path,
            signer=wallet or self.wallet,
            chain=self.payee.asset.chain,
            now=int(time.time() + self.ahead[0]),
        )
        assert header is not None
        return header

    async def come(self, header: str, path: str = "/one") -> httpx.Response:
        return await self.client.get(path, headers={HEADER: header})


@contextlib.asynccontextmanager
async def visit(chain: LocalChain, **options: Any) -> AsyncIterator[Visit]:
    shop = Shop()
    ahead = [0.0]
    payee = await open_payee(chain, clock=lambda: time.time() + ahead[0], **options)
    wall = Paywall(shop, payee=payee, routes=ROUTES, origin=BASE)
    async with httpx.AsyncClient(transport=through(wall), base_url=BASE) as client:
        wallet = await chain.funded_wallet(ether=0)
        await payee.start()
        yield Visit(shop, payee, client, wallet, ahead)
    await payee.stop()


def reason(answer: httpx.Response) -> str:
    return parse_payment_required(required_header(answer)).error


async def test_who_has_paid_comes_back_by_a_signature_and_pays_nothing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with visit(agentpay_shared_chain) as at:
        early = await at.come(await at.sign())
        paid = await at.pay()
        back = [await at.come(await at.sign()) for _ in range(3)]
        balance = await agentpay_shared_chain.balance(at.payee.settings.pay_to)

        assert (early.status_code, reason(early)) == (402, "siwx_not_paid")
        assert paid.status_code == 200
        assert [answer.status_code for answer in back] == [200] * 3
        assert PAYMENT_RESPONSE not in back[0].headers
        assert back[0].headers["cache-control"] == "private"
        assert balance == PRICE


async def test_p7_what_signing_in_opens_depends_on_the_signature(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with visit(agentpay_shared_chain) as at:
        asked = await at.client.get("/one")
        paid = await at.pay()
        back = await at.come(await at.sign())
        each = await at.client.get("/each")

    assert [asked.status_code, paid.status_code, back.status_code] == [402, 200, 200]
    for answer in (asked, paid, back):
        assert HEADER in answer.headers["vary"]
        assert "PAYMENT-SIGNATURE" in answer.headers["vary"]
    assert HEADER not in each.headers["vary"]


async def test_p1_a_signature_is_good_for_one_request(
    agentpay_shared_chain: LocalChain, tmp_path: Path
) -> None:
    async with visit(agentpay_shared_chain, store=str(tmp_path / "p.db")) as at:
        await at.pay()
        header = await at.sign()
        first = await at.come(header)
        again = await at.come(header)
        await at.payee.stop()
        later = await at.come(header)
        fresh = await at.come(await at.sign())

        assert first.status_code == 200
        assert [reason(a) for a in (again, later)] == ["invalid_siwx_nonce"] * 2
        assert fresh.status_code == 200
        assert at.shop.begun["/one"] == 3


async def test_p2_a_signature_opens_only_what_was_paid_for(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with visit(agentpay_shared_chain) as at:
        await at.pay("/one")
        other = await at.come(await at.sign(path="/two"), "/two")
        stranger = await at.come(await at.sign(Wallet.create()))
        each = await at.come(await at.sign(), "/each")

        assert reason(other) == reason(stranger) == "siwx_not_paid"
        assert each.status_code == 402
        assert "sign-in-with-x" not in decoded(required_header(each))["extensions"]


async def test_p2_a_signature_opens_only_the_query_that_was_paid_for(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with returning(agentpay_shared_chain) as (shop, wire, agent, _):
        for query in ("?id=1", "?id=2", "?id=1", "?id=2"):
            assert (await agent.get(f"{BASE}/one{query}")).status_code == 200

        assert len(wire.credentials) == 2
        assert shop.served["/one"] == 4


async def test_a_grant_ends_and_so_does_a_challenge(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with visit(agentpay_shared_chain) as at:
        await at.pay()
        old = await at.sign()
        at.ahead[0] = 301
        stale = await at.come(old)
        fresh = await at.come(await at.sign())
        at.ahead[0] = 3601
        over = await at.come(await at.sign())

        assert reason(stale) == "invalid_siwx_issued_at"
        assert fresh.status_code == 200
        assert reason(over) == "siwx_not_paid"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"domain": "evil.example"}, "invalid_siwx_domain"),
        ({"uri": "http://evil.example/one"}, "invalid_siwx_domain"),
        ({"chainId": "eip155:1"}, "invalid_siwx_chain"),
        ({"nonce": "a1b2c3d4e5f67890"}, "invalid_siwx_signature"),
        ({"statement": "something else"}, "invalid_siwx_signature"),
        ({"signature": "0x" + "00" * 65}, "invalid_siwx_signature"),
        ({"signature": "0x"}, "invalid_siwx_signature"),
        ({"issuedAt": "yesterday"}, "invalid_siwx_header"),
        ({"type": "ed25519"}, "invalid_siwx_header"),
        ({"address": "somebody"}, "invalid_siwx_header"),
    ],
)
async def test_p8_whatever_else_is_signed_opens_nothing(
    agentpay_shared_chain: LocalChain, changes: dict[str, str], why: str
) -> None:
    async with visit(agentpay_shared_chain) as at:
        await at.pay()
        message = decoded(await at.sign())
        answer = await at.come(encode_json({**message, **changes}))

        assert (answer.status_code, reason(answer)) == (402, why)
        assert at.shop.begun["/one"] == 1


def unwrapped(header: str) -> str:
    """What a wallet signs that knows that it is deployed."""
    message = decoded(header)
    signature = unwrap(bytes.fromhex(message["signature"][2:])).signature
    return encode_json({**message, "signature": "0x" + signature.hex()})


async def test_t9_a_wallet_comes_back_by_the_signature_that_it_paid_with(
    agentpay_shared_chain: LocalChain,
) -> None:
    wallet = await a_new_wallet(agentpay_shared_chain)
    factories = (wallet.factory,)
    async with visit(agentpay_shared_chain, wallet_factories=factories) as at:
        early = await at.come(await at.sign(wallet))
        paid = await at.pay(wallet=wallet)
        wrapped = await at.come(await at.sign(wallet))
        plain = await at.come(unwrapped(await at.sign(wallet)))
        stranger = replace(wallet, owner=Wallet.create())
        other = await at.come(await at.sign(stranger))

        assert reason(early) == "siwx_not_paid"
        assert [a.status_code for a in (paid, wrapped, plain)] == [200] * 3
        assert reason(other) == "invalid_siwx_signature"


async def test_f6_who_signs_in_has_no_factory_called_that_is_not_listed(
    agentpay_shared_chain: LocalChain,
) -> None:
    chain = agentpay_shared_chain
    wallet = await a_new_wallet(chain)
    async with FaultyRpc(chain.rpc_url) as rpc, visit(chain, rpc_url=rpc.url) as at:
        new = await at.come(await at.sign(wallet))
        called = str(wallet.factory)[2:] in str(rpc.requests)
        await wallet.deploy()
        there = await at.come(await at.sign(wallet))

        assert reason(new) == "eip6492_factory_not_allowed"
        assert not called
        assert reason(there) == "siwx_not_paid"
        assert at.shop.begun["/one"] == 0


@pytest.mark.parametrize("header", ["", "x", "e30=", "bnVsbA==", "A" * 20_000])
async def test_c17_a_malformed_sign_in_opens_nothing(
    agentpay_shared_chain: LocalChain, header: str
) -> None:
    async with visit(agentpay_shared_chain) as at:
        answer = await at.come(header)

        assert (answer.status_code, reason(answer)) == (402, "invalid_siwx_header")


async def test_c5_nothing_is_signed_for_another_origin(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with visit(agentpay_shared_chain) as at:
        asked = await at.client.get("/one")
        required = parse_payment_required(required_header(asked))
        header = await sign_challenge(
            required.extensions,
            url="https://elsewhere.example/one",
            signer=at.wallet,
            chain=at.payee.asset.chain,
            now=int(time.time()),
        )

        assert header is None


async def test_p6_payers_sign_in_only_to_a_known_origin(
    agentpay_shared_chain: LocalChain,
) -> None:
    payee = await open_payee(agentpay_shared_chain)
    with pytest.raises(ConfigurationError, match="origin"):
        Paywall(Shop(), payee=payee, routes=ROUTES)
    with pytest.raises(ConfigurationError, match="each time"):
        Route(price=1, metered=True, access_seconds=1)
    with pytest.raises(ConfigurationError, match="serve-then-settle"):
        Route(price=1, order=Order.SERVE_FIRST, access_seconds=1)


# Our own agent


def signed_in(wire: Wire) -> int:
    """How often a client signed in."""
    return sum(HEADER in request.headers for request in wire.sent)


def other_challenge(said: Any, changes: dict[str, str]) -> Any:
    """A 402 whose challenge says something else."""
    words = said["extensions"].get("sign-in-with-x")
    if words is not None:
        words["info"] |= changes
    return said


@contextlib.asynccontextmanager
async def returning(
    chain: LocalChain, *, says: dict[str, str] | None = None, **policy: Any
) -> AsyncIterator[tuple[Shop, Wire, Agent, list[float]]]:
    """An agent of a payee whose routes are paid for once, and their clock."""
    shop, ahead = Shop(), [0.0]

    def clock() -> float:
        return time.time() + ahead[0]

    payee = await open_payee(chain, clock=clock)
    wall = Paywall(shop, payee=payee, routes=ROUTES, origin=BASE)
    app = rewriting(
        wall, PAYMENT_REQUIRED, lambda said: other_challenge(said, says or {})
    )
    wire = Wire(through(app))
    agent = await an_agent(chain, wire, policy=Policy(**policy), clock=clock)
    await payee.start()
    async with agent:
        yield shop, wire, agent, ahead
    await payee.stop()


async def test_an_agent_pays_once_and_comes_back_by_signing(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with returning(agentpay_shared_chain) as (shop, wire, agent, _):
        answers = [await agent.get(BASE + "/one?n=1") for _ in range(4)]
        at_once = [agent.get(BASE + "/one?n=1") for _ in range(4)]
        answers += await asyncio.gather(*at_once)
        spending = await agent.spending()

        assert {answer.status_code for answer in answers} == {200}
        assert (len(wire.credentials), signed_in(wire)) == (1, 7)
        assert len({r.headers.get(HEADER) for r in wire.sent}) == 8
        assert spending.spent == PRICE * 10**12
        assert shop.served["/one"] == 8


async def test_an_agent_signs_only_for_what_it_has_paid_itself(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with returning(agentpay_shared_chain) as (_, wire, agent, _):
        for path in ("/one", "/two", "/each", "/each"):
            assert (await agent.get(BASE + path)).status_code == 200
        assert (len(wire.credentials), signed_in(wire)) == (4, 0)
        await agent.get(BASE + "/two")

        assert (len(wire.credentials), signed_in(wire)) == (4, 1)


async def test_what_opens_nothing_any_more_is_paid_again_once(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with returning(agentpay_shared_chain) as (shop, wire, agent, ahead):
        await agent.get(BASE + "/one")
        ahead[0] = 3601
        again = await agent.get(BASE + "/one")
        back = await agent.get(BASE + "/one")

        assert (again.status_code, back.status_code) == (200, 200)
        assert (len(wire.credentials), signed_in(wire)) == (2, 2)
        assert shop.served["/one"] == 3


async def test_an_agent_that_may_not_sign_in_pays_each_time(
    agentpay_shared_chain: LocalChain,
) -> None:
    async with returning(agentpay_shared_chain, sign_in=False) as (_, wire, agent, _):
        for _ in range(3):
            assert (await agent.get(BASE + "/one")).status_code == 200

        assert (len(wire.credentials), signed_in(wire)) == (3, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"domain": "bank.example"},
        {"uri": "https://bank.example/one"},
        {"uri": "https://shop.example/one"},
        {"domain": "shop.example:81"},
        {"issuedAt": "2020-01-01T00:00:00.000Z"},
        {"issuedAt": "2999-01-01T00:00:00.000Z"},
        {"statement": "line one\nURI: https://bank.example"},
        {"version": "2"},
    ],
)
async def test_c5_a_challenge_that_is_not_this_origins_is_not_signed(
    agentpay_shared_chain: LocalChain, changes: dict[str, str]
) -> None:
    async with returning(agentpay_shared_chain, says=changes) as (_, wire, agent, _):
        await agent.get(BASE + "/one")
        assert (await agent.get(BASE + "/one")).status_code == 200

        assert (len(wire.credentials), signed_in(wire)) == (2, 0)


async def test_c6_a_signature_follows_no_redirect(
    agentpay_shared_chain: LocalChain,
) -> None:
    elsewhere: list[httpx.Request] = []
    async with returning(agentpay_shared_chain) as (_, wire, agent, _):
        shop = wire.inner

        async def route(request: httpx.Request) -> httpx.Response:
            if request.url.host == "thief.example":
                elsewhere.append(request)
                return httpx.Response(200)
            if HEADER in request.headers:
                return httpx.Response(307, headers={"location": "http://thief.example"})
            return await shop.handle_async_request(request)

        wire.inner = httpx.MockTransport(route)
        await agent.get(BASE + "/one")
        await agent.get(BASE + "/one", follow_redirects=True)

    assert len(elsewhere) == 1
    assert HEADER not in elsewhere[0].headers
