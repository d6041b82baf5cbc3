"""A shop that sells on sessions of MPP, and a payer who does by hand as it is told."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from agentpay import Payee, Paywall, Route, Wallet
from agentpay.chain.rpc import RpcChain
from agentpay.chain.sender import TransactionSender
from agentpay.evm.allowance_abi import approve_call
from agentpay.evm.calls import Call
from agentpay.evm.error_names import ERROR_NAMES
from agentpay.evm.session_escrow import SessionConfig
from agentpay.evm.session_escrow_abi import open_call
from agentpay.http.paywall import App
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Hash32, Money
from agentpay.wire.headers import JsonObject
from agentpay.wire.mpp.challenge import Challenge
from tests.http.world import BASE, PRICE, ROUTES, Shop, through
from tests.payee.mpp_hand import MPP
from tests.payee.session_hand import SessionPayer, session_of

OK = "/channel/reserve-then-settle/ok"
DEPOSIT = 20 * PRICE


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A shop that sells sessions, and somebody who pays."""

    chain: LocalChain
    shop: Shop
    payee: Payee
    client: httpx.AsyncClient
    payer: SessionPayer
    wallet: Wallet
    """The payee's."""

    def of(self, wallet: Wallet) -> SessionPayer:
        """Another payer, or one that was here before."""
        return SessionPayer(wallet, self.payee.settings)

    async def challenge(self, path: str = OK, method: str = "GET") -> Challenge:
        return session_of(await self.client.request(method, path))

    async def send(
        self, payload: JsonObject, *, path: str = OK, method: str = "GET", **more: Any
    ) -> httpx.Response:
        """A request that presents a payload under a fresh challenge."""
        headers = self.payer.headers(await self.challenge(path), payload)
        return await self.client.request(
            method, path, headers={**headers, **more.pop("headers", {})}, **more
        )

    async def opened(self, *, tagged: bool = True, **changes: Any) -> SessionConfig:
        """A session with a deposit, and nothing spent."""
        config = self.payer.config(tagged=tagged, **changes)
        deposit = await self.payer.deposit(config, DEPOSIT)
        answer = await self.send(await self.payer.open(config, deposit))
        assert answer.status_code == 200, answer.text
        return config

    async def buy(
        self, config: SessionConfig, cumulative: int, *, path: str = OK, **more: Any
    ) -> httpx.Response:
        """A request that presents a voucher."""
        payload = await self.payer.voucher(config, cumulative)
        return await self.send(payload, path=path, **more)

    async def spent(self, config: SessionConfig) -> tuple[int, int]:
        """What its payee's books say was spent and accepted."""
        record = await self.payee._running.store.payee.read(config.channel)
        assert record is not None
        return record.ledger.charged, record.ledger.highest

    async def balance(self) -> int:
        return await self.chain.balance(self.payee.settings.pay_to)

    async def sends(self, *calls: Call) -> Hash32:
        """Transactions of the payer's own; the last one's hash."""
        async with (
            RpcChain(
                self.chain.rpc_url,
                chain_id=self.chain.chain_id,
                error_names=ERROR_NAMES,
            ) as chain,
            TransactionSender(chain, key=self.payer.wallet.gas_key()) as sender,
        ):
            sent = [await sender.send(call) for call in calls]
        return sent[-1].transaction

    async def opens_itself(self, config: SessionConfig, deposit: int) -> Hash32:
        """What a payer with gas does for `open` by a hash."""
        token, escrow = self.payee.asset.address, config.escrow
        allow = approve_call(token, spender=escrow.contract, amount=deposit)
        return await self.sends(allow, open_call(config.terms, deposit, escrow))


@contextlib.asynccontextmanager
async def a_world(
    chain: LocalChain,
    *,
    ether: int = 0,
    dollars: Money = "$100",
    routes: Mapping[str, Money | Route | None] = ROUTES,
    app: App | None = None,
    around: Callable[[App], App] = lambda app: app,
    wallet: Wallet | None = None,
    **options: Any,
) -> AsyncIterator[World]:
    own = wallet or await chain.funded_wallet(0)
    defaults: dict[str, Any] = {"network": chain.network, "mpp": MPP}
    payee = Payee(own, **{**defaults, **options})
    await payee.start()
    shop = Shop()
    wall = Paywall(app or shop, payee=payee, routes=routes)
    payer = SessionPayer(
        await chain.funded_wallet(dollars, ether=ether), payee.settings
    )
    transport = through(around(wall))
    async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
        try:
            yield World(
                chain=chain,
                shop=shop,
                payee=payee,
                client=client,
                payer=payer,
                wallet=own,
            )
        finally:
            await payee.stop()
