"""Payments to a paywall: rightly signed, on wrong terms or hardly written."""

import base64
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

from agentpay import Payee, Paywall, Route, Wallet
from agentpay.errors import AgentPayError
from agentpay.evm.batch_settlement import ChannelConfig
from agentpay.http.asgi import Receive, Scope, Send, send_whole
from agentpay.payee.offers import make_offers
from agentpay.payee.pricing import Order, Terms
from agentpay.stores.memory import MemoryPayeeStore
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, ChainId, Hash32
from agentpay.wire.x402 import PAYMENT_RESPONSE, parse_payment
from tests.fuzz.calls import Answer, call
from tests.fuzz.mutation import header, miswritten, mutated, written
from tests.fuzz.signatures import rightly_signed
from tests.fuzz.tally import Content, Tally
from tests.payee.hand import NOBODY, HandPayer

PRICE = 1000
ROUTES: dict[str, Any] = {
    "/ok": Route(price=PRICE, schemes=("exact", "batch-settlement")),
    "/first": Route(price=PRICE, schemes=("exact",), order=Order.SETTLE_FIRST),
    "/metered": Route(price=PRICE, metered=True, schemes=("batch-settlement", "upto")),
    "/dear": Route(price=50 * PRICE, schemes=("exact", "batch-settlement")),
}
_SIGNATURE = b"payment-signature"
_RECEIPT = PAYMENT_RESPONSE.lower().encode()
_KEPT = 100


async def _shop(scope: Scope, receive: Receive, send: Send) -> None:
    del scope, receive
    await send_whole(send, 200, [], b"sold")


