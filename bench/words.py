"""A server of tokens, as a stream: paid by the token behind a `Paywall`, or free."""

import asyncio
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from agentpay import (
    MppTerms,
    Payee,
    Paywall,
    Rate,
    Rounding,
    Route,
    Streaming,
    Tariff,
    Wallet,
)
from agentpay.core.meter import TOKEN
from agentpay.evm.networks import LOCAL
from bench.lines import Json, read, run, serve

PER_TOKEN = 20
_EVENT = b"data: token\n\n"


async def words(scope: Any, receive: Any, send: Any) -> None:
    """So many tokens as the query asks for, each an event and a chunk of its own."""
    del receive
    query = parse_qs(scope["query_string"].decode())
    paid = scope.get("agentpay")
    kind = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": kind})
    for _ in range(int(query["tokens"][0])):
        await asyncio.sleep(0)  # a model is waited for
        if paid is not None:
            await paid.meter.charge(tokens=1)
        await send({"type": "http.response.body", "body": _EVENT, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def cpu(command: Json) -> Json:
    """CPU seconds of this process so far."""
    del command
    return {"cpu": time.process_time()}


async def main() -> None:
    settings = read()
    if "key" not in settings:
        await serve(words, cpu)
        return
    with tempfile.TemporaryDirectory(prefix="bench-words-") as folder:
        payee = Payee(
            Wallet.from_key(settings["key"]),
            network=replace(LOCAL, rpc_url=settings["rpc_url"]),
            store=str(Path(folder, "words.db")),
            mpp=MppTerms(realm="127.0.0.1", secrets=(bytes(range(32)),)),
        )
        tariff = Tariff(
            rates=(Rate(unit=TOKEN, price=PER_TOKEN),), rounding=Rounding.UP
        )
        route = Route(
            price="$1",
            metered=True,
            tariff=tariff,
            streaming=Streaming(increment=settings["increment"]),
        )
        await payee.start()
        try:
            await serve(Paywall(words, payee=payee, routes={"/words": route}), cpu)
        finally:
            await payee.stop()


if __name__ == "__main__":
    run(main())
