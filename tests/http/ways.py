"""The ways to pay that tests are run over: an agent itself, or a client of httpx2."""

from typing import Any

import httpx
import httpx2

from agentpay import Agent
from agentpay.http.httpx2 import ThroughHttpx2


class OverHttpx2(Agent):
    """An agent whose every request is made by a client of httpx2."""

    async def send(
        self,
        request: httpx.Request,
        *,
        stream: bool = False,
        auth: Any = None,
        follow_redirects: Any = None,
    ) -> httpx.Response:
        del auth
        asked = follow_redirects if isinstance(follow_redirects, bool) else None
        client = httpx2.AsyncClient(
            transport=self.httpx2_transport(),
            follow_redirects=self.follow_redirects if asked is None else asked,
        )
        response = await ThroughHttpx2(_Client(client)).handle_async_request(request)
        response.request = request
        if not stream:
            await response.aread()
        return response


class _Client(httpx2.AsyncBaseTransport):
    """A whole client, where a transport is asked for."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await self._client.send(request, stream=True)


WAYS: dict[str, type[Agent]] = {"httpx": Agent, "httpx2": OverHttpx2}


class Chosen:
    """Which way agents of tests go; the fixture `way` chooses."""

    name = "httpx"


def in_process(app: Any) -> httpx.AsyncBaseTransport:
    """A transport to an application in this process, of the library of our way."""
    if Chosen.name == "httpx2":
        theirs = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        return ThroughHttpx2(theirs)
    return httpx.ASGITransport(app=app, raise_app_exceptions=False)


def to_servers() -> httpx.AsyncBaseTransport:
    """A transport to real servers, of the library of our way."""
    if Chosen.name == "httpx2":
        return ThroughHttpx2()
    return httpx.AsyncHTTPTransport()
