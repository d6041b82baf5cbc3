"""
A web3 provider with connections of its own. Imported when a chain is first spoken to.

web3's own HTTP provider opens a connection per request, writes the endpoint with its
API key into logs, and hangs for good once a request was cancelled while it waited for
the lock of its session cache. This one keeps everything else of web3's.
"""

import json
from operator import itemgetter
from typing import Any

import aiohttp
from web3.providers.async_base import AsyncJSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

_CONNECTIONS_MAX = 32


class BadStatus(Exception):
    """The endpoint answered with an HTTP status that is no success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class KeepAliveProvider(AsyncJSONBaseProvider):
    """JSON-RPC over kept-alive HTTP connections, for one event loop."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        super().__init__()
        self._url = url
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS_MAX),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            headers={"Content-Type": "application/json"},
        )

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """
        Raises:
            BadStatus: Not a success.
            aiohttp.ClientError, TimeoutError: No answer.
            ValueError: Not JSON.
        """
        body = await self._post(self.encode_rpc_request(method, params))
        return self.decode_rpc_response(body)

    async def make_batch_request(self, requests: list[tuple[RPCEndpoint, Any]]) -> Any:
        """
        Answers come in the order of the requests. Raises what `make_request` does.
        """
        body = await self._post(self.encode_batch_rpc_request(requests))
        answers: list[Any] | dict[str, Any] = json.loads(body)
        if isinstance(answers, list):
            answers.sort(key=itemgetter("id"))
        return answers

    async def disconnect(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _post(self, data: bytes) -> bytes:
        try:
            return await self._post_once(data)
        except aiohttp.ServerDisconnectedError as broken:
            # A kept connection that the server has just closed. Saying the same again
            # is harmless: reads are reads, and a transaction carries its own nonce.
            try:
                return await self._post_once(data)
            except aiohttp.ClientConnectorError:
                # "Cannot connect" would say that it did not arrive, and it may have.
                raise broken from None

    async def _post_once(self, data: bytes) -> bytes:
        async with self._session.post(
            self._url, data=data, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise BadStatus(response.status)
            return await response.read()
