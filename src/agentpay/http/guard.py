"""
Keeps payments out of places that nobody meant: our own network, where a redirect leads.

A name may resolve to another address for each connection (DNS rebinding), so that each
connection is looked at, and not only the one that a 402 came by.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import httpx

from agentpay.errors import OfferUntrusted
from agentpay.http.places import is_private

_ASKED: Final = "agentpay.asked"

Trace = Callable[[str, Mapping[str, Any]], Awaitable[None]]


def check_redirect(request: httpx.Request, origin: str) -> None:
    """
    Refuse to pay at another origin than the one that was asked first (C6).

    A redirected request inherits the extensions of the one that was redirected. The
    same host by TLS is the same place.

    Raises:
        OfferUntrusted: A redirect led here.
    """
    asked = request.extensions.get(_ASKED, origin)
    if origin not in (asked, str(asked).replace("http://", "https://", 1)):
        raise OfferUntrusted(
            f"{asked} redirected to {origin}, which wants to be paid: request it by its"
            " own URL, or set pay_redirected in the policy"
        )


def note_origin(request: httpx.Request, origin: str) -> None:
    """Remember where a request went first; see `check_redirect`."""
    request.extensions.setdefault(_ASKED, origin)


class NetworkGuard:
    """
    Sends nothing that pays or signs to a private address (C7).

    What costs nothing may go there; its connection could be used again, so that its
    origin gets no payment from then on.
    """

    def __init__(self) -> None:
        self._inside: set[str] = set()

    def watch(
        self, extensions: Mapping[str, Any], origin: str, *, paid: bool
    ) -> dict[str, Any]:
        """The extensions of a request whose connection is looked at."""
        others: Trace | None = extensions.get("trace")

        async def trace(event: str, info: Mapping[str, Any]) -> None:
            if event.endswith("connect_tcp.complete"):
                await self._look(info["return_value"], origin, paid=paid)
            elif paid and event.endswith("send_request_headers.started"):
                self._check(origin)
            if others is not None:
                await others(event, info)

        return {**extensions, "trace": trace}

    async def _look(self, stream: Any, origin: str, *, paid: bool) -> None:
        peer = stream.get_extra_info("server_addr")
        if peer and is_private(str(peer[0])):
            self._inside.add(origin)
            if paid:
                await stream.aclose()
                self._check(origin)

    def _check(self, origin: str) -> None:
        """
        Raises:
            httpx.ConnectError: There has been a connection into our own network.
        """
        if origin in self._inside:
            raise httpx.ConnectError(
                f"{origin} leads into a private network: no payment is sent there"
                " without allow_private_networks=True"
            )
