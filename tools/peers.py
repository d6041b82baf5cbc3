"""
The peer matrix: the official SDK's client, server and facilitator against ours.

Every cell is a payment that moved money on a local chain, and carries its evidence: the
peer's version, read in its own environment; the HTTP status that its process saw; and a
transaction whose event is on the chain, or a voucher whose signature is the payer's. A
cell without evidence is failed.

Run it as `make peers`, or `make peers ARGS=--json` for machines; it exits with 1 if a
cell failed, or if a request of ours failed among 32 at once.
"""

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from peer_burst import AT_ONCE, AtOnce, holds, many_at_once
from peer_evidence import CHANNEL, VOUCHERS, Evidence, Json, Variant, doubt
from peer_parties import (
    PRICE,
    USED,
    Buyer,
    OurBuyer,
    OurShop,
    Shop,
    TheirBuyer,
    TheirShop,
    their_facilitator,
)
from peer_process import PYTHON, Peer, PeerFailed

from agentpay.errors import AgentPayError
from agentpay.testing.local_chain import LocalChain

STEPS = ("deposit", "voucher", "recovery", "top-up", "claim", "settle", "refund")
VARIANTS: tuple[Variant, ...] = (
    ("exact", "eip3009"),
    ("exact", "permit2"),
    ("upto", "permit2"),
    *((CHANNEL, step) for step in STEPS),
    (CHANNEL, "permit2"),
)
Pair = tuple[str, str]
"""Who we are, and who they are."""
PAIRS: tuple[Pair, ...] = (
    ("client", "server"),
    ("server", "client"),
    ("server", "facilitator"),
    ("facilitator", "server"),
)

# What the library cannot do yet. Whoever teaches it takes the line away: its cells are
# run then, and have to pass. `meet` says how a pair comes together.
PERMIT2 = frozenset({("exact", "permit2"), ("upto", "permit2"), (CHANNEL, "permit2")})
NOT_YET: dict[Pair, frozenset[Variant]] = {
    ("server", "facilitator"): frozenset(VARIANTS),
    ("facilitator", "server"): frozenset(VARIANTS),
}

RUN_SECONDS = 170
REQUESTS_MAX = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One way to pay, between one of our parties and one of theirs."""

    ours: str
    peer: str
    scheme: str
    variant: str
    passed: bool
    version: str
    status: int
    transaction: str
    voucher: Json
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Who buys from whom, the process whose record is evidence, and what it showed."""

    buyer: Buyer
    shop: Shop
    peer: Peer
    found: dict[Variant, Evidence] = field(default_factory=dict[Variant, Evidence])


# The stories.


async def pay_once(meeting: Meeting, variant: Variant) -> None:
    """One request, one transfer."""
    scheme, method = variant
    await meeting.peer.notes()
    await meeting.buyer.get(f"{meeting.shop.url}/{scheme}/{method}")
    for seen in await meeting.peer.notes():
        meeting.found[variant] = seen


async def live_a_channel(meeting: Meeting, wanted: Collection[Variant]) -> None:
    """Open, use, lose an answer, top up, claim, settle and give back."""
    buyer, shop, found = meeting.buyer, meeting.shop, meeting.found
    url = f"{shop.url}/{CHANNEL}/eip3009"
    found[CHANNEL, "deposit"] = await until(meeting, url, "deposit")
    if set(wanted) >= VOUCHERS:
        found[CHANNEL, "voucher"] = await until(meeting, url, "voucher")
        found[CHANNEL, "recovery"] = await recover_place(meeting, url)
    found[CHANNEL, "top-up"] = last = await until(meeting, url, "deposit")
    for step, act in (("claim", shop.claim), ("settle", shop.settle)):
        done = replace(last, transaction=await act())
        # Who sent it saw a status of its own; a client only that of its voucher.
        seen = [n for n in await meeting.peer.notes() if n.kind == step]
        status = seen[-1].status if seen else last.status
        found[CHANNEL, step] = replace(done, status=status)
    await buyer.refund(url)
    for refunded in await meeting.peer.notes():
        found[CHANNEL, "refund"] = refunded


async def until(meeting: Meeting, url: str, kind: str) -> Evidence:
    """Pay until a payment is of this kind."""
    await meeting.peer.notes()
    for _ in range(REQUESTS_MAX):
        await meeting.buyer.get(url)
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


@contextlib.asynccontextmanager
async def meet(
    chain: LocalChain, pair: Pair, facilitator: Peer
) -> AsyncIterator[Meeting]:
    """Bring a pair together."""
    match pair:
        case ("client", "server"):
            async with (
                OurBuyer.open(chain) as our_buyer,
                TheirShop.open(chain, facilitator.url, routes(pair)) as their_shop,
            ):
                peer = their_shop.peer
                yield Meeting(buyer=our_buyer, shop=their_shop, peer=peer)
        case ("server", "client"):
            async with (
                TheirBuyer.open(chain) as their_buyer,
                OurShop.open(chain, routes(pair)) as our_shop,
            ):
                peer = their_buyer.peer
                yield Meeting(buyer=their_buyer, shop=our_shop, peer=peer)
        case _:
            raise PeerFailed(f"nobody has said how {pair} meet")


