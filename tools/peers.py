"""
The peer matrix: the official x402 SDK's client, server and facilitator against ours,
and the official MPP SDKs' clients and servers (`peer_mpp`).

Every cell is a payment that moved money on a local chain, and carries its evidence: the
peer's version, read in its own environment; the HTTP status that its process saw; and a
transaction whose event is on the chain and whose sender is who was to settle, or a
voucher whose signature is the payer's. A cell without evidence is failed.

Our facilitator is the command `agentpay facilitator`, a process like theirs.

Run it as `make peers`, or `make peers ARGS=--json` for machines; it exits with 1 if a
cell failed, if one route was not paid by every client, if a request of ours failed
among 32 at once, if one that its caller left was not charged and counted once, or if
our facilitator does not list what it does.
"""

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Collection, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from peer_burst import left_while_it_runs, many_at_once
from peer_evidence import (
    CHANNEL,
    CONTRACT,
    PART,
    PERMIT,
    VOUCHERS,
    Evidence,
    Expected,
    Variant,
    doubt,
)
from peer_facilitators import (
    OurFacilitator,
    TheirFacilitator,
    our_facilitator,
    their_facilitator,
)
from peer_mpp import mpp_cells
from peer_one_route import one_route
from peer_parties import (
    PRICE,
    USED,
    Buyer,
    OurBuyer,
    OurShop,
    Shop,
    TheirBuyer,
    TheirShop,
)
from peer_process import MPP_PYTHON, PYTHON, Peer, PeerFailed
from peer_report import Cell, Report, table
from peer_wallets import allow_permit2

from agentpay.errors import AgentPayError
from agentpay.testing.local_chain import LocalChain
from agentpay.types import UINT128_MAX, Address

STEPS = (
    "deposit",
    "voucher",
    "voucher-key",
    "recovery",
    "top-up",
    "claim",
    "settle",
    PART,
    "refund",
)
VARIANTS: tuple[Variant, ...] = (
    ("exact", "eip3009"),
    ("exact", "permit2"),
    ("exact", PERMIT),
    ("exact", CONTRACT),
    ("upto", "permit2"),
    ("upto", PERMIT),
    *((CHANNEL, step) for step in STEPS),
    (CHANNEL, "permit2"),
    (CHANNEL, PERMIT),
    (CHANNEL, CONTRACT),
)
SOLD_BY = {PERMIT: "permit2", CONTRACT: "eip3009"}
"""How a server sells what is up to its buyer."""
Pair = tuple[str, str]
"""Who we are, and who they are."""
PAIRS: tuple[Pair, ...] = (
    ("client", "server"),
    ("server", "client"),
    ("server", "facilitator"),
    ("facilitator", "server"),
    ("client+facilitator", "server"),
)
"""A facilitator that is not named is theirs behind their server, none behind ours."""
TWO_KEYS = frozenset({("facilitator", "server"), ("client+facilitator", "server")})
"""Whose buyer signs vouchers by a key of its own."""

RUN_SECONDS = 240
REQUESTS_MAX = 16


@dataclass(frozen=True, slots=True)
class Meeting:
    """Who buys from whom, the process whose record is evidence, and what it showed."""

    buyer: Buyer
    shop: Shop
    peer: Peer
    senders: Set[Address]
    """Who may send what moves money."""
    contract: Buyer | None = field(default=None, kw_only=True)
    """Another buyer, which is a contract; None where the official client buys."""
    verified: bool = field(default=False, kw_only=True)
    """Whether the facilitator sees all vouchers."""
    lists: bool = field(default=False, kw_only=True)
    """Whether the peer is a facilitator, with a catalogue of what it settles."""
    found: dict[Variant, Evidence] = field(default_factory=dict[Variant, Evidence])

    def payer(self, variant: Variant) -> Buyer:
        """Who pays."""
        if variant[1] == CONTRACT and self.contract is not None:
            return self.contract
        return self.buyer


# The stories.


async def pay_once(chain: LocalChain, meeting: Meeting, variant: Variant) -> None:
    """One request, one transfer; or those until a channel is funded."""
    scheme, method = variant
    buyer = meeting.payer(variant)
    sold_by = SOLD_BY.get(method, method)
    if sold_by == "permit2":  # whether a permit has to come along is the buyer's to see
        most = 0 if method == PERMIT else UINT128_MAX
        await allow_permit2(chain, buyer.address, most)
    url = f"{meeting.shop.url}/{scheme}/{sold_by}"
    if scheme == CHANNEL:
        meeting.found[variant] = await until(meeting, url, "deposit", buyer)
        return
    await meeting.peer.notes()
    await buyer.get(url)
    for seen in await meeting.peer.notes():
        meeting.found[variant] = seen


