"""
Where a request may be that nobody heard of, where its payee does not say so.
"""

import asyncio
from collections.abc import Callable

from agentpay.core.exchange import Underway

Whereabouts = Callable[[], Underway]
"""Where a request may be now."""


def ended() -> Underway:
    """Its request does not run any more, or its payee would say so."""
    return Underway.OVER


def left_now(*, comes_seconds: float, runs_seconds: float) -> Whereabouts:
    """Where a request may be, as time goes on, that nobody hears of from now on."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    def underway() -> Underway:
        seconds = loop.time() - began
        if seconds >= runs_seconds:
            return Underway.OVER
        return Underway.COMING if seconds < comes_seconds else Underway.RUNNING

    return underway
