"""
Many requests through a whole client, whoever's: it runs in the peer's environment too.
"""

import asyncio
import time
from typing import Any

from bench.lines import Json


async def many(http: Any, command: Json) -> Json:
    """So many requests, so many at once, by any client with the API of httpx."""
    left = iter(range(command["count"]))
    latencies: list[float] = []
    bodies: set[bytes] = set()
    refused: list[str] = []

    async def one_after_another() -> None:
        for _ in left:
            sent_at = time.perf_counter()
            try:
                answer = await http.get(command["url"])
            except Exception as error:  # noqa: BLE001 - it is counted, whatever it is
                refused.append(repr(error)[:200])
                continue
            if answer.status_code == 200:
                latencies.append(time.perf_counter() - sent_at)
                bodies.add(answer.content)
            else:
                refused.append(f"status {answer.status_code}")

    began = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(command["at_once"])))
    return {
        "seconds": time.perf_counter() - began,
        "latencies": latencies,
        "distinct": len(bodies),
        "refused": refused,
    }
