"""A facilitator on a real server, and people who sign for it."""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import httpx

from agentpay import Wallet
from agentpay.core.payee_channel import HeldVoucher
from agentpay.evm.batch_settlement import (
    ChannelConfig,
    VoucherClaim,
    channel_id,
    claim_batch_digest,
    refund_digest,
    voucher_digest,
)
from agentpay.evm.batch_settlement_abi import SignedRefund
from agentpay.evm.deposit import TokenDeposit
from agentpay.evm.eip3009 import Authorization, transfer_digest
from agentpay.evm.transfer import TokenTransfer
from agentpay.facilitator.host import FacilitatorHost
from agentpay.http.facilitator_app import FacilitatorApp
from agentpay.ports import Signer
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Asset, Hash32
from agentpay.wire.headers import JsonObject
from tests.http.world import serving

AMOUNT = 1000


@dataclass
class Desk:
    """A facilitator that serves, and how to ask it."""

    url: str
    host: FacilitatorHost
    client: httpx.AsyncClient

    async def ask(
        self, path: str, request: JsonObject, **headers: str
    ) -> httpx.Response:
        return await self.client.post(self.url + path, json=request, headers=headers)

    async def verify(self, request: JsonObject) -> dict[str, Any]:
        answer = await self.ask("/verify", request)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def settle(self, request: JsonObject) -> dict[str, Any]:
        answer = await self.ask("/settle", request)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


async def a_host(
    chain: LocalChain, *, keys: int = 1, **options: Any
) -> FacilitatorHost:
    """A facilitator that is not started, whose keys have ether."""
    wallets = [await chain.funded_wallet(0) for _ in range(keys)]
    return FacilitatorHost(wallets, **{"network": chain.network, **options})


@contextlib.asynccontextmanager
async def a_desk(
    chain: LocalChain,
    *,
    host: FacilitatorHost | None = None,
    app: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Desk]:
    """A facilitator on a free port."""
    host = host or await a_host(chain, **options)
    async with (
        serving(FacilitatorApp(host, **(app or {}))) as url,
        httpx.AsyncClient(timeout=30) as client,
    ):
        yield Desk(url, host, client)


async def a_transfer(
    asset: Asset,
    signer: Signer,
    to: Address,
    amount: int = AMOUNT,
    **changes: Any,
) -> TokenTransfer:
    """An `exact` payment, signed."""
    authorization = Authorization(
        payer=signer.address,
        to=to,
        value=amount,
        valid_after=0,
        valid_before=int(time.time()) + 300,
        nonce=Hash32.of(secrets.token_bytes(32)),
    )
    authorization = replace(authorization, **changes)
    digest = transfer_digest(authorization, asset)
    signature = await signer.sign_digest(digest, chain=asset.chain)
    return TokenTransfer(asset=asset, authorization=authorization, signature=signature)


class Channel:
    """A channel between wallets of a test, and what each of them signs."""

    def __init__(
        self,
        asset: Asset,
        payer: Signer,
        payee: Wallet,
        *,
        voucher_key: Wallet | None = None,
    ) -> None:
        self.asset = asset
        self.payer = payer
        self.payee = payee
        self.voucher_key = voucher_key or payer
        self.config = ChannelConfig(
            payer=payer.address,
            payer_authorizer=self.voucher_key.address,
            receiver=payee.address,
            receiver_authorizer=payee.address,
            token=asset.address,
            withdraw_delay=3600,
            salt=Hash32.of(secrets.token_bytes(32)),
        )

    @property
    def id(self) -> Hash32:
        return channel_id(self.config, self.asset.chain)

    async def deposit(self, amount: int, *, seconds: int = 300) -> TokenDeposit:
        unsigned = TokenDeposit(
            config=self.config,
            asset=self.asset,
            amount=amount,
            valid_after=0,
            valid_before=int(time.time()) + seconds,
            salt=Hash32.of(secrets.token_bytes(32)),
            signature=b"",
        )
        signature = await self._sign(self.payer, unsigned.digest())
        return replace(unsigned, signature=signature)

    async def voucher(self, amount: int) -> HeldVoucher:
        digest = voucher_digest(self.id, amount, self.asset.chain)
        return HeldVoucher(
            amount=amount, signature=await self._sign(self.voucher_key, digest)
        )

    async def claim(self, amount: int) -> VoucherClaim:
        voucher = await self.voucher(amount)
        return VoucherClaim(
            config=self.config,
            max_claimable=amount,
            signature=voucher.signature,
            total_claimed=amount,
        )

    async def authorize(self, *claims: VoucherClaim) -> bytes:
        return await self._sign(
            self.payee, claim_batch_digest(claims, self.asset.chain)
        )

    async def refund(
        self, amount: int, nonce: int, *claims: VoucherClaim
    ) -> SignedRefund:
        digest = refund_digest(
            self.id, nonce=nonce, amount=amount, chain=self.asset.chain
        )
        return SignedRefund(
            config=self.config,
            amount=amount,
            nonce=nonce,
            signature=await self._sign(self.payee, digest),
            claims=claims,
            claims_signature=await self.authorize(*claims) if claims else b"",
        )

    async def _sign(self, wallet: Signer, digest: bytes) -> bytes:
        return await wallet.sign_digest(digest, chain=self.asset.chain)


def edited(request: JsonObject, **changes: Any) -> JsonObject:
    """The same with other requirements, accepted as they are."""
    wanted = request["paymentRequirements"]
    payment = request["paymentPayload"]
    assert isinstance(wanted, dict)
    assert isinstance(payment, dict)
    other = {**wanted, **changes}
    return {
        **request,
        "paymentRequirements": other,
        "paymentPayload": {**payment, "accepted": other},
    }
