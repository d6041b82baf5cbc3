"""
One server, one route, every client: each pays in its own protocol, is answered 200 with
the receipt of that protocol, and what the payers lost is what the payee and its
channels have.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import httpx
from peer_evidence import CHANNEL, CHARGE
from peer_parties import PRICE, OurBuyer, OurShop, TheirBuyer
from peer_process import Peer, PeerFailed
from peer_sdks import AUTHORIZATION, SDKS, X402, MppBuyer, our_mpp, our_policy

from agentpay.evm.addresses import BATCH_SETTLEMENT
from agentpay.testing.local_chain import LocalChain
from agentpay.types import Address
from agentpay.wire.mpp.evm_session import SESSION
from agentpay.wire.mpp.receipt import PAYMENT_RECEIPT, Receipt, parse_receipt
from agentpay.wire.x402 import PAYMENT_RESPONSE, parse_response

_ROUTE = "one"
_OURS = ("exact", CHANNEL, CHARGE, SESSION)
"""What our client pays by, one agent each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One client's request to the one route."""

    client: str
    protocol: str
    status: int
    receipt: bool
    """Whether its answer had the receipt of that protocol."""
    spent: int
    """What its account has less, deposits included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneRoute:
    """What became of all visits."""

    visits: list[Visit]
    received: int
    """What the payee has at the end."""
    in_channels: int

    @property
    def passed(self) -> bool:
        """Whether each was served, and nothing was lost or made."""
        served = all(visit.status == 200 and visit.receipt for visit in self.visits)
        spent = sum(visit.spent for visit in self.visits)
        conserved = spent == self.received + self.in_channels
        return served and conserved and self.received == PRICE * len(self.visits)


async def one_route(chain: LocalChain) -> OneRoute:
    """All clients, one after the other."""
    routes = [[_ROUTE, "eip3009"]]
    async with OurShop.open(chain, routes, mpp=our_mpp()) as shop:
        url = f"{shop.url}/{_ROUTE}/eip3009"
        locked = await chain.balance(BATCH_SETTLEMENT)
        visits = [await _official(chain, url)]
        for sdk in SDKS:
            async with sdk.buyer(chain) as buyer:
                visits.append(await _by_mpp(chain, buyer, url))
                if X402 in sdk.bought:
                    visits.append(await _by_x402(chain, buyer, url))
        visits += [await _ours(chain, url, scheme) for scheme in _OURS]
        await shop.claim()
        await shop.settle()
        (payee,) = shop.accounts
        return OneRoute(
            visits=visits,
            received=await chain.balance(payee),
            in_channels=await chain.balance(BATCH_SETTLEMENT) - locked,
        )


async def _official(chain: LocalChain, url: str) -> Visit:
    async with TheirBuyer.open(chain) as buyer:
        buy = partial(buyer.get, url)
        return await _theirs(chain, buyer.peer, buyer.address, "x402", buy)


async def _by_mpp(chain: LocalChain, buyer: MppBuyer, url: str) -> Visit:
    buy = partial(buyer.buy, url, AUTHORIZATION)
    return await _theirs(chain, buyer.peer, buyer.address, f"MPP {CHARGE}", buy)


async def _by_x402(chain: LocalChain, buyer: MppBuyer, url: str) -> Visit:
    buy = partial(buyer.buy, url, X402)
    return await _theirs(chain, buyer.peer, buyer.address, "x402", buy)


async def _theirs(
    chain: LocalChain,
    peer: Peer,
    payer: Address,
    protocol: str,
    buy: Callable[[], Awaitable[None]],
) -> Visit:
    before = await chain.balance(payer)
    await peer.notes()
    await buy()
    notes = await peer.notes()
    if len(notes) != 1:
        raise PeerFailed(f"{peer.version} paid {len(notes)} times")
    (seen,) = notes
    return Visit(
        client=peer.version,
        protocol=protocol,
        status=seen.status,
        receipt=bool(seen.transaction),
        spent=before - await chain.balance(payer),
    )


async def _ours(chain: LocalChain, url: str, scheme: str) -> Visit:
    policy = our_policy((scheme, ""))
    async with OurBuyer.open(chain, policy=policy) as buyer:
        before = await chain.balance(buyer.address)
        answer = await buyer.agent.get(url)
        by_mpp = scheme in (CHARGE, SESSION)
        if scheme == SESSION:  # closed, it has paid exactly what was spent
            (session,) = await buyer.agent.channels()
            await buyer.agent.close_channel(session.channel)
        return Visit(
            client="agentpay",
            protocol=f"{'MPP' if by_mpp else 'x402'} {scheme}",
            status=answer.status_code,
            receipt=(_mpp_receipt if by_mpp else _x402_receipt)(answer),
            spent=before - await chain.balance(buyer.address),
        )


def _mpp_receipt(answer: httpx.Response) -> bool:
    if PAYMENT_RESPONSE in answer.headers:
        return False
    receipt = parse_receipt(answer.headers[PAYMENT_RECEIPT], Receipt)
    return receipt.status == "success"


def _x402_receipt(answer: httpx.Response) -> bool:
    if PAYMENT_RECEIPT in answer.headers:
        return False
    return parse_response(answer.headers[PAYMENT_RESPONSE]).success
