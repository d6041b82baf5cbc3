"""
The official SDKs of MPP, in Python and in TypeScript: their clients and servers as
processes, and how ours meet them.
"""

import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from peer_evidence import BODY, CHARGE, Variant
from peer_parties import PRICE
from peer_process import MPP_PYTHON, Peer
from peer_wallets import chain_settings, rich_wallet

from agentpay import MppTerms, Policy
from agentpay.evm.hashing import checksummed
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from contracts import find_node

AUTHORIZATION: Variant = (CHARGE, "authorization")
BOUND: Variant = (CHARGE, BODY)
AT_ONCE: Variant = (CHARGE, "at-once")
"""Many requests at once: mppx repeats the ids of challenges within a millisecond."""
X402: Variant = ("exact", "eip3009")
_HERE = "127.0.0.1"
SENT = "what is asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sdk:
    """An official SDK: the programs that use it, and what runs them."""

    client: str
    server: str
    by: Callable[[], Path]
    json_nonce: bool
    """Whether the nonce of a charge is of its form, and not of the draft's."""
    sold: tuple[Variant, ...]
    """What its server takes."""
    bought: tuple[Variant, ...]
    """What its client pays by."""

    @contextlib.asynccontextmanager
    async def buyer(self, chain: LocalChain) -> AsyncIterator["MppBuyer"]:
        """Its client, with money."""
        wallet = await rich_wallet(chain)
        settings = chain_settings(chain, wallet)
        async with Peer.running(self.client, settings, by=self.by()) as peer:
            yield MppBuyer(address=wallet.address, peer=peer)

    @contextlib.asynccontextmanager
    async def shop(self, chain: LocalChain, facilitator: str) -> AsyncIterator[Peer]:
        """Its server, which has no gas."""
        wallet = await chain.funded_wallet(0, ether=0)
        settings = {
            **chain_settings(chain, wallet),
            "facilitator": facilitator,
            "pay_to": checksummed(wallet.address),
            "price": str(PRICE),
            "secret": secrets.token_hex(32),
        }
        async with Peer.running(self.server, settings, by=self.by()) as peer:
            yield peer


SDKS = (
    Sdk(
        client="mpp_client.py",
        server="mpp_server.py",
        by=lambda: MPP_PYTHON,
        json_nonce=True,
        sold=(AUTHORIZATION, BOUND, X402),
        bought=(AUTHORIZATION, BOUND),
    ),
    Sdk(
        client="mppx/client.mjs",
        server="mppx/server.mjs",
        by=find_node,
        json_nonce=False,
        sold=(AUTHORIZATION, AT_ONCE, X402),
        bought=(AUTHORIZATION, BOUND, X402),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MppBuyer:
    """An official client of MPP."""

    address: Address
    peer: Peer

    async def buy(self, url: str, variant: Variant) -> None:
        """Pay for one request."""
        if variant == BOUND:
            await self.peer.ask(do="post", url=url, body=SENT)
        else:
            await self.peer.ask(do="get", url=url, x402=variant == X402)


def our_mpp() -> MppTerms:
    """How our shop takes MPP."""
    return MppTerms(realm="peers", secrets=(secrets.token_bytes(32),))


def our_policy(variant: Variant, sdk: Sdk | None = None) -> Policy:
    """How our client pays by one protocol, as a server of this SDK takes it."""
    by_json = sdk is not None and sdk.json_nonce
    return Policy(
        prefer=(variant[0],),
        json_nonces=(_HERE,) if by_json else (),
        give_up_seconds=30,
    )
