"""
`/openapi.json` and `/llms.txt`: what is sold here and for how much, free of charge.

An application that has such a document keeps it: prices are added to what it says.
Source: draft-payment-discovery-00; llmstxt.org.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from agentpay.errors import ConfigurationError, MalformedMessage
from agentpay.http.asgi import (
    App,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    headers_of,
    send_whole,
)
from agentpay.http.routes import Found, PricedRoute, RouteTable
from agentpay.payee.about import About
from agentpay.payee.mpp_challenges import mpp_offers
from agentpay.payee.offers import to_json
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Route
from agentpay.types import format_money
from agentpay.wire.bazaar import BODY_METHODS
from agentpay.wire.headers import JsonObject, JsonValue, read_object
from agentpay.wire.mpp import discovery as wire

_METHODS: Final = ("get", "put", "post", "delete", "patch")
_BODIES: Final = {"json": "application/json", "form-data": "multipart/form-data"}
_TEXT: Final = "text/plain"
_VALUES_MAX: Final = 1_000_000
"""Objects and lists in an application's own document."""
_UNASKED: Final = frozenset(
    {b"accept-encoding", b"if-none-match", b"if-modified-since", b"range"}
)
"""What would make an application answer with less than its whole document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What a service says of itself to who looks for services."""

    title: str
    version: str = "1.0.0"
    description: str = ""
    categories: tuple[str, ...] = ()
    """Such as `compute`, `data`, `media` or `search`; at most five."""
    homepage: str = ""
    api_reference: str = ""
    max_age_seconds: int = 300

    def __post_init__(self) -> None:
        """
        Raises:
            ConfigurationError: It cannot be said, or registries would not take it.
        """
        if not self.title or not self.version or self.max_age_seconds < 0:
            raise ConfigurationError(
                "discovery needs a title, a version and a max_age_seconds from 0 on"
            )
        if "" in self.categories or len(self.categories) > wire.CATEGORIES_MAX:
            raise ConfigurationError(
                f"a service has at most {wire.CATEGORIES_MAX} categories, each with a"
                f" name: {self.categories!r}"
            )
        for uri in filter(None, (self.homepage, self.api_reference)):
            if not urlsplit(uri).scheme or any(c.isspace() for c in uri):
                raise ConfigurationError(f"not a URI: {uri[:200]!r}")


class DiscoveryPages:
    """The two pages of one paywall."""

    def __init__(
        self,
        app: App,
        discovery: Discovery,
        *,
        payee: Payee,
        routes: RouteTable,
        origin: str | None,
    ) -> None:
        """
        Raises:
            ConfigurationError: One of them costs money.
        """
        self._app = app
        self._discovery = discovery
        self._payee = payee
        self._routes = routes
        self._origin = origin
        for path in (wire.OPENAPI_PATH, wire.LLMS_PATH):
            if routes.costs(path):
                raise ConfigurationError(f"{path} is free where there is discovery")

    def has(self, scope: Scope) -> bool:
        """Whether a request is for one of them."""
        root, path = scope.get("root_path", ""), scope["path"]
        pages = (wire.OPENAPI_PATH, wire.LLMS_PATH)
        asked = path in pages or (root and path.removeprefix(root) in pages)
        return bool(asked) and scope["method"] in ("GET", "HEAD")

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send one: the application's own, if it has it, with our prices."""
        theirs = await _Answer.of(self._app, scope, receive)
        missing = theirs.status in (404, 405)
        answer, root = _Answer() if missing else theirs, scope.get("root_path", "")
        if scope["path"].endswith(wire.LLMS_PATH):
            if missing:
                answer.say(self._text().encode(), "text/plain; charset=utf-8")
        else:
            document = self._empty() if missing else answer.document()
            if document is not None:
                body = to_json(self._merged(document, root))
                answer.say(body, "application/json")
        if answer.status == 200:
            answer.set(b"cache-control", f"max-age={self._discovery.max_age_seconds}")
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send_whole(send, answer.status, answer.headers, body)

    def _empty(self) -> JsonObject:
        mine = self._discovery
        return wire.openapi_document(
            title=mine.title,
            version=mine.version,
            description=mine.description,
            origin=self._origin,
        )

    def _merged(self, document: JsonObject, root: str) -> JsonObject:
        """An application's document, with what it does not say of prices."""
        paths = document.get("paths")
        merged: JsonObject = {}
        covered: set[str] = set()
        for path, item in (paths if isinstance(paths, dict) else {}).items():
            merged[path] = item
            if isinstance(item, dict):
                priced = self._priced(path, item, root)
                covered |= {found.template for found in priced.values()}
                merged[path] = {**item, **self._with_prices(path, item, priced)}
        for line in self._routes.lines():
            if line.template not in covered and _is_listed(line.route):
                merged[line.path] = self._item(line, merged.get(line.path))
        mine = self._discovery
        service = wire.service_info(
            categories=mine.categories,
            homepage=mine.homepage,
            api_reference=mine.api_reference,
            llms=self._origin + wire.LLMS_PATH if self._origin else "",
        )
        said = document.get(wire.SERVICE_INFO)
        if service:
            known = said if isinstance(said, dict) else {}
            document = {**document, wire.SERVICE_INFO: {**known, **service}}
        return {**document, "paths": merged}

    def _priced(
        self, path: str, item: Mapping[str, JsonValue], root: str
    ) -> dict[str, Found]:
        """Which operations of a path cost money."""
        priced: dict[str, Found] = {}
        for method in _METHODS:
            if isinstance(item.get(method), dict):
                name = method.upper()
                found = self._routes.find(name, path)
                found = found or self._routes.find(name, root + path)
                if found is not None:
                    priced[method] = found
        return priced

    def _with_prices(
        self, path: str, item: Mapping[str, JsonValue], priced: Mapping[str, Found]
    ) -> JsonObject:
        changed: JsonObject = {}
        for method, found in priced.items():
            operation = item[method]
            if isinstance(operation, dict) and _is_listed(found.route):
                offers = self._offers(found.route, f"{method.upper()} {path}")
                changed[method] = wire.paid_operation(operation, offers)
        return changed

    def _item(self, line: PricedRoute, known: JsonValue) -> JsonValue:
        """The operation of a line that no document describes, beside its others."""
        others = known if isinstance(known, dict) else {}
        if line.route is None:
            return others
        about = line.route.about or About()
        method = line.method or ("GET" if about.body is None else "POST")
        operation = _operation(line, about, method)
        offers = self._offers(line.route, f"{method} {line.path}")
        return {**others, method.lower(): wire.paid_operation(operation, offers)}

    def _offers(self, route: Route, resource: str) -> list[JsonObject]:
        mpp = self._payee.mpp
        if mpp is None:
            return []
        terms = self._payee.terms(route, resource=resource, url="")
        return [
            wire.discovered_offer(
                method=offer.method, intent=offer.intent, request=offer.request
            )
            for offer in mpp_offers(self._payee.settings, mpp, terms)
        ]

    def _text(self) -> str:
        """For language models, as llmstxt.org has it."""
        mine = self._discovery
        parts = [f"# {mine.title}"]
        if mine.description:
            parts.append(f"> {mine.description}")
        parts.append(
            "Requests for what is listed here are paid for over HTTP 402. The 402 says"
            " what counts; these prices are a hint."
        )
        parts.append("## Paid operations\n\n" + "\n".join(self._lines()))
        described = f"{self._origin or ''}{wire.OPENAPI_PATH}"
        parts.append(f"## Description\n\n- [OpenAPI]({described}): all operations")
        return "\n\n".join(parts) + "\n"

    def _lines(self) -> list[str]:
        lines: list[str] = []
        for line in self._routes.lines():
            if line.route is None or not _is_listed(line.route):
                continue
            resource = f"{line.method or 'Any method of'} {line.path}"
            terms = self._payee.terms(line.route, resource=resource, url="")
            price = format_money(terms.maximum, self._payee.asset.decimals)
            most = "at most " if line.route.metered else ""
            about = line.route.about.description if line.route.about else ""
            text = f"- [{resource}]({self._origin or ''}{line.path}): {most}{price}"
            lines.append(f"{text}. {about}" if about else text)
        return lines


