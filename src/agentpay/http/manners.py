"""
What a good server does around payments: caches, browsers, and its own name.

A shared cache must never give to one what another paid for. Sources: RFC 9111; RFC 9213
(fields for some caches alone, which do not read `Cache-Control` then); x402
`specs/transports-v2/http.md`, where bodies are a server's own affair: JSON for
programs, and a page for people whose browser asks for one.
"""

import json
import re
from dataclasses import replace
from html import escape
from urllib.parse import urlsplit

from agentpay.errors import ConfigurationError
from agentpay.http.asgi import Headers, Scope
from agentpay.payee.offers import to_json
from agentpay.payee.sales import Refusal
from agentpay.types import Asset, ChainId, format_money
from agentpay.wire.headers import JsonObject, JsonValue
from agentpay.wire.sign_in import HEADER as SIGN_IN
from agentpay.wire.x402 import PAYMENT_RESPONSE, PAYMENT_SIGNATURE
from agentpay.wire.x402_v1 import (
    X_PAYMENT_RESPONSE,
    downgrade_receipt,
    downgrade_required,
)

_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
_PRIVATE = ("private", "no-store", "no-cache")
_NOT_KEPT = ("public", "s-maxage", "proxy-revalidate", "private")
"""What contradicts `private`, or says it of some fields alone."""
_FOR_SOME_CACHES = (b"surrogate-control", b"edge-control", b"x-accel-expires")
_DIRECTIVE = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
"""A comma in quotes is none, and a quote without an end reaches to that of the line."""


def check_origin(origin: str) -> str:
    """
    The public address of an application, without a slash at its end.

    Raises:
        ConfigurationError: Not a scheme and a host, and perhaps a port and a prefix.
    """
    try:
        parts = urlsplit(origin)
        known = parts.scheme in ("http", "https") and parts.hostname
        port = parts.port
    except ValueError:
        known, parts, port = None, urlsplit(""), None
    extra = parts.query or parts.fragment or "@" in parts.netloc or port == 0
    if not known or extra or not origin.isascii() or any(c.isspace() for c in origin):
        raise ConfigurationError(
            f'an origin is "https://api.example.com", perhaps with a port and a path'
            f" prefix, not {origin[:200]!r}"
        )
    return origin.rstrip("/")


def url_of(scope: Scope, origin: str | None) -> str:
    """
    The requested resource: at our own origin, if we were told which it is.

    From the request's `Host` otherwise, which its sender chose: then it is a label for
    people, and nothing is decided by it.
    """
    query: bytes = scope.get("query_string", b"")
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    suffix = (path + (b"?" + query if query else b"")).decode("latin-1")
    if origin is not None:
        return origin + suffix
    host = next((v for n, v in scope["headers"] if n == b"host"), b"localhost")
    return f"{scope.get('scheme', 'http')}://{host.decode('latin-1')}{suffix}"


def keep_private(headers: Headers, *, signs_in: bool = False) -> None:
    """
    A paid answer is for who paid, whatever its application allowed caches to do.

    What is said to some caches alone is left out: they would go by that.

    With arguments, `private` and `no-cache` are about the fields that they name, and
    the answer may be shared (RFC 9111, 5.2.2). With `signs_in`, who has paid may come
    back by a signature, and the answer depends on that too.
    """
    headers[:] = [h for h in headers if not _is_for_some_caches(h[0].lower())]
    said = [v.decode("latin-1") for n, v in headers if n.lower() == b"cache-control"]
    words = [word.strip(" \t") for word in _DIRECTIVE.findall(",".join(said))]
    if not any(word.lower() in _PRIVATE for word in words):
        ours = [word for word in words if word and _name(word) not in _NOT_KEPT]
        headers[:] = [h for h in headers if h[0].lower() != b"cache-control"]
        value = ", ".join(["private", *ours])
        headers.append((b"cache-control", value.encode("latin-1")))
    headers.append((b"vary", PAYMENT_SIGNATURE.encode()))
    if signs_in:
        headers.append((b"vary", SIGN_IN.encode()))


