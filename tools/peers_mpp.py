"""
The official MPP SDKs, in Python and TypeScript, as clients and servers of EVM charges.

They pay themselves and each other with our test dollar, our client pays them by x402,
which their servers take as well, and the servers settle by `agentpay facilitator`. The
two SDKs refuse each other: they derive a charge's nonce from its challenge in two ways.

Their programs (`tests/peers/mpp*`) are for cells of the peer matrix as soon as our own
client and server speak MPP. Run it as `make peers-mpp`; it exits with 1 if an SDK
cannot pay itself, or if we cannot pay it.
"""

import asyncio
import contextlib
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from peer_evidence import Evidence, Expected, Variant, doubt
from peer_facilitators import OurFacilitator, our_facilitator
from peer_parties import PRICE, OurBuyer, chain_settings, rich_wallet
from peer_process import MPP_PYTHON, PROGRAMS, Peer, PeerFailed

from agentpay.errors import AgentPayError
from agentpay.evm.hashing import checksummed
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from contracts import find_node, install

CHARGE: Variant = ("charge", "authorization")
RUN_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Sdk:
    """An official SDK: the programs that use it, and what runs them."""

    client: str
    server: str
    by: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Pays for requests."""

    name: str
    address: Address
    get: Callable[[str], Awaitable[object]]


@contextlib.asynccontextmanager
async def open_client(chain: LocalChain, sdk: Sdk | None) -> AsyncIterator[Client]:
    """An SDK's, or ours."""
    if sdk is None:
        async with OurBuyer.open(chain) as buyer:
            yield Client(name="agentpay, x402", address=buyer.address, get=buyer.get)
        return
    wallet = await rich_wallet(chain)
    settings = chain_settings(chain, wallet)
    async with Peer.running(sdk.client, settings, by=sdk.by) as peer:

        async def get(url: str) -> None:
            await peer.ask(do="get", url=url)

        yield Client(name=peer.version, address=wallet.address, get=get)


@contextlib.asynccontextmanager
async def open_server(
    chain: LocalChain, sdk: Sdk, facilitator: str
) -> AsyncIterator[Peer]:
    """An SDK's, which has no gas."""
    wallet = await chain.funded_wallet(0, ether=0)
    settings = {
        **chain_settings(chain, wallet),
        "facilitator": facilitator,
        "pay_to": checksummed(wallet.address),
        "price": str(PRICE),
        "secret": secrets.token_hex(32),
    }
    async with Peer.running(sdk.server, settings, by=sdk.by) as peer:
        yield peer


async def pay_once(
    chain: LocalChain, ours: OurFacilitator, client: Client, server: Peer
) -> bool:
    """One request, one charge; says what the server saw, and whether it convinces."""
    why, seen = "the server saw no payment", Evidence(status=0)
    try:
        await client.get(f"{server.url}/charge")
    except (AgentPayError, PeerFailed) as error:
        why = str(error).partition(";")[0]
    for seen in await server.notes():
        expected = Expected(
            payer=client.address,
            voucher_signer=client.address,
            price=PRICE,
            senders={ours.account},
        )
        why = await doubt(chain, seen, CHARGE, expected)
    paid, proof = ("no", why) if why else ("yes", f"{seen.status} {seen.transaction}")
    print(f"{client.name:16}{server.version:16}{paid:6}{proof}")
    return not why


async def run() -> int:
    """Everybody with everybody."""
    install(PROGRAMS / "mppx")
    sdks = (
        Sdk(client="mpp_client.py", server="mpp_server.py", by=MPP_PYTHON),
        Sdk(client="mppx/client.mjs", server="mppx/server.mjs", by=find_node()),
    )
    good = True
    async with (
        asyncio.timeout(RUN_SECONDS),
        LocalChain() as chain,
        our_facilitator(chain) as ours,
    ):
        print(f"{'client':16}{'server':16}{'paid':6}evidence")
        for one in (None, *sdks):
            for two in sdks:
                async with (
                    open_server(chain, two, ours.url) as server,
                    open_client(chain, one) as client,
                ):
                    paid = await pay_once(chain, ours, client, server)
                good = good and (paid or one not in (None, two))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(run()))
