"""Our server: the goods behind a `Paywall`, behind the least there can be, or none."""

import asyncio
import time
from dataclasses import replace
from typing import Any

from agentpay import MppTerms, Payee, Paywall, RemoteFacilitator, Route, Wallet
from agentpay.core.payee_channel import PayeeChannel
from agentpay.evm.networks import LOCAL
from agentpay.types import Hash32
from bench.goods import PATHS, PRICE, SCHEMES, UNPAID, asgi_goods, fastapi_goods
from bench.least import least
from bench.lines import Json, read, run, serve

_MPP = MppTerms(realm="127.0.0.1", secrets=(bytes(range(32)),))
_NEVER_SECONDS = 7 * 24 * 3600
"""What is claimed is claimed at the end, when the books are closed."""
_LOOK_SECONDS = 0.002


class Shop:
    """A started payee, and what can be asked of it."""

    def __init__(self, payee: Payee) -> None:
        self._payee = payee

    async def act(self, command: Json) -> Json:
        match command["do"]:
            case "books":
                return await self._books(command["channels"])
            case "tick":
                return await self._tick()
            case _:
                await self._payee.settlement.claim()
                await self._payee.settlement.settle()
                return {}

    async def _books(self, channels: list[str]) -> Json:
        """What the ledgers of some channels say, added up."""
        found: list[PayeeChannel] = []
        for channel in channels:
            record = await self._payee.settlement.see_chain(Hash32(channel))
            if record is not None:
                found.append(record.ledger)
        return {
            "charged": sum(ledger.charged for ledger in found),
            "claimed": sum(ledger.claimed for ledger in found),
            "due": sum(ledger.due for ledger in found),
        }

    async def _tick(self) -> Json:
        """One round of its keeper, and for how long that let nothing else run."""
        stalls: list[float] = []
        watching = asyncio.create_task(_watch(stalls))
        began = time.perf_counter()
        await self._payee._running.keeper.tick()  # noqa: SLF001 - it ticks by itself
        seconds = time.perf_counter() - began
        watching.cancel()
        return {"seconds": seconds, "stalled": max(stalls, default=0.0)}


async def _watch(stalls: list[float]) -> None:
    while True:
        due = time.perf_counter() + _LOOK_SECONDS
        await asyncio.sleep(_LOOK_SECONDS)
        stalls.append(time.perf_counter() - due)


async def nothing(command: Json) -> Json:
    del command
    return {}


async def main() -> None:
    settings = read()
    goods: Any = fastapi_goods() if settings["framework"] == "fastapi" else asgi_goods()
    if settings["store"] in UNPAID:
        sold = least(goods) if settings["store"] == "least" else goods
        await serve(sold, nothing, inherited=settings["inherited"])
        return
    remote = settings["facilitator"]
    payee = Payee(
        Wallet.from_key(settings["key"]),
        network=replace(LOCAL, rpc_url=settings["rpc_url"]),
        store=settings["store"],
        facilitator=RemoteFacilitator([remote]) if remote else None,
        claim_at="$1000000",
        claim_every_seconds=_NEVER_SECONDS,
        batch_seconds=settings["batch_seconds"],
        mpp=_MPP if settings["mpp"] else None,
    )
    began = time.perf_counter()
    await payee.start()
    started = time.perf_counter() - began
    routes = {p: Route(price=PRICE, schemes=(s,)) for s, p in SCHEMES.items()}
    routes[PATHS["charge"]] = Route(price=PRICE, schemes=("exact",))
    paywall = Paywall(goods, payee=payee, routes=routes)
    await serve(
        paywall, Shop(payee).act, inherited=settings["inherited"], seconds=started
    )
    await payee.stop()


if __name__ == "__main__":
    run(main())