def _is_listed(route: Route | None) -> bool:
    return route is not None and (route.about is None or route.about.listed)


def _operation(line: PricedRoute, about: About, method: str) -> JsonObject:
    names = [part[1:] for part in line.template.split("/") if part[:1] == ":"]
    described = about.body is not None or about.body_schema is not None
    body = None
    if method in BODY_METHODS:
        kind = _BODIES.get(about.body_type, _TEXT) if described else "*/*"
        body = wire.content(kind, about.body_schema, about.body)
    answer = None
    if about.output is not None or about.output_schema is not None:
        kind = about.mime_type or _BODIES.get(about.output_type, _TEXT)
        answer = wire.content(kind, about.output_schema, about.output)
    return wire.described_operation(
        summary=about.description,
        tags=about.tags,
        path=names,
        query=about.query or {},
        body=body,
        answer=answer,
    )


class _Answer:
    """A page, held back to be changed."""

    def __init__(self, *, status: int = 200) -> None:
        self.status = status
        self.headers: Headers = []
        self.body = b""

    @classmethod
    async def of(cls, app: App, scope: Scope, receive: Receive) -> "_Answer":
        """Ask an application for the whole of a page."""
        answer, parts = cls(status=404), list[bytes]()

        async def hold(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status, answer.headers = message["status"], headers_of(message)
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))

        headers = [h for h in scope["headers"] if h[0].lower() not in _UNASKED]
        await app({**scope, "method": "GET", "headers": headers}, receive, hold)
        answer.body = b"".join(parts)
        return answer

    def document(self) -> JsonObject | None:
        """Its OpenAPI document of version 3; None if it is none."""
        if self.status != 200:
            return None
        try:
            name = wire.OPENAPI_PATH
            document = read_object(self.body, name=name, values_max=_VALUES_MAX)
        except MalformedMessage:
            return None
        return document if str(document.get("openapi")).startswith("3.") else None

    def say(self, body: bytes, kind: str) -> None:
        """Answer this instead."""
        self.body = body
        self.set(b"content-type", kind)
        self.headers = [h for h in self.headers if h[0].lower() not in _OF_A_BODY]
        self.set(b"content-length", str(len(body)))

    def set(self, name: bytes, value: str) -> None:
        self.headers = [h for h in self.headers if h[0].lower() != name]
        self.headers.append((name, value.encode("latin-1")))


_OF_A_BODY: Final = frozenset({b"etag", b"last-modified", b"content-md5"})