class Buyers:
    """One payee behind its paywall, and two who pay it: one has no money."""

    def __init__(self, rng: Random, chain: LocalChain, tally: Tally) -> None:
        self._rng = rng
        self._chain = chain
        self._tally = tally
        self._refused: list[tuple[str, bytes]] = []
        self._old: list[str] = []
        self._kinds: dict[str, Callable[[HandPayer, str], Awaitable[str]]] = {
            "exact": self._exact,
            "permit2": self._permit2,
            "upto": self._upto,
            "deposit": self._deposit,
            "voucher": self._voucher,
            "refund": self._refund,
        }

    async def start(self) -> None:
        chain, rng = self._chain, self._rng
        self._payee = Payee(
            await chain.funded_wallet(0),
            network=chain.network,
            withdraw_delay=3600,
            transfer_methods=("eip3009", "permit2"),
            poll_seconds=3600,
        )
        await self._payee.start()
        self._app = Paywall(
            _shop, payee=self._payee, routes=ROUTES, origin="http://shop.example"
        )
        wallets = [await chain.funded_wallet("$5", ether=0), Wallet.create()]
        settings = self._payee.settings
        self._hands = [HandPayer(wallet, settings) for wallet in wallets]
        self._stranger = Wallet.create()
        self._channels: list[tuple[HandPayer, ChannelConfig, int]] = []
        rich = self._hands[0]
        for tagged in (True, True, False):
            config = rich.config(tagged=tagged)
            paid = await rich.funding(config, 100 * PRICE, PRICE, self._terms("/ok"))
            answer = await self._send("/ok", base64.b64encode(base64.b64decode(paid)))
            if answer.status != 200:
                raise RuntimeError(f"a channel was not opened: {answer}")
            self._channels.append((rich, config, PRICE))
        for hand in self._hands:
            self._channels.append((hand, hand.config(tagged=rng.random() < 0.5), 0))

    async def stop(self) -> None:
        """Present what was refused again: what is refused still leaves no trace."""
        for again in range(2):
            before, quiet = Content.of(self._store).digest(), []
            for path, raw in self._refused:
                content = Content.of(self._store)
                answer = await self._send(path, raw)
                if self._judge(answer, content, path, raw):
                    quiet.append((path, raw))
            self._tally.kinds["presented again"] += len(self._refused)
            if again and quiet == self._refused:
                after = Content.of(self._store).digest()
                self._tally.compare_hashes(before, after)
            # A channel may have been opened since, and its vouchers are good now.
            self._refused = quiet
        await self._payee.stop()

    @property
    def _store(self) -> MemoryPayeeStore:
        works = self._payee._works
        store = works.store.payee if works else None
        if not isinstance(store, MemoryPayeeStore):
            raise TypeError("the payee of these tests keeps its books in memory")
        return store

    def _terms(self, path: str) -> Terms:
        return self._payee.terms(
            ROUTES[path], resource=f"GET {path}", url=f"http://shop.example{path}"
        )

    async def _send(self, path: str, *raws: bytes) -> Answer:
        headers = tuple((_SIGNATURE, raw) for raw in raws)
        return await call(self._app, "GET", path, headers=headers)

    async def one(self) -> None:
        """Make one input, send it, and look at what became of it."""
        rng, tally = self._rng, self._tally
        path = rng.choice(list(ROUTES))
        kind = rng.choice(list(self._kinds))
        hand = rng.choice(self._hands)
        signed = await self._kinds[kind](hand, path)
        raw = self._spoiled(signed)
        to = path if rng.random() < 0.9 else rng.choice(list(ROUTES))
        twice = rng.random() < 0.005
        tally.kinds[f"pay by {kind}"] += 1
        self._count(raw)
        before = Content.of(self._store)
        answer = await self._send(to, raw, *((raw,) if twice else ()))
        quiet = self._judge(answer, before, to, raw)
        if quiet and not twice and len(self._refused) < _KEPT:
            self._refused.append((to, raw))

    def _spoiled(self, signed: str) -> bytes:
        rng = self._rng
        chance = rng.random()
        if chance < 0.52:
            return signed.encode()  # what was signed is strange enough
        message = json.loads(base64.b64decode(signed))
        if chance < 0.86:
            spoiled = mutated(rng, message, rng.choice((1, 1, 1, 2, 3)))
            return header(rng, written(rng, spoiled), right=True)
        if chance < 0.94:
            return header(rng, miswritten(rng, message), right=True)
        return header(rng, written(rng, message), right=False)

    def _count(self, raw: bytes) -> None:
        try:
            payment = parse_payment(raw.decode("latin-1"))
        except AgentPayError:
            return
        self._tally.parsed += 1
        try:
            right = rightly_signed(payment.payload, self._payee.asset)
        except AgentPayError:
            right = False
        self._tally.signed += right

    def _judge(self, answer: Answer, before: Content, path: str, raw: bytes) -> bool:
        """Whether nothing was accepted, and nothing told for good."""
        tally, status = self._tally, answer.status
        tally.answers[f"paywall {status}"] += 1
        if status >= 500:
            tally.blame(f"{path} answered {status}: {answer.body!r}", raw)
        if status < 400:
            tally.accepted += 1
            return False
        if status != 400 and _RECEIPT in answer.headers:
            return False  # told for good: a used voucher, a transfer that failed
        after = Content.of(self._store)
        if after.deposited > before.deposited:
            tally.accepted += 1  # the deposit; what came along was refused
            return False
        tally.compared += 1
        if before != after and before.digest() != after.digest():
            tally.blame(f"{path} answered {status} and the store changed", raw)
        return True

    # What is signed.

    def _amount(self, right: int) -> int:
        rng = self._rng
        near = (0, 1, right - 1, right + 1, right * 2)
        far = (2**64, 2**127, 2**128 - 1)
        return rng.choice(near) if rng.random() < 0.8 else rng.choice(far)

    def _changes(self, **choices: Callable[[], Any]) -> dict[str, Any]:
        """One of these, mostly."""
        rng = self._rng
        if rng.random() < 0.004:
            return {}
        names = rng.sample(list(choices), k=rng.choice((1, 1, 1, 2)))
        return {name: choices[name]() for name in names}

    def _times(self) -> int:
        now = int(time.time())
        return self._rng.choice((0, 1, now - 1, now, now + 3, 2**40, 2**256 - 1))

    def _accepted(self, path: str) -> Any:
        """An offer of any route, mostly another one, perhaps changed."""
        rng = self._rng
        terms = self._terms(rng.choice([p for p in ROUTES if p != path] + [path]))
        offer = rng.choice(make_offers(self._payee.settings, terms))
        other = mutated(rng, offer, rng.choice((0, 1)))
        return json.loads(json.dumps(other).replace("\\ud800", ""))

    async def _exact(self, hand: HandPayer, path: str) -> str:
        rng, terms = self._rng, self._terms(path)
        path = path if "exact" in terms.schemes else "/ok"
        terms = self._terms(path)
        changes = self._changes(
            to=lambda: rng.choice((NOBODY, hand.wallet.address)),
            value=lambda: self._amount(terms.maximum),
            valid_after=lambda: int(time.time()) + rng.choice((60, 2**40)),
            valid_before=self._times,
            accepted=lambda: self._accepted(path),
            url=lambda: rng.choice(("http://other.example/ok", "/dear", "x" * 2000)),
            signer=lambda: self._stranger,
            elsewhere=lambda: True,
        )
        if changes.pop("elsewhere", False):
            hand = self._elsewhere(hand)
        changes.setdefault("accepted", self._hand_offer(terms, "exact", "eip3009"))
        return await hand.transfer(terms, **changes)

    def _hand_offer(self, terms: Terms, scheme: str, method: str) -> Any:
        return self._hands[0].offer(terms, scheme, method=method)

    def _elsewhere(self, hand: HandPayer) -> HandPayer:
        """Signs for another chain, or another token."""
        asset = hand.settings.asset
        other = self._rng.choice(
            (replace(asset, chain=ChainId(1)), replace(asset, address=NOBODY))
        )
        return HandPayer(hand.wallet, replace(hand.settings, asset=other))

    async def _permit2(self, hand: HandPayer, path: str, scheme: str = "exact") -> str:
        rng, terms = self._rng, self._terms(path)
        if scheme not in terms.schemes:
            path = "/metered" if scheme == "upto" else "/ok"
            terms = self._terms(path)
        changes = self._changes(
            to=lambda: NOBODY,
            amount=lambda: self._amount(terms.maximum),
            token=lambda: NOBODY,
            valid_after=self._times,
            deadline=self._times,
            nonce=lambda: rng.choice((0, 2**256 - 1)),
            facilitator=lambda: rng.choice((None, NOBODY, hand.wallet.address)),
            accepted=lambda: self._accepted(path),
            elsewhere=lambda: True,
        )
        if changes.pop("elsewhere", False):
            hand = self._elsewhere(hand)
        changes.setdefault("accepted", self._hand_offer(terms, scheme, "permit2"))
        return await hand.permit2(terms, scheme=scheme, **changes)

    async def _upto(self, hand: HandPayer, path: str) -> str:
        return await self._permit2(hand, path, "upto")

    def _config(self, hand: HandPayer) -> ChannelConfig:
        changes = self._changes(
            payer=lambda: NOBODY,
            payer_authorizer=lambda: Address("0x" + "00" * 20),
            receiver=lambda: NOBODY,
            receiver_authorizer=lambda: NOBODY,
            token=lambda: NOBODY,
            withdraw_delay=lambda: self._rng.choice((0, 3599, 2**40 - 1)),
            salt=lambda: Hash32("0x" + "00" * 32),
        )
        return hand.config(tagged=self._rng.random() < 0.7, **changes)

    async def _deposit(self, hand: HandPayer, path: str) -> str:
        rng = self._rng
        terms = self._terms("/ok" if path == "/first" else path)
        right = rng.random() < 0.5
        config = hand.config() if right else self._config(hand)
        amount = self._amount(10 * terms.maximum)
        if rng.random() < 0.3:
            part = await hand.permit2_deposit(config, min(amount, 2**128 - 1))
        else:
            before = self._times() if rng.random() < 0.5 else None
            signer = self._stranger if rng.random() < 0.2 else None
            part = await hand.deposit(
                config, amount, valid_before=before, signer=signer
            )
        cumulative = min(self._amount(terms.maximum), 2**128 - 1)
        return await hand.voucher(
            config, cumulative, terms, kind="deposit", deposit=part
        )

    async def _voucher(self, hand: HandPayer, path: str, kind: str = "voucher") -> str:
        rng = self._rng
        terms = self._terms("/ok" if path == "/first" else path)
        hand, config, least = rng.choice(self._channels)
        if rng.random() < 0.2:
            config = self._config(hand)
        changes = self._changes(
            signer=lambda: self._stranger,
            accepted=lambda: self._accepted(path),
            query=lambda: True,
            channel=lambda: Hash32("0x" + rng.randbytes(32).hex()),
            url=lambda: "http://shop.example/dear",
            kind=lambda: kind,
        )
        changes.setdefault("kind", kind)
        cumulative = min(max(0, self._amount(least)), 2**128 - 1)
        return await hand.voucher(config, cumulative, terms, **changes)

    async def _refund(self, hand: HandPayer, path: str) -> str:
        """Asked of channels that nobody opened, but for one in a hundred."""
        rng = self._rng
        if rng.random() < 0.01:
            return await self._voucher(hand, path, "refund")
        terms = self._terms("/ok")
        config = hand.config() if rng.random() < 0.5 else self._config(hand)
        return await hand.voucher(
            config, min(self._amount(PRICE), 2**128 - 1), terms, kind="refund"
        )
