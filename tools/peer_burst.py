"""
Many requests at once to the official channel server, by our client and by the official
one: it serves one request at a time on a channel.
"""

import asyncio
import sys
import time
from dataclasses import dataclass

from peer_evidence import Evidence
from peer_parties import OurBuyer, TheirBuyer, TheirShop

from agentpay.testing.local_chain import LocalChain

AT_ONCE = 32
BUDGET = 40_000
_ROUTE = ["batch-settlement", "eip3009"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AtOnce:
    """What became of many requests at once to the official channel server."""

    client: str
    requests: int
    ok: int
    failed: int
    seconds: float
    deposited: int
    signed: int
    """The highest vouchers of all channels together."""
    budget: int | None


async def many_at_once(chain: LocalChain, facilitator: str) -> list[AtOnce]:
    """The same burst by our client and by theirs, each to a server of its own."""
    return [
        await ours_at_once(chain, facilitator),
        await theirs_at_once(chain, facilitator),
    ]


async def ours_at_once(chain: LocalChain, facilitator: str) -> AtOnce:
    async with (
        TheirShop.open(chain, facilitator, [_ROUTE]) as shop,
        OurBuyer.open(chain, budget=BUDGET, deposit="$0.01") as buyer,
    ):
        url = "/".join((shop.url, *_ROUTE))
        before = await chain.balance(buyer.address)
        began = time.perf_counter()
        answers = await asyncio.gather(
            *(buyer.agent.get(url) for _ in range(AT_ONCE)), return_exceptions=True
        )
        seconds = time.perf_counter() - began
        for error in answers:
            if isinstance(error, BaseException):
                print(f"  failed: {error!r}", file=sys.stderr)
        good = [a for a in answers if not isinstance(a, BaseException)]
        ok = sum(a.status_code == 200 for a in good)
        return AtOnce(
            client="agentpay",
            requests=AT_ONCE,
            ok=ok,
            failed=AT_ONCE - ok,
            seconds=round(seconds, 2),
            deposited=before - await chain.balance(buyer.address),
            signed=signed(await shop.peer.notes()),
            budget=BUDGET,
        )


async def theirs_at_once(chain: LocalChain, facilitator: str) -> AtOnce:
    async with (
        TheirShop.open(chain, facilitator, [_ROUTE]) as shop,
        TheirBuyer.open(chain) as buyer,
    ):
        url = "/".join((shop.url, *_ROUTE))
        before = await chain.balance(buyer.address)
        done = await buyer.peer.ask(do="many", url=url, count=AT_ONCE)
        return AtOnce(
            client=buyer.peer.version,
            requests=AT_ONCE,
            ok=done["ok"],
            failed=AT_ONCE - done["ok"],
            seconds=done["seconds"],
            deposited=before - await chain.balance(buyer.address),
            signed=signed(await shop.peer.notes()),
            budget=None,
        )


def signed(notes: list[Evidence]) -> int:
    highest: dict[str, int] = {}
    for seen in notes:
        channel, amount = seen.voucher["channelId"], seen.voucher["maxClaimableAmount"]
        highest[channel] = max(highest.get(channel, 0), int(amount))
    return sum(highest.values())


def holds(burst: AtOnce) -> bool:
    """None failed, and neither deposits nor vouchers went beyond the budget."""
    budget = burst.budget or 0
    return not burst.failed and burst.signed <= burst.deposited <= budget
