"""
MPP's cells of the peer matrix: its official SDKs, in Python and in TypeScript.

They meet our client, our server and our facilitator over `evm/charge`. The two refuse
each other, as each derives the nonce of a charge in its own way; we take and make both.
Their servers, and the client in TypeScript, speak x402 as well.
"""

import asyncio
from collections.abc import Awaitable, Callable, Set
from functools import partial

import httpx
from peer_evidence import Evidence, Expected, Variant, doubt
from peer_facilitators import OurFacilitator
from peer_parties import PRICE, OurBuyer, OurShop
from peer_process import Peer, PeerFailed
from peer_report import Cell
from peer_sdks import AT_ONCE, BOUND, SDKS, SENT, X402, Sdk, our_mpp, our_policy

from agentpay.errors import AgentPayError
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address

_REQUESTS = 16


async def mpp_cells(chain: LocalChain, ours: OurFacilitator) -> list[Cell]:
    """All cells of both SDKs."""
    cells: list[Cell] = []
    for sdk in SDKS:
        cells += await _our_client(chain, ours, sdk)
        cells += await _our_server(chain, sdk)
        cells += await _our_facilitator(chain, ours, sdk)
    return cells


async def _our_client(chain: LocalChain, ours: OurFacilitator, sdk: Sdk) -> list[Cell]:
    cells: list[Cell] = []
    async with sdk.shop(chain, ours.url) as shop:
        parties = "client", f"{shop.version} server"
        for variant in sdk.sold:
            policy = our_policy(variant, sdk)
            async with OurBuyer.open(chain, policy=policy) as buyer:
                if variant == AT_ONCE:
                    cells.append(await _at_once(chain, parties, shop, buyer))
                    continue
                url = _charged(shop, variant)
                if variant == BOUND:
                    buy = partial(buyer.agent.post, url, content=SENT)
                else:
                    buy = partial(buyer.agent.get, url)
                wanted = _expected(buyer.address, {ours.account})
                cells.append(
                    await _cell(
                        chain, parties, variant, peer=shop, buy=buy, expected=wanted
                    )
                )
    return cells


async def _at_once(
    chain: LocalChain, parties: tuple[str, str], shop: Peer, buyer: OurBuyer
) -> Cell:
    """Each is paid once, and answered: no challenge is paid twice."""
    before = await chain.balance(buyer.address)
    await shop.notes()
    url = _charged(shop, AT_ONCE)
    answers = await asyncio.gather(
        *(buyer.agent.get(url) for _ in range(_REQUESTS)), return_exceptions=True
    )
    notes = await shop.notes()
    paid = before - await chain.balance(buyer.address)
    served = sum(isinstance(a, httpx.Response) and a.is_success for a in answers)
    why = ""
    if served != _REQUESTS or paid != _REQUESTS * PRICE:
        why = f"{served} of {_REQUESTS} were served, for {paid}"
    seen = notes[-1] if notes else None
    return Cell.of(parties, shop.version, AT_ONCE, seen, why)


async def _our_server(chain: LocalChain, sdk: Sdk) -> list[Cell]:
    async with (
        OurShop.open(chain, [list(X402)], mpp=our_mpp()) as shop,
        sdk.buyer(chain) as buyer,
    ):
        url = "/".join((shop.url, *X402))
        parties = "server", f"{buyer.peer.version} client"
        wanted = _expected(buyer.address, shop.accounts)
        return [
            await _cell(
                chain,
                parties,
                variant,
                peer=buyer.peer,
                buy=partial(buyer.buy, url, variant),
                expected=wanted,
            )
            for variant in sdk.bought
        ]


async def _our_facilitator(
    chain: LocalChain, ours: OurFacilitator, sdk: Sdk
) -> list[Cell]:
    """An SDK pays itself, and we settle."""
    async with sdk.shop(chain, ours.url) as shop, sdk.buyer(chain) as buyer:
        parties = "facilitator", f"{shop.version} server"
        wanted = _expected(buyer.address, {ours.account})
        return [
            await _cell(
                chain,
                parties,
                variant,
                peer=shop,
                buy=partial(buyer.buy, _charged(shop, variant), variant),
                expected=wanted,
            )
            for variant in sdk.sold
            if variant in sdk.bought
        ]


def _charged(shop: Peer, variant: Variant) -> str:
    return shop.url + ("/body" if variant == BOUND else "/charge")


def _expected(payer: Address, senders: Set[Address]) -> Expected:
    return Expected(payer=payer, voucher_signer=payer, price=PRICE, senders=senders)


async def _cell(
    chain: LocalChain,
    parties: tuple[str, str],
    variant: Variant,
    *,
    peer: Peer,
    buy: Callable[[], Awaitable[object]],
    expected: Expected,
) -> Cell:
    """One request, one payment, as the peer's process saw it."""
    why, seen = "the peer saw no payment", Evidence(status=0)
    await peer.notes()
    try:
        await buy()
    except (AgentPayError, PeerFailed) as error:
        why = f"{type(error).__name__}: {error}"
    for seen in await peer.notes():
        why = await doubt(chain, seen, variant, expected)
    return Cell.of(parties, peer.version, variant, seen, why)
