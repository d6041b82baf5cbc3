"""
What requests cost: the terms of a paywall's routes, for each place that is asked for.

All of it is text and frozen, so that what is asked for again has the same terms.
Anybody may name places: only so many are remembered, and none whose URL is long.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Final

from agentpay.errors import ConfigurationError
from agentpay.http.asgi import Scope
from agentpay.http.manners import url_of
from agentpay.http.routes import Found, RouteTable
from agentpay.payee.payee import Payee
from agentpay.payee.pricing import Terms

PLACES_MAX: Final = 1024
URL_MAX: Final = 1024


class PriceList:
    """The terms of the lines of a table of routes."""

    def __init__(self, routes: RouteTable, *, payee: Payee, origin: str | None) -> None:
        """
        Raises:
            ConfigurationError: A price cannot be used, or needs an origin.
        """
        self._routes = routes
        self._origin = origin
        self._prices: dict[int, Terms] = {}
        """Of each route of the table, which keeps them: by its identity."""
        for route in routes.all():
            self._prices[id(route)] = payee.terms(route, resource="a route", url="")
            if route.access_seconds and origin is None:
                raise ConfigurationError("payers sign in to an origin: pass origin=")
        self._remembered = lru_cache(maxsize=PLACES_MAX)(self._find)

    def find(self, scope: Scope) -> Terms | None:
        """The terms of what is asked for; None where it costs nothing."""
        url, query = self._place(scope)
        find = self._remembered if len(url) <= URL_MAX else self._find
        root = scope.get("root_path", "")
        return find(scope["method"], scope["path"], root, url, query)

    def find_all(self, scope: Scope) -> tuple[Terms, ...]:
        """The terms of its path by each method that costs."""
        path, (url, query) = scope["path"], self._place(scope)
        found = self._routes.find_all(path, root=scope.get("root_path", ""))
        return tuple(self._terms(m, path, url, query, line) for m, line in found)

    def _place(self, scope: Scope) -> tuple[str, str]:
        query: bytes = scope.get("query_string", b"")
        return url_of(scope, self._origin), query.decode("latin-1")

    def _find(
        self, method: str, path: str, root: str, url: str, query: str
    ) -> Terms | None:
        found = self._routes.find(method, path, root=root)
        if found is None:
            return None
        return self._terms(method, path, url, query, found)

    def _terms(
        self, method: str, path: str, url: str, query: str, found: Found
    ) -> Terms:
        terms = self._prices[id(found.route)].at(
            f"{method} {path}", url=url, query=query, bound=self._origin is not None
        )
        if terms.about is None:
            return terms
        listing = terms.about.listing(method, path=found.path, template=found.template)
        return replace(terms, listing=listing)
