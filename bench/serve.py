"""Our server: the goods behind a `Paywall`, or behind none."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentpay import Payee, Paywall, RemoteFacilitator, Route, Wallet
from agentpay.core.payee_channel import PayeeChannel
from agentpay.evm.networks import LOCAL
from agentpay.types import Hash32
from bench.goods import PATHS, PRICE, asgi_goods, fastapi_goods
from bench.lines import Json, read, run, serve

CHANNELS_MAX = 1000


class Shop:
    """A started payee, and what can be asked of it."""

    def __init__(self, payee: Payee) -> None:
        self._payee = payee

    async def act(self, command: Json) -> Json:
        match command["do"]:
            case "books":
                return await self._books(command["channels"])
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


async def nothing(command: Json) -> Json:
    del command
    return {}


async def main() -> None:
    settings = read()
    goods: Any = fastapi_goods() if settings["framework"] == "fastapi" else asgi_goods()
    if settings["store"] == "none":
        await serve(goods, nothing)
        return
    with tempfile.TemporaryDirectory(prefix="bench-shop-") as folder:
        on_disk = settings["store"] == "sqlite"
        remote = settings.get("facilitator")
        payee = Payee(
            Wallet.from_key(settings["key"]),
            network=replace(LOCAL, rpc_url=settings["rpc_url"]),
            store=str(Path(folder, "shop.db")) if on_disk else "memory:",
            facilitator=RemoteFacilitator([remote]) if remote else None,
            withdraw_delay=3600,
            claim_at="$1000000",
        )
        await payee.start()
        routes = {p: Route(price=PRICE, schemes=(s,)) for s, p in PATHS.items()}
        await serve(Paywall(goods, payee=payee, routes=routes), Shop(payee).act)
        await payee.stop()


if __name__ == "__main__":
    run(main())
