"""
Many requests at once to the official channel server, by our client and by the official
one: it serves one request at a time on a channel. And one that its caller leaves.
"""

import asyncio
import contextlib
import sys
import time
from dataclasses import dataclass

from peer_evidence import Evidence
from peer_parties import PRICE, OurBuyer, TheirBuyer, TheirShop

from agentpay import Agent
from agentpay.testing.local_chain import LocalChain

AT_ONCE = 32
BUDGET = 40_000
_RUNS_SECONDS = 2
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """One of three requests to the official server that ran on without its caller."""

    served: int
    booked: int
    """What our client counts for all of them."""
    lanes: int
    returned: int
    """Of what was deposited, once the channels were closed."""
    deposited: int

    @property
    def holds(self) -> bool:
        """It was charged once and counted once, and its channel went on."""
        kept = self.deposited - self.returned
        return (self.served, self.lanes) == (3, 1) and self.booked == kept == 3 * PRICE


async def left_while_it_runs(chain: LocalChain, facilitator: str) -> Left:
    """
    Its caller has no time; our client asks meanwhile, and goes on when it is charged.
    """
    async with (
        TheirShop.open(chain, facilitator, [_ROUTE]) as shop,
        OurBuyer.open(chain, deposit="$0.01") as buyer,
    ):
        url = "/".join((shop.url, *_ROUTE))
        agent, before = buyer.agent, await chain.balance(buyer.address)
        await agent.get(url)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RUNS_SECONDS / 2):
                await agent.get(f"{url}?seconds={_RUNS_SECONDS}")
        async with asyncio.timeout(10 * _RUNS_SECONDS):
            while await _is_open(agent):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.1)
        await agent.get(url)
        deposited = before - await chain.balance(buyer.address)
        records = await agent.channels()
        closed = [await agent.close_channel(record.channel) for record in records]
        return Left(
            served=sum(seen.status == 200 for seen in await shop.peer.notes()) - 1,
            booked=sum(record.ledger.spent for record in records),
            lanes=len(records),
            returned=sum(each.returned for each in closed),
            deposited=deposited,
        )


async def _is_open(agent: Agent) -> bool:
    return any(record.ledger.open for record in await agent.channels())


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