async def live_a_channel(meeting: Meeting, wanted: Collection[Variant]) -> None:
    """Open, use, lose an answer, top up, claim, settle and give back."""
    buyer, shop, found = meeting.buyer, meeting.shop, meeting.found
    url = f"{shop.url}/{CHANNEL}/eip3009"
    found[CHANNEL, "deposit"] = await until(meeting, url, "deposit")
    if (CHANNEL, "recovery") in wanted:
        two_keys = buyer.voucher_signer != buyer.address
        step = "voucher-key" if two_keys else "voucher"
        found[CHANNEL, step] = await until(meeting, url, "voucher")
        found[CHANNEL, "recovery"] = await recover_place(meeting, url)
    found[CHANNEL, "top-up"] = last = await until(meeting, url, "deposit")
    for step, act in (("claim", shop.claim), ("settle", shop.settle)):
        done = replace(last, transaction=await act())
        # Who sent it saw a status of its own; a client only that of its voucher.
        seen = [n for n in await meeting.peer.notes() if n.kind == step]
        status = seen[-1].status if seen else last.status
        found[CHANNEL, step] = replace(done, status=status)
    if (CHANNEL, PART) in wanted:
        await buyer.refund(url, part=PRICE)
        found[CHANNEL, PART] = (await meeting.peer.notes())[-1]
        await until(meeting, url, "voucher")  # it goes on
    await buyer.refund(url)
    for refunded in await meeting.peer.notes():
        found[CHANNEL, "refund"] = refunded


async def until(
    meeting: Meeting, url: str, kind: str, buyer: Buyer | None = None
) -> Evidence:
    """Pay until a payment is of this kind."""
    await meeting.peer.notes()
    for _ in range(REQUESTS_MAX):
        await (buyer or meeting.buyer).get(url)
        for seen in await meeting.peer.notes():
            if seen.kind == kind:
                return seen
    raise PeerFailed(f"{REQUESTS_MAX} requests, and no {kind}")


async def recover_place(meeting: Meeting, url: str) -> Evidence:
    """
    An answer is lost: what the payer signs next is not what the server expects, until a
    402 says where it is. Ours believes its own signature there and asks no chain.
    """
    asked = await meeting.buyer.rpc_calls()
    await meeting.buyer.lose_answer(url)
    await meeting.buyer.get(url)
    if await meeting.buyer.rpc_calls() != asked:
        raise PeerFailed("recovery asked the chain")
    notes = await meeting.peer.notes()
    if 402 not in [seen.status for seen in notes]:
        raise PeerFailed(f"no corrective 402 among {[n.status for n in notes]}")
    return notes[-1]


