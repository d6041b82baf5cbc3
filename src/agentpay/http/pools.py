"""
What requests go through: several pools of connections, so that many at once stay cheap,
and a transport that is lent. And what says that nothing went through.

httpcore looks at every connection of a pool, twice per request, and compares each with
all others: with 32 in flight that costs more than the payment. Sixteen pools of two
cost a fraction of one pool of 32.
"""

from typing import Final

import httpx

_POOLS = 16
_CONNECTIONS_PER_POOL = 64


class Unsendable(httpx.LocalProtocolError):
    """A request that no connection was made for: it cannot be written."""


NEVER_SENT: Final = (
    Unsendable,
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
"""What transports raise that have sent nothing."""


class PooledTransport(httpx.AsyncBaseTransport):
    """httpx's own transport, several times; the least busy takes the next request."""

    def __init__(self) -> None:
        context = httpx.create_ssl_context()
        limits = httpx.Limits(
            max_connections=_CONNECTIONS_PER_POOL,
            max_keepalive_connections=_CONNECTIONS_PER_POOL,
        )
        self._pools = [
            httpx.AsyncHTTPTransport(verify=context, limits=limits)
            for _ in range(_POOLS)
        ]
        self._busy = [0] * _POOLS

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; raises what httpx raises."""
        chosen = self._busy.index(min(self._busy))
        self._busy[chosen] += 1
        try:
            return await self._pools[chosen].handle_async_request(request)
        finally:
            self._busy[chosen] -= 1

    async def aclose(self) -> None:
        """Close every connection."""
        for pool in self._pools:
            await pool.aclose()


class LentTransport(httpx.AsyncBaseTransport):
    """A transport that others use, and do not close."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; raises what `inner` raises."""
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Its owner closes it."""
