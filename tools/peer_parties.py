"""
Who takes part in the peer matrix: buyers and shops, ours and the official SDK's.

Theirs are processes in an environment of their own (`tests/peers`). Ours run here. All
meet over real HTTP and on a real chain.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Protocol

import httpx
import uvicorn
from peer_evidence import CHANNEL
from peer_process import Peer, PeerFailed
from peer_wallets import chain_settings, contract_wallet, hex_key, rich_wallet

from agentpay import (
    About,
    Agent,
    Budget,
    MppTerms,
    Payee,
    Paywall,
    Policy,
    RemoteFacilitator,
    Route,
    Wallet,
)
from agentpay.errors import AnswerLost
from agentpay.evm.addresses import BATCH_SETTLEMENT
from agentpay.evm.batch_settlement_abi import CLAIMED, SETTLED
from agentpay.evm.hashing import checksummed
from agentpay.http.paywall import App, Receive, Scope, Send
from agentpay.http.pools import PooledTransport
from agentpay.testing.faulty_rpc import FaultyRpc
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address, Hash32, Money
from agentpay.wire.x402 import PAYMENT_SIGNATURE

PRICE = 1000
USED = 700
"""What an `upto` request costs in the end."""
WITHDRAW_DELAY = 3600
SCHEMES = ("exact", "upto", CHANNEL)
SOLD_BY_ALL = ("exact", CHANNEL)


class Buyer(Protocol):
    """Pays for requests."""

    @property
    def address(self) -> Address:
        """Whose money it spends."""
        ...

    @property
    def voucher_signer(self) -> Address:
        """Signs its vouchers: itself, or a key that can do nothing else."""
        ...

    async def lose_answer(self, url: str) -> None:
        """Pay for one request whose answer never arrives."""
        ...

    async def rpc_calls(self) -> int:
        """How often it asked a chain; 0 if it does not say."""
        ...

    async def get(self, url: str) -> None:
        """Pay for one request."""
        ...

    async def refund(self, url: str, *, part: int | None = None) -> None:
        """Get back what is left in the channel behind a URL, or a part of that."""
        ...


class Shop(Protocol):
    """Sells requests, and turns vouchers into money."""

    @property
    def url(self) -> str:
        """Where it listens."""
        ...

    async def claim(self) -> str:
        """Claim its vouchers; gives the transaction."""
        ...

    async def settle(self) -> str:
        """Send what was claimed to the account; gives the transaction."""
        ...


# Ours.


class LossyTransport(PooledTransport):
    """Loses the next answer to a payment, when told so."""

    lose = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if self.lose and PAYMENT_SIGNATURE in request.headers:
            self.lose = False
            await response.aclose()
            raise httpx.ReadError("the answer was lost", request=request)
        return response


@dataclass(frozen=True, slots=True, kw_only=True)
class OurBuyer:
    """An `Agent`. Implements `Buyer`."""

    address: Address
    voucher_signer: Address
    agent: Agent
    wire: LossyTransport
    rpc: FaultyRpc

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        chain: LocalChain,
        *,
        budget: Money = "$1",
        deposit: Money = "$0.01",
        two_keys: bool = False,
        contract: bool = False,
        policy: Policy | None = None,
    ) -> AsyncIterator["OurBuyer"]:
        """A `contract` pays, whose vouchers need a key of their own; or a wallet."""
        policy = policy or Policy(give_up_seconds=30)
        wallet = await (contract_wallet if contract else rich_wallet)(chain)
        hot = Wallet.create() if two_keys or contract else wallet
        wire = LossyTransport()
        async with (
            FaultyRpc(chain.rpc_url) as rpc,
            Agent(
                wallet,
                voucher_key=hot,
                budget=Budget(total=budget, per_request="$0.01"),
                network=chain.network,
                rpc_url=rpc.url,
                policy=replace(policy, deposit=deposit, low_water=0),
                allow_private_networks=True,
                transport=wire,
            ) as agent,
        ):
            yield cls(
                address=wallet.address,
                voucher_signer=hot.address,
                agent=agent,
                wire=wire,
                rpc=rpc,
            )

    async def lose_answer(self, url: str) -> None:
        """See `Buyer.lose_answer`."""
        self.wire.lose = True
        with contextlib.suppress(AnswerLost):
            await self.agent.get(url)

    async def rpc_calls(self) -> int:
        """See `Buyer.rpc_calls`."""
        return len(self.rpc.requests)

    async def get(self, url: str) -> None:
        """See `Buyer.get`."""
        await self.agent.get(url)

    async def refund(self, url: str, *, part: int | None = None) -> None:
        """See `Buyer.refund`; a parallel channel gives no parts."""
        if part is not None:
            raise PeerFailed("our buyer asks for all that is left")
        del url
        (record,) = await self.agent.channels()
        await self.agent.close_channel(record.channel)


@dataclass(frozen=True, slots=True, kw_only=True)
class OurShop:
    """A `Paywall` over a `Payee` for each method of transfer. Implements `Shop`."""

    url: str
    accounts: frozenset[Address]
    """Its payees' own, which send what they pay gas for."""
    chain: LocalChain
    payee: Payee
    """Of channels whose deposits are by EIP-3009."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        chain: LocalChain,
        routes: list[list[str]],
        *,
        facilitator: str | None = None,
        mpp: MppTerms | None = None,
    ) -> AsyncIterator["OurShop"]:
        """
        It pays gas itself, or has none and a facilitator's URL. A route that is of no
        scheme is sold by all.
        """
        ether = 0 if facilitator else 1
        wallets = {m: await chain.funded_wallet(0, ether=ether) for _, m in routes}
        paywalls: dict[str, Paywall] = {}

        async def shop(scope: Scope, receive: Receive, send: Send) -> None:
            method = str(scope["path"]).rpartition("/")[2]
            await paywalls[method](scope, receive, send)

        async with contextlib.AsyncExitStack() as stack:
            url = await stack.enter_async_context(_serving(shop))
            payees: dict[str, Payee] = {}
            for method, wallet in wallets.items():
                payees[method] = payee = Payee(
                    wallet,
                    network=chain.network,
                    facilitator=(
                        RemoteFacilitator([facilitator]) if facilitator else None
                    ),
                    withdraw_delay=WITHDRAW_DELAY,
                    min_deposit=10 * PRICE,
                    claim_at="$1000",
                    transfer_methods=(method,),
                    mpp=mpp,
                )
                await payee.start()
                stack.push_async_callback(payee.stop)
                prices = _prices(routes, method)
                paywalls[method] = Paywall(
                    _sold, payee=payee, routes=prices, origin=url
                )
            yield cls(
                url=url,
                accounts=frozenset(wallet.address for wallet in wallets.values()),
                chain=chain,
                payee=payees["eip3009"],
            )

    async def claim(self) -> str:
        """See `Shop.claim`."""
        await self.payee.settlement.claim()
        return await self._last_transaction(CLAIMED)

    async def settle(self) -> str:
        """See `Shop.settle`."""
        await self.payee.settlement.settle()
        return await self._last_transaction(SETTLED)

    async def _last_transaction(self, event: Hash32) -> str:
        where = {"address": BATCH_SETTLEMENT, "topics": [event], "fromBlock": "0x0"}
        logs = await self.chain.node.rpc("eth_getLogs", where)
        return str(logs[-1]["transactionHash"]) if logs else ""


def _prices(routes: list[list[str]], method: str) -> dict[str, Money | Route]:
    """What is sold by a method of transfer, as catalogues are told too."""
    return {
        f"/{scheme}/{method}": Route(
            price=PRICE,
            schemes=(scheme,) if scheme in SCHEMES else SOLD_BY_ALL,
            metered=scheme == "upto",
            about=About(description="Sold to peers", output="sold"),
        )
        for scheme, sold_by in routes
        if sold_by == method
    }


async def _sold(scope: Scope, receive: Receive, send: Send) -> None:
    del receive
    if str(scope["path"]).startswith("/upto/"):
        scope["agentpay"].charge(USED)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"sold"})


@contextlib.asynccontextmanager
async def _serving(app: App) -> AsyncIterator[str]:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


# Theirs.


@dataclass(frozen=True, slots=True, kw_only=True)
class TheirBuyer:
    """The official client. Implements `Buyer`."""

    address: Address
    voucher_signer: Address
    peer: Peer

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, chain: LocalChain, *, two_keys: bool = False
    ) -> AsyncIterator["TheirBuyer"]:
        wallet = await rich_wallet(chain)
        hot = Wallet.create() if two_keys else wallet
        settings = {**chain_settings(chain, wallet), "voucher_key": hex_key(hot)}
        async with Peer.running("client.py", settings) as peer:
            yield cls(address=wallet.address, voucher_signer=hot.address, peer=peer)

    async def lose_answer(self, url: str) -> None:
        """See `Buyer.lose_answer`."""
        await self.peer.ask(do="lose", url=url)

    async def rpc_calls(self) -> int:
        """See `Buyer.rpc_calls`."""
        return 0

    async def get(self, url: str) -> None:
        """See `Buyer.get`."""
        await self.peer.ask(do="get", url=url)

    async def refund(self, url: str, *, part: int | None = None) -> None:
        """See `Buyer.refund`."""
        amount = None if part is None else str(part)
        await self.peer.ask(do="refund", url=url, amount=amount)


@dataclass(frozen=True, slots=True, kw_only=True)
class TheirShop:
    """The official server. Implements `Shop`."""

    url: str
    peer: Peer

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        chain: LocalChain,
        facilitator: str,
        routes: list[list[str]],
        *,
        verifies_itself: bool = True,
    ) -> AsyncIterator["TheirShop"]:
        """Unless it `verifies_itself`, its facilitator has to see every voucher."""
        wallet = await chain.funded_wallet(0, ether=0)
        settings = {
            **chain_settings(chain, wallet),
            "facilitator": facilitator,
            "pay_to": checksummed(wallet.address),
            "price": str(PRICE),
            "used": str(USED),
            "withdraw_delay": WITHDRAW_DELAY,
            "verifies_itself": verifies_itself,
            "routes": routes,
        }
        # In mixed case: theirs pass an address to web3 as it came.
        async with Peer.running("server.py", settings) as peer:
            yield cls(url=peer.url, peer=peer)

    async def claim(self) -> str:
        """See `Shop.claim`."""
        return str((await self.peer.ask(do="claim"))["transaction"])

    async def settle(self) -> str:
        """See `Shop.settle`."""
        return str((await self.peer.ask(do="settle"))["transaction"])
