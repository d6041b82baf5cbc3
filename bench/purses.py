"""
Payments signed before they are measured.

An agent of ours pays once, for real: its channel is open, and its credential is the
form for all that follow. So whatever server it was, it gets what it asked for.
"""

import base64
import json
import secrets
import time
from dataclasses import dataclass

import httpx

from agentpay import Agent, Budget, Policy, Wallet
from agentpay.evm.batch_settlement import voucher_digest
from agentpay.evm.eip3009 import Authorization, transfer_digest
from agentpay.http.pools import PooledTransport
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Hash32
from agentpay.wire.x402 import PAYMENT_SIGNATURE
from bench.goods import PATHS, PRICE
from bench.lines import Json

DOLLARS = "$200"
_VALID_SECONDS = 280


class _Watched(PooledTransport):
    """Remembers the last payment that was sent."""

    last = ""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.last = request.headers.get(PAYMENT_SIGNATURE, self.last)
        return await super().handle_async_request(request)


@dataclass(slots=True, kw_only=True)
class Purse:
    """A wallet, and the form of its payments to one server."""

    wallet: Wallet
    chain: LocalChain
    form: Json
    paid: int
    """How many it has paid for, or signed."""

    @classmethod
    async def open(
        cls, chain: LocalChain, url: str, scheme: str, *, deposit: str = "$100"
    ) -> "Purse":
        """Pay until a payment has the form of all later ones."""
        wallet = await chain.funded_wallet(DOLLARS, ether=0)
        wire, paid = _Watched(), 0
        async with Agent(
            wallet,
            budget=Budget(total=DOLLARS, per_request="$0.01"),
            network=chain.network,
            policy=Policy(deposit=deposit, low_water=0),
            allow_private_networks=True,
            transport=wire,
        ) as agent:
            while True:
                answer = await agent.get(url + PATHS[scheme])
                answer.raise_for_status()
                paid += 1
                form = json.loads(base64.b64decode(wire.last))
                if form["payload"].get("type") != "deposit":
                    break
        return cls(wallet=wallet, chain=chain, form=form, paid=paid)

    @property
    def channel(self) -> str:
        return str(self.form["payload"]["voucher"]["channelId"])

    async def vouchers(self, count: int) -> list[tuple[str, int, str]]:
        """Channel, amount and signature of the next vouchers."""
        channel, chain = Hash32(self.channel), self.chain.chain_id
        made: list[tuple[str, int, str]] = []
        for _ in range(count):
            self.paid += 1
            amount = self.paid * PRICE
            digest = voucher_digest(channel, amount, chain)
            signature = await self.wallet.sign_digest(digest, chain=chain)
            made.append((self.channel, amount, signature.hex()))
        return made

    async def headers(self, count: int) -> list[str]:
        """The next vouchers, as they are sent."""
        return [
            with_payload(
                self.form,
                voucher={
                    "channelId": channel,
                    "maxClaimableAmount": str(amount),
                    "signature": "0x" + signature,
                },
            )
            for channel, amount, signature in await self.vouchers(count)
        ]

    async def transfers(self, count: int) -> list[str]:
        """The next transfers (`exact` by EIP-3009), as they are sent."""
        made: list[str] = []
        fields = self.form["payload"]["authorization"]
        for _ in range(count):
            self.paid += 1
            authorization = Authorization(
                payer=self.wallet.address,
                to=Address(fields["to"]),
                value=PRICE,
                valid_after=int(fields["validAfter"]),
                valid_before=int(time.time()) + _VALID_SECONDS,
                nonce=Hash32.of(secrets.token_bytes(32)),
            )
            digest = transfer_digest(authorization, self.chain.usdc)
            signed = await self.wallet.sign_digest(digest, chain=self.chain.chain_id)
            changed = {
                **fields,
                "validBefore": str(authorization.valid_before),
                "nonce": authorization.nonce,
            }
            signature = "0x" + signed.hex()
            made.append(
                with_payload(self.form, authorization=changed, signature=signature)
            )
        return made


def with_payload(form: Json, **changed: object) -> str:
    """A payment of this form. Without its name, which only one may have."""
    extensions = form.get("extensions") or {}
    kept = {k: v for k, v in extensions.items() if k != "payment-identifier"}
    payload = {**form["payload"], **changed}
    message = {**form, "payload": payload, "extensions": kept}
    text = json.dumps(message, separators=(",", ":"))
    return base64.b64encode(text.encode()).decode()
