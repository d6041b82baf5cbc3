"""
Which requests cost money: a table of methods and paths, matched as the server does.

Paths are compared as ASGI gives them, decoded once, and with and without the prefix
under which an application is mounted; a template segment `{name}` stands for one
non-empty segment. What is not in the table is free, unless it is under a protected
prefix, in whatever way a server might read it: then it is denied.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from agentpay.errors import ConfigurationError
from agentpay.payee.pricing import Route
from agentpay.types import Money

_METHODS_IN_ORDER = ("GET", "POST", "PUT", "PATCH", "DELETE")
_METHODS = frozenset(_METHODS_IN_ORDER)
_SEGMENT = re.compile(r"(?<=/)\{[A-Za-z_][A-Za-z0-9_]*\}(?=/|\Z)")
_UNMATCHABLE = re.compile(r"[{}%?#*\s]")
_PARAMETERS = re.compile(r"[;?#]")
_DECODINGS_MAX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedRoute:
    """One line of the table."""

    method: str | None
    """None is every method."""
    pattern: re.Pattern[str]
    route: Route | None
    """None is free, and says so even under a protected prefix."""
    template: str
    """The path with `:name` for a segment that stands for any."""
    path: str
    """The same with `{name}`, as it was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A priced route that a request matches, and what its segments stand for."""

    route: Route
    template: str
    path: dict[str, str]


class RouteTable:
    """The priced routes of an application; exact paths are looked up, not scanned."""

    def __init__(
        self, routes: Mapping[str, Money | Route | None], protected: Sequence[str] = ()
    ) -> None:
        """
        Raises:
            ConfigurationError: A key is not `/path` or `GET /path`, or a protected
                prefix is not a path.
        """
        for prefix in protected:
            if not prefix.startswith("/") or _UNMATCHABLE.search(prefix):
                raise ConfigurationError(
                    f'a protected prefix is a path like "/api", not {prefix!r}'
                )
        self._protected = [tuple(_segments(prefix)) for prefix in protected]
        self._exact: dict[str, list[PricedRoute]] = {}
        self._templates: list[PricedRoute] = []
        for key, price in routes.items():
            route = Route(price=price) if isinstance(price, str | int) else price
            method, path = _read_key(key)
            priced = PricedRoute(
                method=method,
                pattern=_pattern_of(path),
                route=route,
                template=_SEGMENT.sub(lambda name: f":{name[0][1:-1]}", path),
                path=path,
            )
            if _SEGMENT.search(path):
                self._templates.append(priced)
            else:
                self._exact.setdefault(path, []).append(priced)

    def find(self, method: str, path: str, *, root: str = "") -> Found | None:
        """The price of a request, or None if it is free. HEAD costs what GET does."""
        method = method.upper()
        if method == "OPTIONS":
            return None
        method = "GET" if method == "HEAD" else method
        for line, path_values in self._matching(path, root):
            if line.method in (None, method):
                if line.route is None:
                    return None
                return Found(route=line.route, template=line.template, path=path_values)
        return None

    def find_all(self, path: str, *, root: str = "") -> list[tuple[str, Found]]:
        """The methods by which a path costs money, and their prices."""
        found = [(m, self.find(m, path, root=root)) for m in _METHODS_IN_ORDER]
        return [(method, line) for method, line in found if line is not None]

    def costs(self, path: str, *, root: str = "") -> bool:
        """Whether any request to a path costs money."""
        return any(line.route for line, _ in self._matching(path, root))

    def denies(self, method: str, path: str, *, root: str = "") -> bool:
        """Whether a request is under a protected prefix and in no line of the table."""
        if not self._protected:
            return False
        method = "GET" if method.upper() == "HEAD" else method.upper()
        for line, _ in self._matching(path, root):
            if line.method in (None, method) or method == "OPTIONS":
                return False
        return any(
            reading[: len(prefix)] == prefix
            for spelling in ((path, path.removeprefix(root)) if root else (path,))
            for reading in _readings(spelling)
            for prefix in self._protected
        )

    def _matching(
        self, path: str, root: str
    ) -> Iterator[tuple[PricedRoute, dict[str, str]]]:
        """Exact lines before templates, for each way to read the path."""
        for spelling in _spellings(path, root):
            for line in self._exact.get(spelling, ()):
                yield line, {}
            for line in self._templates:
                if match := line.pattern.fullmatch(spelling):
                    yield line, match.groupdict()

    def lines(self) -> list[PricedRoute]:
        """The whole table: exact paths, then templates."""
        exact = [priced for found in self._exact.values() for priced in found]
        return exact + self._templates

    def all(self) -> list[Route]:
        """Every priced route, to check its price before the first request."""
        return [line.route for line in self.lines() if line.route is not None]


def _spellings(path: str, root: str) -> Iterator[str]:
    """
    A path as routers may read it: within its mount, and without a line's end.

    `$` of a regular expression also matches before a last line feed, so that a router
    that uses it serves `/data%0a` as `/data`.
    """
    for found in (path, path.removeprefix(root)) if root else (path,):
        yield found
        if found.endswith("\n"):
            yield found[:-1]


def _readings(path: str) -> Iterator[tuple[str, ...]]:
    """
    The segments of a path in every way that a server behind us might read them.

    Decoded again and again; with and without `..` resolved. Only for denying: to read a
    path too widely here keeps something closed.
    """
    for _ in range(_DECODINGS_MAX):
        yield tuple(s for s in _segments(path) if s != "..")
        climbed: list[str] = []
        for segment in _segments(path):
            if segment != "..":
                climbed.append(segment)
            elif climbed:
                climbed.pop()
        yield tuple(climbed)
        decoded = unquote(path)
        if decoded == path:
            return
        path = decoded


def _segments(path: str) -> Iterator[str]:
    folded = unicodedata.normalize("NFKC", path).upper().casefold().replace("\\", "/")
    for part in folded.split("/"):
        name = _PARAMETERS.split(part)[0]
        printed = "".join(
            c for c in name if not unicodedata.category(c).startswith("C")
        )
        segment = printed.strip()
        segment = segment if segment == ".." else segment.rstrip(". ")
        if segment:
            yield segment


def _read_key(key: str) -> tuple[str | None, str]:
    method, space, path = key.rpartition(" ")
    if not path.startswith("/") or (space and method not in _METHODS):
        raise ConfigurationError(
            f'a priced route is "/path" or "GET /path" (one of {sorted(_METHODS)}),'
            f" not {key!r}"
        )
    if _UNMATCHABLE.search(_SEGMENT.sub("", path)):
        raise ConfigurationError(
            f"the priced route {key!r} would match nothing: a path is written decoded,"
            " without a query, and {name} is a whole segment"
        )
    return method or None, path


def _pattern_of(path: str) -> re.Pattern[str]:
    names = [name[1:-1] for name in _SEGMENT.findall(path)]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"the priced route {path!r} names a segment twice")
    parts = [
        f"(?P<{segment[1:-1]}>[^/]+)" if segment[:1] == "{" else re.escape(segment)
        for segment in path.split("/")
    ]
    return re.compile("/".join(parts), re.DOTALL)