def variants_of(pair: Pair) -> list[Variant]:
    """The cells of a pair: no facilitator sees the vouchers that our server takes."""
    left_out = NOT_YET.get(pair, frozenset())
    if pair == ("server", "facilitator"):
        left_out |= VOUCHERS
    return [variant for variant in VARIANTS if variant not in left_out]


def routes(pair: Pair) -> list[list[str]]:
    """What the server of a pair sells: scheme and method of transfer."""
    once = [variant for variant in variants_of(pair) if variant[1] not in STEPS]
    return [list(route) for route in (*once, (CHANNEL, "eip3009"))]


async def run_pair(chain: LocalChain, pair: Pair, facilitator: Peer) -> list[Cell]:
    """All cells of one pair; what stops a story fails those that it did not reach."""
    wanted = variants_of(pair)
    whys: dict[Variant, str] = {}
    async with meet(chain, pair, facilitator) as meeting:
        for variant in wanted:
            lives = variant[1] in STEPS
            if variant in meeting.found or variant in whys:
                continue
            try:
                if lives:
                    await live_a_channel(meeting, wanted)
                else:
                    await pay_once(meeting, variant)
            except (AgentPayError, PeerFailed, ValueError) as error:
                stopped = [v for v in wanted if v[1] in STEPS] if lives else [variant]
                whys.update(dict.fromkeys(stopped, f"{type(error).__name__}: {error}"))
        return [
            await judge(chain, pair, meeting, variant, whys.get(variant, ""))
            for variant in wanted
        ]


async def judge(
    chain: LocalChain, pair: Pair, meeting: Meeting, variant: Variant, stopped: str
) -> Cell:
    """A cell without evidence is failed."""
    scheme, name = variant
    seen = meeting.found.get(variant)
    if seen is None:
        why = stopped or "the peer saw no payment"
    elif not meeting.peer.version:
        why = "the peer's version is not known"
    else:
        payer = meeting.buyer.address
        price = USED if scheme == "upto" else PRICE
        why = await doubt(chain, seen, variant, payer=payer, price=price)
    return Cell(
        ours=pair[0],
        peer=f"{meeting.peer.version} {pair[1]}",
        scheme=scheme,
        variant=name,
        passed=not why,
        version=meeting.peer.version,
        status=seen.status if seen else 0,
        transaction=seen.transaction if seen else "",
        voucher=seen.voucher if seen else {},
        why=why,
    )


# Saying it.


async def run() -> tuple[list[Cell], list[AtOnce]]:
    async with (
        asyncio.timeout(RUN_SECONDS),
        LocalChain() as chain,
        their_facilitator(chain) as facilitator,
    ):
        cells: list[Cell] = []
        for pair in PAIRS:
            if variants_of(pair):
                cells += await run_pair(chain, pair, facilitator)
        return cells, await many_at_once(chain, facilitator.url)


def table(cells: Sequence[Cell], bursts: Sequence[AtOnce]) -> str:
    lines = [f"{'ours':12}{'peer':28}{'scheme':18}{'variant':10}{'passed':8}evidence"]
    for cell in cells:
        shown = cell.transaction or cell.voucher.get("signature", "")
        proof = f"{cell.status} {shown[:18]}…" if cell.passed else cell.why
        passed = "yes" if cell.passed else "NO"
        lines.append(
            f"{cell.ours:12}{cell.peer:28}{cell.scheme:18}{cell.variant:10}"
            f"{passed:8}{proof}"
        )
    lines.append("")
    lines.append(f"{AT_ONCE} requests at once to the official {CHANNEL} server:")
    for burst in bursts:
        budget = f" of a budget of {burst.budget}" if burst.budget else ""
        lines.append(
            f"  {burst.client:16}{burst.ok:3} ok {burst.failed:3} failed"
            f" {burst.seconds:6.2f} s, deposited {burst.deposited}{budget},"
            f" signed {burst.signed}"
        )
    good = sum(cell.passed for cell in cells)
    lines.append(f"{good} of {len(cells)} cells passed, at {PRICE} a request")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="The official SDK against ours.")
    parser.add_argument("--json", action="store_true", help="for machines")
    wanted: Any = parser.parse_args(arguments)
    if not PYTHON.exists():
        print("the peer has no environment: run `make peers`", file=sys.stderr)
        return 1
    try:
        cells, bursts = asyncio.run(run())
    except TimeoutError:
        print(f"no end after {RUN_SECONDS} s", file=sys.stderr)
        return 1
    if wanted.json:
        report = {
            "cells": [asdict(cell) for cell in cells],
            "at_once": [asdict(burst) for burst in bursts],
        }
        print(json.dumps(report))
    else:
        print(table(cells, bursts))
    return 0 if all(cell.passed for cell in cells) and holds(bursts[0]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