def _is_for_some_caches(name: bytes) -> bool:
    """`CDN-Cache-Control`, what vendors prefix it with, and what came before it."""
    return name.endswith(b"-cache-control") or name in _FOR_SOME_CACHES


def _name(directive: str) -> str:
    return directive.partition("=")[0].strip(" \t").lower()


def for_reader(
    refusal: Refusal, scope: Scope, asset: Asset, *, paid_in: str = PAYMENT_SIGNATURE
) -> Refusal:
    """
    A refusal as who asked can read it: a 402 for a browser is a page.

    `paid_in` names the request's fields on which an answer depends.
    """
    headers = {**refusal.headers, "vary": f"{paid_in}, Accept, User-Agent"}
    if refusal.required is None or not _is_browser(scope):
        return replace(refusal, headers=headers)
    headers["content-type"] = "text/html; charset=utf-8"
    headers["content-security-policy"] = _PAGE_POLICY
    headers["x-content-type-options"] = "nosniff"
    headers["referrer-policy"] = "no-referrer"
    return replace(refusal, headers=headers, body=_page(refusal.required, asset))


def for_first_version(refusal: Refusal, chain: ChainId) -> Refusal:
    """A refusal that clients of x402's first version can read as well."""
    headers, receipt = dict(refusal.headers), PAYMENT_RESPONSE.lower()
    if receipt in headers:
        first = downgrade_receipt(headers[receipt], chain)
        headers[X_PAYMENT_RESPONSE.lower()] = first
    body = refusal.body
    if refusal.required is not None:
        known = json.loads(body)  # a problem may have more members
        body = to_json({**known, **downgrade_required(refusal.required)})
    return replace(refusal, headers=headers, body=body)


def _is_browser(scope: Scope) -> bool:
    accepted = _header(scope, b"accept").lower()
    return (
        "text/html" in accepted and "mozilla" in _header(scope, b"user-agent").lower()
    )


def _header(scope: Scope, name: bytes) -> str:
    found = (v.decode("latin-1") for n, v in scope["headers"] if n.lower() == name)
    return ",".join(found)


def _page(required: JsonObject, asset: Asset) -> bytes:
    """Small, whole, and without a script: nothing of it comes from elsewhere."""
    resource = required.get("resource")
    about = resource if isinstance(resource, dict) else {}
    offers = required.get("accepts")
    rows = [_row(offer, asset) for offer in offers] if isinstance(offers, list) else []
    description = _text(about.get("description"))
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>402 Payment Required</title>
<meta name="viewport" content="width=device-width">
<style>body{{font:16px/1.5 system-ui,sans-serif;margin:3em auto;max-width:42em;
padding:0 1em}}td,th{{padding:.2em 1em .2em 0;text-align:left;vertical-align:top}}
code{{overflow-wrap:anywhere}}</style></head><body>
<h1>Payment required</h1>
<p><code>{_text(about.get("url"))}</code></p>
<p>{description}</p>
<table><tr><th>price</th><th>scheme</th><th>network</th><th>token</th><th>to</th></tr>
{"".join(rows)}</table>
<p>A program pays for this, by x402: it reads the offers in the
<code>PAYMENT-REQUIRED</code> header of this answer, signs a payment, and sends the
request again with a <code>PAYMENT-SIGNATURE</code> header.</p>
</body></html>
"""
    return page.encode()


def _row(offer: JsonValue, asset: Asset) -> str:
    words = offer if isinstance(offer, dict) else {}
    price = format_money(int(str(words.get("amount", 0))), asset.decimals)
    names = (words.get("scheme"), words.get("network"), words.get("asset"))
    cells = [price, *names, words.get("payTo")]
    return (
        "<tr>" + "".join(f"<td><code>{_text(c)}</code></td>" for c in cells) + "</tr>"
    )


def _text(value: JsonValue) -> str:
    return escape(str(value)) if value is not None else ""
