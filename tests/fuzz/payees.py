"""What payees ask a facilitator: to verify and to settle all that x402 knows."""

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

from agentpay import Wallet
from agentpay.core.payee_channel import HeldVoucher
from agentpay.errors import AgentPayError
from agentpay.evm.eip3009 import Authorization, transfer_digest
from agentpay.evm.permit2 import PermitTransfer
from agentpay.evm.permit2_signed import Permit2Transfer
from agentpay.evm.transfer import TokenTransfer
from agentpay.facilitator.host import FacilitatorHost
from agentpay.http.facilitator_app import FacilitatorApp
from agentpay.stores.memory import MemoryPayeeStore
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Asset, ChainId, Hash32
from agentpay.wire import x402_asks as asks
from agentpay.wire.x402_facilitator import BODY_BYTES_MAX, parse_request
from tests.facilitator.world import Channel
from tests.fuzz.calls import call
from tests.fuzz.mutation import miswritten, mutated, written
from tests.fuzz.signatures import rightly_signed
from tests.fuzz.tally import Content, Tally
from tests.payee.hand import NOBODY

AMOUNT = 1000
_KEPT = 100


class Payees:
    """One facilitator, and payees whose payers have money or none."""

    def __init__(self, rng: Random, chain: LocalChain, tally: Tally) -> None:
        self._rng = rng
        self._chain = chain
        self._tally = tally
        self._asset = chain.usdc
        self._refused: list[tuple[str, bytes]] = []
        self._kinds: dict[str, Callable[[], Awaitable[Any]]] = {
            "transfer": self._transfer,
            "permit2": self._permit2,
            "deposit": self._deposit,
            "claim": self._claim,
            "settlement": self._settlement,
            "refund": self._refund,
        }

    async def start(self) -> None:
        chain = self._chain
        keys = [await chain.funded_wallet(0)]
        self._host = FacilitatorHost(keys, network=chain.network)
        self._service = await self._host.start()
        self._app = FacilitatorApp(self._host)
        self._payee = Wallet.create()
        self._payers = [await chain.funded_wallet("$5", ether=0), Wallet.create()]
        self._stranger = Wallet.create()
        channel = Channel(self._asset, self._payers[0], self._payee)
        deposit = await channel.deposit(1_000_000)
        opened = asks.deposit_request(deposit, await channel.voucher(5))
        answer = await self._send("/settle", asks.to_body(opened))
        if not answer.get("success"):
            raise RuntimeError(f"a channel was not opened: {answer}")
        others = [Channel(self._asset, payer, self._payee) for payer in self._payers]
        self._channels = [channel, *others]

    async def stop(self) -> None:
        """Ask again for what was refused: what is refused still leaves no trace."""
        for again in range(2):
            before, quiet = Content.of(self._store).digest(), []
            for path, body in self._refused:
                content = Content.of(self._store)
                said = await self._send(path, body)
                if self._judge(said, content, path, body):
                    quiet.append((path, body))
            self._tally.kinds["asked again"] += len(self._refused)
            if again and quiet == self._refused:
                after = Content.of(self._store).digest()
                self._tally.compare_hashes(before, after)
            self._refused = quiet
        await self._host.stop()

    @property
    def _store(self) -> MemoryPayeeStore:
        book = self._service._transfers._once._book
        if not isinstance(book, MemoryPayeeStore):
            raise TypeError("the facilitator of these tests keeps its book in memory")
        return book

    async def _send(self, path: str, body: bytes) -> dict[str, Any]:
        answer = await call(self._app, "POST", path, body=body)
        self._tally.answers[f"facilitator {answer.status}"] += 1
        if answer.status not in (200, 400, 413):
            self._tally.blame(f"{path} answered {answer.status}: {answer.body!r}", body)
        said: dict[str, Any] = json.loads(answer.body)
        if answer.status == 200:
            yes = said.get("success", said.get("isValid"))
            self._tally.answers[f"facilitator {'yes' if yes else 'no'}"] += 1
        return said

    async def one(self) -> None:
        """Make one input, send it, and look at what became of it."""
        rng, tally = self._rng, self._tally
        kind = rng.choice(list(self._kinds))
        body = self._spoiled(await self._kinds[kind]())
        path = rng.choice(("/verify", "/settle"))
        tally.kinds[f"ask for {kind}"] += 1
        self._count(body)
        before = Content.of(self._store)
        said = await self._send(path, body)
        if self._judge(said, before, path, body) and len(self._refused) < _KEPT:
            self._refused.append((path, body))

    def _judge(
        self, said: dict[str, Any], before: Content, path: str, body: bytes
    ) -> bool:
        """Whether nothing was accepted, nor sent and found to have failed."""
        tally = self._tally
        if said.get("success") or said.get("isValid"):
            tally.accepted += 1
            return False
        if said.get("transaction"):
            return False
        tally.compared += 1
        after = Content.of(self._store)
        if before != after and before.digest() != after.digest():
            tally.blame(f"{path} said {said} and the book changed", body)
        return True

    def _spoiled(self, request: Any) -> bytes:
        rng = self._rng
        chance = rng.random()
        if chance < 0.5:
            return asks.to_body(request)
        if chance < 0.88:
            return written(rng, mutated(rng, request, rng.choice((1, 1, 1, 2, 3))))
        if chance < 0.885:
            return b" " * (BODY_BYTES_MAX + 1)
        return miswritten(rng, request)

    def _count(self, body: bytes) -> None:
        try:
            request = parse_request(body)
        except AgentPayError:
            return
        self._tally.parsed += 1
        payload = request.payment_payload.payload
        self._tally.signed += rightly_signed(payload, self._asset)

    # What is asked.

    def _amount(self) -> int:
        rng = self._rng
        if rng.random() < 0.8:
            return rng.choice((0, 1, AMOUNT - 1, AMOUNT, AMOUNT + 1))
        return rng.choice((10**9, 2**64, 2**127, 2**128 - 1))

    def _when(self) -> int:
        now = int(time.time())
        right = now + 300
        return self._rng.choice((0, now - 1, now + 3, right, right, 2**40, 2**256 - 1))

    def _place(self) -> Asset:
        """Where a signature is for: our token on our chain, mostly."""
        asset, chance = self._asset, self._rng.random()
        if chance < 0.05:
            return replace(asset, chain=ChainId(1))
        return replace(asset, address=NOBODY) if chance < 0.1 else asset

    async def _transfer(self) -> Any:
        rng = self._rng
        payer = rng.choice(self._payers)
        authorization = Authorization(
            payer=payer.address,
            to=rng.choice((self._payee.address, NOBODY)),
            value=self._amount(),
            valid_after=rng.choice((0, 0, 0, 2**40)),
            valid_before=self._when(),
            nonce=Hash32.of(rng.randbytes(32)),
        )
        asset = self._place()
        signer = self._stranger if rng.random() < 0.1 else payer
        digest = transfer_digest(authorization, asset)
        signed = TokenTransfer(
            asset=asset,
            authorization=authorization,
            signature=await signer.sign_digest(digest, chain=asset.chain),
        )
        return self._asked(asks.transfer_request(signed, self._least(signed.maximum)))

    async def _permit2(self) -> Any:
        rng = self._rng
        payer, asset = rng.choice(self._payers), self._place()
        keys = (None, self._host.addresses[0], NOBODY)
        unsigned = Permit2Transfer(
            asset=asset,
            transfer=PermitTransfer(
                payer=payer.address,
                token=asset.address,
                amount=self._amount(),
                nonce=rng.choice((0, 2**256 - 1, rng.getrandbits(256))),
                deadline=self._when(),
                to=rng.choice((self._payee.address, NOBODY)),
                valid_after=rng.choice((0, 0, 0, 2**40)),
                facilitator=rng.choice(keys),
            ),
            signature=b"",
        )
        signature = await payer.sign_digest(unsigned.digest(), chain=asset.chain)
        signed = replace(unsigned, signature=signature)
        return self._asked(asks.transfer_request(signed, self._least(signed.maximum)))

    def _least(self, amount: int) -> int:
        """What is asked of what was signed: all of it, mostly."""
        return self._rng.choice((amount, amount, amount, amount // 2, amount + 1, 0))

    def _asked(self, request: Any) -> Any:
        """What was signed, for another payee or amount, now and then."""
        rng = self._rng
        if rng.random() < 0.7:
            return request
        key = rng.choice(("paymentRequirements", "paymentPayload"))
        if key == "paymentPayload":
            accepted = mutated(rng, request[key]["accepted"])
            return {**request, key: {**request[key], "accepted": accepted}}
        return {**request, key: mutated(rng, request[key])}

    async def _deposit(self) -> Any:
        rng = self._rng
        channel = Channel(self._asset, rng.choice(self._payers), self._payee)
        if rng.random() < 0.5:
            strange: dict[str, Any] = rng.choice(
                (
                    {"receiver": NOBODY},
                    {"receiver_authorizer": NOBODY},
                    {"withdraw_delay": rng.choice((0, 899, 2**40 - 1))},
                    {"token": NOBODY},
                    {"payer_authorizer": NOBODY},
                )
            )
            channel.config = replace(channel.config, **strange)
        seconds = rng.choice((300, 300, -5, 3, 10**9))
        deposit = await channel.deposit(self._amount(), seconds=seconds)
        voucher = await channel.voucher(self._amount())
        if rng.random() < 0.1:
            voucher = HeldVoucher(amount=voucher.amount, signature=rng.randbytes(65))
        return self._asked(asks.deposit_request(deposit, voucher))

    async def _claim(self) -> Any:
        rng = self._rng
        rows = []
        for _ in range(rng.choice((1, 1, 2, 5))):
            row = await rng.choice(self._channels).claim(self._amount())
            if rng.random() < 0.5:
                row = replace(row, total_claimed=self._amount())
            rows.append(row)
        channel = self._channels[0]
        signature = await channel.authorize(*rows)
        if rng.random() < 0.2:
            rows = rows[::-1] if len(rows) > 1 else rows * 2
        return self._asked(asks.claim_request(rows, signature, self._asset))

    async def _settlement(self) -> Any:
        receiver = self._rng.choice((self._payee.address, NOBODY))
        return self._asked(asks.settle_request(receiver, self._asset))

    async def _refund(self) -> Any:
        rng = self._rng
        channel = rng.choice(self._channels)
        claims = [await channel.claim(self._amount())] if rng.random() < 0.6 else []
        nonce = rng.choice((0, 1, 2**256 - 1))
        refund = await channel.refund(self._amount(), nonce, *claims)
        return self._asked(asks.refund_request(refund, self._asset))
