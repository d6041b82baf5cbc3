"""
Where a request goes, and whether a 402 speaks of the same place.

Source: x402 `specs/x402-specification-v2.md`, 5.1.2: `resource.url` is the "URL of the
protected resource". Nobody signs it, so it is compared and never used: budget, channel
and trust go by the requested URL.
"""

import ipaddress
import re
from urllib.parse import parse_qsl

import httpx

from agentpay.errors import MalformedMessage, OfferUntrusted

_INTERNAL_ENDINGS = (".localhost", ".local", ".internal", ".lan", ".home.arpa")
_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"(?:https?://)?((?:[^\s/:@.]+\.)+[^\s/:@.0-9]{2,})(?::\d{1,5})?/?")
"""What reads as the name of a host, or as its URL."""


def is_private(host: str) -> bool:
    """Whether this is an address that the public internet does not lead to."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False  # a name
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return not address.is_global


def check_network(response: httpx.Response, requested: httpx.URL) -> None:
    """
    Refuse a 402 that comes from inside our own network (C7).

    What counts is where we are connected to, whatever the name resolves to next.

    Raises:
        OfferUntrusted: It does.
    """
    host = requested.host
    stream = response.extensions.get("network_stream")
    peer = stream.get_extra_info("server_addr") if stream is not None else None
    named = host == "localhost" or host.endswith((".localhost", ".local"))
    if named or is_private(host) or (peer and is_private(str(peer[0]))):
        raise OfferUntrusted(
            f"{requested.netloc.decode('ascii')} is on a private network: pass"
            " allow_private_networks=True to pay there"
        )


def check_resource(said: str, requested: httpx.URL) -> None:
    """
    Refuse a 402 that is for another resource than the one requested.

    A server names the URL that it sees itself, which a proxy may have changed. So it
    may say `http` for `https` (TLS ended before it), leave out the port, the query or
    all but the path, lack a prefix of the path that the proxy took away, and name an
    internal host, at which nobody outside could be paid. Anything else that differs is
    another resource: in particular every other public host, compared as punycode, so
    that a look-alike is another one.

    Raises:
        OfferUntrusted: It is for another resource, or names none that we can read.
    """
    try:
        url = httpx.URL(said)
        host = _host_of(url)
    except (httpx.InvalidURL, ValueError, UnicodeError):
        raise _other(said, requested) from None
    known = url.scheme in _PORTS if host else not url.scheme
    if not known or not url.path.startswith("/"):
        raise _other(said, requested)
    same_place = not host or _same_host(url, host, requested)
    # What is left of a path without its first segments is the end of it.
    same_path = requested.path.endswith(url.path)
    if not (same_place and same_path and _same_query(url, requested)):
        raise _other(said, requested)


def check_tls(requested: httpx.URL) -> None:
    """
    Refuse a challenge that anybody on the way could have changed.

    Source: draft-httpauth-payment-00, "Transport Security". Our own machine and network
    have no certificates.

    Raises:
        MalformedMessage: It came without TLS.
    """
    if requested.scheme != "https" and not _is_internal(_host_of(requested)):
        raise MalformedMessage("MPP is paid over https only")


def check_realm(realm: str, requested: httpx.URL) -> None:
    """
    Refuse a challenge whose realm is the name of somebody else's host: what pays it
    could be handed on to them, and buy there for whoever asked us.

    A realm is any text. One that reads as a public name must be the host that was
    requested, or in the same domain as it.

    Raises:
        MalformedMessage: It is somebody else's.
    """
    match = _NAME.fullmatch(realm.lower())
    ours = _host_of(requested)
    if match is None or _is_internal(ours):
        return
    try:
        named = _host_of(httpx.URL(scheme="https", host=match[1]))
    except (httpx.InvalidURL, ValueError, UnicodeError):
        return  # no name of a host after all
    if _is_internal(named) or f".{ours}".endswith(f".{named}"):
        return
    if named.endswith(f".{ours}"):
        return
    raise MalformedMessage(
        f"its realm is {realm[:100]!r}, and {ours} was requested: set same_resource to"
        " False in the policy if they are one"
    )


def _same_host(said: httpx.URL, host: str, requested: httpx.URL) -> bool:
    if host != _host_of(requested):
        ours = _host_of(requested)
        hidden = _is_internal(host) and not _is_internal(ours)
        return hidden or (_is_loopback(host) and _is_loopback(ours))
    if said.scheme == "https" and requested.scheme == "http":
        return False  # it is meant to be bought where nobody listens
    port = requested.port or _PORTS.get(requested.scheme)
    return said.port is None or said.port == port


def _host_of(url: httpx.URL) -> str:
    return url.raw_host.decode("ascii").removesuffix(".")


def _is_internal(host: str) -> bool:
    if is_private(host):
        return True
    return ("." not in host and ":" not in host) or host.endswith(_INTERNAL_ENDINGS)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _same_query(said: httpx.URL, requested: httpx.URL) -> bool:
    if not said.query:
        return True
    ours, theirs = (
        sorted(parse_qsl(url.query.decode("ascii"), keep_blank_values=True))
        for url in (requested, said)
    )
    return ours == theirs


def _other(said: str, requested: httpx.URL) -> OfferUntrusted:
    ours = str(requested.copy_with(userinfo=b""))
    return OfferUntrusted(
        f"the 402 is for {said[:500]!r}, and {ours[:500]!r} was requested:"
        " nothing is paid for another resource"
    )