# Who meets whom.


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where all meet: a chain, and a facilitator of each side."""

    chain: LocalChain
    theirs: TheirFacilitator
    ours: OurFacilitator


@contextlib.asynccontextmanager
async def meet(place: Place, pair: Pair) -> AsyncIterator[Meeting]:
    """Bring a pair together."""
    chain, ours, theirs = place.chain, place.ours, place.theirs
    two_keys = pair in TWO_KEYS
    our_buyer = OurBuyer.open(chain, two_keys=two_keys)
    their_buyer = TheirBuyer.open(chain, two_keys=two_keys)
    our_contract = OurBuyer.open(chain, contract=True)
    match pair:
        case ("client", "server"):
            their_shop = TheirShop.open(chain, theirs.url, routes(pair))
            async with our_buyer as buyer, our_contract as contract, their_shop as shop:
                who = {theirs.account}
                yield Meeting(buyer, shop, shop.peer, who, contract=contract)
        case ("server", "client"):
            our_shop = OurShop.open(chain, routes(pair))
            async with their_buyer as client, our_shop as server:
                yield Meeting(client, server, client.peer, server.accounts)
        case ("server", "facilitator"):
            our_shop = OurShop.open(chain, routes(pair), facilitator=theirs.url)
            async with our_buyer as buyer, our_contract as contract, our_shop as server:
                who = {theirs.account}
                yield Meeting(
                    buyer, server, theirs.peer, who, contract=contract, lists=True
                )
        case ("facilitator", "server"):
            their_shop = TheirShop.open(
                chain, ours.url, routes(pair), verifies_itself=False
            )
            async with their_buyer as client, their_shop as shop:
                yield Meeting(client, shop, shop.peer, {ours.account}, verified=True)
        case ("client+facilitator", "server"):
            their_shop = TheirShop.open(
                chain, ours.url, routes(pair), verifies_itself=False
            )
            async with our_buyer as buyer, our_contract as contract, their_shop as shop:
                who = {ours.account}
                yield Meeting(
                    buyer, shop, shop.peer, who, contract=contract, verified=True
                )
        case _:
            raise PeerFailed(f"nobody has said how {pair} meet")


def variants_of(pair: Pair) -> list[Variant]:
    """
    The cells of a pair: no facilitator sees the vouchers that our server takes, and our
    buyer asks for no parts.
    """
    if pair == ("server", "facilitator"):
        left_out = VOUCHERS
    else:
        by = "voucher" if pair in TWO_KEYS else "voucher-key"
        left_out = frozenset({(CHANNEL, by)})
    if pair[1] == "client" or pair == ("facilitator", "server"):
        left_out |= {variant for variant in VARIANTS if variant[1] == CONTRACT}
    else:
        left_out |= {(CHANNEL, PART)}
    return [variant for variant in VARIANTS if variant not in left_out]


def routes(pair: Pair) -> list[list[str]]:
    """What the server of a pair sells: scheme and method of transfer."""
    once = [v for v in variants_of(pair) if v[1] not in (*STEPS, *SOLD_BY)]
    return [list(route) for route in (*once, (CHANNEL, "eip3009"))]


async def run_pair(place: Place, pair: Pair) -> list[Cell]:
    """All cells of one pair; what stops a story fails those that it did not reach."""
    wanted = variants_of(pair)
    whys: dict[Variant, str] = {}
    async with meet(place, pair) as meeting:
        for variant in wanted:
            lives = variant[1] in STEPS
            if variant in meeting.found or variant in whys:
                continue
            try:
                if lives:
                    await live_a_channel(meeting, wanted)
                else:
                    await pay_once(place.chain, meeting, variant)
            except (AgentPayError, PeerFailed, ValueError) as error:
                stopped = [v for v in wanted if v[1] in STEPS] if lives else [variant]
                whys.update(dict.fromkeys(stopped, f"{type(error).__name__}: {error}"))
        return [
            await judge(place.chain, pair, meeting, variant, whys.get(variant, ""))
            for variant in wanted
        ]


async def judge(
    chain: LocalChain, pair: Pair, meeting: Meeting, variant: Variant, stopped: str
) -> Cell:
    """A cell without evidence is failed."""
    scheme, _ = variant
    seen = meeting.found.get(variant)
    if seen is None:
        why = stopped or "the peer saw no payment"
    elif not meeting.peer.version:
        why = "the peer's version is not known"
    else:
        expected = Expected(
            payer=meeting.payer(variant).address,
            voucher_signer=meeting.payer(variant).voucher_signer,
            price=USED if scheme == "upto" else PRICE,
            senders=meeting.senders,
            verified=meeting.verified,
            listed=listed(meeting, variant),
        )
        why = await doubt(chain, seen, variant, expected)
    parties = pair[0], f"{meeting.peer.version} {pair[1]}"
    return Cell.of(parties, meeting.peer.version, variant, seen, why)


def listed(meeting: Meeting, variant: Variant) -> str:
    """What a facilitator lists, of what pays for a request; "" where it does not."""
    scheme, name = variant
    if not meeting.lists or name in ("claim", "settle", "refund"):
        return ""
    sold_by = "eip3009" if name in STEPS else SOLD_BY.get(name, name)
    return f"GET {meeting.shop.url}/{scheme}/{sold_by}"


# Saying it.


async def run() -> Report:
    async with (
        asyncio.timeout(RUN_SECONDS),
        LocalChain() as chain,
        their_facilitator(chain) as theirs,
        our_facilitator(chain) as ours,
    ):
        place = Place(chain=chain, theirs=theirs, ours=ours)
        cells: list[Cell] = []
        for pair in PAIRS:
            cells += await run_pair(place, pair)
        cells += await mpp_cells(chain, ours)
        return Report(
            cells=cells,
            one_route=await one_route(chain),
            at_once=await many_at_once(chain, theirs.url),
            left=await left_while_it_runs(chain, theirs.url),
            supported=ours.supported,
            missing=ours.lacks(chain),
        )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="The official SDK against ours.")
    parser.add_argument("--json", action="store_true", help="for machines")
    wanted: Any = parser.parse_args(arguments)
    if not PYTHON.exists() or not MPP_PYTHON.exists():
        print("the peer has no environment: run `make peers`", file=sys.stderr)
        return 1
    try:
        report = asyncio.run(run())
    except TimeoutError:
        print(f"no end after {RUN_SECONDS} s", file=sys.stderr)
        return 1
    print(json.dumps(asdict(report)) if wanted.json else table(report))
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
